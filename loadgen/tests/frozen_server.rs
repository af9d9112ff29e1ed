//! Without a server that stands still for a known time, nobody could show that waiting requests are counted.
//!
//! The oracle: while a server is frozen for S seconds at a constant rate L, a request that was due t seconds
//! after the freeze waits for S - t. So the number of requests that waited for longer than x is L * (S - x),
//! for every x below S. A closed-loop generator, or one that stamps the moment of sending, counts next to none.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of one test, and what it saw")]

mod support;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use loadgen::{
    latency::Series,
    plan::{BodySource, PlanOptions},
};

use rustix::process::{Pid, Signal, kill_process};

use support::{EchoServer, execute};

/// L, low beside what the server can do, because it works off what has piled up at its own speed.
const RATE: u64 = 100;

/// Time between the two signals; what counts is what was measured between them.
const FREEZE: Duration = Duration::from_secs(2);

/// Part of L * S by which a count may be off: what the server, in a debug build, takes to work the backlog off (L / its
/// capacity), and the clock.
const TOLERANCE: f64 = 0.05;

/// A machine that stalls a whole process for longer than this part of S blurs the edges of the freeze too much.
const STALL_MAX: f64 = 0.01;

/// Attempts at a freeze that no stall of the machine has blurred.
const ATTEMPTS: usize = 6;

#[test]
fn a_frozen_server_leaves_exactly_the_requests_that_waited() {
    for attempt in 1..=ATTEMPTS {
        let (frozen, stall, response) = freeze();
        println!("attempt {attempt}: frozen for {frozen:?}, the machine stalled for up to {stall:?}");
        // What a stall adds to or takes from the freeze is not loadgen's error: a blurred attempt is repeated,
        // and the last one is judged with the stall that was seen as a further tolerance.
        let blurred = stall.as_secs_f64() > STALL_MAX * frozen.as_secs_f64();
        if blurred && attempt < ATTEMPTS {
            continue;
        }
        let slack = if blurred { 2.0 * stall.as_secs_f64() * RATE as f64 } else { 0.0 };
        check(frozen, slack, &response);
        return;
    }
}

/// Holds the histogram against the formula for a grid of x.
fn check(frozen: Duration, slack: f64, response: &Series) {
    let (rate, frozen) = (RATE as f64, frozen.as_secs_f64());
    let tolerance = TOLERANCE * rate * frozen + slack;
    for tenth in 1..10 {
        let x = frozen * f64::from(tenth) / 10.0;
        let expected = rate * (frozen - x);
        let counted = count_above(response, x) as f64;
        println!("waited for more than {x:.3} s: expected {expected:.0}, counted {counted}");
        assert!((counted - expected).abs() <= tolerance, "{counted} of {expected:.1} +- {tolerance:.1}");
    }
}

fn count_above(series: &Series, seconds: f64) -> u64 {
    let above =
        |step: &hdrhistogram::iterators::IterationValue<u64>| step.value_iterated_to() as f64 > seconds * 1e9;
    series.histogram.iter_recorded().filter(above).map(|step| step.count_since_last_iteration()).sum()
}

/// Freezes a server under load; returns for how long, the longest stall of this process around it, and the
/// response times.
fn freeze() -> (Duration, Duration, Series) {
    let server = EchoServer::start();
    let pid = Pid::from_child(&server.child.0);
    let heart = Heart::default();
    let options = PlanOptions {
        rate: Some(RATE),
        duration: Some(FREEZE + Duration::from_secs(2)),
        body: BodySource::Sizes(vec![64]),
        connections: 16,
        ..PlanOptions::new(server.url())
    };
    let (frozen, outcome) = std::thread::scope(|scope| {
        scope.spawn(|| heart.beat());
        let load = scope.spawn(|| execute(options));
        std::thread::sleep(Duration::from_millis(500));
        kill_process(pid, Signal::STOP).unwrap();
        let stopped = Instant::now();
        std::thread::sleep(FREEZE);
        let frozen = stopped.elapsed();
        kill_process(pid, Signal::CONT).unwrap();
        let outcome = load.join().unwrap();
        heart.stop.store(true, Ordering::Relaxed);
        (frozen, outcome)
    });
    let record = outcome.record;
    assert_eq!((record.measured.failed(), record.censored.total()), (0, 0), "{:?}", record.samples);
    assert!(record.measured.is_conserved());
    assert!(record.latencies.identity_holds());
    // The wait is the server's: the generator was on time.
    let lag = &record.latencies;
    assert!(lag.lag_generator.sum_ns < lag.lag_connection.sum_ns / 10);
    (frozen, Duration::from_nanos(heart.worst_ns.load(Ordering::Relaxed)), record.latencies.response)
}

/// Measures by how much a sleep of a millisecond oversleeps: the stalls of the machine.
#[derive(Default)]
struct Heart {
    stop: AtomicBool,
    worst_ns: AtomicU64,
}

impl Heart {
    fn beat(&self) {
        const BEAT: Duration = Duration::from_millis(1);
        while !self.stop.load(Ordering::Relaxed) {
            let before = Instant::now();
            std::thread::sleep(BEAT);
            let late = before.elapsed().saturating_sub(BEAT);
            self.worst_ns.fetch_max(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}
