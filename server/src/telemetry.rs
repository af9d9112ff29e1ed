//! Logs, traces and metrics: without them nobody can say what the server did, or what it refused.

pub(crate) mod access;
mod clock;
#[cfg(feature = "console")]
pub(crate) mod console;
pub(crate) mod exposition;
pub(crate) mod histogram;
pub(crate) mod json;
mod lines;
pub(crate) mod log;
mod lossy;
pub(crate) mod metrics;
pub(crate) mod otel;
pub(crate) mod proc;
#[cfg(tokio_unstable)]
pub(crate) mod slow_poll;
pub(crate) mod sources;
pub(crate) mod throttle;
pub(crate) mod trace_context;
pub(crate) mod watch;

use std::{io, net::SocketAddr, time::Duration};

#[cfg(feature = "console")]
use tracing_subscriber::Layer as _;
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

use self::lossy::{Buffering, Lossy};
use crate::config::Config;

/// At the end, how long whoever reads our spans and lines may keep the process from ending.
const FLUSH_WAIT: Duration = Duration::from_secs(2);

/// Writes `text` to standard output and says whether it could; does not wait for a reader that has stopped.
pub(crate) fn print(text: &str) -> bool {
    let buffering = Buffering { threads: 1, bytes_max: text.len(), delay: Duration::ZERO };
    let lossy =
        lossy::own(io::stdout()).and_then(|out| Lossy::start("echo-print", out, buffering, |_error| {}));
    lossy.is_ok_and(|lossy| {
        text.split_inclusive('\n').for_each(|line| lossy.push(line.as_bytes()));
        lossy.flush(FLUSH_WAIT) && lossy.dropped() == 0
    })
}

/// Log and traces of the process, flushed when this is dropped.
#[must_use = "what is not flushed is lost"]
#[derive(Debug)]
pub(crate) struct Telemetry {
    otel: Option<otel::Export>,
    console: Option<SocketAddr>,
}

impl Telemetry {
    /// Installs them, once per process.
    ///
    /// # Errors
    /// When there is a subscriber already, or a thread is not to be had.
    pub(crate) fn init(config: &Config) -> anyhow::Result<Self> {
        let service_name = otel::service_name();
        let mut layers = Vec::with_capacity(2);
        // Each with a filter of its own, so that none makes the others see more than they want.
        layers.push(log::layer(config, &service_name)?);
        let otel = otel::Export::start(config, &service_name)?;
        layers.extend(otel.as_ref().map(otel::Export::layer));
        #[cfg(feature = "console")]
        let console = {
            let (console, layer) = console::Console::bind(config)?;
            layers.push(layer.boxed());
            console
        };
        let registry = tracing_subscriber::registry().with(layers);
        #[cfg(feature = "console")]
        let registry = registry.with(console::Gate);
        registry.try_init()?;
        log::log_panics();
        #[cfg(feature = "console")]
        let console = Some(console.start()?);
        #[cfg(not(feature = "console"))]
        let console = None;
        Ok(Self { otel, console })
    }

    /// Where a tokio-console can connect, in a build for it.
    pub(crate) fn console(&self) -> Option<SocketAddr> {
        self.console
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // Spans first: what becomes of them is a line of the log.
        if let Some(otel) = self.otel.take() {
            otel.stop(FLUSH_WAIT);
        }
        log::flush(FLUSH_WAIT);
    }
}
