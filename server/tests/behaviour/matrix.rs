//! Every endpoint, over HTTP/1.1 and HTTP/2, with and without TLS, asked by three clients: what one client or protocol hides,
//! another shows.

mod clients;

use std::collections::BTreeSet;

use echo_server::Config;
use serde_json::Value;

use crate::{
    harness::{Echo, config, pattern},
    matrix::clients::{Answer, CLIENTS, Client, Protocol},
    tls_client::{Authority, Files},
};

const DOCUMENT: &str = include_str!("../../openapi.json");

/// A request, and what must come back.
pub(crate) struct Case {
    pub(crate) method: &'static str,
    pub(crate) target: String,
    pub(crate) body: Vec<u8>,
    status: u16,
    expected: Expected,
}

enum Expected {
    /// These bytes.
    Exactly(Vec<u8>),
    /// The same bytes for every client.
    Same,
    /// A JSON object with these names, whose values differ from client to client.
    Object(&'static [&'static str]),
    /// So many lines that begin so.
    Lines(usize, &'static str),
    /// No response: the connection is reset.
    Nothing,
}

const INSPECTION: &[&str] =
    &["method", "url", "args", "headers", "data", "path", "host", "proto", "bodySha256"];

fn get(target: &str, status: u16, expected: Expected) -> Case {
    send("GET", target, Vec::new(), status, expected)
}

fn send(method: &'static str, target: &str, body: Vec<u8>, status: u16, expected: Expected) -> Case {
    Case { method, target: target.to_owned(), body, status, expected }
}

fn echo(method: &'static str, target: &str, body: Vec<u8>) -> Case {
    let expected = Expected::Exactly(body.clone());
    send(method, target, body, 200, expected)
}

/// `tag` makes the ids of this run its own.
fn cases(tag: &str) -> Vec<Case> {
    use Expected::{Exactly, Lines, Nothing, Object, Same};
    let text = |text: &str| Exactly(text.as_bytes().to_vec());
    vec![
        get("/", 200, Same),
        echo("POST", "/", pattern(10)),
        echo("GET", "/echo", Vec::new()),
        echo("POST", "/echo", pattern(100_000)),
        echo("PUT", "/echo/below", pattern(1)),
        echo("PATCH", "/echo?mode=buffer", pattern(70_000)),
        echo("DELETE", "/echo", pattern(5)),
        echo("POST", "/payload", pattern(3000)),
        get("/anything", 200, Object(INSPECTION)),
        send("POST", "/anything/below?a=b", pattern(2000), 200, Object(INSPECTION)),
        get("/get?a=b", 200, Object(INSPECTION)),
        send("POST", "/post", b"a=b".to_vec(), 200, Object(INSPECTION)),
        send("PUT", "/put", b"{}".to_vec(), 200, Object(INSPECTION)),
        send("PATCH", "/patch", b"x".to_vec(), 200, Object(INSPECTION)),
        send("DELETE", "/delete", Vec::new(), 200, Object(INSPECTION)),
        get("/headers", 200, Object(&["headers"])),
        get("/ip", 200, Object(&["origin"])),
        get("/user-agent", 200, Object(&["user-agent"])),
        get("/hostname", 200, Same),
        get("/version", 200, Same),
        send("POST", "/upload?format=text", pattern(123_456), 200, Same),
        get("/status/503", 503, Same),
        get("/delay/10ms", 200, Object(INSPECTION)),
        get("/bytes/100000?seed=7", 200, Same),
        get("/stream-bytes/100000?seed=7", 200, Same),
        get("/range/1000", 200, Same),
        get("/response-headers?x-a=1", 200, Same),
        get("/bench", 200, text("1")),
        get("/pipeline", 200, text("ok")),
        get("/livez", 200, Same),
        get("/healthz", 200, Same),
        get("/readyz", 200, Same),
        get("/health", 200, Same),
        get("/openapi.json", 200, text(DOCUMENT)),
        get("/ws", 426, Same),
        get("/ws/echo", 426, Same),
        get("/websocket/echo", 426, Same),
        get("/sse?count=3&duration=10ms", 200, Lines(9, "")),
        get("/jsonl?count=3&duration=10ms", 200, Lines(3, "{\"id\":")),
        get("/drip?numbytes=7&duration=10ms", 200, text("*******")),
        get("/stream/3", 200, Lines(3, "{")),
        get("/trailers?x-a=1", 200, text("the trailers are behind this line\n")),
        get("/unstable?seed=3", 500, text("")),
        get(&format!("/retry/{tag}?responseCode=503"), 503, text("")),
        get(&format!("/retry/{tag}?responseCode=503"), 200, Object(INSPECTION)),
        get("/abort?how=rst", 0, Nothing),
        get("/abort?how=rst&after=headers", 0, Nothing),
        get("/work?cpu=1ms", 200, Object(&["cpu_us", "hold_bytes"])),
        get("/nowhere/in/particular", 200, Object(INSPECTION)),
        get("/bytes/1GiB", 400, Same),
    ]
}

/// Whether `path` is one of the document's `template`, which may end in a parameter.
fn fits(template: &str, path: &str) -> bool {
    match template.split_once('{') {
        None => path == template,
        Some((prefix, _)) => path.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()),
    }
}

#[test]
fn no_endpoint_is_left_out() {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let cases = cases("x");
    let is_asked = |template: &&String| {
        cases.iter().any(|case| fits(template, case.target.split('?').next().unwrap_or_default()))
    };
    let left_out: Vec<_> =
        document["paths"].as_object().unwrap().keys().filter(|path| !is_asked(path)).collect();
    assert!(left_out.is_empty(), "{left_out:?}");
}

#[test]
fn every_endpoint_answers_every_client_over_every_protocol() {
    let authority = Authority::new();
    let files = Files::new("matrix", &authority);
    let server = Echo::start(Config {
        listen_tls: Some(([127, 0, 0, 1], 0).into()),
        tls_cert: Some(files.path("cert.pem")),
        tls_key: Some(files.path("key.pem")),
        ..config()
    });
    let mut first: Option<Vec<Option<Answer>>> = None;
    for client in CLIENTS {
        for protocol in Protocol::ALL {
            let name = format!("{client:?} over {protocol:?}");
            let cases = cases(&name.replace(' ', "-"));
            let Some(answers) = client.ask(&server, protocol, &cases, &authority, &files) else {
                assert_ne!(client, Client::Ours);
                continue;
            };
            assert_eq!(answers.len(), cases.len());
            for (place, (case, answer)) in cases.iter().zip(&answers).enumerate() {
                let before = first.as_ref().and_then(|first| first[place].as_ref());
                check(&name, case, answer.as_ref(), before);
            }
            first.get_or_insert(answers);
        }
    }
    server.stop();
}

/// `before` is what another client got for the same.
fn check(client: &str, case: &Case, answer: Option<&Answer>, before: Option<&Answer>) {
    let name = format!("{client}: {} {}", case.method, case.target);
    let Some(Answer { status, body }) = answer else {
        assert!(matches!(case.expected, Expected::Nothing), "{name}: no answer");
        return;
    };
    let shown = String::from_utf8_lossy(&body[..body.len().min(300)]);
    assert_eq!(*status, case.status, "{name}: {shown}");
    match &case.expected {
        Expected::Exactly(expected) => assert!(body == expected, "{name}: {shown}"),
        Expected::Same => assert!(before.is_none_or(|before| before.body == *body), "{name}: {shown}"),
        Expected::Lines(count, begin) => {
            let text = std::str::from_utf8(body).unwrap();
            let lines: Vec<_> = text.lines().collect();
            let all_begin = lines.iter().all(|line| line.starts_with(begin));
            // Of an event, the empty line is the fourth.
            let full = lines.iter().filter(|line| !line.is_empty()).count();
            assert!(full == *count && all_begin, "{name}: {shown}");
        }
        Expected::Object(names) => {
            let object: Value =
                serde_json::from_slice(body).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(names.iter().all(|field| object.get(field).is_some()), "{name}: {shown}");
            if let Some(before) = before {
                let before: Value = serde_json::from_slice(&before.body).unwrap();
                assert_eq!(keys(&object), keys(&before), "{name}");
                for same in ["method", "args", "data", "form", "json", "bodyBytes", "bodySha256"] {
                    // What a client sends as its content type decides how a body is read.
                    let is_of_body = matches!(same, "data" | "form" | "json");
                    assert!(is_of_body || object[same] == before[same], "{name}: {same}");
                }
            }
        }
        Expected::Nothing => panic!("{name}: {status} {shown}"),
    }
}

fn keys(object: &Value) -> BTreeSet<&String> {
    object.as_object().unwrap().keys().collect()
}
