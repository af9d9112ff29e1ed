//! The OpenTelemetry SDK, bounded and counted: its own queue drops in silence, and its own exporter runs where it was
//! built.

use std::{
    fmt,
    num::{NonZeroU64, NonZeroU128},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;
use http::Uri;
use opentelemetry::{
    Context, KeyValue,
    trace::{
        SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
    },
};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span as SdkSpan, SpanData,
        SpanExporter, SpanProcessor,
    },
};
use tokio_util::sync::CancellationToken;
use tracing::{Span, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, Registry, filter::Targets};

use super::{COUNTS, SpanDrop, TARGET};
use crate::{
    config::Config,
    telemetry::{
        throttle::Throttle,
        trace_context::{Parent, TraceContext},
    },
};

/// Spans per message to the collector: about 300 KB, where collectors take 4 MiB.
const BATCH_MAX: usize = 1024;

/// How long a span waits for others, so that they share a message.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// How long the collector may take for a message. While it does, spans queue up.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two lines that say that the collector does not take our spans.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// A running export. It has threads of its own, so that no request ever waits for the collector: one that encodes
/// batches (the SDK's), and one that carries the connection.
#[derive(Debug)]
pub(crate) struct Export {
    provider: SdkTracerProvider,
    queue: Arc<Queue>,
    stop_connection: CancellationToken,
}

impl Export {
    /// Starts to export to `config.otlp_endpoint`, if there is one. Whether the collector can be reached shows later.
    ///
    /// # Errors
    /// When a thread is not to be had.
    pub(crate) fn start(config: &Config, service_name: &str) -> anyhow::Result<Option<Self>> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
        let queue_max = usize::try_from(config.otlp_queue_max).unwrap_or(usize::MAX);
        let queue = Arc::new(Queue { spans: AtomicUsize::new(0), spans_max: queue_max });
        let stop_connection = CancellationToken::new();
        let exporter = Counted {
            inner: connect(endpoint, stop_connection.clone()).context("cannot start the export of spans")?,
            endpoint: endpoint.clone(),
            queue: Arc::clone(&queue),
        };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(queue_max)
            .with_max_export_batch_size(BATCH_MAX.min(queue_max))
            .with_scheduled_delay(BATCH_DELAY)
            .build();
        let batches = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let provider = SdkTracerProvider::builder()
            // Decided already, before there was a span.
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource(service_name))
            .with_span_processor(Bounded { inner: batches, queue: Arc::clone(&queue) })
            .build();
        tracing::debug!(%endpoint, "spans are exported");
        Ok(Some(Self { provider, queue, stop_connection }))
    }

    /// The layer that makes spans of ours, and of nobody else, into spans of OpenTelemetry: neither do those of the
    /// exporter's own HTTP/2 come back to it, nor is any other call site enabled by it.
    pub(crate) fn layer(&self) -> Box<dyn Layer<Registry> + Send + Sync> {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(env!("CARGO_PKG_NAME")))
            .with_context_activation(false)
            .with_tracked_inactivity(false)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_filter(Targets::new().with_target(TARGET, LevelFilter::INFO))
            .boxed()
    }

    /// Exports what is left, for up to `timeout`.
    pub(crate) fn stop(self, timeout: Duration) {
        let exported = self.provider.shutdown_with_timeout(timeout);
        // What is in the queue still, nobody waits for any more.
        let lost = self.queue.spans.load(Relaxed);
        if exported.is_err() && lost > 0 {
            SpanDrop::ExportFailed.add(lost);
            tracing::warn!(spans = lost, ?timeout, "spans are lost: the collector did not take them in time");
        } else {
            self.stop_connection.cancel();
        }
    }
}

/// An exporter whose connection lives on a thread of its own, until `stop`.
fn connect(endpoint: &Uri, stop: CancellationToken) -> anyhow::Result<OtlpExporter> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exporter = {
        // tonic spawns the connection onto the runtime that it finds here.
        let _context = runtime.enter();
        OtlpExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint.to_string())
            .with_timeout(EXPORT_TIMEOUT)
            .build()?
    };
    let carry = move || {
        runtime.block_on(stop.cancelled());
        runtime.shutdown_background();
    };
    thread::Builder::new().name("echo-otlp".to_owned()).spawn(carry)?;
    Ok(exporter)
}

/// Who we are. `OTEL_RESOURCE_ATTRIBUTES` adds to it.
fn resource(service_name: &str) -> Resource {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Resource::builder()
        .with_service_name(service_name.to_owned())
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", format!("{:032x}", fastrand::u128(..))),
            KeyValue::new("host.name", host),
        ])
        .build()
}

/// Makes `span` a child of `parent`, or the first of its trace, and says where it then stands.
pub(crate) fn start_span(span: &Span, parent: Option<Parent>) -> TraceContext {
    if let Some(parent) = parent {
        let remote = SpanContext::new(
            TraceId::from(parent.context.trace_id.get()),
            SpanId::from(parent.context.span_id.get()),
            TraceFlags::SAMPLED,
            true,
            TraceState::NONE,
        );
        // Without an export there is no span to be a child, and ids of our own do.
        let _set_or_not_exported = span.set_parent(Context::new().with_remote_span_context(remote));
    }
    let context = span.context();
    let started = context.span().span_context().clone();
    let ids = NonZeroU128::new(u128::from_be_bytes(started.trace_id().to_bytes()))
        .zip(NonZeroU64::new(u64::from_be_bytes(started.span_id().to_bytes())));
    ids.map_or_else(
        || TraceContext::new_span(parent),
        |(trace_id, span_id)| TraceContext { trace_id, span_id },
    )
}

/// Spans that have ended and are not exported: those that wait, and those on their way.
#[derive(Debug)]
struct Queue {
    spans: AtomicUsize,
    spans_max: usize,
}

/// Refuses, and counts, what would find the queue of the SDK full. That queue holds at most what is counted here, so it
/// never has to refuse by itself.
#[derive(Debug)]
struct Bounded {
    inner: BatchSpanProcessor,
    queue: Arc<Queue>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut SdkSpan, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.queue.spans.fetch_add(1, Relaxed) < self.queue.spans_max {
            self.inner.on_end(span);
        } else {
            self.queue.spans.fetch_sub(1, Relaxed);
            SpanDrop::QueueFull.add(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Counts what the collector took and what it did not.
struct Counted<E> {
    inner: E,
    endpoint: Uri,
    queue: Arc<Queue>,
}

impl<E> fmt::Debug for Counted<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counted({})", self.endpoint)
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        static WARNINGS: Throttle = Throttle::new(1, WARN_EVERY);
        let spans = batch.len();
        let result = self.inner.export(batch).await;
        match &result {
            Ok(()) => {
                COUNTS.exported.fetch_add(spans as u64, Relaxed);
            }
            Err(error) => {
                SpanDrop::ExportFailed.add(spans);
                if WARNINGS.admit().is_some() {
                    let endpoint = &self.endpoint;
                    tracing::warn!(%endpoint, %error, spans, "the collector does not take our spans (--otlp-endpoint); they are lost");
                }
            }
        }
        self.queue.spans.fetch_sub(spans, Relaxed);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
