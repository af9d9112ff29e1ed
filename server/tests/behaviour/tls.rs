//! TLS: who gets through, with which protocol, and what becomes of those who do not.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use echo_server::{ClientAuth, Config, Runtime, Server};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use tokio_rustls::rustls::{ClientConfig, HandshakeKind, ProtocolVersion, version::TLS12};

use crate::{
    harness::{Client, Echo, PATIENCE, Program, config, pattern, program, samples, scrape},
    tls_client::{Authority, Files, Tls, client_config, connect, connect_http2, flag},
};

const SHORT: Duration = Duration::from_millis(200);

/// A server with a certificate of its own.
struct Secure {
    authority: Authority,
    files: Files,
    config: Config,
}

impl Secure {
    fn new(name: &str) -> Self {
        let authority = Authority::new();
        let files = Files::new(name, &authority);
        let config = Config {
            listen_tls: Some(([127, 0, 0, 1], 0).into()),
            tls_cert: Some(files.path("cert.pem")),
            tls_key: Some(files.path("key.pem")),
            ..config()
        };
        Self { authority, files, config }
    }

    fn start(&self) -> Echo {
        Echo::start(self.config.clone())
    }

    fn client(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        client_config(&self.authority, protocols, None)
    }

    /// The arguments of a program that does the same.
    fn args(&self) -> Vec<String> {
        let files = [("--tls-cert", "cert.pem"), ("--tls-key", "key.pem")];
        let mut args: Vec<_> = files.map(|(name, file)| flag(name, &self.files.path(file))).into();
        args.push("--listen-tls=127.0.0.1:0".to_owned());
        args
    }
}

/// The address that TLS is spoken at.
fn tls(server: &Echo) -> std::net::SocketAddr {
    server.tls.unwrap()
}

/// Handshakes that ended so.
fn handshakes(server: &Echo, result: &str) -> u64 {
    server.metric("echo_tls_handshakes_total", &format!("result=\"{result}\""))
}

fn post(body: &[u8]) -> Request<Full<Bytes>> {
    Request::post("https://localhost/echo").body(Full::from(body.to_vec())).unwrap()
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn alpn_decides_the_protocol_on_either_runtime() {
    for runtime in [Runtime::WorkStealing, Runtime::PerCore] {
        let mut secure = Secure::new("alpn");
        secure.config.runtime = runtime;
        let server = secure.start();
        let body = pattern(300_000);
        for protocols in [&["http/1.1"][..], &["http/1.1", "h2"][..1], &[]] {
            let mut client = connect(tls(&server), &secure.client(protocols));
            for _ in 0..2 {
                assert_eq!(client.echo(&body).body, body, "{protocols:?}");
            }
            let agreed = client.stream.conn.alpn_protocol().map(<[u8]>::to_vec);
            assert_eq!(agreed, protocols.first().map(|name| name.as_bytes().to_vec()));
            assert_eq!(client.stream.conn.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        }
        block_on(async {
            let (mut sender, _tasks) = connect_http2(tls(&server), &secure.client(&["http/1.1", "h2"])).await;
            let response = sender.send_request(post(&body)).await.unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body);
            server.await_metric("echo_connections_active", "http2", 1);
        });
        // Plain HTTP goes on beside it.
        assert_eq!(Client::connect(server.addr).echo(b"plain").body, b"plain");
        assert!(server.stop().is_clean());
    }
}

#[test]
fn a_client_without_alpn_that_begins_like_http2_is_http2() {
    let secure = Secure::new("preface");
    let server = secure.start();
    let mut client = connect(tls(&server), &secure.client(&[]));
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    let mut frame = [0; 9];
    client.stream.read_exact(&mut frame).unwrap();
    assert_eq!(frame[3], 4, "the first frame of a server is SETTINGS");
    drop(client);
    server.stop();
}

#[test]
fn protocols_that_are_switched_off_are_not_offered() {
    let mut secure = Secure::new("switched-off");
    secure.config.http2 = false;
    let server = secure.start();
    let mut client = connect(tls(&server), &secure.client(&["h2", "http/1.1"]));
    assert_eq!(client.echo(b"one").body, b"one");
    assert_eq!(client.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    let error = connect(tls(&server), &secure.client(&["h2"])).stream.write_all(b"GET").unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    server.await_metric("echo_connections_closed_total", "tls_failed", 1);
    assert_eq!(handshakes(&server, "failed"), 1);
    server.stop();
}

#[test]
fn a_session_is_resumed_and_counted() {
    let secure = Secure::new("resumed");
    let server = secure.start();
    let tls13 = secure.client(&["http/1.1"]);
    let tls12 = {
        let mut roots = tokio_rustls::rustls::RootCertStore::empty();
        roots.add(certificate(&secure.authority.pem())).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS12]).unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    };
    for config in [&tls13, &tls12] {
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut client = connect(tls(&server), config);
            assert_eq!(client.echo(b"one").body, b"one");
            assert_eq!(client.stream.conn.handshake_kind(), Some(kind));
        }
    }
    for version in ["1.2", "1.3"] {
        for result in ["full", "resumed"] {
            let label = format!("version=\"{version}\",result=\"{result}\"");
            assert_eq!(server.metric("echo_tls_handshakes_total", &label), 1, "{label}");
        }
    }
    server.stop();
}

fn certificate(pem: &str) -> tokio_rustls::rustls::pki_types::CertificateDer<'static> {
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    tokio_rustls::rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

#[test]
fn http_at_the_port_of_tls_is_told_so_in_plain_text() {
    let secure = Secure::new("plain");
    let server = secure.start();
    let mut client = Client::connect(tls(&server));
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.header("connection")), (400, "close"));
    assert!(response.text().contains("an HTTP request to an HTTPS server"), "{}", response.text());
    client.close_write();
    client.expect_close();
    server.await_metric("echo_connections_closed_total", "tls_failed", 1);
    assert_eq!(handshakes(&server, "plain_http"), 1);
    server.stop();
}

#[test]
fn what_is_neither_tls_nor_http_gets_an_alert() {
    let secure = Secure::new("garbage");
    let server = secure.start();
    let mut client = Client::connect(tls(&server));
    // A record of a handshake with a hello that is too short.
    client.send(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00");
    let mut alert = Vec::new();
    client.stream.read_to_end(&mut alert).unwrap();
    assert_eq!(alert.first(), Some(&21), "{alert:?}");
    server.await_metric("echo_connections_closed_total", "tls_failed", 1);
    server.stop();
}

#[test]
fn a_handshake_that_does_not_end_is_cut() {
    let mut secure = Secure::new("half");
    secure.config.tls_handshake_timeout = SHORT;
    let server = secure.start();
    Client::connect(tls(&server)).expect_close();
    let mut half = Client::connect(tls(&server));
    // The header of a record, and no record.
    half.send(b"\x16\x03\x01\x02\x00\x01\x00");
    half.expect_close();
    server.await_metric("echo_connections_closed_total", "tls_failed", 2);
    assert_eq!(handshakes(&server, "timeout"), 2);
    server.await_metric("echo_tasks", "new connection", 0);
    server.stop();
}

#[test]
fn a_client_that_says_nothing_after_the_handshake_is_closed() {
    let mut secure = Secure::new("silent");
    secure.config.first_byte_timeout = SHORT;
    let server = secure.start();
    for protocols in [&["h2"][..], &["http/1.1"]] {
        let mut client = connect(tls(&server), &secure.client(protocols));
        // The handshake, and not a byte behind it.
        client.stream.conn.complete_io(&mut client.stream.sock).unwrap();
        let _closed = client.stream.sock.read_to_end(&mut Vec::new());
    }
    server.await_metric("echo_connections_closed_total", "first_byte_timeout", 2);
    server.stop();
}

#[test]
fn a_connection_that_only_looks_is_no_failure() {
    let secure = Secure::new("probe");
    let server = secure.start();
    drop(Client::connect(tls(&server)));
    server.await_metric("echo_connections_closed_total", "complete", 1);
    assert_eq!(server.metric("echo_tls_handshakes_total", ""), 0);
    server.stop();
}

#[test]
fn a_client_over_the_connection_limit_gets_an_alert_and_not_http() {
    let mut secure = Secure::new("full");
    secure.config.connections_max = std::num::NonZeroUsize::new(1);
    let server = secure.start();
    let config = secure.client(&["http/1.1"]);
    let mut first = connect(tls(&server), &config);
    first.send_echo(b"one");
    assert_eq!(first.response().body, b"one");
    first.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n");
    server.await_metric("http_server_active_requests", "", 1);
    let error = connect(tls(&server), &config).stream.write_all(b"GET").unwrap_err();
    assert!(error.to_string().contains("InternalError"), "{error}");
    server.await_metric("echo_sheds_total", "connections", 1);
    drop(first);
    server.stop();
}

#[test]
fn client_certificates_are_not_asked_for_checked_if_shown_or_required() {
    let stranger = Authority::new().issue();
    for (auth, without, with_strange) in [
        (ClientAuth::Off, true, true),
        (ClientAuth::Request, true, false),
        (ClientAuth::Require, false, false),
    ] {
        let mut secure = Secure::new("client-auth");
        secure.config.tls_client_auth = auth;
        secure.config.tls_client_ca = Some(secure.files.path("ca.pem"));
        let server = secure.start();
        let works = |identity| {
            let config = client_config(&secure.authority, &["http/1.1"], identity);
            let mut client = connect(tls(&server), &config);
            // With TLS 1.3 a client hears of a refusal only after its own part of the handshake.
            let sent = client.stream.write_all(b"GET /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            let mut answer = Vec::new();
            sent.and_then(|()| client.stream.read_to_end(&mut answer)).is_ok_and(|length| length > 0)
        };
        assert_eq!(works(None), without, "{auth:?}");
        assert_eq!(works(Some(&stranger)), with_strange, "{auth:?}");
        assert!(works(Some(&secure.authority.issue())), "{auth:?}");
        server.stop();
    }
}

/// The certificate that the server shows.
fn shown(client: &Client<Tls>) -> Vec<u8> {
    client.stream.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn a_new_certificate_is_taken_while_connections_live_and_a_broken_one_is_not() {
    let mut secure = Secure::new("reload");
    secure.config.tls_reload_interval = Duration::from_millis(10);
    let server = secure.start();
    let config = secure.client(&["http/1.1"]);
    let fresh = || {
        let mut client = connect(tls(&server), &config);
        assert_eq!(client.echo(b"one").body, b"one");
        client
    };
    let mut old = fresh();
    let first = shown(&old);

    secure.files.write("cert.pem", "no certificate");
    server.await_metric("echo_tls_reloads_total", "failed", 1);
    assert_eq!(shown(&fresh()), first);

    secure.files.put(&secure.authority.issue());
    server.await_metric("echo_tls_reloads_total", "done", 1);
    let second = shown(&fresh());
    assert_ne!(second, first);
    assert_eq!(old.echo(b"still").body, b"still", "what lives goes on");

    // A key that belongs to another certificate is as bad as none.
    let failed = server.metric("echo_tls_reloads_total", "failed");
    secure.files.write("key.pem", &secure.authority.issue().key);
    let began = std::time::Instant::now();
    while server.metric("echo_tls_reloads_total", "failed") == failed {
        assert!(began.elapsed() < PATIENCE);
    }
    assert_eq!(shown(&fresh()), second);
    server.stop();
}

#[test]
fn sighup_looks_at_once_and_the_log_says_once_what_is_wrong() {
    let secure = Secure::new("sighup");
    let args = [
        secure.args(),
        ["--tls-reload-interval=0", "--log=info", "--lame-duck=0s"].map(str::to_owned).into(),
    ]
    .concat();
    let (program, mut log) = Program::start_with_log(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let config = secure.client(&["http/1.1"]);
    let shows = || {
        let mut client = connect(program.tls.unwrap(), &config);
        assert_eq!(client.echo(b"one").body, b"one");
        shown(&client)
    };
    let reloads = |result, count| {
        crate::harness::await_metric(program.admin, "echo_tls_reloads_total", result, count);
    };
    let first = shows();
    secure.files.write("key.pem", "no key");
    program.signal(rustix::process::Signal::HUP);
    reloads("failed", 1);
    assert_eq!(shows(), first);
    secure.files.put(&secure.authority.issue());
    program.signal(rustix::process::Signal::HUP);
    reloads("done", 1);
    assert_ne!(shows(), first);
    program.stop();
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("stays in use").count(), 1, "{text}");
    assert!(text.contains("--tls-key") && text.contains("key.pem"), "{text}");
}

type Change = fn(&mut Config, std::path::PathBuf);

#[test]
fn a_certificate_that_cannot_be_used_is_refused_at_start_with_its_file_and_flag() {
    let secure = Secure::new("start");
    let other = secure.files.path("other.pem");
    std::fs::write(&other, secure.authority.issue().key).unwrap();
    let empty = secure.files.path("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let missing = secure.files.path("missing.pem");
    let cases: [(Change, &std::path::PathBuf, &[&str]); 6] = [
        (|c, path| c.tls_cert = Some(path), &missing, &["--tls-cert", "missing.pem", "No such file"]),
        (|c, path| c.tls_cert = Some(path), &empty, &["--tls-cert", "empty.pem", "no certificate in PEM"]),
        (|c, path| c.tls_key = Some(path), &empty, &["--tls-key", "empty.pem", "no private key in PEM"]),
        (|c, path| c.tls_key = Some(path), &other, &["--tls-key", "other.pem", "not the key of", "cert.pem"]),
        (
            |c, path| (c.tls_client_ca, c.tls_client_auth) = (Some(path), ClientAuth::Request),
            &missing,
            &["--tls-client-ca", "missing.pem"],
        ),
        (|c, _| c.tls_key = None, &missing, &["--listen-tls", "--tls-dev-cert"]),
    ];
    for (change, path, words) in cases {
        let mut config = secure.config.clone();
        change(&mut config, path.clone());
        let error = Server::bind(config).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
    }
    let args = ["--listen-tls=127.0.0.1:0", "--tls-cert=/nowhere", "--tls-key=/nowhere"];
    let output = program().args(args).stderr(std::process::Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--tls-cert /nowhere"), "{output:?}");
}

#[test]
fn a_development_certificate_is_made_on_request() {
    let (program, mut log) = Program::start_with_log(&[
        "--listen-tls=127.0.0.1:0",
        "--tls-dev-cert",
        "--log=info",
        "--lame-duck=0s",
    ]);
    // Nobody trusts it; curl, asked not to mind, is not everywhere, so this looks at the handshake alone.
    let config = client_config(&Authority::new(), &["http/1.1"], None);
    let error = connect(program.tls.unwrap(), &config).stream.write_all(b"GET").unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    let expiry = scrape(program.admin);
    let mut expiry = samples(&expiry, "echo_tls_certificate_expiry_timestamp_seconds", "");
    let left = expiry.next().unwrap().parse::<u64>().unwrap() - now_s();
    assert!((395 * 86_400..398 * 86_400).contains(&left), "{left}");
    program.stop();
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert!(text.contains("sha256") && text.contains("localhost 127.0.0.1 ::1"), "{text}");
}

fn now_s() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

#[test]
fn a_reader_over_tls_that_stops_is_cut() {
    let mut secure = Secure::new("slow");
    (secure.config.write_stall_timeout, secure.config.rate_min) = (SHORT, 0);
    let server = secure.start();
    let mut client = connect(tls(&server), &secure.client(&["http/1.1"]));
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n");
    // Ends when the server has cut the connection; nothing is ever read.
    while client.stream.write_all(&[b'x'; 16 * 1024]).is_ok() {}
    server.await_metric("echo_connections_closed_total", "slow_reader", 1);
    server.await_metric("http_server_active_requests", "", 0);
    server.stop();
}

#[test]
fn requests_over_tls_are_finished_by_a_drain_and_the_rest_is_let_go() {
    let secure = Secure::new("drain");
    let mut server = secure.start();
    let http1 = secure.client(&["http/1.1"]);
    let mut idle = connect(tls(&server), &http1);
    assert_eq!(idle.echo(b"one").body, b"one");
    let mut busy = connect(tls(&server), &http1);
    busy.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n1");
    server.await_metric("http_server_active_requests", "", 1);
    let silent = Client::connect(tls(&server));
    server.await_metric("echo_connections_open", "", 3);
    server.begin_drain();
    // Closed in order: TLS's own end, or reading it would be an error.
    idle.expect_close();
    busy.send(b"2");
    assert_eq!(busy.response().body, b"12");
    busy.expect_close();
    drop(silent);
    let report = server.stop();
    assert_eq!((report.connections_cut, report.requests_lost), (0, 0), "{report}");
}

#[test]
fn a_client_that_leaves_without_a_farewell_has_ended_and_not_failed() {
    let secure = Secure::new("farewell");
    let server = secure.start();
    let mut client = connect(tls(&server), &secure.client(&["http/1.1"]));
    assert_eq!(client.echo(b"one").body, b"one");
    client.stream.sock.shutdown(std::net::Shutdown::Write).unwrap();
    let error = client.stream.read(&mut [0]);
    assert!(
        error.as_ref().is_ok_and(|n| *n == 0) || error.is_err_and(|e| e.kind() == ErrorKind::UnexpectedEof)
    );
    server.await_metric("echo_connections_closed_total", "complete", 1);
    server.stop();
}
