//! Clients that wait, trickle or stop: each costs us a bounded time, and is told where it can be told.

use std::{
    io::{Read as _, Write as _},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use echo_server::Config;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::harness::{Client, Echo, PATIENCE, config, connect_http2};

const SHORT: Duration = Duration::from_millis(200);

/// Sends `bytes` every so often from a thread, while `read` does what it likes with the answers.
fn while_trickling(client: &mut Client, bytes: &[u8], every: Duration, read: impl FnOnce(&mut Client)) {
    let mut trickle = client.stream.try_clone().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) && trickle.write_all(bytes).is_ok() {
                std::thread::sleep(every);
            }
        });
        read(client);
        done.store(true, Relaxed);
    });
}

#[test]
fn a_client_that_connects_and_says_nothing_is_closed() {
    let server = Echo::start(Config { first_byte_timeout: SHORT, ..config() });
    Client::connect(server.addr).expect_close();
    server.await_metric("echo_connections_closed_total", "first_byte_timeout", 1);
    server.stop();
}

#[test]
fn half_a_preface_is_no_protocol() {
    let server = Echo::start(Config { first_byte_timeout: SHORT, ..config() });
    let mut client = Client::connect(server.addr);
    client.send(b"PRI * HTTP/2.0\r\n");
    client.expect_close();
    server.await_metric("echo_connections_closed_total", "first_byte_timeout", 1);
    server.stop();
}

#[test]
fn a_head_that_trickles_is_answered_408() {
    let server = Echo::start(Config { header_read_timeout: SHORT, ..config() });
    let mut client = Client::connect(server.addr);
    client.send(b"GET / HTTP/1.1\r\n");
    // Never silent for long: only a deadline on the whole head ends it.
    while_trickling(&mut client, b"x: y\r\n", SHORT / 10, |client| {
        let response = client.response();
        assert_eq!((response.status, response.header("connection")), (408, "close"));
        assert!(!response.header("x-request-id").is_empty());
        client.expect_close();
    });
    server.await_metric("echo_connections_closed_total", "header_timeout", 1);
    server.stop();
}

#[test]
fn the_deadline_for_the_head_holds_for_the_second_request_too() {
    let server = Echo::start(Config { header_read_timeout: SHORT, ..config() });
    let mut client = Client::connect(server.addr);
    assert_eq!(client.echo(b"one").body, b"one");
    client.send(b"POST /ec");
    assert_eq!(client.response().status, 408);
    client.expect_close();
    server.stop();
}

#[test]
fn an_idle_connection_is_closed_after_its_own_timeout() {
    let server =
        Echo::start(Config { keep_alive_timeout: SHORT, header_read_timeout: SHORT / 10, ..config() });
    let mut client = Client::connect(server.addr);
    assert_eq!(client.echo(b"one").body, b"one");
    client.expect_close();
    server.await_metric("echo_connections_closed_total", "\"idle\"", 1);
    server.stop();
}

#[test]
fn an_idle_http2_connection_is_told_and_closed() {
    let server = Echo::start(Config { keep_alive_timeout: SHORT, ..config() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut sender, connection) = connect_http2(server.addr).await;
        let request = Request::post("http://a/echo").body(Full::new(Bytes::from_static(b"one"))).unwrap();
        let echo = async move {
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "one");
            // Kept: a client that drops its handle closes the connection by itself.
            sender
        };
        let (closed, _sender) = tokio::join!(tokio::time::timeout(PATIENCE, connection), echo);
        closed.unwrap().unwrap();
    });
    server.await_metric("echo_connections_closed_total", "\"idle\"", 1);
    server.stop();
}

#[test]
fn a_body_that_does_not_come_is_a_408() {
    let server = Echo::start(Config { body_stall_timeout: SHORT, ..config() });
    let mut client = Client::connect(server.addr);
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.header("connection")), (408, "close"));
    assert!(response.text().contains("--body-stall-timeout"), "{}", response.text());
    client.expect_close();
    server.stop();
}

#[test]
fn a_body_that_stops_after_the_response_began_is_cut() {
    let server = Echo::start(Config { body_stall_timeout: SHORT, ..config() });
    let mut client = Client::connect(server.addr);
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\nhello");
    let response = client.response();
    assert_eq!((response.status, response.complete, response.text().as_str()), (200, false, "hello"));
    server.await_metric("echo_requests_aborted_total", "in_body", 1);
    server.await_metric("http_server_active_requests", "", 0);
    server.stop();
}

#[test]
fn one_byte_per_interval_is_below_the_minimum_rate() {
    let server = Echo::start(Config { rate_grace: SHORT, ..config() });
    let mut client = Client::connect(server.addr);
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n");
    // Far below `body_stall_timeout` (30 s): only the rate ends it.
    while_trickling(&mut client, b"x", SHORT / 20, |client| {
        let response = client.response();
        assert_eq!((response.status, response.complete), (200, false));
    });
    server.await_metric("echo_requests_aborted_total", "in_body", 1);
    server.stop();
}

/// Sends an endless body from a thread until the connection ends, while `read` does what it likes with the echo.
fn flood(server: &Echo, read: impl FnOnce(&mut Client)) {
    let mut client = Client::connect(server.addr);
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n");
    let mut sender = client.stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || while sender.write_all(&[b'x'; 16 * 1024]).is_ok() {});
        read(&mut client);
    });
}

#[test]
fn a_client_that_does_not_read_is_cut() {
    let server = Echo::start(Config { write_stall_timeout: SHORT, rate_min: 0, ..config() });
    flood(&server, |_| server.await_metric("echo_connections_closed_total", "slow_reader", 1));
    server.await_metric("http_server_active_requests", "", 0);
    server.stop();
}

#[test]
fn an_http2_stream_that_is_not_read_is_reset_and_the_others_live() {
    static LARGE: [u8; 8 << 20] = [7; 8 << 20];
    let server = Echo::start(Config { write_stall_timeout: SHORT, ..config() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(64 * 1024).initial_connection_window_size(4 << 20);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        let mut connections = tokio::task::JoinSet::new();
        connections.spawn(connection);
        let echo =
            |body: &'static [u8]| Request::post("http://a/echo").body(Full::new(Bytes::from_static(body)));

        let unread = sender.send_request(echo(&LARGE).unwrap()).await.unwrap();
        // The stream's window is full and stays so; the connection's is not.
        let small = sender.send_request(echo(b"one").unwrap()).await.unwrap();
        assert_eq!(small.into_body().collect().await.unwrap().to_bytes(), "one");
        // Ends with an error once the server has given the stream up.
        server.await_metric("echo_requests_aborted_total", "in_body", 1);
        server.await_metric("echo_tasks", "h2 stream", 0);
        assert!(unread.into_body().collect().await.is_err());
        let small = sender.send_request(echo(b"two").unwrap()).await.unwrap();
        assert_eq!(small.into_body().collect().await.unwrap().to_bytes(), "two");
    });
    server.stop();
}

#[test]
fn a_client_that_reads_one_byte_per_interval_is_cut() {
    let server = Echo::start(Config { rate_grace: SHORT, ..config() });
    flood(&server, |client| {
        let mut byte = [0];
        // Ends with the bytes that were on their way when the server gave up, or a reset.
        client.stream.set_read_timeout(Some(SHORT)).unwrap();
        while server.metric("echo_connections_closed_total", "slow_reader") == 0 {
            drop(client.stream.read(&mut byte));
        }
    });
    server.stop();
}
