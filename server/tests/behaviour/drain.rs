//! Stopping under load: what has arrived is answered, and the end is reported.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    num::NonZeroUsize,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::Instant,
};

use bytes::Bytes;
use echo_server::{Config, Runtime};
use http::Request;
use http_body_util::{BodyExt as _, Collected, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::harness::{Client, Echo, PATIENCE, Program, config, pattern};

/// What clients under load have seen.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) answered: AtomicUsize,
    answered_after_signal: AtomicUsize,
    pub(crate) failed: AtomicUsize,
    signalled: AtomicBool,
}

impl Tally {
    pub(crate) fn answered(&self) {
        self.answered.fetch_add(1, Relaxed);
        if self.signalled.load(Relaxed) {
            self.answered_after_signal.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn failed(&self, why: &str) {
        eprintln!("failed: {why}");
        self.failed.fetch_add(1, Relaxed);
    }

    /// Lets the load run, drains under it, and checks that nothing was lost.
    fn drain_under_load(&self, program: Program) {
        let began = Instant::now();
        while self.answered.load(Relaxed) < 500 {
            assert!(began.elapsed() < PATIENCE, "no load");
            std::thread::yield_now();
        }
        self.signalled.store(true, Relaxed);
        program.terminate();
        let (report, code) = program.wait();
        assert_eq!(code, Some(0), "{report}");
        assert!(report.contains("0 requests lost"), "{report}");
    }

    fn check(&self) {
        assert_eq!(self.failed.load(Relaxed), 0, "of {} requests", self.answered.load(Relaxed));
        assert!(self.answered_after_signal.load(Relaxed) > 0, "lame duck serves");
    }
}

const DRAIN: [&str; 3] = ["--lame-duck=300ms", "--drain-idle-grace=50ms", "--workers=2"];

#[test]
fn sigterm_under_load_fails_no_http1_request_on_either_runtime() {
    for runtime in ["work-stealing", "per-core"] {
        let program = Program::start(&[&DRAIN[..], &["--runtime", runtime]].concat());
        let (addr, tally) = (program.addr, Tally::default());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| while echo_until_close(addr, &tally) {});
            }
            tally.drain_under_load(program);
        });
        tally.check();
    }
}

/// Sends requests on one connection until the server asks to close it. False once the server is gone.
pub(crate) fn echo_until_close(addr: SocketAddr, tally: &Tally) -> bool {
    let mut stream = match TcpStream::connect(addr) {
        Ok(stream) => stream,
        // The listener is closed: nothing was sent, so nothing is lost.
        Err(e) if matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::TimedOut) => return false,
        Err(e) => {
            tally.failed(&format!("connect: {e}"));
            return false;
        }
    };
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    requests_until_close(&mut stream, tally);
    true
}

/// Sends requests on one connection until the server asks to close it.
pub(crate) fn requests_until_close(stream: &mut (impl Read + Write), tally: &Tally) {
    let body = pattern(700);
    let request = [
        format!("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(),
        &body,
    ]
    .concat();
    loop {
        match exchange(stream, &request, &body) {
            Ok(true) => tally.answered(),
            Ok(false) => return tally.answered(),
            Err(why) => return tally.failed(&why),
        }
    }
}

/// One request and its echo; whether the connection may be used again.
fn exchange(stream: &mut (impl Read + Write), request: &[u8], body: &[u8]) -> Result<bool, String> {
    stream.write_all(request).map_err(|e| format!("write: {e}"))?;
    let mut response = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let n = stream.read(&mut chunk).map_err(|e| format!("read: {e}"))?;
        if n == 0 {
            return Err(format!("closed after {} bytes", response.len()));
        }
        response.extend_from_slice(&chunk[..n]);
        let Some(head) = response.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        if response.len() >= head + 4 + body.len() {
            let text = String::from_utf8_lossy(&response[..head]).into_owned();
            return if text.starts_with("HTTP/1.1 200") && response[head + 4..] == *body {
                Ok(!text.contains("connection: close"))
            } else {
                Err(text)
            };
        }
    }
}

#[test]
fn sigterm_under_load_fails_no_http2_request() {
    let program = Program::start(&DRAIN);
    let (addr, tally) = (program.addr, Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { while streams_until_goaway(addr, &tally).await {} });
            });
        }
        tally.drain_under_load(program);
    });
    tally.check();
}

/// Sends requests on one HTTP/2 connection until the server says goodbye. False once the server is gone.
pub(crate) async fn streams_until_goaway(addr: SocketAddr, tally: &Tally) -> bool {
    let Ok(stream) = tokio::net::TcpStream::connect(addr).await else { return false };
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let Ok((mut sender, connection)) = handshake else { return false };
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(connection);
    let body = Bytes::from(pattern(700));
    while sender.ready().await.is_ok() {
        let request = Request::post("http://a/echo").body(Full::new(body.clone())).unwrap();
        match sender.try_send_request(request).await {
            Ok(response) => match response.into_body().collect().await.map(Collected::to_bytes) {
                Ok(echo) if echo == body => tally.answered(),
                Ok(_) => tally.failed("wrong echo"),
                Err(e) => tally.failed(&format!("body: {e:?}")),
            },
            // Given back unsent: the client knows that it may send it elsewhere.
            Err(mut error) => match error.take_message() {
                Some(_unsent) => break,
                None => tally.failed(&format!("{:?}", error.into_error())),
            },
        }
    }
    true
}

#[test]
fn a_request_in_progress_is_finished_and_the_connection_then_closed() {
    for runtime in [Runtime::WorkStealing, Runtime::PerCore] {
        let mut server = Echo::start(Config { runtime, workers: NonZeroUsize::new(2), ..config() });
        let mut client = Client::connect(server.addr);
        client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhello");
        server.await_metric("http_server_active_requests", "", 1);
        server.begin_drain();
        server.await_metric("echo_phase", "draining", 1);
        client.send(b"world");
        assert_eq!(client.response().body, b"helloworld");
        client.expect_close();
        let report = server.stop();
        assert_eq!((report.connections, report.connections_cut, report.requests_lost), (1, 0, 0));
    }
}

#[test]
fn a_request_whose_head_has_half_arrived_is_answered_too() {
    let mut server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    assert_eq!(client.echo(b"one").body, b"one");
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\n");
    // The half head has been read once a request on another connection, sent after it, is answered.
    assert_eq!(Client::connect(server.addr).echo(b"two").body, b"two");
    server.begin_drain();
    server.await_metric("echo_phase", "draining", 1);
    client.send(b"content-length: 2\r\n\r\nhi");
    let last = client.response();
    assert_eq!((last.text().as_str(), last.header("connection")), ("hi", "close"));
    client.expect_close();
    assert!(server.stop().is_clean());
}

#[test]
fn idle_and_silent_connections_do_not_hold_the_drain_up() {
    let server = Echo::start(config());
    let mut idle = Client::connect(server.addr);
    assert_eq!(idle.echo(b"one").body, b"one");
    let mut silent = Client::connect(server.addr);
    server.await_metric("echo_connections_open", "", 2);
    let report = server.stop();
    idle.expect_close();
    silent.expect_close();
    assert_eq!((report.connections, report.connections_cut, report.requests_lost), (2, 0, 0), "{report}");
}

#[test]
fn in_lame_duck_the_server_is_not_ready_but_serves_and_says_close() {
    let mut server = Echo::start(Config { lame_duck: PATIENCE, ..config() });
    let ready = |server: &Echo| {
        let mut client = Client::connect(server.admin);
        client.send(b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n");
        let response = client.response();
        (response.status, response.text())
    };
    server.await_metric("echo_phase", "\"serving\"", 1);
    assert_eq!(ready(&server), (200, "serving\n".to_owned()));
    server.begin_drain();
    server.await_metric("echo_phase", "lame_duck", 1);
    assert_eq!(ready(&server), (503, "lame_duck\n".to_owned()));
    let mut client = Client::connect(server.addr);
    let echo = client.echo(b"still here");
    assert_eq!((echo.body.as_slice(), echo.header("connection")), (b"still here".as_slice(), "close"));
    client.expect_close();
}

#[test]
fn work_that_outlives_the_deadline_is_cut_counted_and_ends_in_exit_code_3() {
    let program = Program::start(&["--lame-duck=0s", "--drain-grace=100ms"]);
    let mut client = Client::connect(program.addr);
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhello");
    crate::harness::await_metric(program.admin, "http_server_active_requests", "", 1);
    program.terminate();
    let (report, code) = program.wait();
    assert_eq!(code, Some(3), "{report}");
    assert!(report.contains("1 cut, 1 requests lost"), "{report}");
    assert!(!client.response().complete);
}

#[test]
fn a_second_signal_ends_the_waiting() {
    let program = Program::start(&["--lame-duck=1h", "--drain-grace=1h"]);
    let mut client = Client::connect(program.addr);
    assert_eq!(client.echo(b"one").body, b"one");
    program.terminate();
    crate::harness::await_metric(program.admin, "echo_phase", "lame_duck", 1);
    program.terminate();
    let (report, code) = program.wait();
    assert_eq!(code, Some(0), "nothing was in progress: {report}");
}
