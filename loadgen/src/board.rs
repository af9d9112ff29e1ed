//! Without a place where the workers put their counts now and then, looking at a run would cost each request something.
//!
//! A worker replaces its notice a hundred times a second; the progress line, the metrics and the verdict so far are put
//! together from these notices. A reader holds a notice only while it copies it, and a worker that finds it held does
//! not wait: it brings the next one in 10 ms.

use std::sync::{
    Mutex, PoisonError, TryLockError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use crate::{failure::FailureClass, latency::Tallies, plan::Plan, record::Record, schedule::Schedule};

/// A worker's counts at one moment, warm-up included, or the sum over all workers. At any moment
/// `scheduled = sent + backlog` and `sent = ok + failed + in flight`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// Requests that have fallen due; in closed loop those that were taken.
    pub scheduled: u64,
    /// Requests for which a connection was written to or asked for.
    pub sent: u64,
    /// Right answers.
    pub ok: u64,
    /// All other ends, in the order of [`FailureClass::ALL`].
    pub failed: [u64; FailureClass::ALL.len()],
    /// Requests under way.
    pub in_flight: u64,
    /// Requests due and not sent.
    pub backlog: u64,
    /// Connections that are open.
    pub connections_open: u64,
    /// Body bytes written.
    pub body_bytes_sent: u64,
    /// Body bytes read.
    pub body_bytes_received: u64,
    /// Latencies of the measured phase.
    pub latencies: Tallies,
    /// For how long the oldest waiting request has been due; the longest of all workers.
    pub behind_ns: u64,
    /// CPU time of the worker, without what its pacer spent on waiting.
    pub cpu_ns: u64,
    /// Time for which the worker was ready to run and had no CPU.
    pub waited_ns: u64,
    /// Time for which the worker's event loop stood still.
    pub stalled_ns: u64,
}

impl Notice {
    /// The part of a notice that the record knows.
    pub(crate) fn of(record: &Record) -> Self {
        let mut notice = Self { latencies: record.latencies.tallies(), ..Self::default() };
        for counts in [&record.warmup, &record.measured] {
            // These three are known when the record is closed.
            notice.scheduled += counts.scheduled.scheduled;
            notice.backlog += counts.scheduled.unsent;
            notice.in_flight += counts.in_flight_at_end;
            notice.sent += counts.sent;
            notice.ok += counts.ok;
            for (class, count) in &counts.errors {
                notice.failed[*class as usize] += count;
            }
            notice.body_bytes_sent += counts.body_bytes_sent;
            notice.body_bytes_received += counts.body_bytes_received;
        }
        notice
    }

    /// Requests that failed.
    pub fn failures(&self) -> u64 {
        self.failed.iter().sum()
    }

    fn add(&mut self, other: &Self) {
        self.scheduled += other.scheduled;
        self.sent += other.sent;
        self.ok += other.ok;
        self.failed.iter_mut().zip(other.failed).for_each(|(sum, count)| *sum += count);
        self.in_flight += other.in_flight;
        self.backlog += other.backlog;
        self.connections_open += other.connections_open;
        self.body_bytes_sent += other.body_bytes_sent;
        self.body_bytes_received += other.body_bytes_received;
        self.latencies.merge(&other.latencies);
        self.behind_ns = self.behind_ns.max(other.behind_ns);
        self.cpu_ns += other.cpu_ns;
        self.waited_ns += other.waited_ns;
        self.stalled_ns += other.stalled_ns;
    }
}

/// On cache lines of its own, so that workers do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Place(Mutex<Notice>);

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunPhase {
    /// Connections are being opened.
    Connecting,
    /// Requests are sent and not measured yet.
    Warmup,
    /// Requests are sent and measured.
    Measuring,
    /// Nothing more falls due; answers are waited for, or the run is over.
    Finishing,
}

impl RunPhase {
    /// All phases in the order of a run.
    pub const ALL: [Self; 4] = [Self::Connecting, Self::Warmup, Self::Measuring, Self::Finishing];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Warmup => "warmup",
            Self::Measuring => "measuring",
            Self::Finishing => "finishing",
        }
    }
}

/// What can be seen of one run while it lasts, and after it.
#[derive(Debug)]
pub struct Board {
    schedule: Schedule,
    warmup_ns: u64,
    places: Vec<Place>,
    /// 0 until the start is known.
    start_ns: AtomicU64,
    over: AtomicBool,
}

impl Board {
    /// The empty board of `plan`.
    pub fn new(plan: &Plan) -> Self {
        Self {
            schedule: plan.schedule(),
            warmup_ns: plan.warmup_ns(),
            places: (0..plan.threads.get()).map(|_| Place::default()).collect(),
            start_ns: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// When the run started, or will in a moment, on the monotonic clock.
    pub fn start_ns(&self) -> Option<u64> {
        Some(self.start_ns.load(Relaxed)).filter(|start_ns| *start_ns > 0)
    }

    /// Where the run is at `now_ns`.
    pub fn phase(&self, now_ns: u64) -> RunPhase {
        let passed_ns = self.start_ns().and_then(|start_ns| now_ns.checked_sub(start_ns));
        match passed_ns {
            _ if self.over.load(Relaxed) => RunPhase::Finishing,
            None => RunPhase::Connecting,
            Some(passed_ns) if self.schedule.last_due_ns().is_some_and(|last| passed_ns > last) => {
                RunPhase::Finishing
            }
            Some(passed_ns) if passed_ns < self.warmup_ns => RunPhase::Warmup,
            Some(_) => RunPhase::Measuring,
        }
    }

    /// The stage, counted from 0, and the requests per second that are asked for at `now_ns`; `None` before the
    /// start, after the end and in closed loop.
    pub fn offered(&self, now_ns: u64) -> Option<(usize, f64)> {
        let passed_ns = now_ns.checked_sub(self.start_ns()?)?;
        self.schedule.offered_at(passed_ns).filter(|_| !self.over.load(Relaxed))
    }

    /// True if requests fall due by the clock.
    pub fn is_open_loop(&self) -> bool {
        self.schedule.is_open_loop()
    }

    /// What each worker put up last.
    pub fn notices(&self) -> Vec<Notice> {
        self.places.iter().map(|place| *place.0.lock().unwrap_or_else(PoisonError::into_inner)).collect()
    }

    /// The sum over all workers.
    pub fn sum(&self) -> Notice {
        let mut sum = Notice::default();
        self.notices().iter().for_each(|notice| sum.add(notice));
        sum
    }

    /// Replaces the notice of worker `index`, unless it is being read just now.
    pub(crate) fn put(&self, index: usize, notice: &Notice) {
        match self.places[index].0.try_lock() {
            Ok(mut place) => *place = *notice,
            Err(TryLockError::Poisoned(place)) => *place.into_inner() = *notice,
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// Replaces the notice of worker `index` for good.
    pub(crate) fn put_last(&self, index: usize, notice: &Notice) {
        *self.places[index].0.lock().unwrap_or_else(PoisonError::into_inner) = *notice;
    }

    pub(crate) fn started(&self, start_ns: u64) {
        self.start_ns.store(start_ns, Relaxed);
    }

    pub(crate) fn stopped(&self) {
        self.over.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PlanOptions;

    fn board() -> Board {
        let stages = Some("1s@100,1s@100->300".parse().unwrap());
        let warmup = std::time::Duration::from_secs(1);
        let options = PlanOptions { stages, warmup, threads: Some(2), ..PlanOptions::new("localhost") };
        Board::new(&Plan::new(options).unwrap())
    }

    #[test]
    fn notices_of_workers_add_up() {
        let board = board();
        for index in 0..2 {
            board.put(index, &Notice { ok: 4, in_flight: 2, behind_ns: index as u64, ..Notice::default() });
        }
        assert_eq!(board.sum(), Notice { ok: 8, in_flight: 4, behind_ns: 1, ..Notice::default() });
    }

    #[test]
    fn a_worker_does_not_wait_for_a_reader() {
        let board = board();
        let reading = board.places[0].0.lock().unwrap();
        board.put(0, &Notice { ok: 4, ..Notice::default() });
        assert_eq!(*reading, Notice::default());
    }

    #[test]
    fn the_phases_follow_the_clock() {
        const HALF: u64 = 500_000_000;
        let board = board();
        assert_eq!((board.phase(7), board.offered(7)), (RunPhase::Connecting, None));
        board.started(1_000);
        assert_eq!((board.phase(999), board.offered(999)), (RunPhase::Connecting, None));
        let at = |halves: u64| (board.phase(1_000 + halves * HALF), board.offered(1_000 + halves * HALF));
        assert_eq!(at(1), (RunPhase::Warmup, Some((0, 100.0))));
        assert_eq!(at(3), (RunPhase::Measuring, Some((0, 100.0))));
        assert_eq!(at(5), (RunPhase::Measuring, Some((1, 200.0))));
        assert_eq!(at(6), (RunPhase::Finishing, None));
        board.stopped();
        assert_eq!(at(3), (RunPhase::Finishing, None));
    }
}
