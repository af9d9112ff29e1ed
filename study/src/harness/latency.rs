//! Without merging histograms, the p99 of two runs would be the mean of two numbers that cannot be averaged.

use std::time::Duration;

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hdrhistogram::{Histogram, serialization::Deserializer};

/// Latencies of one run or of several.
#[derive(Clone, Debug)]
pub struct Latency(Histogram<u64>);

impl Latency {
    /// From the text form of an HdrHistogram (V2, deflated, base64).
    ///
    /// # Errors
    /// If it is none.
    pub fn from_base64(text: &str) -> anyhow::Result<Self> {
        let bytes = BASE64.decode(text).context("the histogram is not base64")?;
        let histogram = Deserializer::new().deserialize(&mut bytes.as_slice());
        histogram.map(Self).map_err(|error| anyhow::anyhow!("the histogram cannot be read: {error:?}"))
    }

    /// Adds the latencies of another run.
    ///
    /// # Errors
    /// If they do not fit, which would be a bug.
    pub fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.0.add(&other.0).map_err(|error| anyhow::anyhow!("histograms do not fit: {error:?}"))
    }

    /// A quantile in us; infinite where nothing was answered.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        if self.0.is_empty() {
            return f64::INFINITY;
        }
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    /// How many are not above `limit`.
    pub fn count_within(&self, limit: Duration) -> u64 {
        self.0.count_between(0, u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX))
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}
