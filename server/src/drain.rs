//! Stops without losing a request: closing at once loses those in progress, those in the accept queue, and those that
//! load balancers still send.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use crate::{
    core::{Core, Role},
    phase::Phase,
};

/// After the kill, tasks end at their next poll; a handler that blocks its thread would keep us for ever.
const KILL_WAIT: Duration = Duration::from_secs(1);

/// What a drain did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainReport {
    /// Time from the shutdown signal to the last close.
    pub took: Duration,
    /// Connections that were open when the listeners had closed.
    pub connections: usize,
    /// Of these, the connections that were cut at the deadline.
    pub connections_cut: usize,
    /// Requests that were in progress at the deadline: work lost.
    pub requests_lost: usize,
}

impl DrainReport {
    /// Whether every request that had arrived was answered.
    pub fn is_clean(&self) -> bool {
        self.requests_lost == 0
    }
}

impl fmt::Display for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { took, connections, connections_cut, requests_lost } = self;
        let took = humantime::format_duration(Duration::from_millis(
            u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        ));
        write!(
            f,
            "drained in {took}: {connections} connections, {connections_cut} cut, {requests_lost} requests lost"
        )
    }
}

/// Waits for `shutdown`, then takes the server through its phases to the end.
///
/// Dropping this future cuts the server at once: no task stays behind without an owner.
pub(crate) async fn coordinate(core: Arc<Core>, shutdown: impl Future<Output = ()>) -> DrainReport {
    let _abandon_if_dropped = Abandon(&core);
    let Core { config, lifecycle, slots, .. } = &*core;
    shutdown.await;
    let began = Instant::now();
    let patience = |limit| timeout(limit, lifecycle.hurried());

    lifecycle.enter(Phase::LameDuck);
    // The admin listener's own drain is nobody's business.
    if core.role == Role::Data {
        tracing::info!(lame_duck = ?config.lame_duck, connections = slots.taken(), "draining");
    }
    if lifecycle.is_handed_over() {
        // At once: from here on every client is the other process's.
        lifecycle.close_listeners().await;
    }
    let _passed_or_hurried = patience(config.lame_duck).await;

    lifecycle.enter(Phase::Closing);
    lifecycle.close_listeners().await;
    let connections = slots.taken();

    lifecycle.drain();
    core.tasks.close();
    let finished = tokio::select! {
        () = core.tasks.wait() => true,
        _passed_or_hurried = patience(config.drain_grace) => false,
    };

    let (mut connections_cut, mut requests_lost) = (0, 0);
    if !finished {
        connections_cut = slots.taken();
        requests_lost = usize::try_from(core.metrics.active_requests()).unwrap_or(0);
        lifecycle.kill();
        let _ended_or_blocked = timeout(KILL_WAIT, core.tasks.wait()).await;
    }
    lifecycle.end();
    DrainReport { took: began.elapsed(), connections, connections_cut, requests_lost }
}

struct Abandon<'a>(&'a Core);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.lifecycle.abandon();
    }
}
