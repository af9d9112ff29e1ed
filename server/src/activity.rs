//! What one connection is doing: without one account of it, its socket, its requests and its deadlines would each keep
//! their own, and contradict each other.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    connection::Violation,
    core::Core,
    request::StreamPlace,
    socket::peer::Peer,
    telemetry::{histogram::nanos, metrics::ConnectionEnd},
};

/// How a service has its connection broken off, for clients that want to see what they then do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// A TCP reset.
    Reset = 1,
    /// An orderly end (FIN), whatever has been sent.
    Close = 2,
    /// A few bytes that are no HTTP, then an end.
    Garbage = 3,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Accepted; the client has said nothing yet.
    Silent = 0,
    /// The client has begun to speak; the protocol is not known yet.
    Opening = 1,
    Http1 = 2,
    Http2 = 3,
    WebSocket = 4,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Silent, Self::Opening, Self::Http1, Self::Http2, Self::WebSocket];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Opening => "opening",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::WebSocket => "websocket",
        }
    }
}

/// Why one connection is asked to end, and not all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It is old.
    Aged = 1,
    /// It has carried its requests.
    RequestsDone = 2,
    /// It makes room for a new one.
    Evicted = 3,
}

impl Leave {
    /// What it counts as when it has ended.
    pub(crate) const fn end(self) -> ConnectionEnd {
        match self {
            Self::Aged => ConnectionEnd::Aged,
            Self::RequestsDone => ConnectionEnd::RequestsDone,
            Self::Evicted => ConnectionEnd::Evicted,
        }
    }
}

/// What is known of a connection's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFacts {
    /// `TLSv1.3`
    pub(crate) version: &'static str,
    /// The name that the client asked for (SNI).
    pub(crate) server_name: Option<String>,
    /// The protocol that was agreed on (ALPN).
    pub(crate) negotiated_protocol: Option<String>,
    /// `TLS13_AES_128_GCM_SHA256`
    pub(crate) cipher_suite: &'static str,
    /// The client's certificates in DER, its own first.
    pub(crate) peer_certificates: Vec<Vec<u8>>,
}

/// What one connection is doing, as its socket, its requests and its lifecycle see it.
///
/// Almost always touched by one task, so the atomics are uncontended; HTTP/2 streams are tasks of their own.
#[derive(Clone, Debug)]
pub(crate) struct Activity(Arc<State>);

#[derive(Debug)]
struct State {
    core: Arc<Core>,
    peer: Peer,
    /// The client's address, where a trusted proxy has told it.
    client: OnceLock<Peer>,
    tls: OnceLock<Box<TlsFacts>>,
    /// A child of the server's token: with one shared waiter list every poll of every connection takes the same lock
    /// (axum#3867).
    drain: CancellationToken,
    born: Instant,
    /// When it is asked to end for its age, in nanoseconds since `born`; 0 for never.
    age_max: u64,
    /// Those in progress in the lower half, all that have begun in the upper: one atomic operation tells both.
    requests: AtomicU64,
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
    /// A [`Violation`]; 0 for none.
    violation: AtomicU8,
    /// Since when an HTTP/2 client owes us a head, in nanoseconds since `born`; 0 where it does not.
    awaits_head_since: AtomicU64,
    has_flooded: AtomicBool,
    /// A [`Break`]; 0 for none.
    broken_off: AtomicU8,
    /// A [`Stage`].
    stage: AtomicU8,
    /// A [`Leave`]; 0 for none.
    leave: AtomicU8,
    asks_for_health: AtomicBool,
    /// Whether it waits until its worker reads again.
    is_held_back: AtomicBool,
    /// Of a connection that has become something else.
    stream_place: OnceLock<StreamPlace>,
}

/// One more request in progress, in [`State::requests`].
const IN_PROGRESS: u64 = 1;

/// One more request that has begun.
const BEGUN: u64 = 1 << 32;

/// A connection as a list keeps it: one that has ended is gone from there, too.
#[derive(Debug)]
pub(crate) struct Listed(Weak<State>);

impl Listed {
    pub(crate) fn get(&self) -> Option<Activity> {
        self.0.upgrade().map(Activity)
    }
}

impl Activity {
    pub(crate) fn new(core: Arc<Core>, peer: Peer) -> Self {
        core.metrics.shard().connections_opened.fetch_add(1, Relaxed);
        Self(Arc::new(State {
            drain: core.lifecycle.drain_token().child_token(),
            age_max: age_max(&core.config, fastrand::f64()),
            core,
            peer,
            client: OnceLock::new(),
            tls: OnceLock::new(),
            born: Instant::now(),
            requests: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            head_mark: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            last_read: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            input_ended: AtomicBool::new(false),
            body_left_unread: AtomicBool::new(false),
            reader_was_slow: AtomicBool::new(false),
            violation: AtomicU8::new(0),
            awaits_head_since: AtomicU64::new(0),
            has_flooded: AtomicBool::new(false),
            broken_off: AtomicU8::new(0),
            stage: AtomicU8::new(Stage::Silent as u8),
            leave: AtomicU8::new(0),
            asks_for_health: AtomicBool::new(false),
            is_held_back: AtomicBool::new(false),
            stream_place: OnceLock::new(),
        }))
    }

    /// For lists of connections.
    pub(crate) fn listed(&self) -> Listed {
        Listed(Arc::downgrade(&self.0))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    /// Where the client connected from; behind a trusted proxy, to that.
    pub(crate) fn peer(&self) -> Peer {
        self.0.client.get().copied().unwrap_or(self.0.peer)
    }

    /// What is known of the connection's TLS; `None` where there is none.
    pub(crate) fn tls(&self) -> Option<&TlsFacts> {
        self.0.tls.get().map(|facts| &**facts)
    }

    /// A trusted proxy says that the client is this one. Only the first word counts.
    pub(crate) fn set_client(&self, client: Peer) {
        let _already_known = self.0.client.set(client);
    }

    /// The TLS handshake is complete.
    pub(crate) fn set_tls(&self, facts: TlsFacts) {
        let _already_known = self.0.tls.set(Box::new(facts));
    }

    /// Ends the connection at its next write, in this way.
    pub(crate) fn break_off(&self, how: Break) {
        self.0.broken_off.store(how as u8, Relaxed);
    }

    /// See [`Self::break_off`].
    pub(crate) fn broken_off(&self) -> Option<Break> {
        match self.0.broken_off.load(Relaxed) {
            1 => Some(Break::Reset),
            2 => Some(Break::Close),
            3 => Some(Break::Garbage),
            _ => None,
        }
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

    /// Whether the client has closed its side.
    pub(crate) fn input_has_ended(&self) -> bool {
        self.0.input_ended.load(Relaxed)
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

    /// The client broke HTTP/1.1's syntax: nothing is read from it any more.
    pub(crate) fn violated(&self, violation: Violation) {
        self.0.violation.store(violation as u8, Relaxed);
    }

    /// What the client broke.
    pub(crate) fn violation(&self) -> Option<Violation> {
        Violation::numbered(self.0.violation.load(Relaxed))
    }

    /// An HTTP/2 client owes us the rest of a header block or its SETTINGS, as of the last read; or no more.
    pub(crate) fn awaits_head(&self, awaits: bool) {
        let since = if awaits { self.last_read().max(1) } else { 0 };
        self.0.awaits_head_since.store(since, Relaxed);
    }

    /// See [`Self::awaits_head`].
    pub(crate) fn awaits_head_since(&self) -> Option<Instant> {
        let since = self.0.awaits_head_since.load(Relaxed);
        (since > 0).then(|| self.at(since))
    }

    /// An HTTP/2 client has sent more frames that cost us and move nothing than it may.
    pub(crate) fn flooded(&self) {
        self.0.has_flooded.store(true, Relaxed);
    }

    /// Whether [`Self::flooded`].
    pub(crate) fn has_flooded(&self) -> bool {
        self.0.has_flooded.load(Relaxed)
    }

    /// When the socket last gave something, in nanoseconds since the connection began.
    pub(crate) fn last_read(&self) -> u64 {
        self.0.last_read.load(Relaxed)
    }

    /// Whether the connection has become something else (101): what comes is not HTTP any more.
    pub(crate) fn is_upgraded(&self) -> bool {
        self.stage() == Stage::WebSocket
    }

    pub(crate) fn enter(&self, stage: Stage) {
        self.0.stage.store(stage as u8, Relaxed);
    }

    pub(crate) fn stage(&self) -> Stage {
        Stage::ALL[usize::from(self.0.stage.load(Relaxed))]
    }

    /// Resolves when this connection is to end: the server drains, or [`Self::leave`].
    pub(crate) fn drain_token(&self) -> &CancellationToken {
        &self.0.drain
    }

    /// Asks the connection to end after what is in progress. The first reason stays.
    pub(crate) fn leave(&self, why: Leave) {
        if self.0.leave.compare_exchange(0, why as u8, Relaxed, Relaxed).is_ok() {
            self.0.drain.cancel();
        }
    }

    /// Why this connection, and not the whole server, is leaving.
    pub(crate) fn leaving(&self) -> Option<Leave> {
        match self.0.leave.load(Relaxed) {
            1 => Some(Leave::Aged),
            2 => Some(Leave::RequestsDone),
            3 => Some(Leave::Evicted),
            _ => None,
        }
    }

    /// Whether responses should ask the client to go elsewhere.
    pub(crate) fn is_leaving(&self) -> bool {
        self.0.leave.load(Relaxed) != 0 || self.0.core.lifecycle.is_leaving()
    }

    /// When the connection is asked to end for its age.
    pub(crate) fn ages_at(&self) -> Option<Instant> {
        (self.0.age_max > 0).then(|| self.at(self.0.age_max))
    }

    /// Since when the connection has been idle, if ending it now takes nothing from anybody.
    pub(crate) fn evictable_since(&self) -> Option<Instant> {
        let is_idle = match self.stage() {
            Stage::Silent => true,
            Stage::Http1 => !self.has_request() && !self.head_has_begun(),
            // Bytes outside a request are pings and window updates.
            Stage::Http2 => !self.has_request(),
            Stage::Opening | Stage::WebSocket => false,
        };
        (is_idle && !self.is_leaving()).then(|| self.idle_since())
    }

    /// Asks the connection to end if it has been idle since `since` without a break.
    pub(crate) fn evict(&self, since: Instant) -> bool {
        let is_still_idle = self.evictable_since() == Some(since);
        if is_still_idle {
            self.leave(Leave::Evicted);
        }
        is_still_idle
    }

    pub(crate) fn has_request(&self) -> bool {
        self.requests_in_progress() > 0
    }

    pub(crate) fn requests_in_progress(&self) -> u64 {
        self.0.requests.load(Relaxed) % BEGUN
    }

    /// Requests so far, modulo 2^32.
    pub(crate) fn requests_begun(&self) -> u64 {
        self.0.requests.load(Relaxed) / BEGUN
    }

    pub(crate) fn age(&self) -> Duration {
        self.0.born.elapsed()
    }

    /// When the first byte of a request head came that is not complete yet.
    pub(crate) fn head_begun_at(&self) -> Option<Instant> {
        self.head_has_begun().then(|| self.at(self.0.head_since.load(Relaxed)))
    }

    /// When the last request ended, or the connection began.
    pub(crate) fn idle_since(&self) -> Instant {
        self.at(self.0.idle_since.load(Relaxed))
    }

    /// Its client asks for our health.
    pub(crate) fn asks_for_health(&self) {
        self.0.asks_for_health.store(true, Relaxed);
    }

    /// Whether the next request may wait in the kernel: there was one before, of which nothing is left to be read, and
    /// it did not ask for our health.
    pub(crate) fn may_be_held_back(&self) -> bool {
        let speaks_http = matches!(self.stage(), Stage::Http1 | Stage::Http2);
        let has_had_request = self.0.head_mark.load(Relaxed) > 0;
        speaks_http && has_had_request && !self.has_request() && !self.0.asks_for_health.load(Relaxed)
    }

    /// It waits until its worker reads again; false where it did already.
    pub(crate) fn hold_back(&self) -> bool {
        !self.0.is_held_back.swap(true, Relaxed)
    }

    /// It waits no longer.
    pub(crate) fn let_go(&self) {
        self.0.is_held_back.store(false, Relaxed);
    }

    /// Keeps the place of what the connection has become, as long as it lives.
    pub(crate) fn keep_stream_place(&self, place: StreamPlace) {
        let _there_is_one = self.0.stream_place.set(place);
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
        let begun = state.requests.fetch_add(BEGUN | IN_PROGRESS, Relaxed) / BEGUN + 1;
        let max = state.core.config.connection_requests_max;
        if max > 0 && begun >= max {
            activity.leave(Leave::RequestsDone);
        }
        state.body_left_unread.store(false, Relaxed);
        Self(activity.clone())
    }

    /// What a request has become goes on without it (a WebSocket, in a stream of HTTP/2): the connection is in use.
    pub(crate) fn go_on(activity: &Activity) -> Self {
        activity.0.requests.fetch_add(IN_PROGRESS, Relaxed);
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
        state.requests.fetch_sub(IN_PROGRESS, Relaxed);
    }
}

/// `connection_age_max`, up or down by `connection_age_jitter` percent: `chance` is in `0.0..1.0`. In nanoseconds.
fn age_max(config: &Config, chance: f64) -> u64 {
    let jitter = f64::from(u32::try_from(config.connection_age_jitter).unwrap_or(0).min(100)) / 100.0;
    nanos(config.connection_age_max.mul_f64(1.0 + jitter * (2.0 * chance - 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_spread_around_the_maximum() {
        let config = Config {
            connection_age_max: Duration::from_secs(100),
            connection_age_jitter: 10,
            ..Config::default()
        };
        let age_s = |chance| age_max(&config, chance) / 1_000_000_000;
        assert_eq!((age_s(0.0), age_s(0.5), age_s(0.999_999)), (90, 100, 109));
        let never = Config { connection_age_max: Duration::ZERO, ..config };
        assert_eq!(age_max(&never, 0.9), 0);
    }
}
