//! Without a server that comes late and comes back, nobody could tell whether a load for weeks outlives one deploy.

#![allow(clippy::unwrap_used, reason = "helpers that fail have to fail their test")]

mod support;

use std::net::TcpListener;

use serde_json::Value;

use support::{EchoServer, Running, TempFile, until};

#[test]
fn an_endless_run_waits_for_its_server_outlives_a_restart_and_accounts_for_all() {
    // A port that is free now; the server takes it when the load is waiting already.
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let json = TempFile::new("endless.json");
    let url = format!("http://{addr}/echo");
    let stages = "300ms@200,300ms@200->800,300ms@800->200";
    let load = ["--repeat", "--stages", stages, "-c", "4", "--body-size", "64", "--no-progress"];
    let running = Running::start(&[load.as_slice(), &["--json", &json.0, &url]].concat());
    until("it says what it waits for", || {
        let said = running.said.lock().unwrap();
        said.contains(&format!("loadgen: waiting for {addr}: ")) && said.contains("refused")
    });
    let waiting = running.page();
    assert!(waiting.value("loadgen_phase{phase=\"connecting\"}") > 0.5);
    assert!(waiting.value("loadgen_requests_scheduled_total") < 0.5, "the schedule begins with the server");

    let ok = || running.page().value("loadgen_requests_ok_total");
    let server = EchoServer::start_on(&addr);
    until("load flows", || ok() > 300.0);
    drop(server);
    let refused = "loadgen_requests_failed_total{class=\"connect_refused\"}";
    until("the outage is seen", || running.page().value(refused) > 5.0);
    let before = ok();
    let _server = EchoServer::start_on(&addr);
    until("load flows again, more than one round of the stages", || ok() > before + 1_000.0);
    until("all connections are back", || running.page().value("loadgen_connections_open") > 3.5);

    let (code, report) = running.terminate();
    assert_eq!(code, Some(143));
    assert!(!report.contains("PARTIAL") && !report.contains("BROKEN"), "{report}");
    let report = json.json();
    assert_eq!((&report["partial"], &report["config"]["repeat"]), (&Value::Bool(false), &Value::Bool(true)));
    assert_eq!(report["checks"]["conservation"], true);
    let count = |key: &str| report["counts"][key].as_u64().unwrap();
    let errors: u64 =
        report["counts"]["errors"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert!(errors > 5 && report["counts"]["errors"]["connect_refused"].as_u64().unwrap() > 5, "{report}");
    assert_eq!(count("scheduled"), count("ok") + errors + count("in_flight_at_end") + count("unsent"));
}

#[test]
fn an_endless_run_that_never_finds_its_server_ends_by_its_signal() {
    let running = Running::start(&["--repeat", "-q", "10", "--no-progress", "http://name.invalid/"]);
    until("it says what it waits for", || running.said.lock().unwrap().contains("dns: 'name.invalid'"));
    assert_eq!(running.terminate().0, Some(143));
}
