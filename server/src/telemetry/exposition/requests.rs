//! Requests, and what was refused.

use std::{
    fmt::{self, Write},
    time::{Duration, UNIX_EPOCH},
};

use prometheus_client::encoding::DescriptorEncoder;

use super::families::{counter, counters, gauge, histogram};
use crate::{
    core::Core,
    telemetry::{
        histogram::{BUCKETS, Exemplar, Snapshot},
        metrics::{Aborted, METHODS, Metrics, STATUS_CLASSES, STATUS_CODES, Shed, VERSIONS},
    },
};

pub(super) fn encode(core: &Core, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Core { metrics, gate, .. } = core;
    gauge(
        out,
        "http_server_active_requests",
        "Requests that have not reached the end of their response body",
        metrics.active_requests(),
    )?;
    let codes = STATUS_CODES.iter().map(u16::to_string);
    let statuses = codes.chain(STATUS_CLASSES.map(str::to_owned));
    counters(
        out,
        "echo_responses_total",
        "Requests that have ended with a response, by its status code, or by its class where the code is a rare one. Clients \
         that are refused before they have made a request are in echo_sheds_total and echo_connections_closed_total",
        statuses.enumerate().map(|(place, status)| {
            ([("http_response_status_code", status)], metrics.sum(|shard| &shard.responses[place]))
        }),
    )?;
    histogram(
        out,
        "echo_queue_delay_seconds",
        "From the last bytes of a request's head to the first look at it: how late the runtime is",
        &metrics.histogram(|shard| &shard.queue_delay),
    )?;
    counters(
        out,
        "echo_requests_aborted_total",
        "Requests that did not end well: the client left, or a body broke",
        Aborted::ALL
            .map(|at| ([("at", at.name())], metrics.sum(|shard| &shard.requests_aborted[at as usize]))),
    )?;
    counter(
        out,
        "echo_request_body_bytes_total",
        "Request bodies, as received",
        metrics.sum(|shard| &shard.request_body_bytes),
    )?;
    counter(
        out,
        "echo_response_body_bytes_total",
        "Response bodies, as handed to the connection",
        metrics.sum(|shard| &shard.response_body_bytes),
    )?;
    counter(
        out,
        "echo_panics_total",
        "Panics caught in services and response bodies",
        metrics.sum(|shard| &shard.panics),
    )?;
    counters(
        out,
        "echo_sheds_total",
        "Requests and connections refused before any work was done for them",
        Shed::ALL
            .map(|reason| ([("reason", reason.name())], metrics.sum(|shard| &shard.sheds[reason as usize]))),
    )?;
    gauge(out, "echo_requests_admitted", "Requests that hold a place of requests_max", gate.entered())?;
    gauge(
        out,
        "echo_requests_max",
        "Limit of requests in progress: requests_max, or what the adaptive limit has come to",
        gate.limit(),
    )?;
    overload(core, out)
}

fn overload(core: &Core, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Core { metrics, gate, overload, .. } = core;
    gauge(out, "echo_requests_waiting", "Requests that wait for a place of requests_max", gate.waiting())?;
    gauge(
        out,
        "echo_streams_open",
        "Long-lived responses (WebSocket, server-sent events, drip) that hold a place of streams_max",
        gate.streams().taken() as u64,
    )?;
    gauge(out, "echo_streams_max", "Limit of long-lived responses", gate.streams().max() as u64)?;
    histogram(
        out,
        "echo_worker_delay_seconds",
        "What a task that is ready waits for its turn on a worker that is at work without a pause",
        &metrics.histogram(|shard| &shard.worker_delay),
    )?;
    counter(
        out,
        "echo_reads_paused_total",
        "Times that a connection was not read from for a while, because its worker did nothing but refuse",
        metrics.sum(|shard| &shard.reads_paused),
    )?;
    gauge(
        out,
        "echo_connections_paused",
        "Connections that are not read from for the moment",
        overload.parked() as u64,
    )
}

/// One histogram per method, status class and version that has been seen, with exemplars. By hand, because
/// prometheus-client makes exemplars inside its own histograms alone.
pub(super) fn durations(metrics: &Metrics, text: &mut String) -> fmt::Result {
    writeln!(
        text,
        "# HELP {DURATION} From the last bytes of a request's head to the end of its response body"
    )?;
    writeln!(text, "# TYPE {DURATION} histogram\n# UNIT {DURATION} seconds")?;
    for (method, method_name) in METHODS.iter().enumerate() {
        for (class, class_name) in STATUS_CLASSES.iter().enumerate() {
            for (version, version_name) in VERSIONS.iter().enumerate() {
                let values = metrics.histogram(|shard| &shard.requests[method][class][version]);
                if values.count() > 0 {
                    let labels = format!(
                        "http_request_method=\"{method_name}\",network_protocol_version=\"{version_name}\",\
                         status_class=\"{class_name}\""
                    );
                    let exemplar = |bucket| metrics.exemplar((method, class, version), bucket);
                    write_durations(text, &labels, &values, exemplar)?;
                }
            }
        }
    }
    Ok(())
}

const DURATION: &str = "http_server_request_duration_seconds";

fn write_durations(
    text: &mut String,
    labels: &str,
    values: &Snapshot,
    exemplar: impl Fn(usize) -> Option<Exemplar>,
) -> fmt::Result {
    writeln!(text, "{DURATION}_sum{{{labels}}} {}", values.sum_s())?;
    writeln!(text, "{DURATION}_count{{{labels}}} {}", values.count())?;
    let bounds = BUCKETS.map(decimal).into_iter().chain(["+Inf".to_owned()]);
    let mut so_far = 0;
    for (bucket, (bound, count)) in bounds.zip(values.counts).enumerate() {
        so_far += count;
        write!(text, "{DURATION}_bucket{{le=\"{bound}\",{labels}}} {so_far}")?;
        if let Some(exemplar) = exemplar(bucket) {
            write_exemplar(text, exemplar)?;
        }
        text.write_char('\n')?;
    }
    Ok(())
}

/// Seconds as prometheus-client writes a bound, so that all histograms have the same values of `le`.
fn decimal(bound: Duration) -> String {
    let seconds = bound.as_secs_f64().to_string();
    if seconds.contains('.') { seconds } else { seconds + ".0" }
}

fn write_exemplar(text: &mut String, exemplar: Exemplar) -> fmt::Result {
    let at = exemplar.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    write!(
        text,
        " # {{trace_id=\"{:032x}\"}} {} {}.{:03}",
        exemplar.trace_id,
        exemplar.duration.as_secs_f64(),
        at.as_secs(),
        at.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU128;

    use http::{Method, StatusCode, Version};

    use super::*;
    use crate::telemetry::metrics::RequestLabels;

    #[test]
    fn a_traced_request_is_the_exemplar_of_its_bucket() {
        let metrics = Metrics::new(1);
        let labels = RequestLabels::new(&Method::POST, Version::HTTP_2);
        let duration = Duration::from_micros(1_700);
        let shard = metrics.shard();
        for _ in 0..3 {
            shard.request_done(labels, StatusCode::OK, duration);
        }
        let trace_id = NonZeroU128::new(0xabc).unwrap();
        metrics.request_traced(labels, StatusCode::OK, duration, trace_id);
        let mut text = String::new();
        durations(&metrics, &mut text).unwrap();

        let with_exemplar: Vec<&str> = text.lines().filter(|line| line.contains(" # ")).collect();
        let [line] = with_exemplar[..] else { panic!("one bucket has an exemplar: {with_exemplar:?}") };
        let (sample, exemplar) = line.split_once(" # ").unwrap();
        let bucket = "http_server_request_duration_seconds_bucket{le=\"0.0025\",http_request_method=\"POST\",\
                      network_protocol_version=\"2\",status_class=\"2xx\"} 3";
        assert_eq!(sample, bucket);
        let (labels, rest) = exemplar.split_once("} ").unwrap();
        assert_eq!(labels, format!("{{trace_id=\"{:032x}\"", 0xabc));
        let (value, timestamp) = rest.split_once(' ').unwrap();
        assert_eq!(value, "0.0017");
        assert!(timestamp.parse::<f64>().unwrap() > 1.7e9, "{timestamp}");
    }
}
