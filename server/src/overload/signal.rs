//! How long a worker's queue is, measured in time: a limit of requests in progress does not see requests that wait for a
//! handler which burns CPU in one poll, because not more than one of them is ever in progress.
//!
//! A probe is a task that does nothing. It is put behind all that waits for the worker, and while it is on its way, its age
//! is what the next request would have to wait at least. The time since the worker last had nothing to do, which is simpler,
//! is not the same: a worker at its limit may be at work for minutes, and nobody waits longer than a millisecond.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    time::Instant,
};

use super::{fairness::Share, landed};
use crate::{
    core::Core,
    task::{TaskKind, spawn},
    telemetry::{histogram::nanos, metrics::Shed},
};

/// So long must a worker have been at work before a probe asks how much waits for it.
const PROBE_AFTER: Duration = Duration::from_millis(1);

/// What a refusal costs is about a third of this. Where requests cost less, refusing them frees nothing: it would only
/// turn late answers into none. In a debug build everything costs more.
const WORTH_REFUSING: Duration = Duration::from_micros(if cfg!(debug_assertions) { 500 } else { 50 });

/// So many requests make a queue; fewer are one slow request and those that came meanwhile.
const QUEUE_MIN: u32 = 4;

/// How much a worker is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pressure {
    /// It keeps up.
    Low,
    /// Soon it will refuse: clients that ask for more than their share are refused already.
    High,
    /// What comes now would wait longer than `busy_max`: refused, but for clients that are not why.
    Overload,
    /// For twice as long: all are refused.
    Worst,
}

impl Pressure {
    /// Why a request is refused, if it is; `share` tells what its client has asked for, beside the others.
    pub(super) fn refusal(self, share: impl FnOnce() -> Share) -> Option<Shed> {
        match self {
            Self::Low => None,
            Self::High => (share() == Share::Greedy).then_some(Shed::FairShare),
            Self::Overload => match share() {
                Share::Greedy => Some(Shed::FairShare),
                Share::Even => Some(Shed::Busy),
                Share::Polite => None,
            },
            Self::Worst => Some(Shed::Busy),
        }
    }
}

/// A probe on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flight {
    /// How long it has been on its way.
    pub(super) age: Duration,
    /// Requests that the worker has taken meanwhile.
    pub(super) admitted: u32,
}

impl Flight {
    /// `without_core` is how long the worker could not run meanwhile, because others had the core; asked for only where it
    /// matters. What waits for that (in a restart, two processes share a core) is not served sooner by refusing it.
    pub(super) fn pressure(self, busy_max: Duration, without_core: impl FnOnce() -> Duration) -> Pressure {
        let is_queue = self.admitted >= QUEUE_MIN && self.age >= busy_max / 2;
        if !is_queue || self.age.saturating_sub(without_core()) < WORTH_REFUSING * self.admitted {
            return Pressure::Low;
        }
        match self.age {
            age if age >= busy_max * 2 => Pressure::Worst,
            age if age >= busy_max => Pressure::Overload,
            _ => Pressure::High,
        }
    }
}

/// One worker's watch on itself. Times are since the server began, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Set by the runtime when the worker has nothing to do. Never set where the runtime is an embedder's: then there are
    /// probes all the time, one per [`PROBE_AFTER`].
    has_rested: AtomicBool,
    /// When it went to work after that, or the last probe came through.
    at_work_since: AtomicU64,
    /// When the probe on its way was sent; 0 for none.
    probe_since: AtomicU64,
    /// [`without_core`] at that moment.
    without_core_before: AtomicU64,
    admitted: AtomicU32,
}

impl Watch {
    pub(super) fn rest(&self) {
        self.has_rested.store(true, Relaxed);
    }

    /// The worker has a request at `now`: true where a probe is to be sent, which then counts as sent.
    pub(super) fn wants_probe(&self, now: Duration) -> bool {
        if self.is_probing() {
            return false;
        }
        let now = nanos(now).max(1);
        if self.has_rested.load(Relaxed) {
            self.has_rested.store(false, Relaxed);
            self.at_work_since.store(now, Relaxed);
            return false;
        }
        if now.saturating_sub(self.at_work_since.load(Relaxed)) < nanos(PROBE_AFTER) {
            return false;
        }
        self.send(now);
        true
    }

    fn send(&self, now: u64) {
        self.admitted.store(0, Relaxed);
        self.without_core_before.store(nanos(without_core()), Relaxed);
        self.probe_since.store(now, Relaxed);
    }

    /// How long the calling worker could not run since its probe was sent.
    pub(super) fn without_core(&self) -> Duration {
        without_core().saturating_sub(Duration::from_nanos(self.without_core_before.load(Relaxed)))
    }

    pub(super) fn is_probing(&self) -> bool {
        self.probe_since.load(Relaxed) != 0
    }

    pub(super) fn admitted(&self) {
        if self.is_probing() {
            self.admitted.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn flight(&self, now: Duration) -> Option<Flight> {
        let since = self.probe_since.load(Relaxed);
        let age = Duration::from_nanos(nanos(now).saturating_sub(since));
        (since != 0).then(|| Flight { age, admitted: self.admitted.load(Relaxed) })
    }

    /// The probe has come through at `now`; returns how long that took.
    fn land(&self, now: Duration) -> Option<Duration> {
        let (now, since) = (nanos(now).max(1), self.probe_since.swap(0, Relaxed));
        self.at_work_since.store(now, Relaxed);
        (since != 0).then(|| Duration::from_nanos(now.saturating_sub(since)))
    }
}

/// How long the calling thread has been ready to run and had no core, ever (Linux: schedstat, second number). A read of a
/// microsecond, so it is done for each probe, and for requests only where there is a queue. Zero where it is not known.
fn without_core() -> Duration {
    thread_local!(static STAT: Option<File> = File::open("/proc/thread-self/schedstat").ok());
    let mut text = [0; 64];
    let read = STAT.with(|stat| stat.as_ref()?.read_at(&mut text, 0).ok()).unwrap_or(0);
    let text = std::str::from_utf8(&text[..read]).unwrap_or_default();
    let nanos = text.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Sends a probe through the queue of the calling worker, whose place is `place`.
pub(super) fn probe(core: &Arc<Core>, place: usize) {
    // tokio's multi-thread scheduler runs what a task has just woken before all that waits, and what has woken itself
    // after it. Its current-thread scheduler knows only the second.
    let goes_first =
        Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    let probe = Probe { core: Arc::clone(core), place, goes_first, has_landed: false };
    spawn(core, TaskKind::Probe, probe);
}

struct Probe {
    core: Arc<Core>,
    place: usize,
    goes_first: bool,
    has_landed: bool,
}

impl Probe {
    /// Whether another is to follow.
    fn land(&mut self) -> bool {
        self.has_landed = true;
        let overload = &self.core.overload;
        let now = Instant::now();
        let watch = &overload.workers[self.place & (overload.workers.len() - 1)].watch;
        let Some(delay) = watch.land(overload.since_begin(now)) else { return false };
        let wants_another = landed(&self.core, self.place, delay, now);
        if wants_another {
            watch.send(nanos(overload.since_begin(now)).max(1));
        }
        wants_another
    }
}

impl Future for Probe {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.goes_first {
            self.goes_first = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.land() {
            probe(&self.core, self.place);
        }
        Poll::Ready(())
    }
}

impl Drop for Probe {
    /// A probe that is dropped with its runtime must not leave its worker overloaded for ever.
    fn drop(&mut self) {
        if !self.has_landed {
            let overload = &self.core.overload;
            let worker = &overload.workers[self.place & (overload.workers.len() - 1)];
            worker.watch.land(overload.since_begin(Instant::now()));
            worker.parking.open();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_queue_of_dear_requests_is_pressure_and_one_of_cheap_requests_is_not() {
        let pressure = |age, admitted| Flight { age, admitted }.pressure(10 * MS, || Duration::ZERO);
        assert_eq!(pressure(4 * MS, 4), Pressure::Low);
        assert_eq!(pressure(5 * MS, 5), Pressure::High);
        assert_eq!(pressure(10 * MS, 10), Pressure::Overload);
        assert_eq!(pressure(20 * MS, 20), Pressure::Worst);
        // Ten thousand clients that each wait for an echo: nothing would be won by refusing them.
        assert_eq!(pressure(200 * MS, 10_000), Pressure::Low);
        // Another process had the core.
        assert_eq!(Flight { age: 50 * MS, admitted: 40 }.pressure(10 * MS, || 49 * MS), Pressure::Low);
        // One handler that blocked its worker, and the one request that came meanwhile.
        assert_eq!(pressure(500 * MS, 1), Pressure::Low);
    }

    #[test]
    fn a_worker_that_rests_between_requests_is_never_probed() {
        let watch = Watch::default();
        for at in 0..1000 {
            watch.rest();
            assert!(!watch.wants_probe(at * 10 * MS));
            assert!(!watch.wants_probe(at * 10 * MS + MS / 2));
        }
        assert!(!watch.wants_probe(9_990 * MS), "it went to work just now");
        assert!(watch.wants_probe(9_991 * MS) && watch.is_probing());
        assert!(!watch.wants_probe(9_999 * MS), "one at a time");
    }

    #[test]
    fn a_flight_tells_its_age_and_what_was_taken_meanwhile() {
        let watch = Watch::default();
        assert_eq!(watch.flight(MS), None);
        assert!(watch.wants_probe(2 * MS), "without hooks there is no rest, and the first request is probed");
        watch.admitted();
        assert_eq!(watch.flight(5 * MS), Some(Flight { age: 3 * MS, admitted: 1 }));
        assert_eq!(watch.land(6 * MS), Some(4 * MS));
        assert_eq!(watch.flight(7 * MS), None);
        watch.admitted();
        assert!(!watch.wants_probe(6 * MS + MS / 2) && watch.wants_probe(7 * MS));
        assert_eq!(watch.flight(7 * MS), Some(Flight { age: Duration::ZERO, admitted: 0 }));
    }
}
