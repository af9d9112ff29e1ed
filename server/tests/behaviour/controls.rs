//! What clients may ask of every endpoint, and what they may not.

use std::time::{Duration, Instant};

use bytes::Bytes;
use echo_server::Config;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::harness::{Client, Echo, PATIENCE, config, pattern};

#[test]
fn status_header_and_size_work_on_any_endpoint_and_stay_visible() {
    let server = Echo::start(config());
    let client = &mut Client::connect(server.addr);
    let all = "status=418&header=X-A:1&header=X-A:2&header=Retry-After:60";
    for path in [
        "/",
        "/echo",
        "/get",
        "/headers",
        "/ip",
        "/status/200",
        "/bytes/3",
        "/stream-bytes/3",
        "/range/3",
        "/own/path",
    ] {
        let response = client.ask(&format!("GET {path}?{all}"));
        assert_eq!((response.status, response.header("retry-after")), (418, "60"), "{path}");
        let sized = client.ask(&format!("GET {path}?size=5&seed=1"));
        assert_eq!(
            (sized.header("content-length"), sized.header("x-echo-seed"), sized.body.len()),
            ("5", "1", 5)
        );
        assert!(sized.header("etag").is_empty() && sized.header("content-range").is_empty(), "{path}");
    }
    let seen = client.ask("GET /get?status=201&delay=0\r\nx-echo-set-header: A:1").json();
    assert_eq!(seen["args"], serde_json::json!({"status": ["201"], "delay": ["0"]}));
    assert_eq!(seen["headers"]["x-echo-set-header"][0], "A:1");
    server.stop();
}

#[test]
fn an_echo_with_another_status_is_still_the_echo() {
    let server = Echo::start(config());
    let client = &mut Client::connect(server.addr);
    client.send(
        b"POST /echo?status=503 HTTP/1.1\r\nhost: a\r\ncontent-type: a/b\r\ncontent-length: 5\r\n\r\nhello",
    );
    let response = client.response();
    assert_eq!(
        (response.status, response.header("content-type"), &response.body[..]),
        (503, "a/b", &b"hello"[..])
    );
    server.stop();
}

#[test]
fn a_body_that_is_replaced_is_read_to_its_end_so_that_the_connection_goes_on() {
    let server = Echo::start(config());
    let client = &mut Client::connect(server.addr);
    let body = pattern(1 << 20);
    for (target, fields, status, length) in [
        ("/echo?size=7", "", 200, 7),
        ("/echo?status=204", "", 204, 0),
        ("/echo?status=304&size=7", "", 304, 0),
        ("/echo?status=205", "", 205, 0),
        ("/echo?size=7", "te: trailers\r\n", 200, 7),
        ("/status/500", "", 500, 26),
        ("/own/path?status=404&size=0", "", 404, 0),
    ] {
        let head =
            format!("POST {target} HTTP/1.1\r\nhost: a\r\n{fields}content-length: {}\r\n\r\n", body.len());
        client.send(&[head.as_bytes(), &body[..]].concat());
        let response = client.response();
        assert_eq!((response.status, response.body.len()), (status, length), "{target}: {response:?}");
        assert!(
            response.header("trailer").is_empty() && response.header("connection").is_empty(),
            "{target}"
        );
    }
    assert_eq!(client.echo(b"next").body, b"next");
    server.stop();
}

#[test]
fn generated_bodies_are_the_words_of_splitmix64() {
    let server = Echo::start(config());
    let client = &mut Client::connect(server.addr);
    let expected = splitmix64(9, 1000);
    assert!(client.ask("GET /get?size=1000&seed=9").body == expected);
    assert!(client.ask("GET /get\r\nx-echo-size: 1000\r\nx-echo-seed: 9").body == expected);
    assert!(client.ask("GET /bytes/1000?seed=9").body == expected);
    server.stop();
}

/// Independent of the server's code: the generator as its authors give it.
pub(crate) fn splitmix64(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}

#[test]
fn a_delay_comes_before_the_response() {
    let server = Echo::start(config());
    let client = &mut Client::connect(server.addr);
    for request in
        ["GET /get?delay=50ms", "GET /get?delay=0.05", "GET /get\r\nx-echo-delay: 50ms", "GET /delay/0.05"]
    {
        let began = Instant::now();
        assert_eq!(client.ask(request).status, 200, "{request}");
        assert!(began.elapsed() >= Duration::from_millis(50), "{request}");
    }
    server.stop();
}

/// Over HTTP/1 nobody reads from a client that waits for its response (hyper, `half_close`), so only its next byte would
/// tell that it has left.
#[test]
fn a_delay_is_cut_when_the_client_leaves() {
    // Longer than the patience with which its end is waited for.
    let server = Echo::start(Config { delay_max: 2 * PATIENCE, request_timeout: 3 * PATIENCE, ..config() });
    for target in ["echo?delay=40s", "delay/40"] {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let request =
            Request::get(format!("http://{}/{target}", server.addr)).body(Empty::<Bytes>::new()).unwrap();
        let addr = server.addr;
        runtime.spawn(async move {
            let stream = TcpStream::connect(addr).await.unwrap();
            let (mut sender, connection) =
                handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            let _both = tokio::join!(connection, sender.send_request(request));
        });
        server.await_metric("http_server_active_requests", "", 1);
        drop(runtime);
        server.await_metric("http_server_active_requests", "", 0);
    }
    server.stop();
}

#[test]
fn what_cannot_be_had_is_a_400_that_names_parameter_value_cap_and_flag() {
    let server = Echo::start(config());
    let client = &mut Client::connect(server.addr);
    for (request, parts) in [
        ("GET /get?delay=31s", ["delay", "31s", "30s", "--delay-max"]),
        ("GET /get\r\nx-echo-delay: 31s", ["x-echo-delay", "31s", "30s", "--delay-max"]),
        ("GET /delay/31", ["delay", "31", "30s", "--delay-max"]),
        ("GET /echo?size=65MiB", ["size", "65MiB", "64MiB", "--size-max"]),
        ("GET /bytes/65MiB", ["size", "65MiB", "64MiB", "--size-max"]),
        ("GET /own?status=100", ["status", "100", "200", "599"]),
        ("GET /get?header=Content-Length:1", ["header", "Content-Length:1", "content-length", "server"]),
        ("GET /get?close=perhaps", ["close", "perhaps", "true", "false"]),
        ("GET /echo?delay=%q", ["%q", "query", "hexadecimal", ""]),
    ] {
        let refused = client.ask(request);
        assert_eq!(refused.status, 400, "{request}");
        let error = refused.json();
        let detail = error["detail"].as_str().unwrap();
        assert_eq!((&error["status_code"], &error["error"]), (&400.into(), &"Bad Request".into()));
        assert!(parts.iter().all(|part| detail.contains(part)), "{request}: {detail}");
    }
    server.stop();
}

#[test]
fn the_header_wins_over_the_query_and_the_query_over_the_default() {
    let server = Echo::start(Config { default_params: "status=503&header=X-D:1".into(), ..config() });
    let client = &mut Client::connect(server.addr);
    let by_default = client.ask("GET /get");
    assert_eq!((by_default.status, by_default.header("x-d")), (503, "1"));
    assert_eq!(client.echo(b"hi").status, 503, "the echo, too");
    assert_eq!(client.ask("GET /livez").status, 200, "not health");
    assert_eq!(client.ask("GET /get?status=404").status, 404);
    assert_eq!(client.ask("GET /get?status=404\r\nx-echo-status: 410").status, 410);
    assert_eq!(client.ask("GET /get?header=X-E:2").header("x-d"), "");
    server.stop();
}

#[test]
fn a_percentage_leaves_the_other_requests_alone_and_a_seed_repeats_its_choices() {
    let server = Echo::start(config());
    let client = &mut Client::connect(server.addr);
    let mut statuses =
        |seed: u64| -> u16 { client.ask(&format!("GET /get?status=503:20,404:10&seed={seed}")).status };
    let first: Vec<u16> = (0..300).map(&mut statuses).collect();
    let again: Vec<u16> = (0..300).map(&mut statuses).collect();
    assert_eq!(first, again);
    let count = |status| first.iter().filter(|seen| **seen == status).count();
    // The seeds are fixed, and so are the counts.
    assert!((30..90).contains(&count(503)) && (10..60).contains(&count(404)), "{first:?}");
    assert_eq!(count(200) + count(503) + count(404), 300);
    server.stop();
}

#[test]
fn close_ends_the_connection_after_the_response() {
    let server = Echo::start(config());
    for request in ["GET /get?close=true", "GET /get?close=100", "GET /get\r\nx-echo-close: true:100"] {
        let mut client = Client::connect(server.addr);
        assert_eq!(client.ask("GET /get?close=false").header("connection"), "");
        assert_eq!(client.ask(request).header("connection"), "close");
        client.expect_close();
    }
    server.stop();
}

#[test]
fn a_server_without_controls_shows_them_and_does_nothing() {
    let server = Echo::start(Config { controls: false, default_params: "status=500".into(), ..config() });
    let client = &mut Client::connect(server.addr);
    let response = client.ask("GET /get?status=503&delay=1h\r\nx-echo-size: 3");
    assert_eq!(response.status, 200);
    assert_eq!(response.json()["args"]["status"][0], "503");
    server.stop();
}

#[test]
fn where_all_names_of_the_query_are_the_endpoints_own_controls_come_by_header() {
    let server = Echo::start(config());
    let client = &mut Client::connect(server.addr);
    let response = client.ask("GET /response-headers?status=503&delay=x");
    assert_eq!((response.status, response.header("status"), response.header("delay")), (200, "503", "x"));
    assert_eq!(client.ask("GET /response-headers?a=b\r\nx-echo-status: 503").status, 503);
    server.stop();
}

#[test]
fn an_error_that_was_asked_for_is_no_failure_in_the_log() {
    let (program, mut log) = crate::harness::Program::start_with_log(&[]);
    let client = &mut Client::connect(program.addr);
    assert_eq!(client.ask("GET /status/500").status, 500);
    assert_eq!(client.ask("GET /get?status=503").status, 503);
    program.stop();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut log, &mut text).unwrap();
    assert!(!text.contains("ERROR"), "{text}");
}
