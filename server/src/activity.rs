//! What one connection is doing: without one account of it, its socket, its requests and its deadlines would each keep
//! their own, and contradict each other.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{config::Config, core::Core, telemetry::histogram::nanos};

/// What one connection is doing, as its socket, its requests and its lifecycle see it.
///
/// Almost always touched by one task, so the atomics are uncontended; HTTP/2 streams are tasks of their own.
#[derive(Clone, Debug)]
pub(crate) struct Activity(Arc<State>);

#[derive(Debug)]
struct State {
    core: Arc<Core>,
    peer: SocketAddr,
    /// A child of the server's token: with one shared waiter list every poll of every connection takes the same lock
    /// (axum#3867).
    drain: CancellationToken,
    born: Instant,
    requests_in_flight: AtomicU32,
    bytes_read: AtomicU64,
    /// `bytes_read` when the last request ended: what is above it belongs to a request head.
    head_mark: AtomicU64,
    /// Instants, in nanoseconds since `born`.
    head_since: AtomicU64,
    last_read: AtomicU64,
    idle_since: AtomicU64,
    input_ended: AtomicBool,
    body_left_unread: AtomicBool,
    reader_was_slow: AtomicBool,
    /// The status of an answer that the engine was kept from giving; 0 for none.
    engine_refusal: AtomicU16,
}

impl Activity {
    pub(crate) fn new(core: Arc<Core>, peer: SocketAddr) -> Self {
        core.metrics.shard().connections_opened.fetch_add(1, Relaxed);
        Self(Arc::new(State {
            drain: core.lifecycle.drain_token().child_token(),
            core,
            peer,
            born: Instant::now(),
            requests_in_flight: AtomicU32::new(0),
            bytes_read: AtomicU64::new(0),
            head_mark: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            last_read: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            input_ended: AtomicBool::new(false),
            body_left_unread: AtomicBool::new(false),
            reader_was_slow: AtomicBool::new(false),
            engine_refusal: AtomicU16::new(0),
        }))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    /// The address that the client connected from.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.core.config
    }

    /// The socket gave `bytes`; 0 is the end of input.
    pub(crate) fn read(&self, bytes: usize) {
        let state = &*self.0;
        if bytes == 0 {
            state.input_ended.store(true, Relaxed);
            return;
        }
        let now = self.now();
        let before = state.bytes_read.load(Relaxed);
        if !self.has_request() && before == state.head_mark.load(Relaxed) {
            state.head_since.store(now, Relaxed);
        }
        state.bytes_read.store(before + bytes as u64, Relaxed);
        state.last_read.store(now, Relaxed);
    }

    /// The client did not read our response in time.
    pub(crate) fn reader_was_slow(&self) {
        self.0.reader_was_slow.store(true, Relaxed);
    }

    /// A request body was dropped before its end.
    pub(crate) fn body_left_unread(&self) {
        self.0.body_left_unread.store(true, Relaxed);
    }

    /// Whether closing now would throw away what the client sent, or still sends.
    pub(crate) fn input_is_unread(&self) -> bool {
        let state = &*self.0;
        !state.input_ended.load(Relaxed) && (state.body_left_unread.load(Relaxed) || self.head_has_begun())
    }

    /// Whether [`Self::reader_was_slow`].
    pub(crate) fn ended_by_slow_reader(&self) -> bool {
        self.0.reader_was_slow.load(Relaxed)
    }

    /// The engine has an answer of its own for a head that it cannot parse.
    pub(crate) fn refused_by_engine(&self, status: StatusCode) {
        self.0.engine_refusal.store(status.as_u16(), Relaxed);
    }

    /// The status of [`Self::refused_by_engine`].
    pub(crate) fn engine_refusal(&self) -> Option<StatusCode> {
        StatusCode::from_u16(self.0.engine_refusal.load(Relaxed)).ok()
    }

    /// Resolves when the server begins to drain.
    pub(crate) fn drain_token(&self) -> &CancellationToken {
        &self.0.drain
    }

    pub(crate) fn has_request(&self) -> bool {
        self.0.requests_in_flight.load(Relaxed) > 0
    }

    /// When the first byte of a request head came that is not complete yet.
    pub(crate) fn head_begun_at(&self) -> Option<Instant> {
        self.head_has_begun().then(|| self.at(self.0.head_since.load(Relaxed)))
    }

    /// When the last request ended, or the connection began.
    pub(crate) fn idle_since(&self) -> Instant {
        self.at(self.0.idle_since.load(Relaxed))
    }

    /// Whether responses should ask the client to go elsewhere.
    pub(crate) fn is_leaving(&self) -> bool {
        self.0.core.lifecycle.is_leaving()
    }

    /// Whether bytes of a request head are here that is not complete yet.
    pub(crate) fn head_has_begun(&self) -> bool {
        !self.has_request() && self.0.bytes_read.load(Relaxed) > self.0.head_mark.load(Relaxed)
    }

    fn now(&self) -> u64 {
        nanos(self.0.born.elapsed())
    }

    fn at(&self, nanos: u64) -> Instant {
        self.0.born + Duration::from_nanos(nanos)
    }
}

/// One request in progress, from its head to the end of its response body. Its owner calls [`Self::end`] on drop, with
/// the one clock reading that it makes.
#[derive(Debug)]
pub(crate) struct Exchange(Activity);

impl Exchange {
    /// A request head is complete.
    pub(crate) fn begin(activity: &Activity) -> Self {
        let state = &*activity.0;
        state.requests_in_flight.fetch_add(1, Relaxed);
        state.body_left_unread.store(false, Relaxed);
        Self(activity.clone())
    }

    pub(crate) fn activity(&self) -> &Activity {
        &self.0
    }

    /// When the last bytes of the request's head came from the socket.
    pub(crate) fn received_at(&self) -> Instant {
        self.0.at(self.0.0.last_read.load(Relaxed))
    }

    /// The request is over.
    pub(crate) fn end(&self, now: Instant) {
        let state = &*self.0.0;
        state.head_mark.store(state.bytes_read.load(Relaxed), Relaxed);
        state.idle_since.store(nanos(now - state.born), Relaxed);
        state.requests_in_flight.fetch_sub(1, Relaxed);
    }
}
