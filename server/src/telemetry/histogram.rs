//! Histograms of durations at two uncontended atomics per value, and an example for each bucket: without the trace of a
//! request that fell into it, a slow bucket says that something was slow, and not what.

use std::{
    num::NonZeroU128,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

/// Upper bounds of the buckets. From 25 us, because an echo on loopback takes about that.
pub(crate) const BUCKETS: [Duration; 18] = [
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// The bounds, and infinity.
const COUNTS: usize = BUCKETS.len() + 1;

/// The bounds in nanoseconds: one comparison each, and not one of seconds and one of their fraction.
const BOUNDS_NS: [u64; BUCKETS.len()] = {
    let mut bounds = [0; BUCKETS.len()];
    let mut i = 0;
    while i < BUCKETS.len() {
        bounds[i] = BUCKETS[i].as_secs() * 1_000_000_000 + BUCKETS[i].subsec_nanos() as u64;
        i += 1;
    }
    bounds
};

/// One thread's part of a histogram.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    counts: [AtomicU64; COUNTS],
    sum_ns: AtomicU64,
}

impl Histogram {
    pub(crate) fn record(&self, duration: Duration) {
        let ns = nanos(duration);
        self.counts[bucket(ns)].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }
}

fn bucket(ns: u64) -> usize {
    BOUNDS_NS.partition_point(|bound| *bound < ns)
}

/// 584 years fit.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A histogram summed over its threads.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Values in each bucket alone; the last is for those above all of [`BUCKETS`].
    pub(crate) counts: [u64; COUNTS],
    sum_ns: u64,
}

impl Snapshot {
    pub(crate) fn add(&mut self, part: &Histogram) {
        for (sum, count) in self.counts.iter_mut().zip(&part.counts) {
            *sum += count.load(Relaxed);
        }
        self.sum_ns = self.sum_ns.wrapping_add(part.sum_ns.load(Relaxed));
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(crate) fn sum_s(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }
}

/// A request that fell into a bucket and was traced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Exemplar {
    pub(crate) trace_id: NonZeroU128,
    pub(crate) duration: Duration,
    pub(crate) at: SystemTime,
}

/// The latest exemplar of each bucket of one histogram. Takes memory from the first one on.
#[derive(Debug, Default)]
pub(crate) struct Exemplars(OnceLock<Box<[Mutex<Option<Exemplar>>; COUNTS]>>);

impl Exemplars {
    /// For sampled requests only: it reads the clock and takes a lock. It never waits for it: whoever holds it writes
    /// an exemplar that is as good, or reads one that is as new.
    pub(crate) fn keep(&self, duration: Duration, trace_id: NonZeroU128) {
        if let Ok(mut slot) = self.0.get_or_init(Box::default)[bucket(nanos(duration))].try_lock() {
            *slot = Some(Exemplar { trace_id, duration, at: SystemTime::now() });
        }
    }

    pub(crate) fn get(&self, bucket: usize) -> Option<Exemplar> {
        *self.0.get()?[bucket].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        let durations = [
            (Duration::ZERO, 0),
            (Duration::from_micros(25), 0),
            (Duration::from_nanos(25_001), 1),
            (Duration::from_secs(10), 17),
            (Duration::from_secs(11), 18),
        ];
        for (duration, bucket) in durations {
            let before = histogram.counts[bucket].load(Relaxed);
            histogram.record(duration);
            assert_eq!(histogram.counts[bucket].load(Relaxed), before + 1, "{duration:?}");
        }
        let mut sum = Snapshot::default();
        sum.add(&histogram);
        sum.add(&histogram);
        assert_eq!(sum.count(), 2 * durations.len() as u64);
        assert!((sum.sum_s() - 2.0 * 21.000_050_001).abs() < 1e-9, "{}", sum.sum_s());
    }

    #[test]
    fn the_latest_traced_request_is_the_exemplar_of_its_bucket_alone() {
        let exemplars = Exemplars::default();
        assert_eq!(exemplars.get(0), None);
        for id in [1, 2] {
            exemplars.keep(Duration::from_micros(30), NonZeroU128::new(id).unwrap());
        }
        let exemplar = exemplars.get(1).unwrap();
        assert_eq!((exemplar.trace_id.get(), exemplar.duration), (2, Duration::from_micros(30)));
        assert!((0..COUNTS).all(|bucket| bucket == 1 || exemplars.get(bucket).is_none()));
    }
}
