//! Responses that take their time, and trailers.

use std::{
    io::Read as _,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use echo_server::Config;

use crate::harness::{Client, Echo, config};

#[test]
fn server_sent_events_come_one_by_one_and_whole() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    let began = Instant::now();
    let response = client.ask("GET /sse?count=3&duration=200ms");
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!(response.header("content-type"), "text/event-stream");
    assert_eq!(response.header("cache-control"), "no-store");
    let text = response.text();
    let events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(events.len(), 3, "{text}");
    for (id, event) in events.into_iter().enumerate() {
        let data = event.strip_prefix(&format!("id: {id}\nevent: ping\ndata: ")).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(data).unwrap()["id"], id);
    }
    let lines = client.ask("GET /jsonl?count=3&duration=10ms&jitter=5ms");
    assert_eq!(lines.text().lines().count(), 3);
    for (query, flag) in [("sse?duration=31", "--delay-max"), ("jsonl?count=99999999", "--size-max")] {
        let refusal = client.ask(&format!("GET /{query}"));
        assert!(refusal.status == 400 && refusal.text().contains(flag), "{}", refusal.text());
    }
    server.stop();
}

#[test]
fn a_stream_ends_when_its_client_leaves() {
    let server = Echo::start(config());
    // Over HTTP/1.1 it is seen at the next part that is sent.
    for path in ["sse?duration=30&count=300", "jsonl?duration=30&count=300", "drip?duration=30&numbytes=300"]
    {
        let mut client = Client::connect(server.addr);
        client.send(format!("GET /{path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
        let head = client.head_of_large_response();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        server.await_metric("echo_streams_open", "", 1);
        client.reset();
        server.await_metric("echo_streams_open", "", 0);
    }
    server.await_metric("echo_requests_aborted_total", "in_body", 3);
    server.stop();
}

#[test]
fn streams_have_a_limit_of_their_own() {
    let server = Echo::start(Config { streams_max: NonZeroUsize::new(1), ..config() });
    let mut first = Client::connect(server.addr);
    first.send(b"GET /sse?duration=30&count=300 HTTP/1.1\r\nhost: a\r\n\r\n");
    first.head_of_large_response();
    let mut client = Client::connect(server.addr);
    for path in ["sse", "jsonl", "drip"] {
        let refusal = client.ask(&format!("GET /{path}"));
        assert_eq!((refusal.status, refusal.header("x-echo-overloaded")), (503, "streams"), "{path}");
    }
    assert_eq!(client.echo(b"x").status, 200);
    first.reset();
    server.await_metric("echo_streams_open", "", 0);
    assert_eq!(client.ask("GET /drip?duration=0").status, 200);
    server.stop();
}

#[test]
fn a_drip_has_its_length_before_its_bytes() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    let began = Instant::now();
    let drip = client.ask("GET /drip?numbytes=5&duration=200ms&code=203");
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!((drip.status, drip.header("content-length"), &drip.body[..]), (203, "5", &b"*****"[..]));
    let large = client.ask("GET /drip?numbytes=1000000&duration=0");
    assert!(large.complete && large.body.len() == 1_000_000);
    let delayed = Instant::now();
    assert_eq!(client.ask("GET /drip?numbytes=1&delay=100ms").status, 200);
    assert!(delayed.elapsed() >= Duration::from_millis(100));
    server.stop();
}

#[test]
fn a_stream_of_lines_is_the_request_again_and_again() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    let response = client.ask("GET /stream/3?a=b");
    let text = response.text();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    for (id, line) in lines.iter().enumerate() {
        assert_eq!(
            (&line["id"], &line["args"]["a"][0], &line["method"]),
            (&id.into(), &"b".into(), &"GET".into())
        );
    }
    let refusal = client.ask("GET /stream/101");
    assert!(refusal.status == 400 && refusal.text().contains("100"), "{}", refusal.text());
    server.stop();
}

#[test]
fn trailers_come_behind_the_body_and_are_named_before_it() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    // hyper sends trailers to those who ask for them, as RFC 9110 section 6.5.1 wants it.
    let response = client.ask("GET /trailers?x-a=1&x-b=2\r\nte: trailers");
    assert_eq!((response.status, response.header("trailer")), (200, "x-a, x-b"));
    let trailers = ["x-a", "x-b"].map(|name| response.trailers[name].as_str());
    assert_eq!(trailers, ["1", "2"]);
    let refusal = client.ask("GET /trailers?content-length=1");
    assert!(refusal.status == 400 && refusal.text().contains("content-length"), "{}", refusal.text());
    // HTTP/1.0 has neither chunks nor trailers, but the body.
    client.send(b"GET /trailers?x-a=1 HTTP/1.0\r\n\r\n");
    let mut rest = String::new();
    client.stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("behind this line") && !rest.contains("x-a: 1"), "{rest}");
    server.stop();
}
