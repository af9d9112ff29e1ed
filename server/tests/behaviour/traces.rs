//! Which requests are traced, what their spans say, and what happens when nobody takes them. The collector is ours, the
//! server is the program.

use std::{
    collections::HashMap,
    io::Read as _,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, status::StatusCode},
};
use tonic::transport::server::TcpIncoming;

use crate::harness::{Client, PATIENCE, Program, await_metric, metric};

/// The example of W3C Trace Context.
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT_ID: &str = "00f067aa0ba902b7";

/// After a drain of nothing, the longest that an export may hold the program up: the flush has 2 s.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Takes spans over OTLP, or lets the exporter wait for ever.
#[derive(Clone)]
struct Collector {
    addr: SocketAddr,
    answers: bool,
    received: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    _runtime: Arc<tokio::runtime::Runtime>,
}

impl Collector {
    fn start(answers: bool) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let (addr, received) = (listener.local_addr().unwrap(), Arc::default());
        let service = Sink { answers, received: Arc::clone(&received) };
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(TraceServiceServer::new(service))
                .serve_with_incoming(TcpIncoming::from(listener)),
        );
        Self { addr, answers, received, _runtime: Arc::new(runtime) }
    }

    fn endpoint(&self) -> String {
        assert!(self.addr.ip().is_loopback() || self.answers);
        format!("--otlp-endpoint=http://{}", self.addr)
    }

    fn resource(&self) -> HashMap<String, Value> {
        let received = self.received.lock().unwrap();
        attributes(&received[0].resource_spans[0].resource.as_ref().unwrap().attributes)
    }

    fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().unwrap();
        let resources = received.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans).cloned().collect()
    }

    fn only_span(&self) -> Span {
        let spans = self.spans();
        assert_eq!(spans.len(), 1, "{spans:?}");
        spans[0].clone()
    }
}

struct Sink {
    answers: bool,
    received: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        if !self.answers {
            std::future::pending::<()>().await;
        }
        self.received.lock().unwrap().push(request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn attributes(pairs: &[KeyValue]) -> HashMap<String, Value> {
    pairs.iter().map(|pair| (pair.key.clone(), pair.value.as_ref().unwrap().value.clone().unwrap())).collect()
}

fn text(value: &str) -> Value {
    Value::StringValue(value.to_owned())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn send(client: &mut Client, head: &str, body: &str) -> u16 {
    client.send(format!("{head}\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes());
    client.response().status
}

/// Stops it; returns how long that took.
fn time_to_stop(program: Program) -> Duration {
    let began = Instant::now();
    program.stop();
    began.elapsed()
}

#[test]
fn the_trace_of_a_caller_is_continued_and_its_span_says_what_happened() {
    let collector = Collector::start(true);
    let program = Program::start(&[&collector.endpoint(), "--trace-one-in=1000000", "--lame-duck=0s"]);
    let mut client = Client::connect(program.addr);
    let head = format!(
        "POST /echo/a?b=c HTTP/1.1\r\ntraceparent: 00-{TRACE_ID}-{PARENT_ID}-01\r\nx-request-id: abc-1"
    );
    assert_eq!(send(&mut client, &head, "hello"), 200);
    // A caller that does not trace its part does not want ours, whatever the ratio.
    let head = format!("POST /echo HTTP/1.1\r\ntraceparent: 00-{TRACE_ID}-{PARENT_ID}-00");
    assert_eq!(send(&mut client, &head, "hello"), 200);
    await_metric(program.admin, "echo_traces_sampled_total", "parent", 1);
    assert_eq!(metric(program.admin, "echo_traces_sampled_total", "ratio"), 0);
    await_metric(program.admin, "echo_spans_exported_total", "", 1);
    program.stop();

    let span = collector.only_span();
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE_ID.to_owned(), PARENT_ID.to_owned()));
    assert_eq!((span.name.as_str(), span.kind), ("POST /echo/*", 2), "a server's");
    assert_eq!(span.status.unwrap_or_default().code(), StatusCode::Unset);
    let said = attributes(&span.attributes);
    for (key, value) in [
        ("http.request.method", text("POST")),
        ("http.route", text("/echo/*")),
        ("url.path", text("/echo/a")),
        ("url.query", text("b=c")),
        ("url.scheme", text("http")),
        ("network.protocol.version", text("1.1")),
        ("client.address", text("127.0.0.1")),
        ("client.port", Value::IntValue(client.stream.local_addr().unwrap().port().into())),
        ("http.response.status_code", Value::IntValue(200)),
        ("http.request.body.size", Value::IntValue(5)),
        ("http.response.body.size", Value::IntValue(5)),
        ("echo.request_id", text("abc-1")),
    ] {
        assert_eq!(said.get(key), Some(&value), "{key} in {said:?}");
    }
    assert!(said.contains_key("echo.queue_us") && said.contains_key("echo.service_us"), "{said:?}");
    assert!(!said.contains_key("error.type"), "{said:?}");
    let resource = collector.resource();
    assert_eq!(resource.get("service.name"), Some(&text("echo-server")));
    for key in ["service.version", "service.instance.id", "host.name"] {
        assert!(resource.contains_key(key), "{key} in {resource:?}");
    }
}

#[test]
fn one_in_n_of_each_thread_is_traced_and_all_spans_are_out_when_the_program_ends() {
    for (one_in, requests, expected) in [(1, 10, 10), (3, 10, 4), (0, 10, 0)] {
        let collector = Collector::start(true);
        let one_in = format!("--trace-one-in={one_in}");
        let program = Program::start(&[
            &collector.endpoint(),
            &one_in,
            "--workers=1",
            "--lame-duck=0s",
            "--catch-all=404",
        ]);
        let mut client = Client::connect(program.addr);
        for _ in 0..requests {
            // Not valid, so nobody's wish.
            assert_eq!(send(&mut client, "PUT /nothing HTTP/1.1\r\ntraceparent: 00-0-0-01", ""), 404);
        }
        await_metric(program.admin, "echo_traces_sampled_total", "ratio", expected);
        program.stop();
        let spans = collector.spans();
        assert_eq!(spans.len() as u64, expected, "{one_in}");
        for span in spans {
            assert_eq!(span.name, "PUT", "a path that is no route has no part in the name");
            assert!(span.parent_span_id.is_empty() && span.trace_id.len() == 16, "{span:?}");
        }
    }
}

#[test]
fn a_span_lasts_to_the_end_of_the_body_and_says_if_that_was_cut() {
    let pause = Duration::from_millis(300);
    for (is_cut, outcome) in [(false, None), (true, Some(text("aborted_in_body")))] {
        let collector = Collector::start(true);
        let program = Program::start(&[&collector.endpoint(), "--trace-one-in=1", "--lame-duck=0s"]);
        let mut client = Client::connect(program.addr);
        client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhello");
        client.head_of_large_response();
        std::thread::sleep(pause);
        if is_cut {
            client.reset();
        } else {
            client.send(b"world");
            client.stream.read_exact(&mut [0; 10]).unwrap();
        }
        await_metric(program.admin, "http_server_active_requests", "", 0);
        program.stop();
        let span = collector.only_span();
        let lasted = Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano);
        assert!(lasted >= pause, "{lasted:?}");
        let said = attributes(&span.attributes);
        assert_eq!(said.get("error.type"), outcome.as_ref(), "{said:?}");
        assert_eq!(span.status.unwrap_or_default().code() == StatusCode::Error, is_cut);
        let bytes = if is_cut { 5 } else { 10 };
        assert_eq!(said.get("http.request.body.size"), Some(&Value::IntValue(bytes)));
    }
}

#[test]
fn a_request_that_is_cut_before_its_response_has_a_span_that_says_so() {
    let collector = Collector::start(true);
    let program =
        Program::start(&[&collector.endpoint(), "--trace-one-in=1", "--lame-duck=0s", "--drain-grace=0s"]);
    let mut client = Client::connect(program.addr);
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n");
    await_metric(program.admin, "echo_requests_admitted", "", 1);
    program.terminate();
    assert_eq!(program.wait().1, Some(3), "work is lost");
    let said = attributes(&collector.only_span().attributes);
    assert_eq!(said.get("error.type"), Some(&text("aborted_before_response")), "{said:?}");
    assert!(!said.contains_key("http.response.status_code"), "{said:?}");
}

#[test]
fn a_failure_of_ours_is_a_line_with_its_request_and_trace_and_an_event_of_the_span() {
    let collector = Collector::start(true);
    let (program, mut log) = Program::start_with_log(&[
        &collector.endpoint(),
        "--log-format=json",
        "--request-timeout=50ms",
        "--lame-duck=0s",
    ]);
    let mut client = Client::connect(program.addr);
    // No body comes, so no response does.
    let head = format!(
        "POST /echo HTTP/1.1\r\nhost: a\r\ntraceparent: 00-{TRACE_ID}-{PARENT_ID}-01\r\nx-request-id: abc-1"
    );
    client.send(format!("{head}\r\ncontent-length: 5\r\n\r\n").as_bytes());
    assert_eq!(client.response().status, 503);
    program.stop();

    let span = collector.only_span();
    let mut lines = String::new();
    log.read_to_string(&mut lines).unwrap();
    let line = lines.lines().find(|line| line.contains("abc-1")).unwrap_or_else(|| panic!("{lines}"));
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["level"], &line["status"]), (&"ERROR".into(), &503.into()), "{line}");
    assert_eq!(
        (&line["trace_id"], &line["span_id"]),
        (&TRACE_ID.into(), &hex(&span.span_id).into()),
        "{line}"
    );
    assert!(line["message"].as_str().unwrap().contains("no response within 50ms"), "{line}");

    assert_eq!(span.status.unwrap().code(), StatusCode::Error);
    assert_eq!(attributes(&span.attributes).get("error.type"), Some(&text("503")));
    let event = &span.events[0];
    assert_eq!(attributes(&event.attributes).get("request_id"), Some(&text("abc-1")), "{event:?}");
}

#[test]
fn without_a_collector_the_server_serves_says_so_counts_and_stops_in_time() {
    // Bound and closed again: nobody listens there.
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("--otlp-endpoint=http://{nowhere}");
    let (program, mut log) = Program::start_with_log(&[&endpoint, "--trace-one-in=1", "--lame-duck=0s"]);
    let mut client = Client::connect(program.addr);
    for _ in 0..5 {
        assert_eq!(client.echo(b"hello").body, b"hello");
    }
    await_metric(program.admin, "echo_spans_dropped_total", "export_failed", 5);
    assert_eq!(metric(program.admin, "echo_spans_exported_total", ""), 0);
    assert_eq!(client.echo(b"hello").body, b"hello");
    let took = time_to_stop(program);
    assert!(took < STOP_MAX, "{took:?}");
    let mut lines = String::new();
    log.read_to_string(&mut lines).unwrap();
    let warnings = lines.lines().filter(|line| line.contains("does not take our spans")).count();
    assert_eq!(warnings, 1, "said once in a while, not for each batch: {lines}");
    assert!(lines.contains(&nowhere.to_string()) && lines.contains("--otlp-endpoint"), "{lines}");
}

#[test]
fn a_collector_that_never_answers_costs_spans_and_neither_requests_nor_the_end() {
    let collector = Collector::start(false);
    let program =
        Program::start(&[&collector.endpoint(), "--trace-one-in=1", "--otlp-queue-max=2", "--lame-duck=0s"]);
    let mut client = Client::connect(program.addr);
    let began = Instant::now();
    for _ in 0..50 {
        assert_eq!(client.echo(b"hello").body, b"hello");
    }
    assert!(began.elapsed() < PATIENCE);
    await_metric(program.admin, "echo_traces_sampled_total", "ratio", 50);
    let dropped = metric(program.admin, "echo_spans_dropped_total", "queue_full");
    assert!(dropped >= 44, "2 wait, and 2 more each time that an export is given up: {dropped}");
    let took = time_to_stop(program);
    assert!(took < STOP_MAX, "{took:?}");
}
