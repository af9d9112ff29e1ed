//! What the server is, and where in its life.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::families::{counters, gauge, gauges};
use crate::{core::Core, phase::Phase, task::TaskKind, telemetry::metrics::Restart};

/// What the build was made from; the images set it.
const REVISION: Option<&str> = option_env!("ECHO_BUILD_REVISION");

pub(super) fn encode(core: &Core, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let phase = core.lifecycle.phase();
    gauges(
        out,
        "echo_phase",
        "1 for the phase the server is in",
        Phase::ALL.map(|each| ([("phase", each.name())], i64::from(each == phase))),
    )?;
    gauge(
        out,
        "echo_ready",
        "1 while /readyz says 200: the server serves, and nobody has disabled it",
        i64::from(core.lifecycle.is_ready()),
    )?;
    counters(
        out,
        "echo_restarts_total",
        "Restarts of the program by SIGUSR2, also those of the processes before this one",
        Restart::ALL.map(|result| {
            ([("result", result.name())], core.metrics.sum(|shard| &shard.restarts[result as usize]))
        }),
    )?;
    gauges(
        out,
        "echo_tasks",
        "Live tasks of the data plane",
        TaskKind::ALL
            .map(|kind| ([("kind", kind.name())], core.metrics.level(|shard| &shard.tasks[kind as usize]))),
    )?;
    let features = features();
    // A gauge: promtool's check, like every parser of the older text format, knows no other kind for it.
    gauges(
        out,
        "echo_build_info",
        "1, with what the server was built from as labels",
        [(
            [
                ("version", env!("CARGO_PKG_VERSION")),
                ("revision", REVISION.unwrap_or("unknown")),
                ("features", &features),
                ("tokio_unstable", if cfg!(tokio_unstable) { "true" } else { "false" }),
            ],
            1_i64,
        )],
    )
}

/// `otel,console`
fn features() -> String {
    let all = [("otel", cfg!(feature = "otel")), ("console", cfg!(feature = "console"))];
    let built: Vec<&str> = all.into_iter().filter(|(_, is_built)| *is_built).map(|(name, _)| name).collect();
    built.join(",")
}
