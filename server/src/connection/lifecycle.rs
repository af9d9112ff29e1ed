//! Ends a connection that waits too long, and ends it well when the server drains: hyper has one timer for head and
//! keep-alive together, none for idle HTTP/2, and closes a half-read request at shutdown.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use tokio::time::Instant;

use crate::{
    activity::{Activity, Leave},
    telemetry::metrics::ConnectionEnd,
};

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
    /// A request on its way when the connection was asked to end.
    IdleAtDrain,
    /// Nothing: another connection needs the place.
    Evicted,
}

/// How [`drive`] ended.
#[derive(Debug)]
pub(super) enum Stopped {
    Finished(hyper::Result<()>),
    Expired(Expired),
    Killed,
}

impl Stopped {
    /// Why the connection ended.
    pub(super) fn end(&self, activity: &Activity) -> ConnectionEnd {
        match self {
            Self::Killed => ConnectionEnd::Killed,
            Self::Expired(Expired::Idle) => ConnectionEnd::Idle,
            Self::Expired(Expired::IdleAtDrain | Expired::Evicted) => asked_to_end(activity),
            Self::Expired(Expired::Head) => ConnectionEnd::HeaderTimeout,
            Self::Finished(_) if activity.ended_by_slow_reader() => ConnectionEnd::SlowReader,
            Self::Finished(_) if activity.has_flooded() => ConnectionEnd::Flood,
            Self::Finished(_) if activity.violation().is_some() => ConnectionEnd::Malformed,
            Self::Finished(_) if activity.broken_off().is_some() => ConnectionEnd::Fault,
            Self::Finished(Err(error)) => end_of(error),
            Self::Finished(Ok(())) if activity.is_leaving() => asked_to_end(activity),
            Self::Finished(Ok(())) => ConnectionEnd::Complete,
        }
    }
}

fn end_of(error: &hyper::Error) -> ConnectionEnd {
    let h2 = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    match h2.filter(|error| error.is_library() && error.is_go_away()).map(h2::Error::reason) {
        Some(Some(h2::Reason::ENHANCE_YOUR_CALM)) => ConnectionEnd::Flood,
        Some(_) => ConnectionEnd::Malformed,
        None if error.is_parse() => ConnectionEnd::Malformed,
        None => ConnectionEnd::Broken,
    }
}

/// The end of a connection that was asked to.
fn asked_to_end(activity: &Activity) -> ConnectionEnd {
    activity.leaving().map_or(ConnectionEnd::Drained, Leave::end)
}

/// hyper's connection of one protocol version, as [`drive`] needs it.
pub(super) trait Drive {
    const HEAD_DEADLINE: HeadDeadline;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<hyper::Result<()>>;

    /// The connection is to end, with the server or alone: called once.
    fn drain(self: Pin<&mut Self>);
}

/// Runs a connection until it ends by itself, waits too long, or is killed at the drain's deadline; asks it to end when
/// the server drains, when it is old, and when [`Activity::leave`] says so.
pub(super) async fn drive<C: Drive>(mut connection: Pin<&mut C>, activity: &Activity) -> Stopped {
    let lifecycle = &activity.core().lifecycle;
    let mut drain = pin!(activity.drain_token().cancelled());
    let mut kill = pin!(lifecycle.killed());
    let mut timer =
        pin!(tokio::time::sleep_until(activity.idle_since() + activity.config().keep_alive_timeout));
    let (mut waiting_for_drain, mut timer_is_set) = (false, false);
    let mut draining_since = None;
    std::future::poll_fn(|cx| {
        'told: loop {
            // First, so that a request which has arrived is seen before any deadline is.
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(Stopped::Finished(result));
            }
            // Polled once to leave the waker, which is this task's for good; then an atomic says more cheaply.
            let told = !waiting_for_drain || activity.is_leaving();
            if draining_since.is_none() && told && drain.as_mut().poll(cx).is_ready() {
                if activity.leaving() == Some(Leave::Evicted) && is_idle(activity, C::HEAD_DEADLINE) {
                    return Poll::Ready(Stopped::Expired(Expired::Evicted));
                }
                draining_since = Some(Instant::now());
                connection.as_mut().drain();
                continue;
            }
            waiting_for_drain = true;
            if draining_since.is_some() && kill.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Stopped::Killed);
            }
            let Some((until, due)) = deadline(activity, draining_since, C::HEAD_DEADLINE) else {
                return Poll::Pending;
            };
            // The timer is moved back only when it fires early: a busy connection does not touch the timer wheel.
            if timer.deadline() > until {
                timer.as_mut().reset(until);
                timer_is_set = false;
            }
            while (!timer_is_set || timer.is_elapsed()) && timer.as_mut().poll(cx).is_ready() {
                if Instant::now() >= until {
                    match due {
                        Due::Close(expired) => return Poll::Ready(Stopped::Expired(expired)),
                        Due::Leave => activity.leave(Leave::Aged),
                    }
                    continue 'told;
                }
                timer.as_mut().reset(until);
                timer_is_set = false;
            }
            timer_is_set = true;
            return Poll::Pending;
        }
    })
    .await
}

/// What is done at a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// The connection has waited too long.
    Close(Expired),
    /// It is old, and is asked to end.
    Leave,
}

/// The next deadline, if there is one: a request in progress has its own.
fn deadline(
    activity: &Activity,
    draining_since: Option<Instant>,
    head: HeadDeadline,
) -> Option<(Instant, Due)> {
    let close = waits_until(activity, draining_since, head).map(|(at, what)| (at, Due::Close(what)));
    let leave = activity.ages_at().filter(|_| draining_since.is_none()).map(|at| (at, Due::Leave));
    close.into_iter().chain(leave).min_by_key(|(at, _)| *at)
}

/// When the connection has waited too long, and for what; `None` while a request is in progress.
fn waits_until(
    activity: &Activity,
    draining_since: Option<Instant>,
    head: HeadDeadline,
) -> Option<(Instant, Expired)> {
    let config = activity.config();
    // HTTP/2: nothing else can come before it, whatever requests are in progress.
    if let Some(since) = activity.awaits_head_since() {
        return Some((since + config.header_read_timeout, Expired::Head));
    }
    if activity.has_request() {
        return None;
    }
    if let Some(begun) = activity.head_begun_at().filter(|_| head == HeadDeadline::Own) {
        return Some((begun + config.header_read_timeout, Expired::Head));
    }
    let idle_since = activity.idle_since();
    Some(match draining_since {
        Some(since) => (since.max(idle_since) + config.drain_idle_grace, Expired::IdleAtDrain),
        None => (idle_since + config.keep_alive_timeout, Expired::Idle),
    })
}

/// Whether ending now takes nothing from the client.
fn is_idle(activity: &Activity, head: HeadDeadline) -> bool {
    !activity.has_request() && (head == HeadDeadline::None || !activity.head_has_begun())
}

/// Resolves when a connection on which nothing was ever said should go: the server drains, or another needs the place.
pub(super) async fn silent_at_drain(activity: &Activity) -> ConnectionEnd {
    activity.drain_token().cancelled().await;
    if let Some(leave) = activity.leaving() {
        return leave.end();
    }
    tokio::time::sleep(activity.config().drain_idle_grace).await;
    ConnectionEnd::Drained
}

#[cfg(test)]
mod tests;
