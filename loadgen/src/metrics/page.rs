//! The text of `/metrics` (OpenMetrics 1.0).

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};
use rustix::time::{ClockId, clock_gettime};

use super::{View, recent::SPAN_NS};
use crate::{
    board::{Notice, RunPhase},
    clock::{NANOS_PER_SECOND, monotonic_ns, to_ns},
    failure::FailureClass,
    latency::{BUCKETS_NS, Tally},
    verdict::Verdict,
};

/// The content type of [`render`]'s text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Renders every metric of one run.
pub(super) fn render(view: &View) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page(view.clone())));
    let mut text = String::with_capacity(16 * 1024);
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Page(View);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (now_ns, sum) = (monotonic_ns(), self.0.board.sum());
        self.run(&mut encoder, now_ns)?;
        requests(&mut encoder, &sum)?;
        latencies(&mut encoder, &sum)?;
        process(&mut encoder, &sum)
    }
}

impl Page {
    /// Where the run is, and what it is worth.
    fn run(&self, encoder: &mut DescriptorEncoder<'_>, now_ns: u64) -> fmt::Result {
        let View { board, recent } = &self.0;
        let offered = board.offered(now_ns);
        let rate = offered.map(|(_, rate)| rate).or_else(|| board.is_open_loop().then_some(0.0));
        optional_gauge(
            encoder,
            "loadgen_offered_rate",
            "Requests per second that the schedule asks for now; absent in closed loop",
            rate,
        )?;
        optional_gauge(
            encoder,
            "loadgen_stage",
            "The stage that the run is in, counted from 0; absent in closed loop and before and after the stages",
            offered.map(|(stage, _)| stage as u64),
        )?;
        let phase = board.phase(now_ns);
        let phases = RunPhase::ALL.map(|each| (each.name(), u64::from(each == phase)));
        states(encoder, "loadgen_phase", "1 for the phase that the run is in", "phase", phases)?;
        let verdict = recent.lock().unwrap_or_else(std::sync::PoisonError::into_inner).verdict();
        let help = format!(
            "1 for the verdict on the last {} s of the measured time, by the rules of the report; what is never sent \
             is known at the end only",
            SPAN_NS / NANOS_PER_SECOND
        );
        let verdicts = Verdict::ALL.map(|each| (each.name(), u64::from(each == verdict)));
        states(encoder, "loadgen_verdict", &help, "verdict", verdicts)
    }
}

/// What became of the requests, warm-up included.
fn requests(encoder: &mut DescriptorEncoder<'_>, sum: &Notice) -> fmt::Result {
    for (name, help, count) in [
        (
            "loadgen_requests_scheduled",
            "Requests that have fallen due; in closed loop those that were taken",
            sum.scheduled,
        ),
        (
            "loadgen_requests_sent",
            "Requests for which a connection was written to or asked for; the others are the backlog",
            sum.sent,
        ),
        ("loadgen_requests_ok", "Right answers: 2xx, and every checked byte right", sum.ok),
        ("loadgen_request_body_bytes", "Bytes of request bodies written", sum.body_bytes_sent),
        ("loadgen_response_body_bytes", "Bytes of response bodies read", sum.body_bytes_received),
    ] {
        one(encoder, name, help, None, &ConstCounter::new(count))?;
    }
    let mut failed = encoder.encode_descriptor(
        "loadgen_requests_failed",
        "Requests that failed, by the class that the report gives them",
        None,
        MetricType::Counter,
    )?;
    for (class, count) in FailureClass::ALL.iter().zip(sum.failed) {
        ConstCounter::new(count).encode(failed.encode_family(&[("class", class.name())])?)?;
    }
    for (name, help, count) in [
        ("loadgen_requests_in_flight", "Requests that are sent and not answered yet", sum.in_flight),
        ("loadgen_requests_backlog", "Requests that are due and not sent yet", sum.backlog),
        ("loadgen_connections_open", "Connections to the target", sum.connections_open),
    ] {
        one(encoder, name, help, None, &ConstGauge::new(count))?;
    }
    Ok(())
}

/// The latencies of the measured phase, as the report has them.
fn latencies(encoder: &mut DescriptorEncoder<'_>, sum: &Notice) -> fmt::Result {
    let latencies = &sum.latencies;
    for (name, help, tally) in [
        (
            "loadgen_response_time",
            "From the instant at which a request was due to the last byte of its answer",
            &latencies.response,
        ),
        ("loadgen_service_time", "From the first byte written to the last byte read", &latencies.service),
    ] {
        let mut family =
            encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        histogram(&mut family, tally)?;
    }
    let mut lags = encoder.encode_descriptor(
        "loadgen_lag",
        "Wait of a request that is due: by connection, every one was busy (the server); by generator, one was idle",
        Some(&Unit::Seconds),
        MetricType::Histogram,
    )?;
    for (by, tally) in [("connection", &latencies.lag_connection), ("generator", &latencies.lag_generator)] {
        histogram(&mut lags.encode_family(&[("by", by)])?, tally)?;
    }
    Ok(())
}

fn process(encoder: &mut DescriptorEncoder<'_>, sum: &Notice) -> fmt::Result {
    let seconds = |ns: u64| ns as f64 / NANOS_PER_SECOND as f64;
    let in_seconds = Some(&Unit::Seconds);
    one(
        encoder,
        "loadgen_cpu",
        "CPU time of the workers, without what they spent on waiting for the next instant",
        in_seconds,
        &ConstCounter::new(seconds(sum.cpu_ns)),
    )?;
    let cpu_ns = to_ns(clock_gettime(ClockId::ProcessCPUTime));
    one(
        encoder,
        "process_cpu",
        "CPU time of the process, user and system",
        in_seconds,
        &ConstCounter::new(seconds(cpu_ns)),
    )?;
    let (memory, open) = ("process_resident_memory_bytes", "process_open_fds");
    optional_gauge(encoder, memory, "Memory of the process that is in RAM", resident_bytes())?;
    optional_gauge(encoder, open, "Open file descriptors of the process", open_fds())?;
    let mut info = encoder.encode_descriptor(
        "loadgen_build",
        "Version of the load generator",
        None,
        MetricType::Info,
    )?;
    info.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
}

/// A metric without labels.
fn one(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
}

/// A gauge that is left out while there is nothing to say.
fn optional_gauge<N>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: Option<N>,
) -> fmt::Result
where
    ConstGauge<N>: EncodeMetric,
{
    value.map_or(Ok(()), |value| one(encoder, name, help, None, &ConstGauge::new(value)))
}

/// One gauge for each value that `label` can have.
fn states<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: [(&'static str, u64); N],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (value, state) in values {
        ConstGauge::new(state).encode(family.encode_family(&[(label, value)])?)?;
    }
    Ok(())
}

fn histogram(encoder: &mut MetricEncoder<'_>, tally: &Tally) -> fmt::Result {
    let bounds =
        BUCKETS_NS.iter().map(|bound| *bound as f64 / NANOS_PER_SECOND as f64).chain([f64::INFINITY]);
    let buckets: Vec<_> = bounds.zip(tally.buckets).collect();
    let sum = tally.sum_ns as f64 / NANOS_PER_SECOND as f64;
    encoder.encode_histogram::<[(&str, &str); 0]>(sum, tally.count(), &buckets, None)
}

/// The second field of `statm` counts pages in RAM (proc(5)).
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn open_fds() -> Option<u64> {
    // One of them is the directory that is being read.
    Some((std::fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}
