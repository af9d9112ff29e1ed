//! A build without the feature `otel`: sampled requests have their ids, in logs and exemplars, but nobody gets their spans.

use std::time::Duration;

use tracing::Span;
use tracing_subscriber::{Layer, Registry};

use crate::{
    config::Config,
    telemetry::trace_context::{Parent, TraceContext},
};

/// There is none.
#[derive(Debug)]
pub(crate) enum Export {}

impl Export {
    /// `None`: a configured collector has been refused with the rest of the configuration.
    #[expect(clippy::unnecessary_wraps, reason = "the form of the build that has an exporter")]
    pub(crate) fn start(_config: &Config, _service_name: &str) -> anyhow::Result<Option<Self>> {
        Ok(None)
    }

    pub(crate) fn layer(&self) -> Box<dyn Layer<Registry> + Send + Sync> {
        match *self {}
    }

    pub(crate) fn stop(self, _timeout: Duration) {
        match self {}
    }
}

/// Ids for a span.
pub(crate) fn start_span(_span: &Span, parent: Option<Parent>) -> TraceContext {
    TraceContext::new_span(parent)
}
