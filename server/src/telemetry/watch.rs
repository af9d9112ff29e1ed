//! One line per second for what may happen 100,000 times in it: a line per refused request is a load of its own, in the
//! very moment when there is too much.

use std::{convert::Infallible, time::Duration};

use super::{log, metrics::Shed, otel::SpanDrop};
use crate::core::Core;

/// Between two looks, and so between two lines about the same.
const PERIOD: Duration = Duration::from_secs(1);

/// Looks between two lines about spans: the exporter itself says why it fails.
const SPANS_EVERY: u64 = 10;

/// Watches counters that are at rest while all is well, and says in the log when they are not.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    core: &'a Core,
    looks: u64,
    sheds: [u64; Shed::ALL.len()],
    spans_dropped: u64,
    log_lines_dropped: u64,
    access_lines_dropped: u64,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(core: &'a Core) -> Self {
        Self {
            core,
            looks: 0,
            sheds: [0; Shed::ALL.len()],
            spans_dropped: spans_dropped(),
            log_lines_dropped: log::lines_dropped(),
            access_lines_dropped: 0,
        }
    }

    /// Looks once per second. Runs on the control plane, and costs requests nothing.
    #[expect(clippy::infinite_loop, reason = "its caller ends it by dropping it")]
    pub(crate) async fn run(&mut self) -> Infallible {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look();
        }
    }

    /// Says what has happened since the last look.
    pub(crate) fn look(&mut self) {
        for reason in Shed::ALL {
            let count = self.core.metrics.sum(|shard| &shard.sheds[reason as usize]);
            if let Some(refused) = rise(&mut self.sheds[reason as usize], count) {
                tracing::warn!(refused, reason = reason.name(), "overloaded");
            }
        }
        self.looks += 1;
        if self.looks.is_multiple_of(SPANS_EVERY)
            && let Some(spans) = rise(&mut self.spans_dropped, spans_dropped())
        {
            tracing::warn!(spans, "spans are lost: more come than the collector takes (--otlp-queue-max)");
        }
        if let Some(lines) = rise(&mut self.log_lines_dropped, log::lines_dropped()) {
            tracing::warn!(lines, "lines of this log are lost: standard error did not take them in time");
        }
        let access_lines =
            self.core.reporting.access.as_ref().map_or(0, super::access::AccessLog::lines_dropped);
        if let Some(lines) = rise(&mut self.access_lines_dropped, access_lines) {
            tracing::warn!(lines, "lines of the access log are lost: its file did not take them in time");
        }
    }
}

/// Those that failed to be exported are the exporter's to tell of.
fn spans_dropped() -> u64 {
    SpanDrop::QueueFull.count()
}

/// How far `now` is above `seen`, if it is; from now on that is seen.
fn rise(seen: &mut u64, now: u64) -> Option<u64> {
    let before = std::mem::replace(seen, now);
    now.checked_sub(before).filter(|risen| *risen > 0)
}
