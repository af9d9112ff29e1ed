//! Accepts under a policy: without one a full descriptor table makes `accept` fail at once for ever, and the loop eats
//! a core.

use std::{fs::File, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::time::sleep;

use super::{
    linger::LingerLimits,
    listen::Listener,
    refuse::{Refusal, refuse},
};
use crate::{
    connection,
    core::{Core, Slots},
    request::HttpService,
    task::{TaskKind, spawn, spawn_named},
    telemetry::{
        metrics::{AcceptError, Shed},
        throttle::Throttle,
    },
};

/// Pauses after an `accept` that failed for want of descriptors or memory: doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// Clients that are answered 503 by means of the reserve descriptor before each pause.
const REFUSED_PER_PAUSE: usize = 16;

/// How long the reserve descriptor waits for one of them.
const RESERVE_LINGER: LingerLimits =
    LingerLimits { silent: Duration::from_millis(2), total: Duration::from_millis(2) };

/// One line per this time, however many errors there are; the counter has them all.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Starts a task that accepts and spawns connections until the server stops accepting; then takes what the kernel has
/// already completed, and closes the listener.
pub(crate) fn start<L, S>(listener: L, service: S, core: &Arc<Core>)
where
    L: Listener,
    S: HttpService,
{
    // Taken before the first poll: a drain that begins before this task has run must wait for its listener, too.
    let open = core.lifecycle.listener_opened();
    let address = listener.address();
    let core = Arc::clone(core);
    spawn_named(&Arc::clone(&core), TaskKind::Accept, &address, async move {
        let mut acceptor = Acceptor::new(listener, service, Arc::clone(&core));
        core.lifecycle.accept_token().run_until_cancelled(acceptor.accept_for_ever()).await;
        acceptor.sweep().await;
        drop(acceptor);
        drop(open);
    });
}

struct Acceptor<L, S> {
    listener: L,
    service: S,
    core: Arc<Core>,
    /// Given up to accept one client when there is no other descriptor, so that it can be told.
    reserve: Option<File>,
    pause: Duration,
    lines: Throttle,
}

impl<L, S> Acceptor<L, S>
where
    L: Listener,
    S: HttpService,
{
    fn new(listener: L, service: S, core: Arc<Core>) -> Self {
        Self {
            listener,
            service,
            core,
            reserve: open_reserve(),
            pause: BACKOFF.0,
            lines: Throttle::new(1, LOG_INTERVAL),
        }
    }

    async fn accept_for_ever(&mut self) -> ! {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => self.admit(accepted).await,
                Err(error) => self.recover(error).await,
            }
        }
    }

    /// Spawns the connection, or tells the client that there are too many.
    async fn admit(&mut self, (io, peer): (L::Io, SocketAddr)) {
        self.pause = BACKOFF.0;
        let core = Arc::clone(&self.core);
        let place = loop {
            if let Some(slot) = Slots::try_take(&core) {
                let connection = connection::run(io, peer, slot, self.service.clone(), Arc::clone(&core));
                return spawn(&core, TaskKind::NewConnection, connection);
            }
            // At the bound of refusals the next client waits for whichever comes first: to be served, or refused.
            tokio::select! {
                () = core.slots.freed() => {}
                place = Arc::clone(&core.refusals).acquire_owned() => break place,
            }
        };
        core.metrics.shard().shed(Shed::Connections);
        let linger = LingerLimits::of(&core.config);
        spawn(&core, TaskKind::Reject, async move {
            refuse(io, Some(Refusal::Shed(Shed::Connections)), linger).await;
            drop(place);
        });
    }

    /// Decides what a failed `accept` means.
    async fn recover(&mut self, error: io::Error) {
        let kind = classify(&error);
        self.core.metrics.shard().accept_failed(kind);
        match kind {
            // The client's loss, not ours: the next one waits.
            AcceptError::Connection => {}
            AcceptError::Other => {
                self.log(&error, "accept failed");
                sleep(self.next_pause()).await;
            }
            AcceptError::Exhausted => {
                self.log(
                    &error,
                    "out of file descriptors or memory; raise the limit or lower --connections-max",
                );
                self.refuse_with_reserve().await;
                let pause = self.next_pause();
                let core = Arc::clone(&self.core);
                // A connection that closes gives its descriptor back: go on at once.
                let _paused_or_freed = tokio::time::timeout(pause, core.slots.freed()).await;
            }
        }
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(BACKOFF.1);
        pause
    }

    /// With the reserve descriptor given up, accepts and refuses a few of the clients that wait.
    async fn refuse_with_reserve(&mut self) {
        for _ in 0..REFUSED_PER_PAUSE {
            if self.reserve.take().is_none() {
                break;
            }
            // If another thread has taken the descriptor meanwhile, this fails and the pause follows.
            let accepted = self.listener.accept().now_or_never();
            let refused = matches!(accepted, Some(Ok(_)));
            if let Some(Ok((io, _peer))) = accepted {
                self.core.metrics.shard().shed(Shed::Descriptors);
                refuse(io, Some(Refusal::Shed(Shed::Descriptors)), RESERVE_LINGER).await;
            }
            self.reserve = open_reserve();
            if !refused {
                break;
            }
        }
        if self.reserve.is_none() {
            self.reserve = open_reserve();
        }
    }

    /// Lets handshakes that have begun complete, and accepts them: closing the listener would reset those clients, whose
    /// requests may already be here. For `drain_idle_grace`, the time that a request may be on its way.
    async fn sweep(&mut self) {
        self.listener.refuse_new();
        let grace = self.core.config.drain_idle_grace;
        let _grace_passed = tokio::time::timeout(grace, self.accept_for_ever()).await;
        // tokio's timers fire behind its IO driver, so what has arrived by now is known to it.
        while let Some(accepted) = self.listener.accept().now_or_never() {
            match accepted {
                Ok(accepted) => self.admit(accepted).await,
                Err(error) if classify(&error) == AcceptError::Connection => {}
                Err(_) => break,
            }
        }
    }

    fn log(&self, error: &io::Error, message: &'static str) {
        if self.lines.admit().is_some() {
            tracing::warn!(%error, "{message}");
        }
    }
}

fn open_reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

/// EMFILE, ENFILE, ENOBUFS and ENOMEM mean that we can take nobody; the rest is one client's.
fn classify(error: &io::Error) -> AcceptError {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    match (errno, error.kind()) {
        (Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM), _) => AcceptError::Exhausted,
        (
            _,
            io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted,
        ) => AcceptError::Connection,
        _ => AcceptError::Other,
    }
}
