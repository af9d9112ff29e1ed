//! What the telemetry itself has lost: a gap in what is shown must not look like a quiet server.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::families::counter;
use crate::telemetry::console;

pub(super) fn encode(out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    counter(
        out,
        "echo_console_events_dropped_total",
        "Events of tasks that tokio-console's buffer had no room for: their tasks are shown wrongly, or not at all",
        console::events_dropped(),
    )
}
