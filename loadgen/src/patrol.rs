//! Without a regular look at the clock nothing would end a request that is never answered, or a run that hangs.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};

use crate::{
    board::Notice,
    clock::{NANOS_PER_SECOND, monotonic_ns, nanos, thread_cpu_ns, thread_wait_ns},
    run::Shared,
    worker::Worker,
};

/// How often a worker publishes its counts and looks after its deadlines.
const TICK: Duration = Duration::from_millis(10);

/// How often it asks the kernel, which has to be read from a file, for how long it had no CPU.
const WAITED_INTERVAL_NS: u64 = NANOS_PER_SECOND;

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
    usage: Usage,
}

/// What the worker's thread used, or had to do without, since the start.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "the unit belongs to the name")]
pub(crate) struct Usage {
    cpu_before_ns: u64,
    wait_before_ns: Option<u64>,
    wait_next_ns: u64,
    /// CPU time, waiting of the pacer included.
    pub(crate) cpu_ns: u64,
    /// Time for which it was ready to run and had no CPU.
    pub(crate) waited_ns: u64,
    /// Time for which the event loop did not turn although it was due to.
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
            usage: Usage::new(),
        }
    }

    /// True when the run is over although something is still in flight or waiting.
    pub(crate) fn look(&mut self, worker: &Worker) -> bool {
        let now_ns = monotonic_ns();
        let late_ns = now_ns.saturating_sub(self.last_look_ns).saturating_sub(2 * nanos(TICK));
        self.usage.stalled_ns += late_ns;
        self.last_look_ns = now_ns.max(self.start_ns);
        if now_ns >= self.expire_next_ns {
            worker.expire(now_ns, self.timeout_ns);
            // A timeout is noticed late by at most 1/64 of its length (or one tick).
            self.expire_next_ns = now_ns + self.timeout_ns / 64;
        }
        self.observe(worker, now_ns);
        self.usage.look(now_ns);
        worker.publish(now_ns, &self.usage);
        self.deadline_ns.is_some_and(|deadline| now_ns >= deadline)
    }

    /// Notes how far the schedule is behind at this point of the measured time.
    fn observe(&self, worker: &Worker, now_ns: u64) {
        let Some(elapsed_ns) = now_ns.checked_sub(self.start_ns + self.warmup_ns) else { return };
        if self.last_due_ns.is_none_or(|last| now_ns <= last) {
            worker.observe(elapsed_ns, now_ns);
        }
    }

    /// Nothing falls due any more; shortens the time for what is in flight.
    pub(crate) fn drain_by(&mut self, now_ns: u64, drain: Duration) {
        let by_ns = now_ns + nanos(drain).min(self.timeout_ns);
        self.deadline_ns = Some(self.deadline_ns.map_or(by_ns, |deadline| deadline.min(by_ns)));
        self.last_due_ns = Some(self.last_due_ns.map_or(now_ns, |last| last.min(now_ns)));
    }

    /// What the thread used up to now.
    pub(crate) fn usage(mut self) -> Usage {
        self.usage.wait_next_ns = 0;
        self.usage.look(monotonic_ns());
        self.usage
    }
}

impl Usage {
    fn new() -> Self {
        Self {
            cpu_before_ns: thread_cpu_ns(),
            wait_before_ns: thread_wait_ns(),
            wait_next_ns: 0,
            cpu_ns: 0,
            waited_ns: 0,
            stalled_ns: 0,
        }
    }

    fn look(&mut self, now_ns: u64) {
        self.cpu_ns = thread_cpu_ns() - self.cpu_before_ns;
        if now_ns >= self.wait_next_ns {
            self.wait_next_ns = now_ns + WAITED_INTERVAL_NS;
            let waited_ns = thread_wait_ns().zip(self.wait_before_ns);
            self.waited_ns = waited_ns.map_or(0, |(after, before)| after.saturating_sub(before));
        }
    }

    /// Writes itself down; `spun_ns` of the CPU time was spent on waiting.
    pub(crate) fn note(&self, spun_ns: u64, notice: &mut Notice) {
        notice.cpu_ns = self.cpu_ns.saturating_sub(spun_ns);
        notice.waited_ns = self.waited_ns;
        notice.stalled_ns = self.stalled_ns;
    }
}
