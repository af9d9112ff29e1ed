//! Whose word about clients is believed: PROXY protocol from trusted addresses alone, and byte for byte.

use std::{net::TcpStream, path::PathBuf, time::Duration};

use echo_server::Config;

use crate::{
    harness::{Client, Echo, config},
    tls_client::{Authority, Files, client_config, over},
};

const SHORT: Duration = Duration::from_millis(200);

/// The client of these headers is 192.0.2.7.
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13\
    \xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\x40\x01\xbb\x04\x00\x04\x00\x00\x00\x00";

/// A server behind a proxy, and the access log that names the client of each request.
struct Behind {
    config: Config,
    log: PathBuf,
}

impl Behind {
    fn new(name: &str, trusted: &str) -> Self {
        let log = std::env::temp_dir().join(format!("echo-server-test-proxy-{name}-{}", std::process::id()));
        let config = Config {
            proxy_protocol: true,
            trusted_proxies: vec![trusted.parse().unwrap()],
            access_log_one_in: 1,
            access_log_file: Some(log.clone()),
            ..config()
        };
        Self { config, log }
    }

    /// Stops the server, and returns what the access log has.
    fn stop(self, server: Echo) -> String {
        server.stop();
        let text = std::fs::read_to_string(&self.log).unwrap();
        std::fs::remove_file(&self.log).unwrap();
        text
    }
}

#[test]
fn the_client_is_the_one_that_a_trusted_proxy_names_however_the_header_is_torn() {
    let behind = Behind::new("torn", "127.0.0.0/8");
    let server = Echo::start(behind.config.clone());
    let mut requests = 0;
    for header in [V1, V2] {
        for cut in 0..=header.len() {
            let mut client = Client::connect(server.addr);
            client.send(&header[..cut]);
            client.send(&header[cut..]);
            assert_eq!(client.echo(b"one").body, b"one", "{cut}");
            requests += 1;
        }
        let mut client = Client::connect(server.addr);
        for byte in header {
            client.send(&[*byte]);
        }
        assert_eq!(client.echo(b"one").body, b"one");
        // All in one packet: what follows the header is HTTP's.
        let mut client = Client::connect(server.addr);
        client.send(&[header, b"GET /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"].concat());
        assert_eq!(client.response().status, 200);
        requests += 2;
    }
    let log = behind.stop(server);
    assert_eq!(log.matches("192.0.2.7").count(), requests, "{log}");
}

#[test]
fn a_proxy_that_speaks_for_itself_keeps_its_address() {
    let behind = Behind::new("local", "127.0.0.1/32");
    let server = Echo::start(behind.config.clone());
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    for header in [&b"PROXY UNKNOWN\r\n"[..], local] {
        let mut client = Client::connect(server.addr);
        client.send(header);
        assert_eq!(client.echo(b"one").body, b"one");
    }
    let log = behind.stop(server);
    assert_eq!(log.matches("127.0.0.1").count(), 2, "{log}");
}

#[test]
fn a_trusted_proxy_without_a_good_header_is_closed_without_an_answer() {
    let mut behind = Behind::new("bad", "127.0.0.1/32");
    behind.config.first_byte_timeout = SHORT;
    let server = Echo::start(behind.config.clone());
    let bad: [&[u8]; 3] = [
        b"GET /echo HTTP/1.1\r\nhost: a\r\n\r\n",
        b"PROXY TCP4 a b c d\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
    ];
    for bytes in bad {
        let mut client = Client::connect(server.addr);
        client.send(bytes);
        client.expect_close();
    }
    server.await_metric("echo_connections_closed_total", "proxy_header", 3);
    // Half a header, and silence.
    let mut client = Client::connect(server.addr);
    client.send(b"PROXY TCP4 1.2");
    client.expect_close();
    Client::connect(server.addr).expect_close();
    server.await_metric("echo_connections_closed_total", "first_byte_timeout", 2);
    // A balancer that looks whether somebody is there.
    drop(Client::connect(server.addr));
    server.await_metric("echo_connections_closed_total", "complete", 1);
    behind.stop(server);
}

#[test]
fn nobody_else_is_believed_and_their_header_is_no_request() {
    let behind = Behind::new("stranger", "192.0.2.0/24");
    let server = Echo::start(behind.config.clone());
    for header in [V1, V2] {
        let mut client = Client::connect(server.addr);
        client.send(header);
        client.send(b"GET /echo HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(client.response().status, 400);
    }
    assert_eq!(Client::connect(server.addr).echo(b"one").body, b"one");
    let log = behind.stop(server);
    assert!(!log.contains("192.0.2.7"), "{log}");
}

#[test]
fn connections_are_counted_for_the_client_and_not_for_its_proxy() {
    let mut behind = Behind::new("count", "127.0.0.1/32");
    behind.config.connections_per_address_max = 1;
    let server = Echo::start(behind.config.clone());
    let connect = |header: &[u8]| {
        let mut client = Client::connect(server.addr);
        client.send(header);
        client
    };
    let mut first = connect(V1);
    assert_eq!(first.echo(b"one").body, b"one");
    let mut second = connect(V2);
    let refused = second.response();
    assert_eq!((refused.status, refused.header("x-echo-overloaded")), (503, "address"));
    assert_eq!(connect(b"PROXY TCP4 192.0.2.8 198.51.100.1 1 2\r\n").echo(b"other").body, b"other");
    drop((first, second));
    server.await_metric("echo_connections_open", "", 0);
    assert_eq!(connect(V1).echo(b"again").body, b"again");
    behind.stop(server);
}

#[test]
fn the_header_comes_before_tls() {
    let mut behind = Behind::new("tls", "127.0.0.1/32");
    let authority = Authority::new();
    let files = Files::new("proxy", &authority);
    behind.config.listen_tls = Some(([127, 0, 0, 1], 0).into());
    (behind.config.tls_cert, behind.config.tls_key) =
        (Some(files.path("cert.pem")), Some(files.path("key.pem")));
    let server = Echo::start(behind.config.clone());
    for header in [V1, V2] {
        use std::io::Write as _;
        let mut stream = TcpStream::connect(server.tls.unwrap()).unwrap();
        stream.write_all(header).unwrap();
        let mut client = over(stream, &client_config(&authority, &["http/1.1"], None));
        assert_eq!(client.echo(b"one").body, b"one");
    }
    let log = behind.stop(server);
    assert_eq!(log.matches("192.0.2.7").count(), 2, "{log}");
}

/// The client and the address that `/anything` names for a request with these header lines.
fn named(server: &Echo, lines: &str) -> (String, String) {
    let mut client = Client::connect(server.addr);
    client
        .send(format!("GET /anything/x HTTP/1.1\r\nhost: a\r\n{lines}connection: close\r\n\r\n").as_bytes());
    let seen: serde_json::Value = serde_json::from_slice(&client.response().body).unwrap();
    (seen["origin"].as_str().unwrap().to_owned(), seen["url"].as_str().unwrap().to_owned())
}

#[test]
fn forwarded_headers_are_believed_from_trusted_addresses_alone() {
    const CLAIMS: [&str; 2] = [
        "forwarded: for=6.6.6.6, for=192.0.2.7;proto=https;host=b.example\r\n",
        "x-forwarded-for: 6.6.6.6, 192.0.2.7\r\nx-forwarded-proto: https\r\nx-forwarded-host: b.example\r\n",
    ];
    let trusting = Config { trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()], ..config() };
    let server = Echo::start(trusting);
    for lines in CLAIMS {
        let expected = ("192.0.2.7".to_owned(), "https://b.example/anything/x".to_owned());
        assert_eq!(named(&server, lines), expected, "{lines}");
    }
    server.stop();
    let server = Echo::start(config());
    for lines in CLAIMS {
        let expected = ("127.0.0.1".to_owned(), "http://a/anything/x".to_owned());
        assert_eq!(named(&server, lines), expected, "{lines}");
    }
    server.stop();
}
