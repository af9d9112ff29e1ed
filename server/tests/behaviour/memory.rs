//! Memory follows neither the size of a body nor the number of slow readers of it.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
};

use crate::{
    harness::{Client, Program, pattern},
    tls_client::{Authority, Files, client_config, connect, flag},
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[test]
fn a_body_of_one_gib_streams_in_less_than_32_mib() {
    let program = Program::start(&[]);
    assert_eq!(Client::connect(program.addr).echo(&pattern(100_000)).body, pattern(100_000));
    let before = program.memory("VmHWM");

    let block = pattern(1 << 20);
    let mut client = Client::connect(program.addr);
    let mut sender = client.stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            write!(sender, "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {GIB}\r\n\r\n").unwrap();
            for _ in 0..GIB / MIB {
                sender.write_all(&block).unwrap();
            }
        });
        let head = client.head_of_large_response();
        assert!(head.contains(&format!("content-length: {GIB}")), "{head}");
        let mut echoed = vec![0; block.len()];
        for i in 0..GIB / MIB {
            client.stream.read_exact(&mut echoed).unwrap();
            assert!(echoed == block, "MiB {i} differs");
        }
    });
    let growth = program.memory("VmHWM") - before;
    eprintln!("memory grew by {growth} bytes");
    assert!(growth < 32 * MIB, "memory grew by {growth} bytes");
}

#[test]
fn a_hundred_slow_readers_of_one_gib_cost_less_than_32_mib_together() {
    let program = Program::start(&[]);
    assert_eq!(Client::connect(program.addr).echo(&pattern(100_000)).body, pattern(100_000));
    let before = program.memory("VmHWM");

    let head = format!("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {GIB}\r\n\r\n");
    let mut clients: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut client = Client::connect(program.addr).stream;
            client.write_all(head.as_bytes()).unwrap();
            client.set_nonblocking(true).unwrap();
            client
        })
        .collect();
    // Until every buffer on the way is full: in the sockets of both ends, and in the server.
    let block = pattern(1 << 20);
    let mut quiet_rounds = 0;
    while quiet_rounds < 20 {
        let sent: usize = clients.iter_mut().map(|client| send_some(client, &block)).sum();
        quiet_rounds = if sent == 0 { quiet_rounds + 1 } else { 0 };
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let growth = program.memory("VmHWM") - before;
    eprintln!("memory grew by {growth} bytes");
    assert!(growth < 32 * MIB, "memory grew by {growth} bytes");
}

/// Bytes that the program grows by for each of `clients`, once all of them are idle.
fn growth_per_client<C>(program: &Program, clients: u64, connect: impl Fn() -> C) -> u64 {
    // The first ones pay for what all share.
    let first: Vec<C> = (0..50).map(|_| connect()).collect();
    let before = program.memory("VmRSS");
    let crowd: Vec<C> = (0..clients).map(|_| connect()).collect();
    let growth = program.memory("VmRSS").saturating_sub(before) / clients;
    drop((first, crowd));
    growth
}

#[test]
fn an_idle_connection_over_tls_costs_less_than_32_kib() {
    let authority = Authority::new();
    let files = Files::new("memory", &authority);
    let cert = flag("--tls-cert", &files.path("cert.pem"));
    let key = flag("--tls-key", &files.path("key.pem"));
    let start = || Program::start(&["--workers=2", "--listen-tls=127.0.0.1:0", &cert, &key]);
    let config = client_config(&authority, &["http/1.1"], None);
    let program = start();
    let plain = growth_per_client(&program, 500, || {
        let mut client = Client::connect(program.addr);
        assert_eq!(client.echo(b"one").body, b"one");
        client
    });
    program.stop();
    let program = start();
    let tls = growth_per_client(&program, 500, || {
        let mut client = connect(program.tls.unwrap(), &config);
        assert_eq!(client.echo(b"one").body, b"one");
        client
    });
    program.stop();
    eprintln!("an idle connection costs {plain} bytes, {tls} over TLS");
    assert!(tls < 32 * 1024, "{tls} bytes, {plain} without TLS");
}

fn send_some(client: &mut TcpStream, block: &[u8]) -> usize {
    match client.write(block) {
        Ok(n) => n,
        Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
        Err(e) => panic!("cut: {e}"),
    }
}
