//! The log subscriber: without its own filter a layer sees every disabled `trace!` of hyper and h2, at 100 ns each.

use tracing_subscriber::{
    Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::config::{Config, LogFormat};

/// Installs the subscriber for the whole process. Log lines go to standard error; standard output carries only what
/// was asked for.
///
/// # Errors
/// When a subscriber is installed already.
pub(crate) fn init(config: &Config) -> Result<Option<std::net::SocketAddr>, anyhow::Error> {
    // `Targets`, not `EnvFilter`: span directives cost about 7 % of throughput in measurements of others.
    let filter: Targets = config.log.parse()?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.log_format {
        LogFormat::Pretty => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let registry = tracing_subscriber::registry().with(lines.with_filter(filter));
    #[cfg(feature = "console")]
    let (console, registry) = {
        let (console, layer) = super::console::Console::bind(config)?;
        (console, registry.with(layer).with(super::console::Gate))
    };
    registry.try_init()?;
    #[cfg(feature = "console")]
    return Ok(Some(console.start()?));
    #[cfg(not(feature = "console"))]
    Ok(None)
}
