//! Counters that cost one uncontended atomic each: with shared ones every request of every core fights for the same
//! cache line, and with label lookups a scrape library takes a third of the CPU.
//!
//! Each thread writes to a shard of its own; a scrape sums them. Labels are enums, so the number of series is fixed at
//! compile time, whatever clients send.

use std::{
    cell::Cell,
    sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use http::{Method, StatusCode};

/// Upper bounds of the duration histogram. From 25 us, because an echo on loopback takes about that.
pub(crate) const BUCKETS: [Duration; 18] = [
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// The request methods that are told apart; all others count as `_OTHER`, as OpenTelemetry's HTTP conventions ask.
pub(crate) const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "_OTHER"];

/// The status classes that are told apart.
pub(crate) const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Why a request was refused before any work was done for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shed {
    /// `connections_max` was reached.
    Connections,
    /// `requests_max` was reached.
    Concurrency,
    /// The process was out of file descriptors or memory.
    Descriptors,
}

impl Shed {
    pub(crate) const ALL: [Self; 3] = [Self::Connections, Self::Concurrency, Self::Descriptors];

    /// The value of the `x-echo-overloaded` header and of the metric's label.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Concurrency => "concurrency",
            Self::Descriptors => "descriptors",
        }
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionEnd {
    /// The client closed it, or either side asked for it with `connection: close`.
    Complete,
    /// `keep_alive_timeout` passed.
    Idle,
    /// Closed because the server drains.
    Drained,
    /// `drain_grace` passed with a request in progress.
    Killed,
    /// `first_byte_timeout` passed.
    FirstByteTimeout,
    /// `header_read_timeout` passed.
    HeaderTimeout,
    /// `write_stall_timeout` passed, or the client read slower than `rate_min`.
    SlowReader,
    /// What the client sent is not HTTP, or more than `header_max`.
    Malformed,
    /// The client reset it, a body broke, or the socket failed.
    Broken,
}

impl ConnectionEnd {
    pub(crate) const ALL: [Self; 9] = [
        Self::Complete,
        Self::Idle,
        Self::Drained,
        Self::Killed,
        Self::FirstByteTimeout,
        Self::HeaderTimeout,
        Self::SlowReader,
        Self::Malformed,
        Self::Broken,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Idle => "idle",
            Self::Drained => "drained",
            Self::Killed => "killed",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::HeaderTimeout => "header_timeout",
            Self::SlowReader => "slow_reader",
            Self::Malformed => "malformed",
            Self::Broken => "broken",
        }
    }
}

/// Why `accept` failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcceptError {
    /// EMFILE, ENFILE, ENOMEM, ENOBUFS: nothing can be accepted until something is released.
    Exhausted,
    /// The client was gone before we accepted it.
    Connection,
    /// Anything else.
    Other,
}

impl AcceptError {
    pub(crate) const ALL: [Self; 3] = [Self::Exhausted, Self::Connection, Self::Other];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Connection => "connection",
            Self::Other => "other",
        }
    }
}

/// Where a request ended that did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aborted {
    /// The client left before it had a response head.
    BeforeResponse,
    /// The response had begun and was cut.
    InBody,
}

impl Aborted {
    pub(crate) const ALL: [Self; 2] = [Self::BeforeResponse, Self::InBody];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BeforeResponse => "before_response",
            Self::InBody => "in_body",
        }
    }
}

/// What a task is for: the label of `echo_tasks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskKind {
    /// One accept loop per listener.
    Accept,
    /// One client connection whose protocol is not known yet.
    NewConnection,
    /// One HTTP/1 connection, until it closes.
    Http1Connection,
    /// One HTTP/2 connection, until it closes.
    Http2Connection,
    /// One HTTP/2 stream: hyper runs each on a task of its own.
    Http2Stream,
    /// One client over the connection limit that is being told so.
    Reject,
    /// A fault of the lab.
    Lab,
}

impl TaskKind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Accept,
        Self::NewConnection,
        Self::Http1Connection,
        Self::Http2Connection,
        Self::Http2Stream,
        Self::Reject,
        Self::Lab,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::NewConnection => "new connection",
            Self::Http1Connection => "h1 connection",
            Self::Http2Connection => "h2 connection",
            Self::Http2Stream => "h2 stream",
            Self::Reject => "reject",
            Self::Lab => "lab",
        }
    }

    /// Whether there are as many as clients: then tokio-console is shown one in `console_one_in`.
    #[cfg(feature = "console")]
    pub(crate) const fn follows_clients(self) -> bool {
        !matches!(self, Self::Accept | Self::Lab)
    }
}

/// The method's place in [`METHODS`].
pub(crate) fn method_index(method: &Method) -> usize {
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::PATCH => 4,
        Method::DELETE => 5,
        Method::OPTIONS => 6,
        Method::TRACE => 7,
        _ => METHODS.len() - 1,
    }
}

/// One thread's counters. Aligned so that no two threads share a cache line (128: x86 prefetches lines in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Shard {
    pub(crate) requests: [[Series; STATUS_CLASSES.len()]; METHODS.len()],
    pub(crate) requests_in_flight: AtomicI64,
    pub(crate) requests_aborted: [AtomicU64; Aborted::ALL.len()],
    pub(crate) request_body_bytes: AtomicU64,
    pub(crate) response_body_bytes: AtomicU64,
    pub(crate) sheds: [AtomicU64; Shed::ALL.len()],
    pub(crate) panics: AtomicU64,
    pub(crate) connections_opened: AtomicU64,
    pub(crate) connections_closed: [AtomicU64; ConnectionEnd::ALL.len()],
    pub(crate) accept_errors: [AtomicU64; AcceptError::ALL.len()],
    pub(crate) tasks: [AtomicI64; TaskKind::ALL.len()],
}

/// The duration histogram of one method and status class.
#[derive(Debug, Default)]
pub(crate) struct Series {
    pub(crate) buckets: [AtomicU64; BUCKETS.len() + 1],
    pub(crate) sum_ns: AtomicU64,
}

impl Series {
    pub(crate) fn record(&self, duration: Duration) {
        let bucket = BUCKETS.partition_point(|bound| *bound < duration);
        if let Some(count) = self.buckets.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        // 584 years of nanoseconds fit.
        self.sum_ns.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}

impl Shard {
    pub(crate) fn request_done(&self, method: usize, status: StatusCode, duration: Duration) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1).min(STATUS_CLASSES.len() - 1);
        if let Some(series) = self.requests.get(method).and_then(|classes| classes.get(class)) {
            series.record(duration);
        }
    }

    pub(crate) fn aborted(&self, at: Aborted) {
        self.requests_aborted[at as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn shed(&self, reason: Shed) {
        self.sheds[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn accept_failed(&self, error: AcceptError) {
        self.accept_errors[error as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn connection_closed(&self, end: ConnectionEnd) {
        self.connections_closed[end as usize].fetch_add(1, Relaxed);
    }
}

/// All shards of one server.
#[derive(Debug)]
pub(crate) struct Metrics {
    shards: Box<[Shard]>,
}

impl Metrics {
    /// Room for `threads` that write at the same time; more share shards, which costs time, not truth.
    pub(crate) fn new(threads: usize) -> Self {
        // A power of two, so that a thread finds its shard by a mask and not by a division.
        Self { shards: (0..threads.next_power_of_two()).map(|_| Shard::default()).collect() }
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

    /// Requests that have not reached the end of their response body.
    pub(crate) fn requests_in_flight(&self) -> i64 {
        self.level(|shard| &shard.requests_in_flight)
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
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let series = Series::default();
        for (duration, bucket) in [
            (Duration::ZERO, 0),
            (Duration::from_micros(25), 0),
            (Duration::from_nanos(25_001), 1),
            (Duration::from_secs(10), 17),
            (Duration::from_secs(11), 18),
        ] {
            let before = series.buckets[bucket].load(Relaxed);
            series.record(duration);
            assert_eq!(series.buckets[bucket].load(Relaxed), before + 1, "{duration:?}");
        }
    }

    #[test]
    fn a_method_has_the_index_of_its_name() {
        for (index, name) in METHODS.iter().enumerate() {
            assert_eq!(method_index(&name.parse().unwrap()), index, "{name}");
        }
    }

    #[test]
    fn any_method_and_status_has_a_series() {
        let shard = Shard::default();
        for method in ["GET", "PROPFIND", "\u{21}", "get"] {
            let method = method_index(&Method::from_bytes(method.as_bytes()).unwrap());
            for status in [100, 200, 599, 999] {
                shard.request_done(method, StatusCode::from_u16(status).unwrap(), Duration::ZERO);
            }
        }
        let count: u64 = shard.requests.iter().flatten().map(|s| s.buckets[0].load(Relaxed)).sum();
        assert_eq!(count, 16);
    }
}
