//! Writes a metric under the name that Prometheus sees: prometheus-client wants it in parts, and a name that is nowhere
//! whole is found by nobody.

use std::fmt;

use prometheus_client::{
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, EncodeMetric as _,
        MetricEncoder, NoLabelSet,
    },
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use crate::telemetry::histogram::{BUCKETS, Snapshot};

/// A counter without labels; its name ends with `_total`.
pub(super) fn counter(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: impl EncodeCounterValue,
) -> fmt::Result {
    describe(out, name, help, MetricType::Counter, |metric| ConstCounter::new(value).encode(metric))
}

/// Counters of one name, told apart by labels.
pub(super) fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (L, V)>,
) -> fmt::Result {
    describe(out, name, help, MetricType::Counter, |mut family| {
        samples
            .into_iter()
            .try_for_each(|(labels, value)| ConstCounter::new(value).encode(family.encode_family(&labels)?))
    })
}

/// A gauge without labels.
pub(super) fn gauge(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    describe(out, name, help, MetricType::Gauge, |metric| ConstGauge::new(value).encode(metric))
}

/// Gauges of one name, told apart by labels.
pub(super) fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (L, V)>,
) -> fmt::Result {
    describe(out, name, help, MetricType::Gauge, |mut family| {
        samples
            .into_iter()
            .try_for_each(|(labels, value)| ConstGauge::new(value).encode(family.encode_family(&labels)?))
    })
}

/// A histogram without labels; its name ends with `_seconds`.
pub(super) fn histogram(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: &Snapshot,
) -> fmt::Result {
    let bounds = BUCKETS.iter().map(std::time::Duration::as_secs_f64).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(values.counts).collect();
    describe(out, name, help, MetricType::Histogram, |mut metric| {
        metric.encode_histogram::<NoLabelSet>(values.sum_s(), values.count(), &buckets, None)
    })
}

/// Splits a name into what prometheus-client puts together again.
pub(super) fn describe(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    samples: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    let name = name.strip_suffix("_total").unwrap_or(name);
    let (name, unit) = match (name.strip_suffix("_seconds"), name.strip_suffix("_bytes")) {
        (Some(name), _) => (name, Some(Unit::Seconds)),
        (_, Some(name)) => (name, Some(Unit::Bytes)),
        _ => (name, None),
    };
    samples(out.encode_descriptor(name, help, unit.as_ref(), kind)?)
}
