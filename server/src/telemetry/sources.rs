//! What a scrape looks at and nobody counts: without one list of it, a scrape would have to know how each kind of server
//! is put together.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use rustix::fs::fstat;
use tokio::runtime::{Handle, RuntimeMetrics};

use super::proc::{self, Switches};
use crate::connection::tls::Tls;

/// Filled in while the server starts, read by scrapes; no request comes here.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    runtimes: Mutex<Vec<(String, Handle)>>,
    listeners: Mutex<Listeners>,
    switches: Mutex<Switches>,
    tls: OnceLock<Arc<Tls>>,
}

/// The data listeners, known by their inodes: their descriptors are the accept loops'.
#[derive(Debug, Default)]
struct Listeners {
    inodes: Vec<u64>,
    /// What their accept queues hold together.
    queue_max: Option<u64>,
}

impl Sources {
    /// `name` becomes the label `runtime`.
    pub(crate) fn add_runtime(&self, name: String, runtime: Handle) {
        lock(&self.runtimes).push((name, runtime));
    }

    /// `backlog` is what each has asked the kernel for.
    pub(crate) fn add_listeners<'a>(
        &self,
        listeners: impl IntoIterator<Item = &'a TcpListener>,
        backlog: u64,
    ) {
        let inodes: Vec<_> =
            listeners.into_iter().filter_map(|listener| Some(fstat(listener).ok()?.st_ino)).collect();
        let each = proc::somaxconn().map(|most| most.min(backlog));
        let queue_max = each.map(|each| each * inodes.len() as u64);
        *lock(&self.listeners) = Listeners { inodes, queue_max };
    }

    /// Whose certificate has an end that a scrape tells.
    pub(crate) fn set_tls(&self, tls: Arc<Tls>) {
        let _already_known = self.tls.set(tls);
    }

    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.get().map(|tls| &**tls)
    }

    pub(super) fn runtimes(&self) -> Vec<(String, RuntimeMetrics)> {
        lock(&self.runtimes).iter().map(|(name, runtime)| (name.clone(), runtime.metrics())).collect()
    }

    /// The runtimes that carry the data plane.
    pub(crate) fn data_runtimes(&self) -> Vec<(String, Handle)> {
        lock(&self.runtimes).iter().filter(|(name, _)| name.starts_with("data-")).cloned().collect()
    }

    /// Connections that wait to be accepted, and how many may.
    pub(super) fn accept_queue(&self) -> Option<(u64, u64)> {
        let listeners = lock(&self.listeners);
        let queue_max = listeners.queue_max?;
        Some((proc::accept_queue(&listeners.inodes)?, queue_max))
    }

    /// Voluntary and involuntary context switches of the process.
    pub(super) fn context_switches(&self) -> Option<[u64; 2]> {
        Some(lock(&self.switches).observe(proc::switches_by_thread()?))
    }
}

/// What is behind these locks is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
