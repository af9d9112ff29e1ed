//! Without the page held against the report, a dashboard could show another run than the one that was made.

#![allow(clippy::unwrap_used, reason = "helpers that fail have to fail their test")]

mod support;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use loadgen::{
    board::Board,
    failure::FailureClass,
    live::Progress,
    metrics::Metrics,
    plan::{BodySource, Plan, PlanOptions},
    run,
};

use support::{EchoServer, Page, Request, Running, Then, get, loadgen, scripted, text, until};

/// Every metric that a page has while an open-loop run lasts. A dashboard relies on these names.
const NAMES: [&str; 27] = [
    "loadgen_build_info",
    "loadgen_connections_open",
    "loadgen_cpu_seconds_total",
    "loadgen_lag_seconds_bucket",
    "loadgen_lag_seconds_count",
    "loadgen_lag_seconds_sum",
    "loadgen_offered_rate",
    "loadgen_phase",
    "loadgen_request_body_bytes_total",
    "loadgen_requests_backlog",
    "loadgen_requests_failed_total",
    "loadgen_requests_in_flight",
    "loadgen_requests_ok_total",
    "loadgen_requests_scheduled_total",
    "loadgen_requests_sent_total",
    "loadgen_response_body_bytes_total",
    "loadgen_response_time_seconds_bucket",
    "loadgen_response_time_seconds_count",
    "loadgen_response_time_seconds_sum",
    "loadgen_service_time_seconds_bucket",
    "loadgen_service_time_seconds_count",
    "loadgen_service_time_seconds_sum",
    "loadgen_stage",
    "loadgen_verdict",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_resident_memory_bytes",
];

/// A run in this process that is seen on a page; the page after its end.
fn watched(options: PlanOptions) -> (run::Outcome, Page) {
    let plan = Plan::new(options).unwrap();
    let board = Arc::new(Board::new(&plan));
    let metrics = Metrics::start("127.0.0.1:0".parse().unwrap(), Arc::clone(&board)).unwrap();
    let outcome = run::execute_on(plan, Progress::Off, board).unwrap();
    (outcome, Page::get(metrics.addr()))
}

/// Fails one request in ten.
fn flawed(request: &Request) -> (Vec<u8>, Then) {
    match request.number() % 20 {
        3 => (Request::answer(503, &request.id, b"busy"), Then::KeepOpen),
        7 => (Vec::new(), Then::Close),
        _ => (request.echo(), Then::KeepOpen),
    }
}

#[test]
#[expect(clippy::float_cmp, clippy::cast_precision_loss, reason = "counts are small integers on both sides")]
fn after_the_end_the_page_says_what_the_report_says() {
    let options = PlanOptions {
        stages: Some("200ms@500,200ms@500->1500".parse().unwrap()),
        warmup: Duration::from_millis(100),
        body: BodySource::Sizes(vec![100]),
        connections: 4,
        ..PlanOptions::new(format!("http://{}/", scripted(flawed)))
    };
    let (outcome, page) = watched(options);
    let record = &outcome.record;
    let both =
        |count: fn(&loadgen::record::Counts) -> u64| (count(&record.warmup) + count(&record.measured)) as f64;

    assert_eq!(page.value("loadgen_requests_scheduled_total"), 350.0);
    assert_eq!(page.value("loadgen_requests_scheduled_total"), both(|counts| counts.scheduled.scheduled));
    assert_eq!(page.value("loadgen_requests_sent_total"), both(|counts| counts.sent));
    assert_eq!(page.value("loadgen_requests_ok_total"), both(|counts| counts.ok));
    for class in FailureClass::ALL {
        let sample = format!("loadgen_requests_failed_total{{class=\"{}\"}}", class.name());
        let counted =
            [&record.warmup, &record.measured].map(|counts| counts.errors.get(&class).copied().unwrap_or(0));
        assert_eq!(page.value(&sample), (counted[0] + counted[1]) as f64, "{sample}");
    }
    assert!(page.value("loadgen_requests_failed_total{class=\"status_5xx\"}") > 10.0);
    assert_eq!(page.value("loadgen_request_body_bytes_total"), both(|counts| counts.body_bytes_sent));
    assert_eq!(page.value("loadgen_response_body_bytes_total"), both(|counts| counts.body_bytes_received));
    assert_eq!(
        (page.value("loadgen_requests_in_flight"), page.value("loadgen_requests_backlog")),
        (0.0, 0.0)
    );

    let latencies = &record.latencies;
    for (name, labels, series) in [
        ("loadgen_response_time_seconds", "", &latencies.response),
        ("loadgen_service_time_seconds", "", &latencies.service),
        ("loadgen_lag_seconds", "by=\"connection\"", &latencies.lag_connection),
        ("loadgen_lag_seconds", "by=\"generator\"", &latencies.lag_generator),
    ] {
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        assert_eq!(page.value(&format!("{name}_count{braces}")), series.count() as f64);
        assert_eq!(page.value(&format!("{name}_sum{braces}")), series.sum_ns as f64 / 1e9);
        // The buckets are cumulative, and exact where the histogram of the report is rounded.
        let comma = if labels.is_empty() { "" } else { "," };
        let bucket = |bound: &str| page.value(&format!("{name}_bucket{{le=\"{bound}\"{comma}{labels}}}"));
        assert_eq!(bucket("+Inf"), series.count() as f64);
        assert!(bucket("0.000025") <= bucket("0.01") && bucket("0.01") <= bucket("10.0"));
    }
    assert_eq!(page.value("loadgen_phase{phase=\"finishing\"}"), 1.0);
    assert_eq!(page.sum("loadgen_phase"), 1.0);
    assert_eq!(page.sum("loadgen_verdict"), 1.0);
}

#[test]
#[expect(clippy::float_cmp, reason = "counts are small integers")]
fn while_it_lasts_the_page_has_every_metric_and_its_sums_hold() {
    let server = EchoServer::start();
    let url = server.url();
    let load = ["--repeat", "--stages", "1h@300->600", "--warmup", "200ms", "-c", "5", "--body-size", "64"];
    let running = Running::start(&[load.as_slice(), &["--no-progress", &url]].concat());
    until("measured requests", || running.page().value("loadgen_response_time_seconds_count") > 100.0);
    let page = running.page();

    assert_eq!(page.names().into_iter().collect::<Vec<_>>(), NAMES);
    assert_eq!(page.value("loadgen_phase{phase=\"measuring\"}"), 1.0);
    assert_eq!(page.value("loadgen_stage"), 0.0);
    assert!((300.0..301.0).contains(&page.value("loadgen_offered_rate")));
    assert_eq!(page.value("loadgen_connections_open"), 5.0);
    let sent = page.value("loadgen_requests_sent_total");
    assert_eq!(page.value("loadgen_requests_scheduled_total"), sent + page.value("loadgen_requests_backlog"));
    let ended = page.value("loadgen_requests_ok_total") + page.sum("loadgen_requests_failed_total");
    assert_eq!(sent, ended + page.value("loadgen_requests_in_flight"));
    for positive in
        ["loadgen_cpu_seconds_total", "process_cpu_seconds_total", "process_resident_memory_bytes"]
    {
        assert!(page.value(positive) > 0.0, "{positive}");
    }
    assert_eq!(get(running.metrics, "/livez"), (200, "alive\n".to_owned()));
    assert_eq!(get(running.metrics, "/").0, 404);
    let probe = loadgen(&["healthcheck", &format!("http://{}/livez", running.metrics)]);
    assert_eq!(probe.status.code(), Some(0), "{}", text(&probe.stderr));

    let (code, report) = running.terminate();
    assert_eq!(code, Some(143));
    assert!(report.starts_with("target ") && report.contains("again and again until SIGTERM"), "{report}");
    assert!(report.contains("both hold") && !report.contains("BROKEN"), "{report}");
}

#[test]
fn a_closed_loop_has_no_offered_rate() {
    let (_, page) = watched(PlanOptions {
        requests: Some(50),
        ..PlanOptions::new(format!("http://{}/", scripted(flawed)))
    });
    assert_eq!((page.find("loadgen_offered_rate"), page.find("loadgen_stage")), (None, None));
    assert!((page.value("loadgen_requests_scheduled_total") - 50.0).abs() < 0.5);
}

#[test]
fn a_taken_port_ends_it_before_any_load() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = |listener: &TcpListener| -> SocketAddr { listener.local_addr().unwrap() };
    let output =
        loadgen(&["--metrics", &addr(&taken).to_string(), "-n", "1", &format!("http://{}/", addr(&target))]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(&addr(&taken).to_string()) && stderr.contains("change --metrics"), "{stderr}");
    target.set_nonblocking(true).unwrap();
    assert_eq!(target.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}
