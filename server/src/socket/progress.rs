//! Notices a peer that takes or gives nothing, or next to nothing: without it a slow reader holds task, permit and
//! buffers for ever, because a blocked writer never polls the body that a timeout would watch.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use crate::{
    activity::{Activity, Break},
    config::Config,
};

/// How slow a peer may be while we wait for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PaceLimits {
    /// Longest wait without a single byte.
    pub(crate) stall: Duration,
    /// Bytes per second over [`Self::grace`] of waiting; 0 for no such rule.
    pub(crate) rate_min: u64,
    /// Waiting time over which the rate is measured.
    pub(crate) grace: Duration,
}

impl PaceLimits {
    /// For a client that reads our responses.
    pub(crate) fn of_reader(config: &Config) -> Self {
        Self { stall: config.write_stall_timeout, rate_min: config.rate_min, grace: config.rate_grace }
    }

    /// For a client that sends a request body.
    pub(crate) fn of_sender(config: &Config) -> Self {
        Self { stall: config.body_stall_timeout, rate_min: config.rate_min, grace: config.rate_grace }
    }
}

/// What a peer was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slow {
    /// Not one byte in [`PaceLimits::stall`].
    Stalled,
    /// Fewer than [`PaceLimits::rate_min`] bytes per second of waiting.
    BelowRate,
}

/// How long we have waited for a peer, and what came of it. Pure: time is handed in.
///
/// Only waiting counts. A response that trickles because its source trickles is never the reader's fault.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    waiting: Option<Waiting>,
    /// Time waited in this rate window, without the current wait.
    waited: Duration,
    /// Bytes moved in this rate window.
    moved: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// The last byte, or the begin of the wait: the stall clock.
    since: Instant,
    /// What of this wait belongs to the current rate window.
    in_window_since: Instant,
}

impl Pace {
    /// We wait for the peer, as of `now` or since earlier.
    pub(crate) fn wait(&mut self, now: Instant) {
        self.waiting.get_or_insert(Waiting { since: now, in_window_since: now });
    }

    /// The peer moved `bytes`; we no longer wait.
    pub(crate) fn moved(&mut self, now: Instant, bytes: usize) {
        if let Some(waiting) = self.waiting.take() {
            self.waited += now - waiting.in_window_since;
        }
        self.moved += bytes as u64;
    }

    /// When [`Self::check`] is next worth asking, while we wait.
    pub(crate) fn deadline(&self, limits: &PaceLimits) -> Option<Instant> {
        let waiting = self.waiting?;
        let stall = waiting.since + limits.stall;
        let window = waiting.in_window_since + limits.grace.saturating_sub(self.waited);
        Some(if limits.rate_min > 0 { stall.min(window) } else { stall })
    }

    /// What the peer is found to be at `now`; a full window that was fast enough begins the next.
    pub(crate) fn check(&mut self, now: Instant, limits: &PaceLimits) -> Option<Slow> {
        let waiting = self.waiting.as_mut()?;
        if now - waiting.since >= limits.stall {
            return Some(Slow::Stalled);
        }
        let waited = self.waited + (now - waiting.in_window_since);
        if limits.rate_min > 0 && waited >= limits.grace {
            if u128::from(self.moved) * 1_000_000_000 < u128::from(limits.rate_min) * waited.as_nanos() {
                return Some(Slow::BelowRate);
            }
            waiting.in_window_since = now;
            self.waited = Duration::ZERO;
            self.moved = 0;
        }
        None
    }
}

/// A [`Pace`] with the timer that asks it: armed on the first wait, allocated once, moved only when it fires.
#[derive(Debug, Default)]
pub(crate) struct PaceTimer {
    pace: Pace,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl PaceTimer {
    /// The peer moved `bytes`. Costs a clock read only if we had to wait for them.
    pub(crate) fn moved(&mut self, bytes: usize) {
        if self.pace.waiting.is_some() {
            self.pace.moved(Instant::now(), bytes);
        } else {
            self.pace.moved += bytes as u64;
        }
    }

    /// We wait for the peer. Ready once it has been found slow.
    pub(crate) fn poll_wait(&mut self, cx: &mut Context<'_>, limits: &PaceLimits) -> Poll<Slow> {
        let now = Instant::now();
        self.pace.wait(now);
        let Some(deadline) = self.pace.deadline(limits) else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        // A timer that fires early asks again; one that is late would let the peer stay. So it is only moved forward
        // when it fires, and back when a rate window ends before it.
        if sleep.is_elapsed() || sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            let now = Instant::now();
            if let Some(slow) = self.pace.check(now, limits) {
                return Poll::Ready(slow);
            }
            let Some(deadline) = self.pace.deadline(limits) else { return Poll::Pending };
            sleep.as_mut().reset(deadline);
        }
    }
}

/// The client's socket, below TLS, with a deadline on reading our responses.
///
/// Holds `S`, the connection's place in the connection limit: the place is free when the socket is closed, not when
/// some task has noticed.
#[derive(Debug)]
pub(crate) struct Progress<Io, S> {
    io: Io,
    activity: Activity,
    limits: PaceLimits,
    writer: PaceTimer,
    reset_on_close: fn(&Io),
    slot: S,
}

impl<Io, S> Progress<Io, S> {
    pub(crate) fn new(io: Io, reset_on_close: fn(&Io), activity: Activity, slot: S) -> Self {
        let limits = PaceLimits::of_reader(activity.config());
        Self { io, activity, limits, writer: PaceTimer::default(), reset_on_close, slot }
    }

    /// The connection's place.
    pub(crate) fn slot(&mut self) -> &mut S {
        &mut self.slot
    }

    /// After a write: counts it, or waits with the deadline.
    fn after_write(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(n)) => {
                self.writer.moved(n);
                Poll::Ready(Ok(n))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => {
                let _slow = ready!(self.writer.poll_wait(cx, &self.limits));
                self.activity.reader_was_slow();
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin, S: Unpin> AsyncRead for Progress<Io, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.activity.core().overload.holds_back(&self.activity, cx.waker()) {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin, S: Unpin> AsyncWrite for Progress<Io, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.after_write(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.after_write(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<Io, S> Drop for Progress<Io, S> {
    fn drop(&mut self) {
        if self.activity.broken_off() == Some(Break::Reset) {
            (self.reset_on_close)(&self.io);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PaceLimits =
        PaceLimits { stall: Duration::from_secs(30), rate_min: 1024, grace: Duration::from_secs(30) };

    /// Plays `steps` of (seconds waited, bytes then moved) and returns when the peer was found slow, in seconds.
    fn play(limits: PaceLimits, steps: impl Iterator<Item = (u64, usize)>) -> Option<(u64, Slow)> {
        let start = Instant::now();
        let mut now = start;
        let mut pace = Pace::default();
        for (wait, bytes) in steps {
            let until = now + Duration::from_secs(wait);
            pace.wait(now);
            while let Some(deadline) = pace.deadline(&limits).filter(|deadline| *deadline <= until) {
                now = deadline;
                if let Some(slow) = pace.check(now, &limits) {
                    return Some(((now - start).as_secs(), slow));
                }
            }
            now = until;
            pace.moved(now, bytes);
        }
        None
    }

    #[test]
    fn a_peer_that_does_not_move_is_stalled_after_the_limit() {
        let limits = PaceLimits { rate_min: 0, ..LIMITS };
        assert_eq!(play(limits, [(100, 1)].into_iter()), Some((30, Slow::Stalled)));
    }

    #[test]
    fn one_byte_per_interval_evades_the_stall_limit_but_not_the_rate() {
        let trickle = || (0..1000).map(|_| (1, 1));
        assert_eq!(play(PaceLimits { rate_min: 0, ..LIMITS }, trickle()), None);
        assert_eq!(play(LIMITS, trickle()), Some((30, Slow::BelowRate)));
    }

    #[test]
    fn a_peer_just_above_the_minimum_rate_is_never_slow() {
        assert_eq!(play(LIMITS, (0..10_000).map(|_| (1, 1100))), None);
    }

    #[test]
    fn speed_in_one_window_does_not_excuse_the_next() {
        let burst = [(1, 100 << 20)].into_iter().chain((0..1000).map(|_| (1, 1)));
        assert_eq!(play(LIMITS, burst), Some((60, Slow::BelowRate)));
    }

    #[test]
    fn time_in_which_we_do_not_wait_is_not_held_against_the_peer() {
        let start = Instant::now();
        let mut pace = Pace::default();
        for hour in 0..100 {
            // Our own source gives a byte an hour, and the peer takes it within a millisecond.
            let now = start + Duration::from_secs(3600 * hour);
            pace.wait(now);
            assert_eq!(pace.check(now + Duration::from_millis(1), &LIMITS), None);
            pace.moved(now + Duration::from_millis(1), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_timer_finds_a_stalled_peer_at_the_limit_and_not_before() {
        let mut timer = PaceTimer::default();
        let start = Instant::now();
        let slow = std::future::poll_fn(|cx| timer.poll_wait(cx, &LIMITS)).await;
        assert_eq!((slow, start.elapsed().as_secs()), (Slow::Stalled, 30));
    }
}
