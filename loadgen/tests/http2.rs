//! Without faults on real HTTP/2 connections nobody would know whether a refused request is told from a lost one.

mod support;

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use h2::Reason;
use loadgen::{
    failure::FailureClass,
    plan::{BodySource, PlanOptions},
    record::Record,
};
use support::{
    EchoServer, execute,
    http2::{Act, leaves_after_two, scripted},
    loadgen, text,
};

/// A closed-loop run of `requests` requests with bodies of 100 bytes, on two connections with five streams each.
fn options(addr: SocketAddr, requests: u64) -> PlanOptions {
    PlanOptions {
        body: BodySource::Sizes(vec![100]),
        http2: true,
        streams: Some(5),
        connections: 2,
        requests: Some(requests),
        ..PlanOptions::new(format!("http://{addr}/echo"))
    }
}

fn assert_counts(record: &Record, ok: u64, errors: &[(FailureClass, u64)]) {
    let expected: BTreeMap<_, _> = errors.iter().copied().collect();
    assert_eq!(record.measured.errors, expected, "{:?}", record.samples);
    assert_eq!(record.measured.ok, ok);
    assert!(record.measured.is_conserved(), "{:?}", record.measured);
    assert!(record.latencies.identity_holds());
    assert_eq!(record.latencies.response.count(), ok + record.censored.total());
}

#[test]
fn over_http2_every_byte_of_every_echo_is_checked() {
    let server = EchoServer::start();
    let sizes = BodySource::Sizes(vec![0, 64, 16_384, 3_000_000]);
    let options = PlanOptions { body: sizes, ..options(server.addr, 200) };
    for rate in [None, Some(500)] {
        let record = execute(PlanOptions { rate, ..options.clone() }).record;
        assert_counts(&record, 200, &[]);
        assert_eq!(record.measured.body_bytes_sent, record.measured.body_bytes_received);
        assert_eq!(record.measured.retried, 0);
    }
}

#[test]
fn every_fault_of_a_stream_is_named_right_and_every_request_counted() {
    let addr = scripted(|number| match number % 8 {
        0 => Act::WrongByte,
        1 => Act::Short,
        2 => Act::Status(503),
        3 => Act::Status(404),
        4 => Act::Reset(Reason::INTERNAL_ERROR),
        5 => Act::ResetLate,
        _ => Act::Echo,
    });
    let errors = [
        (FailureClass::WrongBody, 40),
        (FailureClass::WrongLength, 40),
        (FailureClass::Status5xx, 40),
        (FailureClass::Status4xx, 40),
        (FailureClass::StreamReset, 80),
    ];
    assert_counts(&execute(options(addr, 320)).record, 80, &errors);
    let record = execute(PlanOptions { rate: Some(2_000), ..options(addr, 320) }).record;
    assert_counts(&record, 80, &errors);
    assert_eq!(record.measured.retried, 0, "a reset that may have been processed is not sent again");
}

#[test]
fn a_refused_request_is_sent_again_and_is_no_failure() {
    let seen = Mutex::new(HashSet::new());
    let addr = scripted(move |number| {
        let first = seen.lock().unwrap().insert(number);
        if first { Act::Reset(Reason::REFUSED_STREAM) } else { Act::Echo }
    });
    let record = execute(options(addr, 100)).record;
    assert_counts(&record, 100, &[]);
    assert_eq!(record.measured.retried, 100);
}

#[test]
fn who_refuses_for_ever_has_reset_the_stream() {
    let addr = scripted(|number| if number == 3 { Act::Reset(Reason::REFUSED_STREAM) } else { Act::Echo });
    let record = execute(options(addr, 20)).record;
    assert_counts(&record, 19, &[(FailureClass::StreamReset, 1)]);
    assert_eq!(record.measured.retried, 10);
}

#[test]
fn a_server_that_tells_its_connections_to_go_again_and_again_costs_no_request() {
    let farewells = AtomicU64::new(0);
    let addr = scripted(move |number| {
        if number % 25 == 24 {
            farewells.fetch_add(1, Relaxed);
            return Act::Farewell;
        }
        Act::Echo
    });
    assert_counts(&execute(options(addr, 2_000)).record, 2_000, &[]);
    let record = execute(PlanOptions { rate: Some(2_000), ..options(addr, 2_000) }).record;
    assert_counts(&record, 2_000, &[]);
}

#[test]
fn requests_above_the_last_stream_of_a_goaway_are_sent_again() {
    let addr = leaves_after_two();
    let options =
        PlanOptions { body: BodySource::None, connections: 1, threads: Some(1), ..options(addr, 40) };
    let record = execute(options).record;
    assert_counts(&record, 40, &[]);
    // Four or five streams were open when the server took leave, and two of them are answered.
    assert!((2..=3).contains(&record.measured.retried), "{}", record.measured.retried);
}

#[test]
fn a_connection_that_ends_with_an_error_has_its_reason_in_the_class_of_its_requests() {
    let addr = scripted(|number| match number {
        0..4 => Act::Hang,
        4 => Act::Expel(Reason::ENHANCE_YOUR_CALM),
        _ => Act::Echo,
    });
    let record = execute(PlanOptions { connections: 1, threads: Some(1), ..options(addr, 50) }).record;
    assert_counts(&record, 45, &[(FailureClass::GoAway, 5)]);
    assert!(record.samples[&FailureClass::GoAway].contains("ENHANCE_YOUR_CALM"), "{:?}", record.samples);
}

#[test]
fn a_stream_that_is_never_answered_is_a_timeout_and_holds_no_other_up() {
    let addr = scripted(|number| if number == 3 { Act::Hang } else { Act::Echo });
    let timeout = Duration::from_millis(300);
    let record = execute(PlanOptions { timeout, connections: 1, ..options(addr, 50) }).record;
    assert_counts(&record, 49, &[(FailureClass::Timeout, 1)]);
    assert_eq!(record.censored.timeout, 1);
}

#[test]
fn streams_that_the_server_does_not_allow_are_left_out_and_reported() {
    let addr = scripted(|_| Act::Echo);
    let flags = ["-n", "3k", "-c", "1", "--threads", "1", "--http2", "--streams", "120"];
    let output = loadgen(&[&flags, [format!("http://{addr}/").as_str()].as_slice()].concat());
    let stdout = text(&output.stdout);
    assert!(stdout.contains("ok 3000 + errors 0"), "{stdout}");
    assert!(stdout.contains("20 of those asked for are more than the server allows"), "{stdout}");
}

#[test]
fn a_server_that_speaks_no_http2_is_named_before_the_first_request() {
    let addr = support::scripted(|request| (request.echo(), support::Then::KeepOpen));
    let output = loadgen(&["-n", "10", "-t", "2", "--http2", &format!("http://{addr}/")]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("no connection to"), "{stderr}");
}
