//! Without a formula for the intended instant of request k, rounding would drift into every latency.
//!
//! All arithmetic is exact: integers, 128 bits wide, floor once per request and never summed up.

use std::{num::NonZeroU64, sync::Arc};

use crate::{
    clock::NANOS_PER_SECOND,
    stages::{Curve, Stages},
};

/// How requests arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// Open loop: request k is due at `k / per_second`, whatever the server does.
    Constant {
        /// Requests per second over all threads together.
        per_second: NonZeroU64,
    },
    /// Open loop at rates that change: request k is due when the area under the rate reaches k.
    Staged {
        /// The rates, again over all threads together.
        stages: Stages,
        /// Begin again after the last stage, without end.
        repeat: bool,
    },
    /// Closed loop: a connection sends its next request as soon as the last one is answered.
    Closed,
}

/// When each request of a run is due, as offsets in ns from the start of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// What the clock says; closed loop without.
    rate: Option<Rate>,
    warmup_ns: u64,
    /// Measured requests, if the run ends by their number.
    requests: Option<u64>,
    /// Measured time after the warm-up, if the run ends by time.
    duration_ns: Option<u64>,
}

impl Schedule {
    /// A run of `arrivals` that warms up for `warmup_ns` and then measures until `requests` or `duration_ns`
    /// is reached, whichever comes first; without either, until the stages end or for ever.
    pub fn new(arrivals: &Arrivals, warmup_ns: u64, requests: Option<u64>, duration_ns: Option<u64>) -> Self {
        let rate = match arrivals {
            Arrivals::Constant { per_second } => Some(Rate::Constant(*per_second)),
            Arrivals::Staged { stages, repeat } => {
                Some(Rate::Staged(Arc::new(Curve::new(stages, warmup_ns, *repeat))))
            }
            Arrivals::Closed => None,
        };
        Self { rate, warmup_ns, requests, duration_ns }
    }

    /// The share of worker `worker` of `workers`: the requests k with `k mod workers = worker`.
    pub fn lane(&self, worker: u64, workers: NonZeroU64) -> Lane {
        let kind = match &self.rate {
            Some(rate) => LaneKind::Open(OpenLane {
                rate: rate.clone(),
                worker,
                workers,
                total: share(self.open_total(rate), worker, workers),
            }),
            None => LaneKind::Closed {
                measured: self.requests.map(|requests| share(requests, worker, workers)),
                end_ns: self.timed_end_ns(),
            },
        };
        Lane { kind, worker, workers, warmup_ns: self.warmup_ns }
    }

    /// When the last request is due, if that is known beforehand.
    pub fn last_due_ns(&self) -> Option<u64> {
        let Some(rate) = &self.rate else { return self.timed_end_ns() };
        let total = self.open_total(rate);
        total.checked_sub(1).filter(|_| total < u64::MAX).map(|last| rate.intended_ns(last))
    }

    /// When the time of the last request is over: the next one would be due, or its stage ends.
    pub fn end_ns(&self) -> Option<u64> {
        match &self.rate {
            Some(Rate::Constant(per_second)) => {
                self.last_due_ns().map(|last| last.saturating_add(NANOS_PER_SECOND / per_second.get()))
            }
            Some(Rate::Staged(curve)) => self.last_due_ns().map(|_| curve.end_ns()),
            None => self.timed_end_ns(),
        }
    }

    /// True if requests fall due by the clock.
    pub fn is_open_loop(&self) -> bool {
        self.rate.is_some()
    }

    /// True if only a signal ends the run.
    pub fn is_endless(&self) -> bool {
        match &self.rate {
            Some(rate) => self.open_total(rate) == u64::MAX,
            None => self.requests.is_none() && self.duration_ns.is_none(),
        }
    }

    /// The stage, counted from 0, and the requests per second that the clock asks for at an offset; `None` in
    /// closed loop and after the end.
    pub fn offered_at(&self, at_ns: u64) -> Option<(usize, f64)> {
        let rate = self.rate.as_ref()?;
        if self.end_ns().is_some_and(|end| at_ns >= end) {
            return None;
        }
        match rate {
            Rate::Constant(per_second) => Some((0, per_second.get() as f64)),
            Rate::Staged(curve) => curve.at(at_ns),
        }
    }

    /// Measured requests per second, on average up to the offset `until_ns` or the end; `None` in closed loop.
    pub fn mean_rate(&self, until_ns: u64) -> Option<f64> {
        match self.rate.as_ref()? {
            Rate::Constant(per_second) => Some(per_second.get() as f64),
            rate @ Rate::Staged(_) => {
                let until_ns = self.end_ns().map_or(until_ns, |end| end.min(until_ns));
                let requests = rate.due_before(until_ns).saturating_sub(rate.due_before(self.warmup_ns));
                let seconds = until_ns.saturating_sub(self.warmup_ns).max(1) as f64 / NANOS_PER_SECOND as f64;
                Some(requests as f64 / seconds)
            }
        }
    }

    fn timed_end_ns(&self) -> Option<u64> {
        self.duration_ns.map(|duration| self.warmup_ns.saturating_add(duration))
    }

    /// Number of requests of an open-loop run, warm-up included; `u64::MAX` without an end.
    fn open_total(&self, rate: &Rate) -> u64 {
        let by_count = self.requests.map(|requests| rate.due_before(self.warmup_ns).saturating_add(requests));
        let by_time = self.timed_end_ns().map(|end| rate.due_before(end));
        let by_rate = match rate {
            Rate::Constant(_) => u64::MAX,
            Rate::Staged(curve) => curve.total(),
        };
        by_rate.min(by_count.unwrap_or(u64::MAX)).min(by_time.unwrap_or(u64::MAX))
    }
}

/// Requests per second as a function of time, and its inverse.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rate {
    Constant(NonZeroU64),
    Staged(Arc<Curve>),
}

impl Rate {
    fn intended_ns(&self, k: u64) -> u64 {
        match self {
            Self::Constant(per_second) => intended_ns(k, *per_second),
            Self::Staged(curve) => curve.intended_ns(k),
        }
    }

    fn due_before(&self, at_ns: u64) -> u64 {
        match self {
            Self::Constant(per_second) => due_before(at_ns, *per_second),
            Self::Staged(curve) => curve.due_before(at_ns),
        }
    }
}

/// One worker's share of a [`Schedule`]; its requests are numbered 0, 1, 2... within the lane.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Open or closed loop.
    pub kind: LaneKind,
    worker: u64,
    workers: NonZeroU64,
    /// Requests that are due before this offset belong to the warm-up.
    pub warmup_ns: u64,
}

/// What makes the next request of a lane due.
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
pub struct OpenLane {
    rate: Rate,
    worker: u64,
    workers: NonZeroU64,
    /// Requests of this lane, warm-up included.
    pub total: u64,
}

impl OpenLane {
    /// Offset in ns at which this lane's request `index` is due.
    pub fn intended_ns(&self, index: u64) -> u64 {
        self.rate.intended_ns(self.worker + index * self.workers.get())
    }

    /// How many of this lane's requests are due before the offset `at_ns`.
    pub fn due_before(&self, at_ns: u64) -> u64 {
        share(self.rate.due_before(at_ns), self.worker, self.workers).min(self.total)
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
        Schedule::new(&Arrivals::Constant { per_second: rate(per_second) }, 0, requests, duration_ns)
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
        let schedule = Schedule::new(
            &Arrivals::Constant { per_second: rate(100) },
            2 * NANOS_PER_SECOND,
            Some(50),
            None,
        );
        let lane = open_lane(&schedule, 0, 1);
        assert_eq!(lane.total, 250);
        assert_eq!(lane.due_before(2 * NANOS_PER_SECOND), 200);
    }

    #[test]
    fn stages_end_a_run_by_themselves_and_say_what_they_offer() {
        let staged = |repeat| Arrivals::Staged { stages: "1s@100,2s@100->300".parse().unwrap(), repeat };
        let once = Schedule::new(&staged(false), NANOS_PER_SECOND, None, None);
        assert_eq!(open_lane(&once, 0, 1).total, 600);
        assert_eq!(once.end_ns(), Some(4 * NANOS_PER_SECOND));
        assert!(once.last_due_ns() < once.end_ns() && !once.is_endless());
        // The warm-up is offered, and not part of the mean.
        assert_eq!(once.offered_at(NANOS_PER_SECOND / 2), Some((0, 100.0)));
        assert_eq!(once.offered_at(3 * NANOS_PER_SECOND), Some((1, 200.0)));
        assert_eq!(once.offered_at(4 * NANOS_PER_SECOND), None);
        assert_eq!(once.mean_rate(u64::MAX), Some(500.0 / 3.0));
        let forever = Schedule::new(&staged(true), 0, None, None);
        assert_eq!((forever.is_endless(), forever.last_due_ns(), forever.end_ns()), (true, None, None));
        assert_eq!(forever.mean_rate(6 * NANOS_PER_SECOND), Some(1_000.0 / 6.0));
    }

    #[test]
    fn a_rate_without_an_end_is_endless() {
        let forever = open(7, None, None);
        assert!(forever.is_endless() && forever.last_due_ns().is_none() && forever.end_ns().is_none());
        assert!(!open(7, Some(1), None).is_endless() && !open(7, None, Some(1)).is_endless());
        let lane = open_lane(&forever, 1, 2);
        assert_eq!(lane.due_before(NANOS_PER_SECOND), 3);
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
        fn lanes_partition_the_run(workers in 1..9_u64, requests in 0..500_u64, staged: bool) {
            let schedule = if staged {
                let stages = format!("100ms@100->{requests},300ms@{requests}->3,50ms@0").parse().unwrap();
                Schedule::new(&Arrivals::Staged { stages, repeat: false }, 50_000_000, None, None)
            } else {
                open(1_000, Some(requests), None)
            };
            let total = open_lane(&schedule, 0, 1).total;
            let mut seen: Vec<u64> = (0..workers)
                .flat_map(|worker| {
                    let lane = schedule.lane(worker, rate(workers));
                    let total = open_lane(&schedule, worker, workers).total;
                    (0..total).map(move |index| lane.request(index))
                })
                .collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..total).collect::<Vec<_>>());
        }

        #[test]
        fn a_lane_counts_its_own_due_requests(
            workers in 1..5_u64, worker in 0..5_u64, at_ns in 0..100_000_000_u64, staged: bool,
        ) {
            let worker = worker % workers;
            let schedule = if staged {
                let stages = "20ms@1000->8000,10ms@0,40ms@9000->0".parse().unwrap();
                Schedule::new(&Arrivals::Staged { stages, repeat: false }, 10_000_000, None, None)
            } else {
                open(5_000, Some(300), None)
            };
            let lane = open_lane(&schedule, worker, workers);
            let counted = (0..lane.total).filter(|index| lane.intended_ns(*index) < at_ns).count();
            prop_assert_eq!(lane.due_before(at_ns), counted as u64);
        }

        #[test]
        fn closed_lanes_share_out_every_request(workers in 1..9_u64, requests in 0..10_000_u64) {
            let schedule = Schedule::new(&Arrivals::Closed, 0, Some(requests), None);
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
