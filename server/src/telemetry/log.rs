//! The log: without its own filter a layer sees every disabled `trace!` of hyper and h2, at 100 ns each; and with a plain
//! writer a request waits for whoever reads standard error.

use std::{
    io::{self, IsTerminal as _},
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use tracing::{Metadata, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry,
    filter::{FilterExt as _, Targets, filter_fn},
    fmt::MakeWriter,
    layer, reload,
};

use super::{
    lines::Lines,
    lossy::{self, Buffering, Lossy},
};
use crate::config::Config;

/// Per thread: some hundreds of lines, and a burst is over.
const BUFFER_MAX: usize = 256 * 1024;

/// The layer that writes events to standard error, in the form that `config` asks for; standard output carries only what
/// was asked for. Once per process.
///
/// # Errors
/// When there is no descriptor or thread to be had, or `config.log` is no filter.
pub(super) fn layer(
    config: &Config,
    service_name: &str,
) -> anyhow::Result<Box<dyn Layer<Registry> + Send + Sync>> {
    let buffering = Buffering { threads: config.workers() + 1, bytes_max: BUFFER_MAX, delay: Duration::ZERO };
    // Where standard error cannot be written to there is nobody to be told.
    let lossy = Lossy::start("echo-log", lossy::own(io::stderr())?, buffering, |_error| {})?;
    let lines = Lines {
        format: config.log_format,
        is_terminal: io::stderr().is_terminal(),
        service_name: service_name.to_owned(),
    };
    let (filter, handle) = Filter::of(&config.log)?;
    LOG.set(Log { lossy: lossy.clone(), filter: handle })
        .map_err(|_log| anyhow::anyhow!("the log is there already"))?;
    let layer = tracing_subscriber::fmt::layer().event_format(lines).with_writer(Output(lossy));
    Ok(layer.with_filter(filter).boxed())
}

fn is_no_span(metadata: &Metadata<'_>) -> bool {
    !metadata.is_span()
}

/// The log of the process, once there is one.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    lossy: Lossy,
    filter: Filter,
}

/// The filter of the running log.
#[derive(Debug)]
pub(crate) struct Filter {
    handle: reload::Handle<Targets, Registry>,
    text: Mutex<String>,
}

impl Filter {
    /// A filter for the layer, and the handle that changes it.
    fn of(text: &str) -> anyhow::Result<(impl layer::Filter<Registry> + use<>, Self)> {
        // `Targets`, not `EnvFilter`: span directives cost about 7 % of throughput in measurements of others. Which call
        // sites are off is remembered by each; only those that are on ask again, and take the read lock for it.
        let (targets, handle) = reload::Layer::new(text.parse::<Targets>()?);
        // What a line needs of a span it finds in the current `TraceContext`, at no cost per span. Without a hint this
        // half would count as one that wants all, and every call site of the process would be asked.
        let no_spans = filter_fn(is_no_span).with_max_level_hint(LevelFilter::TRACE);
        Ok((targets.and(no_spans), Self { handle, text: Mutex::new(text.to_owned()) }))
    }

    /// The one of this process; `None` where the log is somebody else's.
    pub(crate) fn of_process() -> Option<&'static Self> {
        LOG.get().map(|log| &log.filter)
    }

    /// Changes what is logged from now on: `level` or `target=level,...`, as in the setting `log`.
    ///
    /// # Errors
    /// Says what is wrong with `text`; the filter stays as it was.
    pub(crate) fn set(&self, text: &str) -> Result<(), String> {
        let text = text.trim();
        let targets: Targets = text
            .parse()
            .map_err(|error| format!("{text:?} is no level, and no target=level pairs: {error}"))?;
        self.handle.reload(targets).map_err(|error| error.to_string())?;
        text.clone_into(&mut self.text.lock().unwrap_or_else(PoisonError::into_inner));
        tracing::info!(filter = text, "the log filter has changed");
        Ok(())
    }

    /// The filter as it was last set.
    pub(crate) fn get(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Lines that were lost, because standard error does not take them, since the start of the process.
pub(crate) fn lines_dropped() -> u64 {
    LOG.get().map_or(0, |log| log.lossy.dropped())
}

/// Waits until all lines are out, up to `timeout`.
pub(super) fn flush(timeout: Duration) {
    if let Some(log) = LOG.get() {
        let _all_out_or_nobody_reads = log.lossy.flush(timeout);
    }
}

/// Makes a panic a line of the log: the standard hook writes to standard error itself, and waits for its reader.
pub(super) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        let backtrace =
            (backtrace.status() == std::backtrace::BacktraceStatus::Captured).then_some(backtrace);
        tracing::error!(
            thread = thread.name(),
            location = panic.location().map(tracing::field::display),
            backtrace = backtrace.map(tracing::field::display),
            "panic: {}",
            panic.payload_as_str().unwrap_or("of an unknown kind")
        );
    }));
}

/// Hands each line to [`Lossy`], whole.
struct Output(Lossy);

impl<'a> MakeWriter<'a> for Output {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl io::Write for &Output {
    /// The fmt layer makes one call per line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn a_filter_changes_what_is_on_and_refuses_what_is_no_filter() {
        let (of_layer, filter) = Filter::of("info").unwrap();
        assert_eq!(
            layer::Filter::max_level_hint(&of_layer),
            Some(LevelFilter::INFO),
            "debug! stays a comparison"
        );
        let layer = tracing_subscriber::fmt::layer().with_writer(io::sink).with_filter(of_layer);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let is_on =
                || (tracing::enabled!(tracing::Level::INFO), tracing::enabled!(tracing::Level::DEBUG));
            assert_eq!(is_on(), (true, false));
            filter.set(" debug\n").unwrap();
            assert_eq!((is_on(), filter.get().as_str()), ((true, true), "debug"));
            let error = filter.set("echo_server=loud").unwrap_err();
            assert!(error.contains("echo_server=loud"), "{error}");
            assert_eq!((is_on(), filter.get().as_str()), ((true, true), "debug"), "as it was");
            filter.set("off").unwrap();
            assert_eq!(is_on(), (false, false));
        });
    }
}
