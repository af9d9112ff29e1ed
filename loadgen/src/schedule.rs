//! Without a formula for the intended instant of request k, rounding would drift into every latency.
//!
//! All arithmetic is exact: integers, 128 bits wide, floor once per request and never summed up.

use std::num::NonZeroU64;

use crate::clock::NANOS_PER_SECOND;

/// How requests arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// Open loop: request k is due at `k / per_second`, whatever the server does.
    Constant {
        /// Requests per second over all threads together.
        per_second: NonZeroU64,
    },
    /// Closed loop: a connection sends its next request as soon as the last one is answered.
    Closed,
}

/// When each request of a run is due, as offsets in ns from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    arrivals: Arrivals,
    warmup_ns: u64,
    /// Measured requests, if the run ends by their number.
    requests: Option<u64>,
    /// Measured time after the warm-up, if the run ends by time.
    duration_ns: Option<u64>,
}

impl Schedule {
    /// A run of `arrivals` that warms up for `warmup_ns` and then measures until `requests` or `duration_ns`
    /// is reached, whichever comes first.
    pub fn new(arrivals: Arrivals, warmup_ns: u64, requests: Option<u64>, duration_ns: Option<u64>) -> Self {
        Self { arrivals, warmup_ns, requests, duration_ns }
    }

    /// The share of worker `worker` of `workers`: the requests k with `k mod workers = worker`.
    pub fn lane(&self, worker: u64, workers: NonZeroU64) -> Lane {
        let measured = self.requests.map(|requests| share(requests, worker, workers));
        let end_ns = self.duration_ns.map(|duration| self.warmup_ns.saturating_add(duration));
        let kind = match self.arrivals {
            Arrivals::Constant { per_second } => LaneKind::Open(OpenLane {
                per_second,
                worker,
                workers,
                total: share(self.open_total(per_second), worker, workers),
            }),
            Arrivals::Closed => LaneKind::Closed { measured, end_ns },
        };
        Lane { kind, worker, workers, warmup_ns: self.warmup_ns }
    }

    /// When the last request is due, if that is known beforehand.
    pub fn last_due_ns(&self) -> Option<u64> {
        match self.arrivals {
            Arrivals::Constant { per_second } => {
                self.open_total(per_second).checked_sub(1).map(|last| intended_ns(last, per_second))
            }
            Arrivals::Closed => self.duration_ns.map(|duration| self.warmup_ns.saturating_add(duration)),
        }
    }

    /// Number of requests of an open-loop run, warm-up included.
    fn open_total(&self, per_second: NonZeroU64) -> u64 {
        let by_count = self.requests.map(|requests| due_before(self.warmup_ns, per_second) + requests);
        let by_time =
            self.duration_ns.map(|duration| due_before(self.warmup_ns.saturating_add(duration), per_second));
        by_count.unwrap_or(u64::MAX).min(by_time.unwrap_or(u64::MAX))
    }
}

/// One worker's share of a [`Schedule`]; its requests are numbered 0, 1, 2... within the lane.
#[derive(Clone, Copy, Debug)]
pub struct Lane {
    /// Open or closed loop.
    pub kind: LaneKind,
    worker: u64,
    workers: NonZeroU64,
    /// Requests that are due before this offset belong to the warm-up.
    pub warmup_ns: u64,
}

/// What makes the next request of a lane due.
#[derive(Clone, Copy, Debug)]
pub enum LaneKind {
    /// The clock.
    Open(OpenLane),
    /// A free connection, until `measured` requests are sent or `end_ns` has passed.
    Closed {
        /// Requests to send after the warm-up.
        measured: Option<u64>,
        /// Offset after which nothing is sent.
        end_ns: Option<u64>,
    },
}

impl Lane {
    /// The number within the whole run of this lane's request `index`.
    pub fn request(&self, index: u64) -> u64 {
        self.worker + index * self.workers.get()
    }
}

/// The instants of one worker's open-loop requests.
#[derive(Clone, Copy, Debug)]
pub struct OpenLane {
    per_second: NonZeroU64,
    worker: u64,
    workers: NonZeroU64,
    /// Requests of this lane, warm-up included.
    pub total: u64,
}

impl OpenLane {
    /// Offset in ns at which this lane's request `index` is due.
    pub fn intended_ns(&self, index: u64) -> u64 {
        intended_ns(self.worker + index * self.workers.get(), self.per_second)
    }

    /// How many of this lane's requests are due before the offset `at_ns`.
    pub fn due_before(&self, at_ns: u64) -> u64 {
        share(due_before(at_ns, self.per_second), self.worker, self.workers).min(self.total)
    }
}

/// Offset in ns at which request `k` of the run is due: `floor(k * 1e9 / rate)`.
fn intended_ns(k: u64, per_second: NonZeroU64) -> u64 {
    let exact = u128::from(k) * u128::from(NANOS_PER_SECOND) / u128::from(per_second.get());
    u64::try_from(exact).unwrap_or(u64::MAX)
}

/// How many k have `intended_ns(k) < at_ns`. As the instant is floored, that is `k * 1e9 / rate < at_ns`.
fn due_before(at_ns: u64, per_second: NonZeroU64) -> u64 {
    let scaled = u128::from(at_ns) * u128::from(per_second.get());
    u64::try_from(scaled.div_ceil(u128::from(NANOS_PER_SECOND))).unwrap_or(u64::MAX)
}

/// How many k below `count` have `k mod workers = worker`.
fn share(count: u64, worker: u64, workers: NonZeroU64) -> u64 {
    count.saturating_sub(worker).div_ceil(workers.get())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(per_second: u64) -> NonZeroU64 {
        NonZeroU64::new(per_second).unwrap()
    }

    fn open(per_second: u64, requests: Option<u64>, duration_ns: Option<u64>) -> Schedule {
        Schedule::new(Arrivals::Constant { per_second: rate(per_second) }, 0, requests, duration_ns)
    }

    fn open_lane(schedule: &Schedule, worker: u64, workers: u64) -> OpenLane {
        match schedule.lane(worker, rate(workers)).kind {
            LaneKind::Open(lane) => lane,
            LaneKind::Closed { .. } => panic!("an open schedule has open lanes"),
        }
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_never_drifts() {
        let third = rate(3);
        assert_eq!(intended_ns(1, third), 333_333_333);
        assert_eq!(intended_ns(2, third), 666_666_666);
        // After a year the request is still due at the full second.
        assert_eq!(intended_ns(3 * 31_536_000, third), 31_536_000 * NANOS_PER_SECOND);
    }

    #[test]
    fn a_duration_schedules_exactly_rate_times_duration() {
        let lane = open_lane(&open(1_000, None, Some(10 * NANOS_PER_SECOND)), 0, 1);
        assert_eq!(lane.total, 10_000);
    }

    #[test]
    fn the_warmup_comes_before_the_measured_requests() {
        let schedule =
            Schedule::new(Arrivals::Constant { per_second: rate(100) }, 2 * NANOS_PER_SECOND, Some(50), None);
        let lane = open_lane(&schedule, 0, 1);
        assert_eq!(lane.total, 250);
        assert_eq!(lane.due_before(2 * NANOS_PER_SECOND), 200);
    }

    proptest! {
        #[test]
        fn instants_are_exact_and_monotone(k in 0..1_u64 << 40, per_second in 1..10_000_000_u64) {
            let per_second = rate(per_second);
            let (this, next) = (intended_ns(k, per_second), intended_ns(k + 1, per_second));
            prop_assert!(this <= next);
            // floor(k * 1e9 / rate): never late, and early by less than one ns.
            let scaled = u128::from(k) * u128::from(NANOS_PER_SECOND);
            let back = u128::from(this) * u128::from(per_second.get());
            prop_assert!(back <= scaled && scaled < back + u128::from(per_second.get()));
        }

        #[test]
        fn due_before_counts_what_the_formula_says(at_ns in 0..2_000_000_u64, per_second in 1..5_000_000_u64) {
            let per_second = rate(per_second);
            let counted = (0..u64::MAX).take_while(|k| intended_ns(*k, per_second) < at_ns).count();
            prop_assert_eq!(due_before(at_ns, per_second), counted as u64);
        }

        #[test]
        fn lanes_partition_the_run(workers in 1..9_u64, requests in 0..500_u64) {
            let schedule = open(1_000, Some(requests), None);
            let mut seen: Vec<u64> = (0..workers)
                .flat_map(|worker| {
                    let lane = schedule.lane(worker, rate(workers));
                    let total = open_lane(&schedule, worker, workers).total;
                    (0..total).map(move |index| lane.request(index))
                })
                .collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..requests).collect::<Vec<_>>());
        }

        #[test]
        fn a_lane_counts_its_own_due_requests(
            workers in 1..5_u64, worker in 0..5_u64, at_ns in 0..100_000_000_u64,
        ) {
            let worker = worker % workers;
            let lane = open_lane(&open(5_000, Some(300), None), worker, workers);
            let counted = (0..lane.total).filter(|index| lane.intended_ns(*index) < at_ns).count();
            prop_assert_eq!(lane.due_before(at_ns), counted as u64);
        }

        #[test]
        fn closed_lanes_share_out_every_request(workers in 1..9_u64, requests in 0..10_000_u64) {
            let schedule = Schedule::new(Arrivals::Closed, 0, Some(requests), None);
            let sum: u64 = (0..workers)
                .map(|worker| match schedule.lane(worker, rate(workers)).kind {
                    LaneKind::Closed { measured, .. } => measured.unwrap(),
                    LaneKind::Open(_) => unreachable!("a closed schedule has closed lanes"),
                })
                .sum();
            prop_assert_eq!(sum, requests);
        }
    }
}
