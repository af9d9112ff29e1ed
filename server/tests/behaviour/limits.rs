//! At every limit: an answer, a counter, and no harm to the others.

use std::{
    net::TcpStream,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use echo_server::Config;

use crate::harness::{Client, Echo, PATIENCE, Program, config, metric, pattern};

#[test]
fn an_announced_body_over_the_limit_is_refused_before_it_is_sent() {
    let server = Echo::start(Config { body_max: 1000, ..config() });
    let mut client = Client::connect(server.addr);
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1001\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.header("connection")), (413, "close"));
    assert!(response.text().contains("--body-max"), "{}", response.text());
    client.expect_close();
    assert_eq!(
        Client::connect(server.addr).echo(&pattern(1000)).body,
        pattern(1000),
        "the limit itself fits"
    );
    server.stop();
}

#[test]
fn a_client_that_is_still_sending_sees_the_413() {
    let server = Echo::start(Config { body_max: 1000, ..config() });
    let mut client = Client::connect(server.addr);
    // All of it, before the first look at the answer: a plain close would reset the answer away.
    client.send_echo(&pattern(4 << 20));
    assert_eq!(client.response().status, 413);
    client.expect_close();
    server.stop();
}

#[test]
fn a_chunked_body_over_the_limit_is_cut_or_refused_but_never_ends_cleanly() {
    let server = Echo::start(Config { body_max: 1000, ..config() });
    let mut client = Client::connect(server.addr);
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1f4\r\n");
    client.send(&[&pattern(500), b"\r\n".as_slice()].concat());
    client.send(&[b"1f5\r\n", pattern(501).as_slice(), b"\r\n0\r\n\r\n"].concat());
    let response = client.response();
    assert!(response.status == 413 || (response.status == 200 && !response.complete), "{response:?}");
    server.stop();
}

#[test]
fn a_head_over_the_limit_is_a_431_that_the_client_sees() {
    let server = Echo::start(Config { header_max: 8 * 1024, ..config() });
    let mut client = Client::connect(server.addr);
    client.send(format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)).as_bytes());
    let response = client.response();
    assert_eq!(response.status, 431);
    assert!(!response.header("x-request-id").is_empty());
    assert!(response.text().contains("--header-max"), "{}", response.text());
    client.expect_close();
    let mut client = Client::connect(server.addr);
    client.send(format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(7 << 10)).as_bytes());
    assert_eq!(client.response().status, 200);
    server.stop();
}

#[test]
fn requests_over_the_limit_get_503_until_a_body_has_ended() {
    let server = Echo::start(Config { requests_max: NonZeroUsize::new(1), queue_max: 0, ..config() });
    let mut first = Client::connect(server.addr);
    first.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhello");
    server.await_metric("echo_requests_admitted", "", 1);

    let mut second = Client::connect(server.addr);
    let shed = second.echo(b"too many");
    assert_eq!((shed.status, shed.header("x-echo-overloaded")), (503, "concurrency"));
    assert!((1..=3).contains(&shed.header("retry-after").parse::<u32>().unwrap()));
    assert!(!shed.header("x-request-id").is_empty() && !shed.header("server-timing").is_empty());
    assert_eq!(server.metric("echo_sheds_total", "concurrency"), 1);

    // The response has begun; the place is held until its body ends.
    first.send(b"world");
    assert_eq!(first.response().body, b"helloworld");
    server.await_metric("echo_requests_admitted", "", 0);
    assert_eq!(second.echo(b"now").body, b"now", "and the connection that was refused lives");
    server.stop();
}

#[test]
fn connections_over_the_limit_get_503_until_one_closes() {
    let server = Echo::start(Config { connections_max: NonZeroUsize::new(2), ..config() });
    let mut first = Client::connect(server.addr);
    let mut second = Client::connect(server.addr);
    assert_eq!(first.echo(b"1").body, b"1");
    assert_eq!(second.echo(b"2").body, b"2");
    let mut third = Client::connect(server.addr);
    let shed = third.echo(b"3");
    assert_eq!((shed.status, shed.header("x-echo-overloaded")), (503, "connections"));
    third.expect_close();
    drop(second);
    server.await_metric("echo_connections_open", "", 1);
    assert_eq!(Client::connect(server.addr).echo(b"4").body, b"4");
    assert_eq!(server.metric("echo_sheds_total", "connections"), 1);
    server.stop();
}

#[test]
fn without_descriptors_the_server_stays_calm_refuses_and_recovers_at_once() {
    let program = Program::start(&["--linger-timeout=100ms", "--lame-duck=0s"]);
    assert_eq!(Client::connect(program.addr).echo(b"before").body, b"before");
    // Somebody else took the descriptors: the limit that the server knows is far above what it can have.
    let limit = rustix::process::Rlimit { current: Some(60), maximum: Some(60) };
    rustix::process::prlimit(Some(program.pid()), rustix::process::Resource::Nofile, limit).unwrap();

    let clients: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(program.addr).unwrap()).collect();
    await_exhaustion(&program);
    let (cpu, began) = (program.cpu_time(), Instant::now());
    // Not a hope but the measured interval: a loop that spins uses all of it.
    std::thread::sleep(Duration::from_secs(1));
    let used = program.cpu_time().saturating_sub(cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    assert!(used < 0.5, "the accept loop uses {used:.2} of a core");

    drop(clients);
    // Those that stand before us in the queue may still be refused; nothing but their end is waited for.
    let recovered = Instant::now();
    while Client::connect(program.addr).echo(b"after").status != 200 {
        assert!(recovered.elapsed() < PATIENCE, "the descriptors are back, the server is not");
    }
    program.terminate();
    let (report, code) = program.wait();
    assert_eq!(code, Some(0), "{report}");
}

/// Waits for the first refusal by the reserve descriptor. The admin listener needs a descriptor, too, so it may refuse.
fn await_exhaustion(program: &Program) {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let shed = std::panic::catch_unwind(|| metric(program.admin, "echo_sheds_total", "descriptors"));
        let fds = std::fs::read_dir(format!("/proc/{}/fd", program.child.id())).unwrap().count();
        if shed.is_ok_and(|count| count > 0) || fds >= 59 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the server still has descriptors");
}
