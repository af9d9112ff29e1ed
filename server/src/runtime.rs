//! Which tokio runtime carries the data plane, as a value: a choice that is woven into the code can be neither
//! measured nor changed.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::runtime::{Builder, Runtime as Tokio};

use crate::{
    config::{Config, Runtime},
    connection::tls::Tls,
    core::Core,
    request::HttpService,
    socket::{
        accept,
        listen::{DataListener, Listeners},
    },
};

/// After the drain, how long a handler that blocks its thread may hold the process up.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(1);

/// How many threads of the data plane accept; each wants listeners of its own.
pub(crate) fn accepting_threads(config: &Config) -> usize {
    match config.runtime {
        Runtime::WorkStealing => 1,
        Runtime::PerCore => config.workers(),
    }
}

/// Starts the data plane: threads that accept and serve until the server has drained.
///
/// # Errors
/// When a runtime or a thread cannot be had; nothing has been started then that outlives `core`'s drain.
pub(crate) fn start<S>(
    core: &Arc<Core>,
    listeners: Listeners,
    tls: Option<&Arc<Tls>>,
    service: &S,
) -> io::Result<Vec<JoinHandle<()>>>
where
    S: HttpService,
{
    let hands = listeners.deal(accepting_threads(&core.config))?;
    let mut planes = Vec::with_capacity(hands.len());
    for (index, bound) in hands.into_iter().enumerate() {
        let runtime = build(core)?;
        core.sources.add_runtime(format!("data-{index}"), runtime.handle().clone());
        let opened: io::Result<Vec<_>> = {
            let _context = runtime.enter();
            bound.into_iter().map(|listener| listener.open(tls)).collect()
        };
        planes.push((index, runtime, opened?));
    }
    let start = |(index, runtime, listeners)| {
        let (core, service) = (Arc::clone(core), service.clone());
        thread::Builder::new()
            .name(format!("echo-data-{index}"))
            .spawn(move || carry(runtime, listeners, &service, &core))
    };
    planes.into_iter().map(start).collect()
}

/// One thread of the data plane: accepts, serves, and stays until the last connection of all threads is gone.
fn carry<S>(runtime: Tokio, listeners: Vec<(DataListener, Option<Arc<Tls>>)>, service: &S, core: &Arc<Core>)
where
    S: HttpService,
{
    runtime.block_on(async {
        for (listener, tls) in listeners {
            accept::start(listener, tls, service.clone(), core);
        }
        core.lifecycle.ended().await;
    });
    runtime.shutdown_timeout(SHUTDOWN_WAIT);
}

fn build(core: &Arc<Core>) -> io::Result<Tokio> {
    let mut builder = match core.config.runtime {
        Runtime::WorkStealing => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(core.config.workers()).thread_name("echo-worker");
            builder
        }
        Runtime::PerCore => Builder::new_current_thread(),
    };
    let overload = Arc::clone(&core.overload);
    builder.on_thread_park(move || overload.worker_parks());
    #[cfg(tokio_unstable)]
    {
        if core.config.task_histograms {
            time_polls(&mut builder);
        }
        crate::telemetry::slow_poll::watch(&mut builder, core);
    }
    builder.enable_all().build()
}

/// Two readings of the clock per poll. Buckets double from half a microsecond to 8 s.
#[cfg(tokio_unstable)]
fn time_polls(builder: &mut Builder) {
    use tokio::runtime::{HistogramConfiguration, LogHistogram};
    let buckets = LogHistogram::builder()
        .min_value(Duration::from_micros(1))
        .max_value(Duration::from_secs(8))
        .precision_exact(0)
        .build();
    builder
        .enable_metrics_poll_time_histogram()
        .metrics_poll_time_histogram_configuration(HistogramConfiguration::log(buckets))
        .enable_metrics_schedule_latency_histogram()
        .metrics_schedule_latency_histogram_configuration(HistogramConfiguration::log(buckets));
}
