//! Stops without losing a request: closing at once loses those in progress, those in the accept queue, and those that
//! load balancers still send.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::core::Core;

/// After the kill, tasks end at their next poll; a handler that blocks its thread would keep us for ever.
const KILL_WAIT: Duration = Duration::from_secs(1);

/// Where a server is in its life. Phases only ever advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not ready: listeners are not bound yet.
    Starting,
    /// Ready.
    Serving,
    /// Not ready, but serves all the same, so that load balancers can look away; responses carry `connection: close`.
    LameDuck,
    /// Accepts what has arrived, then closes the listeners.
    Closing,
    /// Finishes requests in progress, up to `drain_grace`.
    Draining,
    /// Cuts what is left.
    Killing,
    /// Nothing is left.
    Drained,
}

impl Phase {
    pub(crate) const ALL: [Self; 7] = [
        Self::Starting,
        Self::Serving,
        Self::LameDuck,
        Self::Closing,
        Self::Draining,
        Self::Killing,
        Self::Drained,
    ];

    /// The phase's name in metrics, logs and `/readyz`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::LameDuck => "lame_duck",
            Self::Closing => "closing",
            Self::Draining => "draining",
            Self::Killing => "killing",
            Self::Drained => "drained",
        }
    }
}

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

/// The switches of a drain. Everything else only ever reads or awaits them.
#[derive(Debug, Default)]
pub(crate) struct Lifecycle {
    phase: AtomicU8,
    stop_accepting: CancellationToken,
    drain: CancellationToken,
    kill: CancellationToken,
    hurry: CancellationToken,
    ended: CancellationToken,
    listeners: TaskTracker,
}

impl Lifecycle {
    pub(crate) fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Relaxed))]
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Relaxed);
        tracing::debug!(phase = phase.name(), "phase");
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.phase() == Phase::Serving
    }

    /// Whether clients should go elsewhere.
    pub(crate) fn is_leaving(&self) -> bool {
        self.phase.load(Relaxed) >= Phase::LameDuck as u8
    }

    /// Ends lame duck and grace at once (the second signal).
    pub(crate) fn hurry(&self) {
        self.hurry.cancel();
    }

    /// Held by each listener while it is open.
    pub(crate) fn listener_opened(&self) -> TaskTrackerToken {
        self.listeners.token()
    }

    pub(crate) fn accept_token(&self) -> &CancellationToken {
        &self.stop_accepting
    }

    pub(crate) fn drain_token(&self) -> &CancellationToken {
        &self.drain
    }

    pub(crate) fn killed(&self) -> WaitForCancellationFutureOwned {
        self.kill.clone().cancelled_owned()
    }

    /// Resolves once nothing is left: the runtimes may go.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Cuts everything, without phases: for an owner that is dropped.
    fn abandon(&self) {
        self.stop_accepting.cancel();
        self.drain.cancel();
        self.kill.cancel();
        self.ended.cancel();
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
    let patience = |limit| timeout(limit, lifecycle.hurry.cancelled());

    lifecycle.enter(Phase::LameDuck);
    tracing::info!(lame_duck = ?config.lame_duck, connections = slots.taken(), "draining");
    let _passed_or_hurried = patience(config.lame_duck).await;

    lifecycle.enter(Phase::Closing);
    lifecycle.stop_accepting.cancel();
    lifecycle.listeners.close();
    lifecycle.listeners.wait().await;
    let connections = slots.taken();

    lifecycle.enter(Phase::Draining);
    lifecycle.drain.cancel();
    core.tasks.close();
    let finished = tokio::select! {
        () = core.tasks.wait() => true,
        _passed_or_hurried = patience(config.drain_grace) => false,
    };

    let (mut connections_cut, mut requests_lost) = (0, 0);
    if !finished {
        connections_cut = slots.taken();
        requests_lost = usize::try_from(core.metrics.requests_in_flight()).unwrap_or(0);
        lifecycle.enter(Phase::Killing);
        lifecycle.kill.cancel();
        let _ended_or_blocked = timeout(KILL_WAIT, core.tasks.wait()).await;
    }
    lifecycle.enter(Phase::Drained);
    lifecycle.ended.cancel();
    DrainReport { took: began.elapsed(), connections, connections_cut, requests_lost }
}

struct Abandon<'a>(&'a Core);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.lifecycle.abandon();
    }
}
