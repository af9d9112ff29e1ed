//! The text of `/metrics` (OpenMetrics 1.0): without it the counters are nobody's.
//!
//! A file for each subject; names stand there as Prometheus sees them.

mod connections;
mod families;
mod process;
mod requests;
mod runtime;
mod state;
mod telemetry;
mod tls;

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};

use crate::core::Core;

/// The content type of [`render`]'s text.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Renders every metric of one server.
pub(crate) fn render(core: &Arc<Core>) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(64 * 1024);
    requests::durations(&core.metrics, &mut text)?;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(Arc::clone(core))));
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
        let (core, out) = (&*self.0, &mut encoder);
        requests::encode(core, out)?;
        connections::encode(core, out)?;
        tls::encode(core, out)?;
        state::encode(core, out)?;
        process::encode(core, out)?;
        runtime::encode(core, out)?;
        telemetry::encode(core, out)
    }
}
