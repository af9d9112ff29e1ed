//! The log, the access log, and what happens when nobody takes their lines.

use std::{
    collections::HashSet,
    io::Read as _,
    path::PathBuf,
    process::{ChildStderr, Stdio},
    time::Instant,
};

use serde_json::Value;

use crate::harness::{Client, PATIENCE, Program, await_metric, metric, program};

fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("echo-server-test-{name}-{}", std::process::id()))
}

fn rest_of(mut log: ChildStderr) -> String {
    let mut lines = String::new();
    log.read_to_string(&mut lines).unwrap();
    lines
}

fn json(lines: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    lines.lines().map(parse).collect()
}

/// Makes lines (each connection that is no HTTP has one at `debug`) until some are lost.
fn make_lines_until_some_are_lost(program: &Program) {
    let name = "echo_log_lines_dropped_total";
    let began = Instant::now();
    while metric(program.admin, name, "") == 0 {
        for _ in 0..200 {
            let mut client = Client::connect(program.addr);
            client.send(b"GARBAGE\r\n\r\n");
            assert_eq!(client.response().status, 400);
        }
        assert!(began.elapsed() < PATIENCE, "{name} does not move");
    }
}

#[test]
fn every_line_of_a_json_log_is_json() {
    let (program, log) = Program::start_with_log(&["--log=debug", "--log-format=json", "--lame-duck=0s"]);
    assert_eq!(Client::connect(program.addr).echo(b"hello").status, 200);
    program.stop();
    let lines = json(&rest_of(log));
    let draining = lines.iter().find(|line| line["message"] == "draining").unwrap();
    assert_eq!((&draining["level"], &draining["target"]), (&"INFO".into(), &"echo_server::drain".into()));
    assert_eq!(draining["service.name"], "echo-server");
    assert!(humantime::parse_rfc3339(draining["timestamp"].as_str().unwrap()).is_ok(), "{draining}");
}

#[test]
fn a_log_that_nobody_reads_costs_lines_and_neither_requests_nor_the_end() {
    let (program, log) = Program::start_with_log(&["--log=debug", "--workers=1", "--lame-duck=0s"]);
    make_lines_until_some_are_lost(&program);
    assert_eq!(Client::connect(program.addr).echo(b"still here").body, b"still here");
    program.stop_unread();
    assert!(rest_of(log).lines().count() > 100, "what fits into the pipe");
}

#[test]
fn a_log_whose_reader_is_gone_costs_lines_and_not_requests() {
    let (program, log) = Program::start_with_log(&["--log=debug", "--lame-duck=0s"]);
    drop(log);
    make_lines_until_some_are_lost(&program);
    program.stop();
}

#[test]
fn what_is_refused_is_one_line_per_second_with_a_count() {
    let (program, log) = Program::start_with_log(&["--requests-max=1", "--queue-max=0", "--lame-duck=0s"]);
    let mut holder = Client::connect(program.addr);
    holder.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\na");
    holder.head_of_large_response();
    let mut client = Client::connect(program.addr);
    for _ in 0..100 {
        assert_eq!(client.echo(b"x").status, 503);
    }
    holder.send(b"b");
    program.stop();
    let lines = rest_of(log);
    let refused: u64 = lines
        .lines()
        .filter(|line| line.contains("overloaded") && line.contains("reason=\"concurrency\""))
        .map(|line| line.split("refused=").nth(1).unwrap().split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(refused, 100, "{lines}");
    assert!(lines.lines().count() < 20, "{lines}");
}

#[test]
fn the_access_log_has_a_line_for_each_request_however_it_ended() {
    let path = file("access");
    let file = format!("--access-log-file={}", path.display());
    let program = Program::start(&["--access-log-one-in=1", &file, "--lame-duck=0s"]);
    let mut client = Client::connect(program.addr);
    let address = client.stream.local_addr().unwrap();
    for i in 0..100 {
        client.send(
            format!("POST /echo/%22{i}%22?q=\\ HTTP/1.1\r\nhost: a\r\nx-request-id: \"{i}\\\r\ncontent-length: 5\r\n\r\nhello")
                .as_bytes(),
        );
        assert_eq!(client.response().status, 200);
    }
    client.send(b"GET /status/404 HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().status, 404);
    let mut cut = Client::connect(program.addr);
    cut.send(b"POST /echo HTTP/1.1\r\nhost: a\r\nx-request-id: cut\r\ncontent-length: 10\r\n\r\nhello");
    cut.head_of_large_response();
    cut.reset();
    await_metric(program.admin, "http_server_active_requests", "", 0);
    await_metric(program.admin, "echo_access_log_lines_total", "", 102);
    assert_eq!(metric(program.admin, "echo_access_log_lines_dropped_total", ""), 0);
    program.stop();

    let lines = json(&std::fs::read_to_string(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(lines.len(), 102);
    let line = lines.iter().find(|line| line["request_id"] == "\"7\\").unwrap();
    for (key, value) in [
        ("client", Value::from(address.to_string())),
        ("method", "POST".into()),
        ("path", "/echo/%227%22?q=\\".into()),
        ("protocol", "1.1".into()),
        ("status", 200.into()),
        ("request_bytes", 5.into()),
        ("response_bytes", 5.into()),
        ("outcome", "complete".into()),
    ] {
        assert_eq!(line[key], value, "{key} in {line}");
    }
    assert!(line["duration_us"].as_u64() >= line["queue_us"].as_u64(), "{line}");
    let missing = lines.iter().find(|line| line["path"] == "/status/404").unwrap();
    assert_eq!((&missing["status"], &missing["protocol"]), (&404.into(), &"1.0".into()), "{missing}");
    let cut = lines.iter().find(|line| line["request_id"] == "cut").unwrap();
    assert_eq!((&cut["outcome"], &cut["request_bytes"]), (&"aborted".into(), &5.into()), "{cut}");
}

#[test]
fn the_access_log_goes_to_standard_output_if_nothing_else_is_said() {
    let program =
        Program::start(&["--access-log-one-in=3", "--trace-one-in=1", "--workers=1", "--lame-duck=0s"]);
    let mut client = Client::connect(program.addr);
    for _ in 0..10 {
        assert_eq!(client.echo(b"hello").status, 200);
    }
    let output = program.stop();
    let (lines, report) = output.trim_end().rsplit_once('\n').unwrap();
    assert!(report.starts_with("drained in"), "{output}");
    let lines = json(lines);
    assert_eq!(lines.len(), 4, "one in three, from the first");
    let traces: HashSet<_> = lines.iter().map(|line| line["trace_id"].as_str().unwrap().len()).collect();
    assert_eq!(traces, HashSet::from([32]));
}

#[test]
fn a_full_disk_under_the_access_log_is_counted_and_said_and_stalls_nobody() {
    let (program, log) =
        Program::start_with_log(&["--access-log-one-in=1", "--access-log-file=/dev/full", "--lame-duck=0s"]);
    let mut client = Client::connect(program.addr);
    for _ in 0..50 {
        assert_eq!(client.echo(b"hello").status, 200);
    }
    await_metric(program.admin, "echo_access_log_lines_dropped_total", "", 50);
    program.stop();
    let lines = rest_of(log);
    assert_eq!(lines.matches("the access log cannot be written").count(), 1, "{lines}");
    assert!(lines.contains("/dev/full") && lines.contains("No space left"), "{lines}");
}

#[test]
fn an_access_log_that_nobody_reads_costs_lines_and_neither_requests_nor_the_end() {
    let program =
        Program::start(&["--access-log-one-in=1", "--workers=1", "--lame-duck=0s", "--catch-all=404"]);
    let mut client = Client::connect(program.addr);
    // Long paths: the pipe and the buffer are full sooner.
    let head = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(2000));
    let began = Instant::now();
    while metric(program.admin, "echo_access_log_lines_dropped_total", "") == 0 {
        for _ in 0..500 {
            client.send(head.as_bytes());
            assert_eq!(client.response().status, 404);
        }
        assert!(began.elapsed() < PATIENCE);
    }
    program.stop_unread();
}

#[test]
fn a_file_that_cannot_be_opened_stops_the_start_and_is_named() {
    let output = program()
        .args(["--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--access-log-one-in=1"])
        .arg("--access-log-file=/nowhere/access.log")
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("/nowhere/access.log") && error.contains("--access-log-file"), "{error}");
}

#[test]
fn a_healthcheck_says_whether_the_server_is_ready() {
    let program_under_check = Program::start(&["--lame-duck=0s"]);
    let url = format!("http://{}/readyz", program_under_check.admin);
    let check = |env: Option<(&str, String)>, args: &[&str]| {
        let output =
            program().arg("healthcheck").args(args).envs(env).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), said)
    };
    let (code, said) = check(None, &[&url]);
    assert_eq!(code, Some(0), "{said}");
    // As in a container, where the admin listener is on all addresses.
    let everywhere = format!("0.0.0.0:{}", program_under_check.admin.port());
    let (code, said) = check(Some(("ECHO_ADMIN", everywhere)), &[]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = check(None, &[&url.replace("readyz", "nothing")]);
    assert!(code == Some(1) && said.contains("404"), "{said}");
    program_under_check.stop();
    let (code, said) = check(None, &[&url]);
    assert!(code == Some(1) && said.contains("is not healthy") && said.contains(&url), "{said}");
    let (code, said) = check(None, &["no url"]);
    assert!(code == Some(1) && said.contains("no url"), "{said}");
}
