//! What misbehaves on purpose, and what works for its money.

use std::{
    io::{ErrorKind, Read as _},
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use bytes::Bytes;
use echo_server::Config;
use http::Request;
use http_body_util::{BodyExt as _, Empty};

use crate::harness::{Client, Echo, config, connect_http2};

/// All that comes back, and how it ends: `None` for an orderly end.
fn outcome(server: &Echo, path: &str) -> (Vec<u8>, Option<ErrorKind>) {
    let mut client = Client::connect(server.addr);
    client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
    let mut all = Vec::new();
    let ended = client.stream.read_to_end(&mut all);
    (all, ended.err().map(|error| error.kind()))
}

/// The body behind the head.
fn body(all: &[u8]) -> &[u8] {
    let end = all.windows(4).position(|window| window == b"\r\n\r\n");
    &all[end.unwrap_or_else(|| panic!("no head: {:?}", String::from_utf8_lossy(all))) + 4..]
}

#[test]
fn a_response_breaks_in_the_way_and_at_the_place_that_was_asked_for() {
    let server = Echo::start(config());
    let reset = Some(ErrorKind::ConnectionReset);
    for how in ["rst", "CONNECTION_RESET_BY_PEER"] {
        assert_eq!(outcome(&server, &format!("/abort?how={how}")), (vec![], reset), "{how}");
    }
    for how in ["fin", "EMPTY_RESPONSE"] {
        assert_eq!(outcome(&server, &format!("/abort?how={how}")), (vec![], None), "{how}");
    }
    for how in ["garbage", "RANDOM_DATA_THEN_CLOSE"] {
        let (all, end) = outcome(&server, &format!("/abort?how={how}"));
        assert!(!all.is_empty() && !all.starts_with(b"HTTP") && end.is_none(), "{how}: {all:?}");
    }
    let (all, end) = outcome(&server, "/abort?how=MALFORMED_RESPONSE_CHUNK");
    assert!(all.starts_with(b"HTTP/1.1 200") && body(&all).contains(&0xff) && end.is_none(), "{all:?}");

    let (all, end) = outcome(&server, "/abort?how=rst&after=headers");
    assert_eq!((body(&all), end), (&b""[..], reset));
    let (all, end) = outcome(&server, "/abort?how=fin&after=headers");
    assert_eq!((body(&all), end), (&b""[..], None));
    for (how, end) in [("rst", reset), ("fin", None)] {
        let (all, ended) = outcome(&server, &format!("/abort?how={how}&after=100000"));
        let stars = body(&all).split(|byte| *byte == b'*').count() - 1;
        assert_eq!((stars, ended), (100_000, end), "{how}");
        assert!(!all.ends_with(b"0\r\n\r\n"), "the chunks ended in order");
    }
    let (all, end) = outcome(&server, "/abort?how=truncate&after=100");
    let head = String::from_utf8_lossy(&all).to_lowercase();
    assert!(head.contains("\r\ncontent-length: 612\r\n") && end.is_none(), "{head}");
    assert_eq!(body(&all), [b'*'; 100]);
    server.await_metric("echo_connections_closed_total", "reason=\"fault\"", 12);
    server.stop();
}

#[test]
fn an_abort_that_cannot_be_is_refused() {
    let server = Echo::start(Config { size_max: 1000, ..config() });
    let mut client = Client::connect(server.addr);
    for (query, what) in [
        ("how=h2reset", "HTTP/1"),
        ("how=melt", "how=melt"),
        ("how=rst&after=1001", "--size-max"),
        ("how=rst&after=body", "after=body"),
        ("how=EMPTY_RESPONSE&after=headers", "already"),
    ] {
        let refusal = client.ask(&format!("GET /abort?{query}"));
        assert!(refusal.status == 400 && refusal.text().contains(what), "{query}: {}", refusal.text());
    }
    server.stop();
}

#[test]
fn nothing_misbehaves_while_faults_are_off() {
    let server = Echo::start(Config { faults: false, ..config() });
    let mut client = Client::connect(server.addr);
    for path in ["/abort?how=rst", "/unstable?failure_rate=1", "/retry/a?responseCode=503"] {
        let refusal = client.ask(&format!("GET {path}"));
        assert!(refusal.status == 403 && refusal.text().contains("--faults"), "{path}: {}", refusal.text());
    }
    server.stop();
}

#[test]
fn a_stream_of_http2_is_reset_alone_and_a_connection_with_all_its_streams() {
    let server = Echo::start(config());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut sender, connection) = connect_http2(server.addr).await;
        let mut driven = tokio::task::JoinSet::new();
        driven.spawn(connection);
        let get = |path: &str| {
            let uri = format!("http://{}{path}", server.addr);
            Request::get(uri).body(Empty::<Bytes>::new()).unwrap()
        };
        // Before the head, and after it.
        let early = match sender.send_request(get("/abort?how=h2reset")).await {
            Ok(response) => response.into_body().collect().await.map(drop),
            Err(error) => Err(error),
        };
        assert!(early.is_err());
        let response = sender.send_request(get("/abort?how=h2reset&after=100")).await.unwrap();
        let mut body = response.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), vec![b'*'; 100]);
        assert!(body.frame().await.unwrap().is_err());
        // A truncated body ends in order, and its length does not fit.
        let response = sender.send_request(get("/abort?how=truncate&after=10")).await.unwrap();
        assert_eq!(response.headers()["content-length"], "522");
        assert!(response.into_body().collect().await.map_or(true, |all| all.to_bytes().len() == 10));
        // The connection has carried all that.
        assert_eq!(sender.send_request(get("/bench")).await.unwrap().status(), 200);
        let broken = match sender.send_request(get("/abort?how=rst")).await {
            Ok(response) => response.into_body().collect().await.map(drop),
            Err(error) => Err(error),
        };
        assert!(broken.is_err());
        assert!(driven.join_next().await.unwrap().unwrap().is_err());
    });
    server.stop();
}

#[test]
fn attempts_fail_until_they_may_succeed() {
    let server = Echo::start(config());
    for _ in 0..2 {
        assert_eq!(outcome(&server, "/retry/a?succeedAfter=2"), (vec![], Some(ErrorKind::ConnectionReset)));
    }
    let mut client = Client::connect(server.addr);
    let answer = client.ask("GET /retry/a?succeedAfter=2");
    assert_eq!((answer.status, &answer.json()["method"]), (200, &"GET".into()));
    let began = Instant::now();
    let failure = client.ask("GET /retry/x?uuid=b&responseCode=503&delayRetry=50ms");
    assert!(failure.status == 503 && began.elapsed() >= Duration::from_millis(50));
    assert_eq!(client.ask("GET /retry/y?uuid=b&responseCode=503").status, 200);
    server.stop();
}

#[test]
fn an_unstable_answer_is_repeated_by_its_seed() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    for (seed, status) in [(0, 200), (3, 500), (0, 200), (3, 500)] {
        assert_eq!(client.ask(&format!("GET /unstable?seed={seed}")).status, status);
    }
    assert_eq!(client.ask("GET /unstable?failure_rate=1").status, 500);
    assert_eq!(client.ask("GET /unstable?failure_rate=2").status, 400);
    server.stop();
}

#[test]
fn work_costs_what_it_says_and_lets_others_have_their_turn() {
    let server = Echo::start(Config { workers: NonZeroUsize::new(1), ..config() });
    let mut worker = Client::connect(server.addr);
    for place in ["worker", "blocking"] {
        let done = worker.ask(&format!("GET /work?cpu=20ms&hold=1MiB&where={place}")).json();
        let cpu_us = done["cpu_us"].as_u64().unwrap();
        assert!((20_000..=21_000).contains(&cpu_us), "{place}: {cpu_us}");
        assert_eq!(done["hold_bytes"], 1 << 20);
    }
    // Long work, and a short request behind it on the same worker: the short one is answered first.
    let mut other = Client::connect(server.addr);
    other.echo(b"connected");
    worker.send(b"GET /work?cpu=1 HTTP/1.1\r\nhost: a\r\n\r\n");
    let began = Instant::now();
    assert_eq!(other.echo(b"short").body, b"short");
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(worker.response().status, 200);
    for (query, flag) in [("cpu=1001ms", "--work-max"), ("hold=65MiB", "--size-max")] {
        let refusal = worker.ask(&format!("GET /work?{query}"));
        assert!(refusal.status == 400 && refusal.text().contains(flag), "{}", refusal.text());
    }
    server.stop();
}
