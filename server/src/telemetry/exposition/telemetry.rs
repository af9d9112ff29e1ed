//! What the telemetry itself did, and lost: a gap in what is shown must not look like a quiet server.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::families::{counter, counters};
#[cfg(feature = "console")]
use crate::telemetry::console;
use crate::{
    core::Core,
    telemetry::{
        access::AccessLog,
        log,
        metrics::SampledBy,
        otel::{self, SpanDrop},
    },
};

pub(super) fn encode(core: &Core, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Core { metrics, reporting, .. } = core;
    counters(
        out,
        "echo_traces_sampled_total",
        "Requests that are traced, by who wanted it",
        SampledBy::ALL
            .map(|by| ([("by", by.name())], metrics.sum(|shard| &shard.traces_sampled[by as usize]))),
    )?;
    counter(out, "echo_spans_exported_total", "Spans that the collector has taken", otel::spans_exported())?;
    counters(
        out,
        "echo_spans_dropped_total",
        "Spans that the collector never got",
        SpanDrop::ALL.map(|reason| ([("reason", reason.name())], reason.count())),
    )?;
    counter(
        out,
        "echo_log_lines_dropped_total",
        "Log lines that standard error did not take in time",
        log::lines_dropped(),
    )?;
    let access = |count: fn(&AccessLog) -> u64| reporting.access.as_ref().map_or(0, count);
    counter(
        out,
        "echo_access_log_lines_total",
        "Lines of the access log that are written",
        access(AccessLog::lines_written),
    )?;
    counter(
        out,
        "echo_access_log_lines_dropped_total",
        "Lines of the access log that its file did not take in time",
        access(AccessLog::lines_dropped),
    )?;
    #[cfg(feature = "console")]
    counter(
        out,
        "echo_console_events_dropped_total",
        "Events of tasks that tokio-console's buffer had no room for: their tasks are shown wrongly, or not at all",
        console::events_dropped(),
    )?;
    Ok(())
}
