//! What the admin listener changes, and for whom.

use std::io::{BufRead as _, BufReader};

use crate::harness::{Client, Echo, Program, Response, config};

fn put(client: &mut Client, body: &str) -> Response {
    let length = body.len();
    let head = format!("PUT /debug/log-filter HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
    client.send(&[head.as_bytes(), body.as_bytes()].concat());
    client.response()
}

#[test]
fn the_log_filter_is_changed_while_the_server_runs() {
    let (program, log) = Program::start_with_log(&[]);
    let mut client = Client::connect(program.admin);

    let refused = put(&mut client, "echo_server=loud");
    assert!(refused.status == 400 && refused.text().contains("loud"), "{refused:?}");
    let changed = put(&mut client, "warn,echo_server::connection=debug\n");
    assert_eq!((changed.status, changed.text().trim()), (200, "warn,echo_server::connection=debug"));
    client.send(b"GET /debug/log-filter HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(client.response().text().trim(), "warn,echo_server::connection=debug");

    // A connection that ends early is a debug line, which nobody saw before.
    Client::connect(program.addr).send(b"not HTTP\r\n\r\n");
    let mut lines = BufReader::new(log).lines();
    let line = lines.find(|line| line.as_ref().unwrap().contains("ended early")).unwrap().unwrap();
    assert!(line.contains("malformed"), "{line}");
}

#[test]
fn the_log_of_somebody_elses_process_is_left_alone() {
    let server = Echo::start(config());
    let answer = put(&mut Client::connect(server.admin), "debug");
    assert_eq!(answer.status, 404, "{answer:?}");
    server.stop();
}
