//! Ends a connection that waits too long, and ends it well when the server drains: hyper has one timer for head and
//! keep-alive together, none for idle HTTP/2, and closes a half-read request at shutdown.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{config::Config, core::Core, telemetry::metrics::ConnectionEnd};

/// What one connection is doing, as its socket, its requests and its lifecycle see it.
///
/// Almost always touched by one task, so the atomics are uncontended; HTTP/2 streams are tasks of their own.
#[derive(Clone, Debug)]
pub(crate) struct Activity(Arc<State>);

#[derive(Debug)]
struct State {
    core: Arc<Core>,
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
}

impl Activity {
    pub(super) fn new(core: Arc<Core>) -> Self {
        core.metrics.shard().connections_opened.fetch_add(1, Relaxed);
        Self(Arc::new(State {
            drain: core.lifecycle.drain_token().child_token(),
            core,
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
        }))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
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
        if state.requests_in_flight.load(Relaxed) == 0 && before == state.head_mark.load(Relaxed) {
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

    /// Whether responses should ask the client to go elsewhere.
    pub(crate) fn is_leaving(&self) -> bool {
        self.0.core.lifecycle.is_leaving()
    }

    fn head_has_begun(&self) -> bool {
        let state = &*self.0;
        state.requests_in_flight.load(Relaxed) == 0
            && state.bytes_read.load(Relaxed) > state.head_mark.load(Relaxed)
    }

    fn now(&self) -> u64 {
        nanos(self.0.born.elapsed())
    }

    fn at(&self, nanos: u64) -> Instant {
        self.0.born + Duration::from_nanos(nanos)
    }

    /// When this connection has waited too long, and for what; `None` while a request is in progress, whose own
    /// deadlines then hold.
    fn deadline(
        &self,
        draining_since: Option<Instant>,
        versions_head: HeadDeadline,
    ) -> Option<(Instant, Expired)> {
        let state = &*self.0;
        let config = self.config();
        if state.requests_in_flight.load(Relaxed) > 0 {
            return None;
        }
        if versions_head == HeadDeadline::Own && self.head_has_begun() {
            return Some((
                self.at(state.head_since.load(Relaxed)) + config.header_read_timeout,
                Expired::Head,
            ));
        }
        let idle_since = self.at(state.idle_since.load(Relaxed));
        Some(match draining_since {
            Some(since) => (since.max(idle_since) + config.drain_idle_grace, Expired::IdleAtDrain),
            None => (idle_since + config.keep_alive_timeout, Expired::Idle),
        })
    }

    /// Why the connection ended, given how hyper left it.
    pub(super) fn end(&self, stopped: &Stopped) -> ConnectionEnd {
        match stopped {
            Stopped::Killed => ConnectionEnd::Killed,
            Stopped::Expired(Expired::Idle) => ConnectionEnd::Idle,
            Stopped::Expired(Expired::IdleAtDrain) => ConnectionEnd::Drained,
            Stopped::Expired(Expired::Head) => ConnectionEnd::HeaderTimeout,
            Stopped::Finished(_) if self.0.reader_was_slow.load(Relaxed) => ConnectionEnd::SlowReader,
            Stopped::Finished(Err(error)) if error.is_parse() => ConnectionEnd::Malformed,
            Stopped::Finished(Err(_)) => ConnectionEnd::Broken,
            Stopped::Finished(Ok(())) if self.is_leaving() => ConnectionEnd::Drained,
            Stopped::Finished(Ok(())) => ConnectionEnd::Complete,
        }
    }
}

/// 584 years fit.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
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

/// Whether bytes outside a request are the begin of a head (HTTP/1.1) or may be anything (HTTP/2 frames).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadDeadline {
    Own,
    None,
}

/// What a connection waited too long for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// The rest of a request head.
    Head,
    /// The next request.
    Idle,
    /// A request on its way when the drain began.
    IdleAtDrain,
}

/// How [`drive`] ended.
#[derive(Debug)]
pub(super) enum Stopped {
    Finished(hyper::Result<()>),
    Expired(Expired),
    Killed,
}

/// hyper's connection of one protocol version, as [`drive`] needs it.
pub(super) trait Drive {
    const HEAD_DEADLINE: HeadDeadline;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<hyper::Result<()>>;

    /// The server drains: called once.
    fn drain(self: Pin<&mut Self>);
}

/// Runs a connection until it ends by itself, waits too long, or is killed at the drain's deadline.
pub(super) async fn drive<C: Drive>(mut connection: Pin<&mut C>, activity: &Activity) -> Stopped {
    let state = &*activity.0;
    let mut drain = pin!(state.drain.cancelled());
    let mut kill = pin!(state.core.lifecycle.killed());
    let mut timer = pin!(tokio::time::sleep_until(state.born + activity.config().keep_alive_timeout));
    let (mut waiting_for_drain, mut timer_is_set) = (false, false);
    let mut draining_since = None;
    std::future::poll_fn(|cx| {
        loop {
            // First, so that a request which has arrived is seen before any deadline is.
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(Stopped::Finished(result));
            }
            // Polled once to leave the waker, which is this task's for good; then an atomic says more cheaply.
            let told = !waiting_for_drain || state.core.lifecycle.is_leaving();
            if draining_since.is_none() && told && drain.as_mut().poll(cx).is_ready() {
                draining_since = Some(Instant::now());
                connection.as_mut().drain();
                continue;
            }
            waiting_for_drain = true;
            if draining_since.is_some() && kill.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Stopped::Killed);
            }
            let Some((deadline, expired)) = activity.deadline(draining_since, C::HEAD_DEADLINE) else {
                return Poll::Pending;
            };
            // The timer is moved back only when it fires early: a busy connection does not touch the timer wheel.
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
                timer_is_set = false;
            }
            while (!timer_is_set || timer.is_elapsed()) && timer.as_mut().poll(cx).is_ready() {
                if Instant::now() >= deadline {
                    return Poll::Ready(Stopped::Expired(expired));
                }
                timer.as_mut().reset(deadline);
                timer_is_set = false;
            }
            timer_is_set = true;
            return Poll::Pending;
        }
    })
    .await
}

/// Resolves when a connection on which nothing was ever said should go because the server drains.
pub(super) async fn silent_at_drain(activity: &Activity) -> ConnectionEnd {
    activity.0.drain.cancelled().await;
    tokio::time::sleep(activity.config().drain_idle_grace).await;
    ConnectionEnd::Drained
}
