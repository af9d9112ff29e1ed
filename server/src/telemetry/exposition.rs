//! The text of `/metrics` (OpenMetrics 1.0): without it the counters are nobody's.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use super::metrics::{Aborted, AcceptError, BUCKETS, ConnectionEnd, METHODS, STATUS_CLASSES, Shed};
use crate::{core::Core, phase::Phase, task::TaskKind};

/// The content type of [`render`]'s text.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Renders every metric of one server.
pub(crate) fn render(core: &Arc<Core>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(Arc::clone(core))));
    let mut text = String::with_capacity(16 * 1024);
    text::encode(&mut text, &registry)?;
    Ok(text)
}

struct Scrape(Arc<Core>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.requests(&mut encoder)?;
        self.overload(&mut encoder)?;
        self.connections(&mut encoder)?;
        self.process(&mut encoder)
    }
}

impl Scrape {
    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.durations(encoder)?;
        let metrics = &self.0.metrics;
        gauge(
            encoder,
            "echo_requests_in_flight",
            "Requests that have not reached the end of their response body",
            metrics.requests_in_flight(),
        )?;
        counters(
            encoder,
            "echo_requests_aborted",
            "Requests that did not end well: the client left, or a body broke",
            "at",
            Aborted::ALL.map(|at| (at.name(), metrics.sum(|shard| &shard.requests_aborted[at as usize]))),
        )?;
        counter(
            encoder,
            "echo_request_body_bytes",
            "Bytes of request bodies received",
            metrics.sum(|shard| &shard.request_body_bytes),
        )?;
        counter(
            encoder,
            "echo_response_body_bytes",
            "Bytes of response bodies handed to the connection",
            metrics.sum(|shard| &shard.response_body_bytes),
        )?;
        counter(
            encoder,
            "echo_panics",
            "Panics caught in services and response bodies",
            metrics.sum(|shard| &shard.panics),
        )
    }

    /// One histogram per method and status class that has been seen: at most 45.
    fn durations(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            "http_server_request_duration",
            "From the bytes of a request's head to the end of its response body",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (method, method_name) in METHODS.iter().enumerate() {
            for (class, class_name) in STATUS_CLASSES.iter().enumerate() {
                let metrics = &self.0.metrics;
                let bounds = BUCKETS.iter().map(std::time::Duration::as_secs_f64).chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = bounds
                    .enumerate()
                    .map(|(i, bound)| (bound, metrics.sum(|shard| &shard.requests[method][class].buckets[i])))
                    .collect();
                let count = buckets.iter().map(|(_, count)| count).sum();
                if count == 0 {
                    continue;
                }
                let sum_ns = metrics.sum(|shard| &shard.requests[method][class].sum_ns);
                let labels = [("http_request_method", *method_name), ("status_class", *class_name)];
                family.encode_family(&labels)?.encode_histogram::<[(&str, &str); 0]>(
                    sum_ns as f64 / 1e9,
                    count,
                    &buckets,
                    None,
                )?;
            }
        }
        Ok(())
    }

    fn overload(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Core { metrics, gate, .. } = &*self.0;
        counters(
            encoder,
            "echo_sheds",
            "Requests and connections refused before any work was done for them",
            "reason",
            Shed::ALL.map(|reason| (reason.name(), metrics.sum(|shard| &shard.sheds[reason as usize]))),
        )?;
        gauge(
            encoder,
            "echo_requests_admitted",
            "Requests that hold a place of requests_max",
            signed(gate.entered()),
        )?;
        gauge(encoder, "echo_requests_max", "Limit of requests in progress", signed(gate.limit()))
    }

    fn connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Core { metrics, slots, .. } = &*self.0;
        gauge(encoder, "echo_connections_open", "Client connections", signed(slots.taken()))?;
        gauge(encoder, "echo_connections_max", "Limit of client connections", signed(slots.limit()))?;
        counter(
            encoder,
            "echo_connections_opened",
            "Client connections accepted",
            metrics.sum(|shard| &shard.connections_opened),
        )?;
        counters(
            encoder,
            "echo_connections_closed",
            "Client connections ended",
            "reason",
            ConnectionEnd::ALL
                .map(|end| (end.name(), metrics.sum(|shard| &shard.connections_closed[end as usize]))),
        )?;
        counters(
            encoder,
            "echo_accept_errors",
            "Failures of accept",
            "kind",
            AcceptError::ALL
                .map(|kind| (kind.name(), metrics.sum(|shard| &shard.accept_errors[kind as usize]))),
        )
    }

    fn process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut tasks = encoder.encode_descriptor(
            "echo_tasks",
            "Live tasks of the data plane",
            None,
            MetricType::Gauge,
        )?;
        for kind in TaskKind::ALL {
            let live = self.0.metrics.level(|shard| &shard.tasks[kind as usize]);
            ConstGauge::new(live).encode(tasks.encode_family(&[("kind", kind.name())])?)?;
        }
        let phase = self.0.lifecycle.phase();
        let mut phases = encoder.encode_descriptor(
            "echo_phase",
            "1 for the phase the server is in",
            None,
            MetricType::Gauge,
        )?;
        for each in Phase::ALL {
            let here = i64::from(each == phase);
            ConstGauge::new(here).encode(phases.encode_family(&[("phase", each.name())])?)?;
        }
        let mut info =
            encoder.encode_descriptor("echo_build", "Version of the server", None, MetricType::Info)?;
        info.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: i64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn counters<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: [(&'static str, u64); N],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, count) in values {
        ConstCounter::new(count).encode(family.encode_family(&[(label, value)])?)?;
    }
    Ok(())
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
