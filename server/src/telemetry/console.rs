//! What tokio-console is shown: without a choice, 100,000 connections cost 51 KB each to watch, their first update is
//! larger than the console's messages may be, and it shows nothing.
//!
//! Only tasks that [`task`](crate::task) spawns are shown, each by its name; of those of clients one in N. A task that is
//! not shown has no span, so it costs nothing when it is polled or woken.

use std::{
    cell::Cell,
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
};

use console_api::instrument::{
    InstrumentRequest, Update, instrument_client::InstrumentClient, instrument_server::InstrumentServer,
};
use console_subscriber::{ConsoleLayer, Server, ServerParts};
use tonic::transport::server::TcpIncoming;
use tracing::{Dispatch, Metadata, Subscriber, dispatcher, subscriber::Interest};
use tracing_subscriber::{
    Layer,
    filter::{DynFilterFn, dynamic_filter_fn},
    layer::Context,
    registry::LookupSpan,
};

use super::metrics::TaskKind;
use crate::{config::Config, socket::listen};

/// The span that tokio makes for each task.
const TASK_SPAN: &str = "runtime.spawn";

/// The target of tokio's events about wakers.
const WAKER: &str = "tokio::task::waker";

thread_local! {
    /// Whether the task that this thread is about to spawn is shown. Only [`task`](crate::task) shows any: what others
    /// spawn (tokio's own workers and blocking threads, the root of a runtime) has no name.
    static SHOW: Cell<bool> = const { Cell::new(false) };
}

/// Events that the console's buffer had no room for, since the start of the process.
static EVENTS_DROPPED: AtomicU64 = AtomicU64::new(0);

/// See [`EVENTS_DROPPED`].
pub(crate) fn events_dropped() -> u64 {
    EVENTS_DROPPED.load(Relaxed)
}

/// While it lives, decides whether the tasks that this thread spawns are shown.
#[must_use]
pub(crate) struct Showing {
    before: bool,
}

impl Showing {
    /// Those of kinds of which there are few are shown, of the others the next one in `one_in`; all where
    /// [`Self::all`] says so.
    pub(crate) fn by_kind(kind: TaskKind, one_in: u64) -> Self {
        static SPAWNED: [AtomicU64; TaskKind::ALL.len()] = [const { AtomicU64::new(0) }; TaskKind::ALL.len()];
        let before = SHOW.get();
        let is_next = || SPAWNED[kind as usize].fetch_add(1, Relaxed).is_multiple_of(one_in.max(1));
        SHOW.set(before || !kind.follows_clients() || is_next());
        Self { before }
    }

    /// All are shown.
    pub(crate) fn all() -> Self {
        Self { before: SHOW.replace(true) }
    }
}

impl Drop for Showing {
    fn drop(&mut self) {
        SHOW.set(self.before);
    }
}

/// Keeps tokio from making a span for a task that is not shown, for the console or for anybody: outermost of all layers.
///
/// A filter of the console's layer alone would not do: the registry makes a span that one layer does not want.
pub(crate) struct Gate;

impl<S: Subscriber> Layer<S> for Gate {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_task(metadata) { Interest::sometimes() } else { Interest::always() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        !is_task(metadata) || SHOW.get()
    }
}

fn is_task(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.name() == TASK_SPAN
}

/// Whether the current task is one that is shown.
pub(crate) fn shows_this_task() -> bool {
    tracing::Span::current().metadata().is_some_and(is_task)
}

/// The console's server, bound and not started.
pub(crate) struct Console {
    listener: StdListener,
    server: Server,
}

impl Console {
    /// Binds the listener, and makes the layer that listens to tokio.
    ///
    /// # Errors
    /// The address, with what the kernel said of it.
    pub(crate) fn bind<S>(config: &Config) -> io::Result<(Self, impl Layer<S>)>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let listener = listen::bind("--console", config.console, config, false)?;
        let (layer, server) = ConsoleLayer::builder().retention(config.console_retention).build();
        Ok((Self { listener, server }, layer.with_filter(filter(config.console_resources))))
    }

    /// Serves on a thread of its own, to the end of the process, and returns the address that a tokio-console can connect
    /// to. Call it when the subscriber is installed.
    ///
    /// # Errors
    /// When a thread or a runtime cannot be had.
    pub(crate) fn start(self) -> io::Result<SocketAddr> {
        let address = self.listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let log = dispatcher::get_default(Clone::clone);
        thread::Builder::new().name("echo-console".to_owned()).spawn(move || {
            // What the console's own tasks do is not shown: each update would make events for the next.
            let _blind = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::default());
            if let Err(error) = runtime.block_on(self.serve(&log)) {
                dispatcher::with_default(&log, || tracing::error!(%error, "tokio-console can show nothing"));
            }
        })?;
        Ok(address)
    }

    async fn serve(self, log: &Dispatch) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(self.listener)?);
        let ServerParts { instrument_server, aggregator, .. } = self.server.into_parts();
        let serve = tonic::transport::Server::builder()
            .add_service(instrument_server.clone())
            .serve_with_incoming(incoming);
        // tokio's budget would let the aggregator take 127 events each second and no more.
        let aggregate = tokio::task::unconstrained(aggregator.run());
        tokio::select! {
            ended = serve => ended.map_err(Into::into),
            () = aggregate => Ok(()),
            never = count_dropped(instrument_server, log) => never.map(|never| match never {}).map_err(Into::into),
        }
    }
}

/// Watches the updates as a client in this process: nothing else tells how many events were dropped.
async fn count_dropped(
    server: InstrumentServer<Server>,
    log: &Dispatch,
) -> Result<Infallible, tonic::Status> {
    let mut client = InstrumentClient::new(server).max_decoding_message_size(usize::MAX);
    let mut updates = client.watch_updates(InstrumentRequest {}).await?.into_inner();
    while let Some(update) = updates.message().await? {
        let dropped = dropped_in(&update);
        if dropped > 0 {
            EVENTS_DROPPED.fetch_add(dropped, Relaxed);
            dispatcher::with_default(log, || {
                tracing::warn!(
                    dropped,
                    "tokio-console misses events: its buffer was full; raise --console-one-in, or switch \
                     --console-resources off"
                );
            });
        }
    }
    Err(tonic::Status::unavailable("the stream of updates has ended"))
}

fn dropped_in(update: &Update) -> u64 {
    let tasks = update.task_update.as_ref().map_or(0, |update| update.dropped_events);
    let resources = update.resource_update.as_ref().map_or(0, |update| update.dropped_events);
    let async_ops = update.async_op_update.as_ref().map_or(0, |update| update.dropped_events);
    tasks + resources + async_ops
}

/// Lets through the spans of tasks and the wake-ups of their wakers (a waker exists only of a task that has a span); with
/// `resources` also what happens to timers, locks and channels inside of them, and to those made before there were tasks.
fn filter<S>(
    resources: bool,
) -> DynFilterFn<
    S,
    impl Fn(&Metadata<'_>, &Context<'_, S>) -> bool,
    impl Fn(&'static Metadata<'static>) -> Interest,
>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let is_shown = |metadata: &Metadata<'_>, context: &Context<'_, S>| {
        // A wake-up may come from anywhere.
        metadata.target() == WAKER
            || is_task(metadata)
            || context.lookup_current().is_some()
            || tokio::task::try_id().is_none()
    };
    dynamic_filter_fn(is_shown).with_callsite_filter(move |metadata| {
        match (metadata.target(), metadata.name()) {
            ("tokio::task", TASK_SPAN) | (WAKER, _) => Interest::always(),
            (target, name)
                if resources
                    && (target.starts_with("runtime::resource") || name.starts_with("runtime.resource")) =>
            {
                Interest::sometimes()
            }
            _ => Interest::never(),
        }
    })
}
