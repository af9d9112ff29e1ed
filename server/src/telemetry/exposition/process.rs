//! The process, under the names that Prometheus clients share.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::families::{counter, counters, gauge};
use crate::{core::Core, telemetry::proc};

pub(super) fn encode(core: &Core, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    counter(
        out,
        "process_cpu_seconds_total",
        "User and system CPU time of all threads",
        proc::cpu_time().as_secs_f64(),
    )?;
    if let Some(memory) = proc::memory() {
        gauge(out, "process_resident_memory_bytes", "Memory that is in RAM", memory.resident_bytes)?;
        gauge(out, "process_virtual_memory_bytes", "Address space", memory.virtual_bytes)?;
        gauge(out, "process_threads", "Threads", memory.threads)?;
    }
    if let Some(open) = proc::fds_open() {
        gauge(out, "process_open_fds", "Open file descriptors", open)?;
    }
    if let Some(max) = proc::fds_max() {
        gauge(out, "process_max_fds", "Limit of file descriptors (RLIMIT_NOFILE)", max)?;
    }
    if let Some(start) = proc::start_time() {
        gauge(out, "process_start_time_seconds", "When the process was started, since 1970", start)?;
    }
    if let Some([voluntary, involuntary]) = core.sources.context_switches() {
        counters(
            out,
            "process_context_switches_total",
            "Times that a thread gave its core up, because it waited (voluntary) or was made to (involuntary); what a thread \
             does between the last scrape and its end is missing",
            [([("kind", "voluntary")], voluntary), ([("kind", "involuntary")], involuntary)],
        )?;
    }
    Ok(())
}
