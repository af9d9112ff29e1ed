//! Without the lags beside it, a response time says neither who was slow nor whether the clock was right.

use hdrhistogram::Histogram;

use crate::dispatch::Ticket;

/// Longest latency told apart; longer ones count as this.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// Significant decimal digits kept of each latency.
const DIGITS: u8 = 3;

/// Upper bounds of the buckets that are shown while a run lasts: those of the server's durations, so that both sides can
/// be laid over each other.
pub const BUCKETS_NS: [u64; 18] = [
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// The instants of one request, on the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamps {
    /// When it was due.
    pub intended_ns: u64,
    /// The part of the wait before `started_ns` during which every connection was busy.
    pub lag_connection_ns: u64,
    /// Just before its first byte was written.
    pub started_ns: u64,
    /// When its last byte had been read, or when it was given up.
    pub finished_ns: u64,
}

impl Stamps {
    /// The instants of the request that `ticket` permitted.
    pub fn new(ticket: Ticket, started_ns: u64, finished_ns: u64) -> Self {
        let Ticket { intended_ns, lag_connection_ns, .. } = ticket;
        Self { intended_ns, lag_connection_ns, started_ns, finished_ns }
    }

    /// From the intended instant to the last byte.
    pub fn response_ns(self) -> u64 {
        self.finished_ns - self.intended_ns
    }

    /// The part of the wait that was neither the server's nor busy connections'.
    pub fn lag_generator_ns(self) -> u64 {
        self.started_ns - self.intended_ns - self.lag_connection_ns
    }
}

/// The four latencies. For every request `response = lag_connection + lag_generator + service`, in whole ns.
#[derive(Clone, Debug)]
pub struct Latencies {
    /// From the intended instant to the last byte of the response.
    pub response: Series,
    /// From the first byte written to the last byte read.
    pub service: Series,
    /// Due, but every connection was busy: the server's doing.
    pub lag_connection: Series,
    /// Due, a connection idle, and not sent yet: the generator's doing.
    pub lag_generator: Series,
}

/// One histogram and the exact sum of what went into it.
#[derive(Clone, Debug)]
pub struct Series {
    /// Values in ns, to three digits.
    pub histogram: Histogram<u64>,
    /// Sum of all values, exact.
    pub sum_ns: u128,
    buckets: [u64; BUCKETS_NS.len() + 1],
}

/// A series as it is shown while a run lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Values up to each of [`BUCKETS_NS`] and above the one before, and those above all of them.
    pub buckets: [u64; BUCKETS_NS.len() + 1],
    /// Sum of all values.
    pub sum_ns: u128,
}

/// The four series as they are shown while a run lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of Latencies")]
pub struct Tallies {
    pub response: Tally,
    pub service: Tally,
    pub lag_connection: Tally,
    pub lag_generator: Tally,
}

impl Latencies {
    /// The four series with their names, in the order of reports.
    pub fn named(&self) -> [(&'static str, &Series); 4] {
        [
            ("response", &self.response),
            ("service", &self.service),
            ("lag_connection", &self.lag_connection),
            ("lag_generator", &self.lag_generator),
        ]
    }

    /// The four series in short.
    pub fn tallies(&self) -> Tallies {
        Tallies {
            response: self.response.tally(),
            service: self.service.tally(),
            lag_connection: self.lag_connection.tally(),
            lag_generator: self.lag_generator.tally(),
        }
    }

    /// The identity on the exact sums: true unless a stamp was lost.
    pub fn identity_holds(&self) -> bool {
        self.response.sum_ns == self.service.sum_ns + self.lag_connection.sum_ns + self.lag_generator.sum_ns
    }

    /// Four empty series.
    pub(crate) fn new() -> Self {
        Self {
            response: Series::new(),
            service: Series::new(),
            lag_connection: Series::new(),
            lag_generator: Series::new(),
        }
    }

    /// Adds a request that was sent.
    pub(crate) fn add(&mut self, stamps: Stamps) {
        self.response.add(stamps.response_ns());
        self.service.add(stamps.finished_ns - stamps.started_ns);
        self.lag_connection.add(stamps.lag_connection_ns);
        self.lag_generator.add(stamps.lag_generator_ns());
    }

    /// Adds a request that was never sent: it has waited and has no service time.
    pub(crate) fn add_unsent(&mut self, waited_ns: u64, lag_connection_ns: u64) {
        self.response.add(waited_ns);
        self.lag_connection.add(lag_connection_ns);
        self.lag_generator.add(waited_ns - lag_connection_ns);
    }

    /// Adds what another worker saw.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.response.merge(&other.response);
        self.service.merge(&other.service);
        self.lag_connection.merge(&other.lag_connection);
        self.lag_generator.merge(&other.lag_generator);
    }
}

impl Series {
    /// Number of values.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Mean of the exact values, in ns; 0 without any.
    pub fn mean_ns(&self) -> u64 {
        let mean = self.sum_ns.checked_div(u128::from(self.count())).unwrap_or(0);
        u64::try_from(mean).unwrap_or(u64::MAX)
    }

    /// The value that the fraction `quantile` of all values does not exceed; `None` if fewer than ten values
    /// lie above it, because then it is an accident and not a quantile.
    pub fn quantile_ns(&self, quantile: f64) -> Option<u64> {
        let above = self.count() as f64 * (1.0 - quantile);
        // The product is rounded: 1000 values have ten above p99, not 9.999.
        (above + 1e-6 >= 10.0).then(|| self.histogram.value_at_quantile(quantile))
    }

    fn new() -> Self {
        // The bounds are constants that HdrHistogram accepts, as each test that records a value shows.
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS)
            .unwrap_or_else(|error| unreachable!("constant histogram bounds: {error}"));
        Self { histogram, sum_ns: 0, buckets: Default::default() }
    }

    fn tally(&self) -> Tally {
        Tally { buckets: self.buckets, sum_ns: self.sum_ns }
    }

    fn add(&mut self, value_ns: u64) {
        self.histogram.saturating_record(value_ns);
        self.sum_ns += u128::from(value_ns);
        self.buckets[BUCKETS_NS.partition_point(|bound| *bound < value_ns)] += 1;
    }

    fn merge(&mut self, other: &Self) {
        self.histogram
            .add(&other.histogram)
            .unwrap_or_else(|error| unreachable!("all histograms have the same bounds: {error}"));
        let mut tally = self.tally();
        tally.merge(&other.tally());
        (self.buckets, self.sum_ns) = (tally.buckets, tally.sum_ns);
    }
}

impl Tally {
    /// Number of values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(sum, count)| *sum += count);
        self.sum_ns += other.sum_ns;
    }
}

impl Tallies {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.response.merge(&other.response);
        self.service.merge(&other.service);
        self.lag_connection.merge(&other.lag_connection);
        self.lag_generator.merge(&other.lag_generator);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_needs_ten_values_above_it() {
        let mut series = Series::new();
        for value in 0..999 {
            series.add(value);
        }
        assert_eq!(series.quantile_ns(0.99), None);
        series.add(999);
        assert!(series.quantile_ns(0.99).is_some());
        assert_eq!(series.quantile_ns(0.999), None);
    }

    #[test]
    fn a_value_falls_into_the_first_bucket_that_holds_it() {
        let mut series = Series::new();
        for (value_ns, bucket) in [(0, 0), (25_000, 0), (25_001, 1), (10_000_000_000, 17), (u64::MAX, 18)] {
            let before = series.tally();
            series.add(value_ns);
            assert_eq!(series.tally().buckets[bucket], before.buckets[bucket] + 1, "{value_ns}");
            assert_eq!(series.tally().count(), series.count());
        }
    }

    #[test]
    fn a_latency_beyond_the_range_saturates_and_its_sum_stays_exact() {
        let mut series = Series::new();
        series.add(u64::MAX);
        series.add(u64::MAX);
        assert_eq!(series.count(), 2);
        assert_eq!(series.sum_ns, 2 * u128::from(u64::MAX));
    }
}
