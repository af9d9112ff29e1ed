//! What all connections of one server share: without one owner, limits, counters and drain state would each find
//! their own way through the code.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::{Notify, Semaphore};
use tokio_util::task::TaskTracker;

use crate::{
    config::{Config, FdBudget},
    phase::Lifecycle,
    request::Gate,
    telemetry::{access::AccessLog, metrics::Metrics, sources::Sources},
};

/// What a server is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Serves clients.
    Data,
    /// Serves those who look after a data server.
    Admin,
}

impl Role {
    /// What the names of this server's tasks begin with.
    #[cfg(feature = "console")]
    pub(crate) const fn task_prefix(self) -> &'static str {
        match self {
            Self::Data => "",
            Self::Admin => "admin",
        }
    }
}

/// One server: its configuration, limits, counters, tasks and phase.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) role: Role,
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    /// What a scrape looks at beside `metrics`.
    pub(crate) sources: Sources,
    pub(crate) reporting: Reporting,
    pub(crate) slots: Slots,
    /// Bounds the clients over the connection limit that are being told so.
    pub(crate) refusals: Arc<Semaphore>,
    pub(crate) gate: Gate,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) tasks: TaskTracker,
}

impl Core {
    /// A server that keeps to `fds`.
    pub(crate) fn new(role: Role, config: Config, fds: FdBudget, reporting: Reporting) -> Arc<Self> {
        Arc::new(Self {
            role,
            // The workers and the control thread; blocking threads share a shard with one of them.
            metrics: Metrics::new(config.workers() + 1),
            sources: Sources::default(),
            reporting,
            slots: Slots::new(fds.connections),
            gate: Gate::new(config.requests_max()),
            refusals: Arc::new(Semaphore::new(fds.refusals.max(1))),
            lifecycle: Lifecycle::default(),
            tasks: TaskTracker::new(),
            config,
        })
    }
}

/// What single requests are told of with, beside the counters.
#[derive(Debug, Default)]
pub(crate) struct Reporting {
    /// `None` where there is no access log.
    pub(crate) access: Option<AccessLog>,
    /// The route that a path belongs to: one of few, whatever clients send. `None` where the service's are not known.
    pub(crate) route: Option<fn(&str) -> Option<&'static str>>,
}

/// The connection limit.
#[derive(Debug)]
pub(crate) struct Slots {
    limit: usize,
    taken: AtomicUsize,
    /// Told on every release, so that an accept loop that waits for a descriptor does not wait a moment too long.
    freed: Notify,
}

impl Slots {
    fn new(limit: usize) -> Self {
        Self { limit, taken: AtomicUsize::new(0), freed: Notify::new() }
    }

    /// A place for one connection, or `None` at the limit.
    pub(crate) fn try_take(core: &Arc<Core>) -> Option<Slot> {
        let slots = &core.slots;
        let take = |taken: usize| (taken < slots.limit).then_some(taken + 1);
        slots.taken.fetch_update(Relaxed, Relaxed, take).ok()?;
        Some(Slot(Arc::clone(core)))
    }

    /// Waits until a place (and its descriptor) has been released since the last call.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }
}

/// One connection's place in the limit, released on drop. Stands last in the object that holds the socket, so that
/// the descriptor is closed before the place is free.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Core>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.slots.taken.fetch_sub(1, Relaxed);
        self.0.slots.freed.notify_one();
    }
}
