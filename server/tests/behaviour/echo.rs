//! What goes in comes out.

use std::{convert::Infallible, num::NonZeroUsize, vec::IntoIter};

use bytes::Bytes;
use echo_server::{CatchAll, Config, RequestBody, Runtime};
use futures_util::stream::{self, Iter};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;

use crate::harness::{Client, Echo, Served, config, connect_http2, pattern};

#[test]
fn bodies_of_any_size_and_framing_come_back_byte_for_byte_on_both_runtimes() {
    for runtime in [Runtime::WorkStealing, Runtime::PerCore] {
        let server = Echo::start(Config { runtime, workers: NonZeroUsize::new(2), ..config() });
        for size in [0, 1, 64, 16 * 1024, 64 * 1024 + 1, 3 << 20] {
            let body = pattern(size);
            // Written from a thread of its own: a client that sends all before it reads can block for ever on a
            // server that streams.
            let mut reader = Client::connect(server.addr);
            let mut sender = reader.stream.try_clone().unwrap();
            let sent = body.clone();
            let sending = std::thread::spawn(move || {
                use std::io::Write as _;
                write!(sender, "PUT /echo/x HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n").unwrap();
                sender.write_all(&sent).unwrap();
                write!(sender, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
                for chunk in sent.chunks(10_000) {
                    write!(sender, "{:x}\r\n", chunk.len()).unwrap();
                    sender.write_all(chunk).unwrap();
                    sender.write_all(b"\r\n").unwrap();
                }
                sender.write_all(b"0\r\n\r\n").unwrap();
            });
            for framing in ["content-length", "transfer-encoding"] {
                let echo = reader.response();
                assert_eq!((echo.status, echo.complete), (200, true), "{runtime:?} {size} {framing}");
                assert!(echo.body == body, "{runtime:?} {size} {framing}: wrong bytes");
                if size > 0 {
                    assert!(echo.headers.contains_key(framing), "{:?}", echo.headers);
                } else {
                    assert_eq!(echo.header("content-length"), "0");
                }
            }
            sending.join().unwrap();
        }
        let report = server.stop();
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn the_head_of_an_echo_names_request_type_and_times() {
    let server = Echo::start(Config { catch_all: CatchAll::NotFound, ..config() });
    let mut client = Client::connect(server.addr);
    client.send(
        b"PATCH /echo HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-thing\r\nx-request-id: abc-1\r\ncontent-length: 2\r\n\r\nhi",
    );
    let echo = client.response();
    assert_eq!(echo.header("content-type"), "application/x-thing");
    assert_eq!(echo.header("content-length"), "2");
    assert_eq!(echo.header("x-request-id"), "abc-1");
    let timing = echo.header("server-timing");
    assert!(timing.starts_with("queue;dur=") && timing.contains(", service;dur="), "{timing}");

    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nHEAD / HTTP/1.1\r\nhost: a\r\n\r\n");
    let get = client.response();
    assert_eq!((get.status, get.header("content-length")), (200, get.body.len().to_string().as_str()));
    assert_eq!(get.header("x-request-id").len(), 24);

    for (request, status) in [("DELETE /", 405), ("GET /nothing", 404), ("GET /echoes", 404)] {
        let mut client = Client::connect(server.addr);
        client.send(format!("{request} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
        let response = client.response();
        assert_eq!(response.status, status, "{request}");
        assert!(!response.header("x-request-id").is_empty() && !response.header("server-timing").is_empty());
    }
    server.stop();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    let bodies: Vec<Vec<u8>> = (0..50).map(|i| pattern(i * 37 + 1)).collect();
    let all: Vec<u8> = bodies
        .iter()
        .enumerate()
        .flat_map(|(i, body)| {
            let head = format!(
                "POST /echo HTTP/1.1\r\nhost: a\r\nx-request-id: {i}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            [head.as_bytes(), body].concat()
        })
        .collect();
    client.send(&all);
    for (i, body) in bodies.iter().enumerate() {
        let echo = client.response();
        assert_eq!(echo.header("x-request-id"), i.to_string());
        assert!(echo.body == *body, "response {i}");
    }
    server.stop();
}

#[test]
fn a_client_that_closes_its_side_after_the_request_still_gets_its_answer() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    client.send_echo(&pattern(100_000));
    client.close_write();
    let echo = client.response();
    assert!(echo.complete && echo.body == pattern(100_000));
    client.expect_close();
    server.stop();
}

#[test]
fn expect_100_continue_is_answered_at_once() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    // Nothing of the body is sent before this answer is there.
    assert_eq!(client.response().status, 100);
    client.send(b"hello");
    assert_eq!(client.response().body, b"hello");
    server.stop();
}

#[test]
fn a_client_that_reads_only_after_it_has_sent_all_asks_for_a_buffer() {
    let server = Echo::start(Config { buffer_max: 16 << 20, ..config() });
    let mut client = Client::connect(server.addr);
    // Far more than the sockets between us hold: a stream would stop here.
    let body = pattern(15 << 20);
    let head = "POST /echo?mode=buffer HTTP/1.1\r\nhost: a\r\ncontent-type: a/b\r\ntransfer-encoding: chunked\r\n\r\n";
    client.send(head.as_bytes());
    for chunk in body.chunks(1 << 16) {
        client.send(&[format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
    }
    client.send(b"0\r\n\r\n");
    let echo = client.response();
    assert_eq!((echo.header("content-length"), echo.header("content-type")), ("15728640", "a/b"));
    assert!(echo.body == body);

    client.send(
        b"PUT /payload?mode=buffer HTTP/1.1\r\nhost: a\r\nte: trailers\r\ncontent-length: 5\r\n\r\nhello",
    );
    assert_eq!(client.response().status, 405, "that path is for POST");
    client.send(
        b"POST /payload?mode=buffer HTTP/1.1\r\nhost: a\r\nte: trailers\r\ncontent-length: 5\r\n\r\nhello",
    );
    let echo = client.response();
    assert_eq!((echo.header("x-echo-bytes"), echo.header("content-digest")), ("5", HELLO_DIGEST));

    let refused = client.ask("GET /echo?mode=sideways");
    assert!(
        refused.status == 400 && refused.text().contains("mode=sideways: must be stream or buffer"),
        "{refused:?}"
    );
    server.stop();
}

/// RFC 9530, section 2, of `hello`.
const HELLO_DIGEST: &str = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";

#[test]
fn a_body_over_the_buffer_is_refused_before_it_is_sent() {
    let server = Echo::start(Config { buffer_max: 4, ..config() });
    let mut client = Client::connect(server.addr);
    client.send(
        b"POST /echo?mode=buffer HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n",
    );
    let refused = client.response();
    assert_eq!((refused.status, refused.header("connection")), (413, "close"));
    assert!(refused.text().contains("--buffer-max"), "{}", refused.text());
    assert_eq!(Client::connect(server.addr).echo(b"hello").body, b"hello", "a stream has no such limit");
    server.stop();
}

#[test]
fn trailers_tell_digest_and_length_to_those_who_ask_for_them() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    client.send(
        b"POST /echo HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\ntrailer: x-mine, content-length\r\n\
          transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nx-mine: 1\r\n\r\n",
    );
    let echo = client.response();
    assert_eq!((&echo.body[..], echo.complete), (&b"hello"[..], true));
    assert_eq!(echo.header("trailer"), "content-digest, x-echo-bytes, x-mine");
    let trailer = |name: &str| echo.trailers.get(name).map_or("", String::as_str);
    assert_eq!(
        (trailer("content-digest"), trailer("x-echo-bytes"), trailer("x-mine")),
        (HELLO_DIGEST, "5", "1")
    );

    client.send(b"POST / HTTP/1.1\r\nhost: a\r\nte: deflate;q=0.5, Trailers\r\ncontent-length: 0\r\n\r\n");
    let echo = client.response();
    assert_eq!((&echo.body[..], echo.trailers["x-echo-bytes"].as_str()), (&b""[..], "0"));

    let echo = client.echo(b"hello");
    assert_eq!((echo.header("content-length"), echo.header("trailer"), echo.trailers.len()), ("5", "", 0));
    server.stop();
}

type Sent = Result<Frame<Bytes>, Infallible>;

fn body_of(frames: Vec<Frame<Bytes>>) -> StreamBody<Iter<IntoIter<Sent>>> {
    let frames: Vec<_> = frames.into_iter().map(Ok).collect();
    StreamBody::new(stream::iter(frames))
}

#[test]
fn trailers_of_http2_come_back_with_a_length_and_a_digest() {
    let server = Echo::start(config());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut sender, connection) = connect_http2(server.addr).await;
        let mut driven = tokio::task::JoinSet::new();
        driven.spawn(connection);
        for asks in [true, false] {
            let frames = [
                Frame::data(Bytes::from_static(b"hello")),
                Frame::trailers(HeaderMap::from_iter([(
                    HeaderName::from_static("x-mine"),
                    HeaderValue::from_static("1"),
                )])),
            ];
            let body = body_of(frames.into());
            let mut request = Request::post(format!("http://{}/echo", server.addr));
            if asks {
                request = request.header("te", "trailers");
            }
            let echo = sender.send_request(request.body(body).unwrap()).await.unwrap();
            let collected = echo.into_body().collect().await.unwrap();
            let trailers = collected.trailers().cloned().unwrap_or_default();
            assert_eq!(collected.to_bytes(), "hello");
            if asks {
                let expected = [("content-digest", HELLO_DIGEST), ("x-echo-bytes", "5"), ("x-mine", "1")];
                assert!(expected.iter().all(|(name, value)| trailers[*name] == *value), "{trailers:?}");
            } else {
                assert!(trailers.is_empty(), "{trailers:?}");
            }
        }
        // hyper sends what there is of a body, also where there must be none.
        for path in ["echo", "get", "bytes/5", ""] {
            let request =
                Request::head(format!("http://{}/{path}", server.addr)).body(body_of(Vec::new())).unwrap();
            let head = sender.send_request(request).await.unwrap();
            assert_eq!(head.status(), 200);
            assert!(head.into_body().collect().await.unwrap().to_bytes().is_empty(), "{path}");
        }
    });
    server.stop();
}

#[test]
fn a_client_that_resets_in_the_middle_harms_nobody() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nbegin");
    server.await_metric("http_server_active_requests", "", 1);
    client.reset();
    server.await_metric("http_server_active_requests", "", 0);
    assert_eq!(server.metric("echo_requests_aborted_total", ""), 1);
    assert_eq!(server.metric("echo_requests_admitted", ""), 0, "its place in the limit is free again");
    assert_eq!(Client::connect(server.addr).echo(b"next").body, b"next");
    assert!(server.stop().is_clean());
}

#[test]
fn a_body_that_breaks_never_ends_cleanly() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
    // Not a chunk size: the body is broken after the response has begun.
    client.send(b"xyz\r\n");
    let echo = client.response();
    assert_eq!((echo.status, echo.complete), (200, false), "{echo:?}");
    server.stop();
}

#[test]
fn what_is_not_http_gets_a_400() {
    let server = Echo::start(config());
    for garbage in ["GARBAGE\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n", "\u{0}\u{1}\u{2}\r\n\r\n"] {
        let mut client = Client::connect(server.addr);
        client.send(garbage.as_bytes());
        let response = client.response();
        assert_eq!((response.status, response.header("connection")), (400, "close"), "{garbage:?}");
        assert!(!response.header("x-request-id").is_empty() && !response.header("server-timing").is_empty());
        let reason = response.text();
        assert!(reason.contains("not valid HTTP/1.1") || reason.contains("RFC 9112"), "{reason}");
        client.expect_close();
    }
    server.await_metric("echo_connections_closed_total", "malformed", 3);
    server.stop();
}

#[test]
fn a_panic_in_a_handler_is_a_500_and_the_connection_lives() {
    let service = tower::service_fn(|request: Request<RequestBody>| async move {
        assert_ne!(request.uri().path(), "/panic", "asked to");
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"fine"))))
    });
    let server = Served::start(service, config());
    let mut client = Client::connect(server.addr);
    for (path, status) in [("/panic", 500), ("/", 200), ("/panic", 500), ("/", 200)] {
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
        let response = client.response();
        assert_eq!((response.status, response.complete), (status, true), "{path}");
        assert!(!response.text().contains("asked to"), "no detail of ours goes to clients");
    }
    assert!(server.stop().is_clean());
}

#[test]
fn an_axum_router_runs_on_the_same_core() {
    use axum::{Router, routing::post};
    let router = Router::new().route("/shout", post(|body: String| async move { body.to_uppercase() }));
    let server = Served::start(router, Config { body_max: 10, ..config() });
    let mut client = Client::connect(server.addr);
    client.send(b"POST /shout HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
    let response = client.response();
    assert_eq!(response.text(), "HELLO");
    assert!(!response.header("x-request-id").is_empty(), "our layers are around it");
    client.send(b"POST /shout HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\nhello world");
    assert_eq!(client.response().status, 413, "our limits, too");
    assert!(server.stop().is_clean());
}
