//! What all connections of one server share: without one owner, limits, counters and drain state would each find
//! their own way through the code.

mod addresses;
mod registry;
mod slots;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

pub(crate) use self::{
    addresses::{AddressPlace, Addresses},
    registry::Registry,
    slots::{Slot, Slots},
};

use crate::{
    config::{Config, FdBudget},
    echo::faults::Switch,
    overload::Overload,
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
    /// Every open connection.
    pub(crate) registry: Registry,
    /// Connections by client address.
    pub(crate) addresses: Addresses,
    /// Bounds the clients over the connection limit that are being told so.
    pub(crate) refusals: Arc<Semaphore>,
    pub(crate) gate: Gate,
    pub(crate) overload: Arc<Overload>,
    /// Whether clients may ask for faults.
    pub(crate) faults: Switch,
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
            registry: Registry::new(config.workers() + 1),
            addresses: Addresses::default(),
            gate: Gate::new(&config, fds.connections),
            overload: Overload::new(role, &config),
            refusals: Arc::new(Semaphore::new(fds.refusals.max(1))),
            faults: Switch::new(config.faults),
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
    /// Whether requests for a path are never refused for load. `None` where the service's are not known.
    pub(crate) is_exempt: Option<fn(&str) -> bool>,
}
