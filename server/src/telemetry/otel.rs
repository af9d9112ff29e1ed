//! Spans on their way to an OpenTelemetry collector: an exporter with its defaults hides what it loses, and a server whose
//! collector is away must neither wait for it nor pretend.

#[cfg(not(feature = "otel"))]
#[path = "otel/absent.rs"]
mod export;
#[cfg(feature = "otel")]
mod export;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub(crate) use self::export::{Export, start_span};

/// The target of the spans that are exported, and of the events that belong to them.
pub(crate) const TARGET: &str = "echo_server::request";

/// What became of the spans of this process.
static COUNTS: Counts = Counts::new();

struct Counts {
    exported: AtomicU64,
    dropped: [AtomicU64; SpanDrop::ALL.len()],
}

impl Counts {
    const fn new() -> Self {
        Self { exported: AtomicU64::new(0), dropped: [const { AtomicU64::new(0) }; SpanDrop::ALL.len()] }
    }
}

/// Why a span never reached the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpanDrop {
    /// `otlp_queue_max` spans were waiting already.
    QueueFull,
    /// The collector did not take it, or not in time.
    ExportFailed,
}

impl SpanDrop {
    pub(crate) const ALL: [Self; 2] = [Self::QueueFull, Self::ExportFailed];

    /// The value of the metric's label.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::ExportFailed => "export_failed",
        }
    }

    /// Spans of this process that were lost for this reason.
    pub(crate) fn count(self) -> u64 {
        COUNTS.dropped[self as usize].load(Relaxed)
    }

    #[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "without an exporter nothing is lost"))]
    fn add(self, spans: usize) {
        COUNTS.dropped[self as usize].fetch_add(spans as u64, Relaxed);
    }
}

/// Spans of this process that the collector has taken.
pub(crate) fn spans_exported() -> u64 {
    COUNTS.exported.load(Relaxed)
}

/// The name that logs and traces bear: `OTEL_SERVICE_NAME`, as everywhere in OpenTelemetry, or our own.
pub(crate) fn service_name() -> String {
    std::env::var("OTEL_SERVICE_NAME")
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned())
}
