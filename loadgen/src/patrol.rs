//! Without a regular look at the clock nothing would end a request that is never answered, or a run that hangs.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};

use crate::{clock::monotonic_ns, plan::nanos, record::WINDOWS, run::Shared, worker::Worker};

/// How often a worker publishes its counts and looks after its deadlines.
const TICK: Duration = Duration::from_millis(10);

/// The worker's regular look at the clock.
pub(crate) struct Patrol {
    pub(crate) interval: Interval,
    start_ns: u64,
    warmup_ns: u64,
    /// When the last request is due, if that is known.
    last_due_ns: Option<u64>,
    timeout_ns: u64,
    /// The run ends then, whatever is still in flight.
    deadline_ns: Option<u64>,
    expire_next_ns: u64,
    last_look_ns: u64,
    pub(crate) stalled_ns: u64,
}

impl Patrol {
    pub(crate) fn new(shared: &Shared, start_ns: u64) -> Self {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let timeout_ns = shared.plan.timeout_ns();
        let last_due_ns = shared.schedule.last_due_ns().map(|last| start_ns.saturating_add(last));
        Self {
            interval,
            start_ns,
            warmup_ns: shared.plan.warmup_ns(),
            last_due_ns,
            timeout_ns,
            deadline_ns: last_due_ns.map(|last| last.saturating_add(timeout_ns)),
            expire_next_ns: start_ns,
            last_look_ns: start_ns,
            stalled_ns: 0,
        }
    }

    /// True when the run is over although something is still in flight or waiting.
    pub(crate) fn look(&mut self, worker: &Worker, index: usize) -> bool {
        let now_ns = monotonic_ns();
        let late_ns = now_ns.saturating_sub(self.last_look_ns).saturating_sub(2 * nanos(TICK));
        self.stalled_ns += late_ns;
        self.last_look_ns = now_ns.max(self.start_ns);
        if now_ns >= self.expire_next_ns {
            worker.expire(now_ns, self.timeout_ns);
            // A timeout is noticed late by at most 1/64 of its length (or one tick).
            self.expire_next_ns = now_ns + self.timeout_ns / 64;
        }
        self.observe(worker, now_ns);
        worker.publish(index, now_ns);
        self.deadline_ns.is_some_and(|deadline| now_ns >= deadline)
    }

    /// Notes which window the run is in, and how far the schedule is behind.
    fn observe(&self, worker: &Worker, now_ns: u64) {
        let Some(last_due_ns) = self.last_due_ns else { return };
        let from_ns = self.start_ns + self.warmup_ns;
        if now_ns < from_ns || now_ns > last_due_ns {
            return;
        }
        let (elapsed, whole) = (u128::from(now_ns - from_ns), u128::from(last_due_ns - from_ns + 1));
        let window = usize::try_from(elapsed * WINDOWS as u128 / whole).unwrap_or(0);
        worker.observe(window, now_ns);
    }

    /// Shortens the time for what is in flight.
    pub(crate) fn drain_by(&mut self, now_ns: u64, drain: Duration) {
        let by_ns = now_ns + nanos(drain).min(self.timeout_ns);
        self.deadline_ns = Some(self.deadline_ns.map_or(by_ns, |deadline| deadline.min(by_ns)));
    }
}
