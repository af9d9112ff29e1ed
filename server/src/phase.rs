//! Where a server is in its life, and the switches that move it: without one owner, each part would find out by itself
//! that the server stops, and in its own order.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

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
    /// Set by those who look after the server: it serves, and says that it is not ready.
    disabled: AtomicBool,
    /// Another process has the listeners, and what is in their queues.
    handed_over: AtomicBool,
    stop: CancellationToken,
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
        self.phase() == Phase::Serving && !self.is_disabled()
    }

    /// Takes the server out of rotation, or back in. What arrives is served all the same.
    pub(crate) fn disable(&self, disabled: bool) {
        self.disabled.store(disabled, Relaxed);
    }

    pub(crate) fn is_disabled(&self) -> bool {
        self.disabled.load(Relaxed)
    }

    /// Has the server drain, as the shutdown signal does.
    pub(crate) fn request_stop(&self) {
        self.stop.cancel();
    }

    /// Resolves on [`Self::request_stop`].
    pub(crate) async fn stop_requested(&self) {
        self.stop.cancelled().await;
    }

    /// Another process accepts from the same sockets: the drain must not take them away from it.
    pub(crate) fn hand_over(&self) {
        self.handed_over.store(true, Relaxed);
    }

    pub(crate) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Relaxed)
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

    /// Ends the accept loops, and waits until each has taken what the kernel had for it, or has left that to another
    /// process.
    pub(crate) async fn close_listeners(&self) {
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
