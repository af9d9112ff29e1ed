//! What the admin listener says, what it changes, and for whom.

use std::io::{BufRead as _, BufReader};

use echo_server::{Config, Secret};
use serde_json::Value;

use crate::harness::{Client, Echo, Program, Response, config, program};

fn ask(client: &mut Client, request: &str, headers: &str, body: &str) -> Response {
    let length = body.len();
    let text = format!("{request} HTTP/1.1\r\nhost: a\r\n{headers}content-length: {length}\r\n\r\n{body}");
    client.send(text.as_bytes());
    client.response()
}

/// Status and text of a request without body.
fn call(server: &Echo, request: &str) -> (u16, String) {
    let response = ask(&mut Client::connect(server.admin), request, "", "");
    (response.status, response.text())
}

fn json(server: &Echo, path: &str) -> Value {
    let response = ask(&mut Client::connect(server.admin), &format!("GET {path}"), "", "");
    assert_eq!((response.status, response.header("content-type")), (200, "application/json"));
    serde_json::from_slice(&response.body).unwrap()
}

fn put_filter(client: &mut Client, body: &str) -> Response {
    ask(client, "PUT /debug/log-filter", "", body)
}

#[test]
fn the_log_filter_is_changed_while_the_server_runs() {
    let (program, log) = Program::start_with_log(&[]);
    let mut client = Client::connect(program.admin);

    let refused = put_filter(&mut client, "echo_server=loud");
    assert!(refused.status == 400 && refused.text().contains("loud"), "{refused:?}");
    let changed = put_filter(&mut client, "warn,echo_server::connection=debug\n");
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
    let answer = put_filter(&mut Client::connect(server.admin), "debug");
    assert_eq!(answer.status, 404, "{answer:?}");
    server.stop();
}

#[test]
fn health_has_the_names_that_orchestrators_use() {
    let server = Echo::start(config());
    server.await_metric("echo_phase", "\"serving\"", 1);
    for path in ["/livez", "/healthz"] {
        assert_eq!(call(&server, &format!("GET {path}")), (200, "alive\n".to_owned()));
    }
    for path in ["/readyz", "/health"] {
        assert_eq!(call(&server, &format!("GET {path}")), (200, "serving\n".to_owned()));
    }
    server.stop();
}

#[test]
fn a_server_that_is_disabled_is_alive_and_serves_but_is_not_ready() {
    let server = Echo::start(config());
    server.await_metric("echo_phase", "\"serving\"", 1);
    assert_eq!(server.metric("echo_ready", ""), 1);
    assert_eq!(call(&server, "POST /readyz/disable"), (200, "disabled\n".to_owned()));
    assert_eq!(call(&server, "GET /readyz"), (503, "disabled\n".to_owned()));
    assert_eq!(call(&server, "GET /livez").0, 200);
    assert_eq!(server.metric("echo_ready", ""), 0);
    let mut client = Client::connect(server.addr);
    assert_eq!(client.echo(b"still here").header("connection"), "");
    assert_eq!(call(&server, "POST /readyz/enable"), (200, "enabled\n".to_owned()));
    assert_eq!(call(&server, "GET /readyz").0, 200);
    server.stop();
}

#[test]
fn asked_to_drain_the_server_answers_finishes_and_ends() {
    let program = Program::start(&["--lame-duck=0s"]);
    let mut client = Client::connect(program.addr);
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhello");
    crate::harness::await_metric(program.admin, "http_server_active_requests", "", 1);
    let answer = ask(&mut Client::connect(program.admin), "POST /drain", "", "");
    assert_eq!((answer.status, answer.text().as_str()), (202, "draining\n"));
    crate::harness::await_metric(program.admin, "echo_phase", "draining", 1);
    client.send(b"world");
    assert_eq!(client.response().body, b"helloworld");
    let (report, code) = program.wait();
    assert_eq!(code, Some(0), "{report}");
    assert!(report.contains("0 requests lost"), "{report}");
}

#[test]
fn the_switch_of_faults_is_shown_and_set() {
    let server = Echo::start(Config { faults: false, ..config() });
    assert_eq!(call(&server, "GET /fault_injection/status"), (200, "disabled\n".to_owned()));
    assert_eq!(call(&server, "POST /fault_injection/enable"), (200, "enabled\n".to_owned()));
    assert_eq!(call(&server, "GET /fault_injection/status"), (200, "enabled\n".to_owned()));
    assert_eq!(call(&server, "POST /fault_injection/disable"), (200, "disabled\n".to_owned()));
    server.stop();
}

#[test]
fn limits_stand_beside_what_is_used_of_them() {
    let server = Echo::start(Config { connections_per_address_max: 9, ..config() });
    let mut client = Client::connect(server.addr);
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nh");
    server.await_metric("http_server_active_requests", "", 1);
    let limits = json(&server, "/debug/limits");
    assert_eq!(limits["connections"]["open"], 1);
    assert_eq!(limits["connections"]["max"], server.metric("echo_connections_max", ""));
    assert_eq!(limits["connections_per_address"]["most"], 1);
    assert_eq!(limits["connections_per_address"]["max"], 9);
    assert_eq!(limits["requests"]["admitted"], 1);
    assert_eq!(limits["requests"]["max"], server.metric("echo_requests_max", ""));
    assert_eq!(limits["phase"], "serving");
    client.send(b"i");
    assert_eq!(client.response().body, b"hi");
    server.stop();
}

#[test]
fn connections_are_listed_oldest_first_with_what_they_do() {
    let server = Echo::start(config());
    let mut idle = Client::connect(server.addr);
    assert_eq!(idle.echo(b"one").body, b"one");
    assert_eq!(idle.echo(b"two").body, b"two");
    let mut busy = Client::connect(server.addr);
    busy.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nh");
    server.await_metric("http_server_active_requests", "", 1);
    let _silent = Client::connect(server.addr);
    server.await_metric("echo_connections_open", "", 3);
    let list = json(&server, "/debug/connections");
    assert_eq!((&list["open"], &list["shown"]), (&3.into(), &3.into()));
    let row = |place: usize, key: &str| list["connections"][place][key].clone();
    assert_eq!(row(0, "peer"), idle.stream.local_addr().unwrap().to_string());
    let column = |key: &str| (0..3).map(|place| row(place, key)).collect::<Vec<_>>();
    assert_eq!(column("state"), ["idle", "request", "silent"]);
    assert_eq!(column("protocol"), ["http1", "http1", "silent"]);
    assert_eq!(column("requests"), [2, 1, 0]);
    assert_eq!(column("requests_in_progress"), [0, 1, 0]);
    let one = json(&server, "/debug/connections?limit=1");
    assert_eq!((&one["open"], &one["shown"]), (&3.into(), &1.into()));
    assert_eq!(one["connections"][0]["peer"], row(0, "peer"));
    assert_eq!(call(&server, "GET /debug/connections?limit=1000000").0, 400);
    server.stop();
}

#[test]
fn a_wrong_method_is_told_the_right_ones_and_a_wrong_path_all_paths() {
    let server = Echo::start(config());
    for (request, allowed) in
        [("POST /livez", "GET, HEAD"), ("GET /drain", "POST"), ("DELETE /debug/log-filter", "GET, HEAD, PUT")]
    {
        let answer = ask(&mut Client::connect(server.admin), request, "", "");
        assert_eq!((answer.status, answer.header("allow")), (405, allowed), "{request}");
    }
    let (status, text) = call(&server, "GET /");
    assert_eq!(status, 404);
    for path in ["GET, HEAD /readyz\n", "POST /drain\n", "GET, HEAD, PUT /debug/log-filter\n"] {
        assert!(text.contains(path), "{text}");
    }
    server.stop();
}

#[test]
fn a_wrong_token_is_refused_and_the_right_one_is_taken() {
    let server = Echo::start(Config { admin_token: Secret::new("s3cret"), ..config() });
    let mut client = Client::connect(server.admin);
    let mut disable = |headers: &str| ask(&mut client, "POST /readyz/disable", headers, "");
    let refused = disable("authorization: Bearer guess\r\n");
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, "Bearer"));
    assert_eq!(disable("origin: http://evil.example\r\n").status, 403);
    assert_eq!(disable("authorization: Bearer s3cret\r\norigin: http://good.example\r\n").status, 200);
    assert_eq!(disable("").status, 200);
    assert!(!call(&server, "GET /debug/config").1.contains("s3cret"));
    server.stop();
}

#[test]
fn the_admin_listener_serves_newcomers_though_idle_clients_fill_it() {
    let server = Echo::start(config());
    let _idle: Vec<Client> = (0..40)
        .map(|_| {
            let mut client = Client::connect(server.admin);
            assert_eq!(ask(&mut client, "GET /livez", "", "").status, 200);
            client
        })
        .collect();
    server.stop();
}

#[test]
fn the_healthcheck_asks_any_path_of_any_listener() {
    let running = Program::start(&[]);
    let check = |url: String| program().args(["healthcheck", &url]).output().unwrap();
    for (url, healthy) in [
        (format!("http://{}/readyz", running.admin), true),
        (format!("http://{}/health", running.admin), true),
        (format!("http://{}/livez", running.admin), true),
        (format!("http://{}/", running.addr), true),
        (format!("http://{}/nothing", running.admin), false),
    ] {
        let output = check(url.clone());
        assert_eq!(output.status.success(), healthy, "{url}: {output:?}");
    }
    ask(&mut Client::connect(running.admin), "POST /readyz/disable", "", "");
    assert!(!check(format!("http://{}/readyz", running.admin)).status.success());
    running.stop();
}
