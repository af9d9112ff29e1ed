//! Where a server is in its life, and the switches that move it: without one owner, each part would find out by itself
//! that the server stops, and in its own order.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

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

    /// Resolves on [`Self::hurry`].
    pub(crate) async fn hurried(&self) {
        self.hurry.cancelled().await;
    }

    /// Ends the accept loops, and waits until each has taken what the kernel had for it.
    pub(crate) async fn close_listeners(&self) {
        self.enter(Phase::Closing);
        self.stop_accepting.cancel();
        self.listeners.close();
        self.listeners.wait().await;
    }

    /// Tells every connection to finish.
    pub(crate) fn drain(&self) {
        self.enter(Phase::Draining);
        self.drain.cancel();
    }

    /// Cuts what has not finished.
    pub(crate) fn kill(&self) {
        self.enter(Phase::Killing);
        self.kill.cancel();
    }

    /// Lets the runtimes go.
    pub(crate) fn end(&self) {
        self.enter(Phase::Drained);
        self.ended.cancel();
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
    pub(crate) fn abandon(&self) {
        self.stop_accepting.cancel();
        self.drain.cancel();
        self.kill.cancel();
        self.ended.cancel();
    }
}
