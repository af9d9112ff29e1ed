//! Counters that cost one uncontended atomic each: with shared ones every request of every core fights for the same
//! cache line, and with label lookups a scrape library takes a third of the CPU.
//!
//! Each thread writes to a shard of its own; a scrape sums them. Labels are enums, so the number of series is fixed at
//! compile time, whatever clients send.

mod labels;

use std::{
    cell::Cell,
    num::NonZeroU128,
    sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use http::{Method, StatusCode, Version};

pub(crate) use self::labels::{
    Aborted, AcceptError, ConnectionEnd, Handshake, Reload, Restart, SampledBy, Shed, TaskKind,
};
use super::histogram::{Exemplar, Exemplars, Histogram, Snapshot};
use crate::echo::WebSocketEnd;

/// The request methods that are told apart; all others count as `_OTHER`, as OpenTelemetry's HTTP conventions ask.
pub(crate) const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "_OTHER"];

/// The HTTP versions that are told apart.
pub(crate) const VERSIONS: [&str; 3] = ["1.0", "1.1", "2"];

/// The status classes that are told apart.
pub(crate) const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The status codes that `echo_responses_total` tells apart; any other counts as its class.
pub(crate) const STATUS_CODES: [u16; 26] = [
    200, 201, 202, 204, 206, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 413, 414, 415, 429,
    431, 500, 502, 503, 504,
];

/// Places of `echo_responses_total`: the codes, then the classes.
const STATUSES: usize = STATUS_CODES.len() + STATUS_CLASSES.len();

/// The labels that a request has from its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestLabels {
    method: u8,
    version: u8,
}

impl RequestLabels {
    pub(crate) fn new(method: &Method, version: Version) -> Self {
        let version = match version {
            Version::HTTP_10 => 0,
            Version::HTTP_2 => 2,
            _ => 1,
        };
        Self { method: method_index(method), version }
    }
}

/// One value for each series of the duration histogram.
pub(crate) type PerSeries<T> = [[[T; VERSIONS.len()]; STATUS_CLASSES.len()]; METHODS.len()];

fn series<T>(table: &PerSeries<T>, labels: RequestLabels, status: StatusCode) -> &T {
    &table[usize::from(labels.method)][class_index(status)][usize::from(labels.version)]
}

/// The status's place in [`STATUS_CLASSES`].
fn class_index(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).saturating_sub(1).min(STATUS_CLASSES.len() - 1)
}

/// The status's place in `Shard::responses`. A table, because this is asked for every request.
fn status_index(status: StatusCode) -> usize {
    const UNLISTED: u8 = u8::MAX;
    const PLACES: [u8; 1000] = {
        let mut places = [UNLISTED; 1000];
        let mut place: u8 = 0;
        while (place as usize) < STATUS_CODES.len() {
            places[STATUS_CODES[place as usize] as usize] = place;
            place += 1;
        }
        places
    };
    match PLACES[usize::from(status.as_u16())] {
        UNLISTED => STATUS_CODES.len() + class_index(status),
        place => usize::from(place),
    }
}

/// The method's name in labels and span names.
pub(crate) fn method_name(method: &Method) -> &'static str {
    METHODS[usize::from(method_index(method))]
}

/// The method's place in [`METHODS`].
fn method_index(method: &Method) -> u8 {
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::PATCH => 4,
        Method::DELETE => 5,
        Method::OPTIONS => 6,
        Method::TRACE => 7,
        _ => 8,
    }
}

/// One thread's counters. Aligned so that no two threads share a cache line (128: x86 prefetches lines in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Shard {
    pub(crate) requests: PerSeries<Histogram>,
    pub(crate) responses: [AtomicU64; STATUSES],
    pub(crate) queue_delay: Histogram,
    pub(crate) active_requests: AtomicI64,
    pub(crate) requests_aborted: [AtomicU64; Aborted::ALL.len()],
    pub(crate) request_body_bytes: AtomicU64,
    pub(crate) response_body_bytes: AtomicU64,
    pub(crate) sheds: [AtomicU64; Shed::ALL.len()],
    /// How long probes took through their worker's queue.
    pub(crate) worker_delay: Histogram,
    pub(crate) reads_paused: AtomicU64,
    pub(crate) panics: AtomicU64,
    pub(crate) traces_sampled: [AtomicU64; SampledBy::ALL.len()],
    pub(crate) connections_opened: AtomicU64,
    pub(crate) connections_closed: [AtomicU64; ConnectionEnd::ALL.len()],
    pub(crate) accept_errors: [AtomicU64; AcceptError::ALL.len()],
    pub(crate) tls_handshakes: [AtomicU64; Handshake::ALL.len()],
    pub(crate) tls_reloads: [AtomicU64; Reload::ALL.len()],
    pub(crate) tasks: [AtomicI64; TaskKind::ALL.len()],
    /// Messages that came over WebSockets, and their bytes; as many go back.
    pub(crate) websocket_messages: AtomicU64,
    pub(crate) websocket_bytes: AtomicU64,
    pub(crate) websockets_closed: [AtomicU64; WebSocketEnd::ALL.len()],
    pub(crate) restarts: [AtomicU64; Restart::ALL.len()],
    /// Polls of tasks that took longer than a poll may.
    pub(crate) slow_polls: AtomicU64,
}

impl Shard {
    pub(crate) fn request_done(&self, labels: RequestLabels, status: StatusCode, duration: Duration) {
        series(&self.requests, labels, status).record(duration);
        self.responses[status_index(status)].fetch_add(1, Relaxed);
    }

    pub(crate) fn aborted(&self, at: Aborted) {
        self.requests_aborted[at as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn shed(&self, reason: Shed) {
        self.sheds[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn sampled(&self, by: SampledBy) {
        self.traces_sampled[by as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn accept_failed(&self, error: AcceptError) {
        self.accept_errors[error as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn restarted(&self, result: Restart) {
        self.restarts[result as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn handshake(&self, outcome: Handshake) {
        self.tls_handshakes[outcome as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn tls_reloaded(&self, outcome: Reload) {
        self.tls_reloads[outcome as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn connection_closed(&self, end: ConnectionEnd) {
        self.connections_closed[end as usize].fetch_add(1, Relaxed);
    }
}

/// All shards of one server.
#[derive(Debug)]
pub(crate) struct Metrics {
    shards: Box<[Shard]>,
    exemplars: Box<PerSeries<Exemplars>>,
}

impl Metrics {
    /// Room for `threads` that write at the same time; more share shards, which costs time, not truth.
    pub(crate) fn new(threads: usize) -> Self {
        // A power of two, so that a thread finds its shard by a mask and not by a division.
        let shards = (0..threads.next_power_of_two()).map(|_| Shard::default()).collect();
        Self { shards, exemplars: Box::default() }
    }

    /// The calling thread's shard.
    pub(crate) fn shard(&self) -> &Shard {
        &self.shards[thread_index() & (self.shards.len() - 1)]
    }

    /// The sum of one counter over all shards.
    pub(crate) fn sum(&self, counter: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.shards.iter().map(|shard| counter(shard).load(Relaxed)).sum()
    }

    /// The sum of one gauge over all shards. A shard alone may be negative: what one thread raised another lowers.
    pub(crate) fn level(&self, gauge: impl Fn(&Shard) -> &AtomicI64) -> i64 {
        self.shards.iter().map(|shard| gauge(shard).load(Relaxed)).sum()
    }

    /// The sum of one histogram over all shards.
    pub(crate) fn histogram(&self, histogram: impl Fn(&Shard) -> &Histogram) -> Snapshot {
        let mut sum = Snapshot::default();
        self.shards.iter().for_each(|shard| sum.add(histogram(shard)));
        sum
    }

    /// Requests that have not reached the end of their response body.
    pub(crate) fn active_requests(&self) -> i64 {
        self.level(|shard| &shard.active_requests)
    }

    /// Keeps the trace of a sampled request as the example of its bucket. Called beside [`Shard::request_done`].
    pub(crate) fn request_traced(
        &self,
        labels: RequestLabels,
        status: StatusCode,
        duration: Duration,
        trace_id: NonZeroU128,
    ) {
        series(&self.exemplars, labels, status).keep(duration, trace_id);
    }

    /// The exemplar of one bucket of one series; labels by their places in [`METHODS`], [`STATUS_CLASSES`] and [`VERSIONS`].
    pub(crate) fn exemplar(
        &self,
        (method, class, version): (usize, usize, usize),
        bucket: usize,
    ) -> Option<Exemplar> {
        self.exemplars[method][class][version].get(bucket)
    }
}

/// A small number that is this thread's own for its lifetime.
pub(crate) fn thread_index() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static INDEX: Cell<usize> = Cell::new(THREADS.fetch_add(1, Relaxed)));
    INDEX.with(Cell::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_has_the_index_of_its_name() {
        for (index, name) in METHODS.iter().enumerate() {
            assert_eq!(usize::from(method_index(&name.parse().unwrap())), index, "{name}");
        }
    }

    #[test]
    fn any_method_version_and_status_has_a_series() {
        let shard = Shard::default();
        for method in ["GET", "PROPFIND", "\u{21}", "get"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            for version in
                [Version::HTTP_09, Version::HTTP_10, Version::HTTP_11, Version::HTTP_2, Version::HTTP_3]
            {
                for status in [100, 200, 599, 999] {
                    let labels = RequestLabels::new(&method, version);
                    shard.request_done(labels, StatusCode::from_u16(status).unwrap(), Duration::ZERO);
                }
            }
        }
        let mut durations = Snapshot::default();
        shard.requests.iter().flatten().flatten().for_each(|series| durations.add(series));
        let responses: u64 = shard.responses.iter().map(|count| count.load(Relaxed)).sum();
        assert_eq!((durations.count(), responses), (80, 80));
    }

    #[test]
    fn a_listed_status_counts_as_itself_and_any_other_as_its_class() {
        let index = |status: u16| status_index(StatusCode::from_u16(status).unwrap());
        for (place, code) in STATUS_CODES.into_iter().enumerate() {
            assert_eq!(index(code), place);
        }
        let class =
            |name| STATUS_CODES.len() + STATUS_CLASSES.iter().position(|class| *class == name).unwrap();
        for (status, name) in [(100, "1xx"), (299, "2xx"), (418, "4xx"), (599, "5xx"), (999, "5xx")] {
            assert_eq!(index(status), class(name), "{status}");
        }
    }
}
