//! Without faults on real sockets nobody would know whether each class is named right and each request counted.

mod support;

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::mpsc::sync_channel,
    time::Duration,
};

use loadgen::{
    failure::FailureClass,
    plan::{BodySource, PlanOptions},
    record::Record,
};

use support::{Request, Then, execute, scripted};

/// A closed-loop run of `requests` requests with bodies of 100 bytes.
fn options(addr: SocketAddr, requests: u64) -> PlanOptions {
    PlanOptions {
        body: BodySource::Sizes(vec![100]),
        connections: 4,
        requests: Some(requests),
        timeout: Duration::from_secs(10),
        ..PlanOptions::new(format!("http://{addr}/"))
    }
}

fn assert_counts(record: &Record, ok: u64, errors: &[(FailureClass, u64)]) {
    assert_eq!(record.measured.errors, errors.iter().copied().collect::<BTreeMap<_, _>>());
    assert_eq!(record.measured.ok, ok);
    assert!(record.measured.is_conserved(), "{:?}", record.measured);
    assert!(record.latencies.identity_holds());
    let with_latency = ok + record.censored.total();
    assert_eq!(record.latencies.response.count(), with_latency);
}

/// What a misbehaving server does to its tenth of the requests, and what that has to be called.
fn misbehave(request: &Request) -> (Vec<u8>, Then) {
    let mut echo = request.echo();
    match request.number() % 10 {
        0 => (Vec::new(), Then::Reset),
        1 => (echo[..echo.len() - 50].to_vec(), Then::Reset),
        2 => (Vec::new(), Then::Close),
        3 => (echo[..echo.len() - 1].to_vec(), Then::Close),
        4 => (b"what is this?\r\n\r\n".to_vec(), Then::Close),
        5 => {
            let last = echo.len() - 1;
            echo[last] ^= 1;
            (echo, Then::KeepOpen)
        }
        6 => (Request::answer(200, &request.id, &request.body[..99]), Then::KeepOpen),
        7 => {
            // The id of another request of the same run: the last 16 digits are the request's number.
            let (run, number) = request.id.split_at(16);
            let other = [run, &number.replace('0', "1")].concat();
            (Request::answer(200, &other, &request.body), Then::KeepOpen)
        }
        8 => (Request::answer(503, &request.id, b"busy"), Then::KeepOpen),
        _ => (echo, Then::KeepOpen),
    }
}

const CLASSES: [FailureClass; 9] = [
    FailureClass::ResetBeforeResponse,
    FailureClass::ResetMidBody,
    FailureClass::EofBeforeResponse,
    FailureClass::Truncated,
    FailureClass::Protocol,
    FailureClass::WrongBody,
    FailureClass::WrongLength,
    FailureClass::Foreign,
    FailureClass::Status5xx,
];

#[test]
fn in_closed_loop_every_fault_is_named_right_and_every_request_counted() {
    let outcome = execute(options(scripted(misbehave), 400));
    assert_counts(&outcome.record, 40, &CLASSES.map(|class| (class, 40)));
    assert_eq!(outcome.record.measured.scheduled.scheduled, 400);
    for class in CLASSES {
        assert!(outcome.record.samples.contains_key(&class), "a sample of {class} is kept");
    }
}

#[test]
fn in_open_loop_every_fault_is_named_right_and_every_request_counted() {
    let outcome = execute(PlanOptions { rate: Some(2_000), ..options(scripted(misbehave), 400) });
    assert_counts(&outcome.record, 40, &CLASSES.map(|class| (class, 40)));
}

#[test]
fn answers_given_to_the_wrong_request_are_foreign_by_their_bodies_too() {
    // A proxy that mixes up connections: no id in the head, another request's body.
    let addr = scripted(|request| {
        let mut body = request.body.clone();
        body[16..32].copy_from_slice(b"00000000ffffffff");
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        ([head.as_bytes(), &body].concat(), Then::KeepOpen)
    });
    let outcome = execute(options(addr, 20));
    assert_counts(&outcome.record, 0, &[(FailureClass::Foreign, 20)]);
}

#[test]
fn a_request_that_is_never_answered_is_a_timeout_with_its_wait_as_lower_bound() {
    let addr = scripted(|request| {
        if request.number() == 3 { (Vec::new(), Then::Hang) } else { (request.echo(), Then::KeepOpen) }
    });
    let timeout = Duration::from_millis(200);
    let outcome = execute(PlanOptions { timeout, ..options(addr, 10) });
    assert_counts(&outcome.record, 9, &[(FailureClass::Timeout, 1)]);
    assert_eq!(outcome.record.censored.timeout, 1);
    assert!(outcome.record.latencies.service.histogram.max() >= 200_000_000);
}

#[test]
fn what_nobody_answers_before_the_end_is_in_flight_or_unsent_and_never_dropped() {
    let addr = scripted(|_| (Vec::new(), Then::Hang));
    let timeout = Duration::from_millis(500);
    let outcome = execute(PlanOptions { timeout, rate: Some(1_000), ..options(addr, 300) });
    let measured = &outcome.record.measured;
    assert!(measured.is_conserved(), "{measured:?}");
    assert_eq!((measured.scheduled.scheduled, measured.ok), (300, 0));
    let timeouts = measured.errors.get(&FailureClass::Timeout).copied().unwrap_or(0);
    assert_eq!(timeouts + measured.in_flight_at_end + measured.scheduled.unsent, 300);
    assert!(measured.scheduled.unsent > 0, "4 connections cannot send 300 requests into a void");
    // All 300 are in the quantiles, each with the time that it had waited.
    assert_eq!(outcome.record.censored.total(), 300);
    assert_eq!(outcome.record.latencies.response.count(), 300);
    assert!(outcome.record.latencies.identity_holds());
}

#[test]
fn every_way_to_frame_an_echo_is_understood() {
    let addr = scripted(|request| match request.number() % 4 {
        0 => (request.echo(), Then::KeepOpen),
        1 => {
            let mut chunked = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n".to_vec();
            chunked.extend(b"transfer-encoding: chunked\r\n\r\n");
            for piece in request.body.chunks(7) {
                chunked.extend(format!("{:x}\r\n", piece.len()).as_bytes());
                chunked.extend(piece);
                chunked.extend(b"\r\n");
            }
            chunked.extend(b"0\r\n\r\n");
            (chunked, Then::KeepOpen)
        }
        2 => ([b"HTTP/1.1 200 OK\r\n\r\n", request.body.as_slice()].concat(), Then::Close),
        _ => {
            let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 100\r\n\r\n";
            ([head, request.body.as_slice()].concat(), Then::Close)
        }
    });
    assert_counts(&execute(options(addr, 200)).record, 200, &[]);
}

#[test]
fn bytes_after_the_end_of_a_response_are_a_protocol_error() {
    let addr = scripted(|request| ([request.echo().as_slice(), b"more"].concat(), Then::KeepOpen));
    assert_counts(&execute(options(addr, 8)).record, 0, &[(FailureClass::Protocol, 8)]);
}

#[test]
fn a_connection_that_the_server_closes_after_its_answer_costs_no_request() {
    // Each connection is closed right after its answer, without saying so beforehand.
    let addr = scripted(|request| (request.echo(), Then::Close));
    let outcome = execute(PlanOptions { rate: Some(200), ..options(addr, 50) });
    assert_counts(&outcome.record, 50, &[]);
    assert_counts(&execute(options(addr, 50)).record, 50, &[]);
}

#[test]
fn every_nth_request_asks_for_its_trace() {
    let addr = scripted(|request| {
        let traced =
            request.traceparent.as_ref().is_some_and(|parent| parent.len() == 55 && parent.ends_with("-01"));
        let right = traced == (request.number() % 7 == 0) && (traced || request.traceparent.is_none());
        (if right { request.echo() } else { Request::answer(400, &request.id, b"") }, Then::KeepOpen)
    });
    assert_counts(&execute(PlanOptions { trace_one_in: 7, ..options(addr, 50) }).record, 50, &[]);
    let addr = scripted(|request| {
        let status = if request.traceparent.is_none() { 200 } else { 400 };
        (Request::answer(status, &request.id, &request.body), Then::KeepOpen)
    });
    assert_counts(&execute(options(addr, 50)).record, 50, &[]);
}

#[test]
fn a_server_that_goes_away_turns_each_attempt_into_connect_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // Takes the connections of the start and leaves.
    let server = std::thread::spawn(move || {
        let streams: Vec<_> = (0..4).map(|_| listener.accept().unwrap().0).collect();
        drop(listener);
        drop(streams);
    });
    let outcome = execute(options(addr, 12));
    server.join().unwrap();
    let record = &outcome.record;
    assert!(record.measured.is_conserved(), "{:?}", record.measured);
    assert_eq!((record.measured.ok, record.measured.failed()), (0, 12));
    assert!(record.measured.errors[&FailureClass::ConnectRefused] >= 4, "{:?}", record.measured.errors);
}

#[test]
fn a_rejection_is_seen_while_the_body_is_still_being_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (run_end, run_ended) = sync_channel(1);
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 1_000]).unwrap();
        let rejection = b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(rejection).unwrap();
        // Nothing more is read, so the body can never be sent whole.
        run_ended.recv().unwrap();
    });
    let body = BodySource::Sizes(vec![32 << 20]);
    let outcome = execute(PlanOptions { body, connections: 1, ..options(addr, 1) });
    run_end.send(()).unwrap();
    assert_counts(&outcome.record, 0, &[(FailureClass::Status4xx, 1)]);
    assert!(outcome.record.measured.body_bytes_sent < 32 << 20);
    server.join().unwrap();
}
