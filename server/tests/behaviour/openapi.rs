//! What openapi.json promises is there.

use echo_server::Config;
use serde_json::Value;

use crate::harness::{Client, Echo, config};

/// A path of the document with values for its parameters.
fn example(path: &str) -> String {
    let values = [("{codes}", "200"), ("{duration}", "0"), ("{path}", "x/y"), ("{id}", "x")];
    let path = values.iter().fold(path.to_owned(), |path, (name, value)| path.replace(name, value));
    // Its first attempt would be a reset.
    let query = if path.starts_with("/retry/") { "?succeedAfter=0" } else { "" };
    format!("{}{query}", path.replace("{n}", "3"))
}

#[test]
fn every_operation_that_is_described_is_served() {
    let server = Echo::start(Config { server_header: true, ..config() });
    let answer = Client::connect(server.addr).ask("GET /openapi.json");
    assert_eq!(answer.header("content-type"), "application/json");
    let document = answer.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    for (path, item) in document["paths"].as_object().unwrap() {
        // It breaks off on purpose: its own tests are in faults.
        let operations =
            item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters" && path != "/abort");
        for (method, operation) in operations {
            let mut client = Client::connect(server.addr);
            let request = format!("{} {}\r\ncontent-length: 0", method.to_uppercase(), example(path));
            let status = client.ask(&request).status;
            assert!(is_described(operation, status), "{method} {path}: {status}");
        }
    }
    assert!(server.stop().is_clean());
}

fn is_described(operation: &Value, status: u16) -> bool {
    let responses = operation["responses"].as_object().unwrap();
    let class = format!("{}XX", status / 100);
    responses.contains_key(&status.to_string())
        || responses.contains_key(&class)
        || responses.contains_key("default")
}
