//! Accepts under a policy: without one a full descriptor table makes `accept` fail at once for ever, and the loop eats
//! a core.

use std::{fs::File, io, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::OwnedSemaphorePermit,
    time::sleep,
};

use super::{
    linger::LingerLimits,
    listen::Listener,
    peer::Peer,
    refuse::{Refusal, refuse},
};
use crate::{
    connection::{self, tls::Tls},
    core::{AddressPlace, Core, Slot, Slots},
    request::HttpService,
    task::{TaskKind, spawn, spawn_named},
    telemetry::{
        metrics::{AcceptError, Shed},
        throttle::Throttle,
    },
};

/// Pauses after an `accept` that failed for want of descriptors or memory: doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// Between two clients, while our worker is too busy to read from those that it has.
const PAUSED_ACCEPT: Duration = Duration::from_millis(5);

/// Clients that are answered 503 by means of the reserve descriptor before each pause.
const REFUSED_PER_PAUSE: usize = 16;

/// How long the reserve descriptor waits for one of them.
const RESERVE_LINGER: LingerLimits =
    LingerLimits { silent: Duration::from_millis(2), total: Duration::from_millis(2) };

/// For one that is asked to make room to be gone: a little longer than an HTTP/2 client has for its farewell.
const EVICTION_WAIT: Duration = Duration::from_millis(150);

/// How many are asked on behalf of one client, before it is refused.
const EVICTIONS_PER_CLIENT: usize = 3;

/// One line per this time, however many errors there are; the counter has them all.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Starts a task that accepts and spawns connections until the server stops accepting; then takes what the kernel has
/// already completed, and closes the listener. With `tls`, clients must speak that.
pub(crate) fn start<L, S>(listener: L, tls: Option<Arc<Tls>>, service: S, core: &Arc<Core>)
where
    L: Listener,
    S: HttpService,
{
    // Taken before the first poll: a drain that begins before this task has run must wait for its listener, too.
    let open = core.lifecycle.listener_opened();
    let address = listener.address();
    let core = Arc::clone(core);
    spawn_named(&Arc::clone(&core), TaskKind::Accept, &address, async move {
        let mut acceptor = Acceptor::new(listener, tls, service, Arc::clone(&core));
        acceptor.accept_until_told().await;
        if core.lifecycle.is_handed_over() {
            acceptor.listener.hand_over();
        } else if !acceptor.listener.outlives_us() {
            acceptor.sweep().await;
        }
        drop(acceptor);
        drop(open);
    });
}

struct Acceptor<L, S> {
    listener: L,
    tls: Option<Arc<Tls>>,
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
    fn new(listener: L, tls: Option<Arc<Tls>>, service: S, core: Arc<Core>) -> Self {
        Self {
            listener,
            tls,
            service,
            core,
            reserve: open_reserve(),
            pause: BACKOFF.0,
            lines: Throttle::new(1, LOG_INTERVAL),
        }
    }

    async fn accept_until_told(&mut self) {
        let core = Arc::clone(&self.core);
        let mut told = std::pin::pin!(core.lifecycle.accept_token().cancelled());
        loop {
            // Only between clients: one that has been accepted is served.
            let accepted = tokio::select! {
                biased;
                () = &mut told => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok(accepted) => self.admit(accepted).await,
                Err(error) => self.recover(error).await,
            }
        }
    }

    async fn accept_for_ever(&mut self) -> ! {
        loop {
            if self.core.overload.is_paused() {
                sleep(PAUSED_ACCEPT).await;
            }
            match self.listener.accept().await {
                Ok(accepted) => self.admit(accepted).await,
                Err(error) => self.recover(error).await,
            }
        }
    }

    /// Spawns the connection, or tells the client that there are too many.
    async fn admit(&mut self, (io, peer): (L::Io, Peer)) {
        self.pause = BACKOFF.0;
        let core = Arc::clone(&self.core);
        let address = match AddressPlace::take(&core, peer) {
            Ok(address) => address,
            // Never waits: an address over its limit must not hold up the others.
            Err(shed) => return self.refuse(io, shed, Arc::clone(&core.refusals).try_acquire_owned().ok()),
        };
        let place = loop {
            if let Some(slot) = Slots::try_take(&core) {
                return serve(
                    &core,
                    io,
                    peer,
                    slot.of_address(address),
                    self.tls.clone(),
                    self.service.clone(),
                    L::reset_on_close,
                );
            }
            // At the bound of refusals the next client waits for whichever comes first: to be served, or refused.
            tokio::select! {
                () = core.slots.freed() => {}
                place = Arc::clone(&core.refusals).acquire_owned() => break place.ok(),
            }
        };
        if core.registry.evict_one(&core.config) {
            self.serve_in_place_of_another((io, peer), address, place);
        } else {
            self.refuse(io, Shed::Connections, place);
        }
    }

    /// Serves the client as soon as the connection that was asked to make room has ended.
    fn serve_in_place_of_another(
        &self,
        (io, peer): (L::Io, Peer),
        address: Option<AddressPlace>,
        place: Option<OwnedSemaphorePermit>,
    ) {
        let (core, tls, service) = (Arc::clone(&self.core), self.tls.clone(), self.service.clone());
        let refusal = self.refusal(Shed::Connections);
        spawn(&self.core, TaskKind::Reject, async move {
            if let Some(slot) = slot_of_evicted(&core).await {
                serve(&core, io, peer, slot.of_address(address), tls, service, L::reset_on_close);
            } else {
                core.metrics.shard().shed(Shed::Connections);
                let linger = LingerLimits::of(&core.config);
                refuse(io, refusal, linger).await;
            }
            drop(place);
        });
    }

    /// Tells the client why it is not served, or only closes where too many are being told already.
    fn refuse(&self, io: L::Io, why: Shed, place: Option<OwnedSemaphorePermit>) {
        self.core.metrics.shard().shed(why);
        let Some(place) = place else { return };
        let linger = LingerLimits::of(&self.core.config);
        let refusal = self.refusal(why);
        spawn(&self.core, TaskKind::Reject, async move {
            refuse(io, refusal, linger).await;
            drop(place);
        });
    }

    /// A handshake would cost more than most answers: a TLS client is told in the one way that needs none.
    fn refusal(&self, reason: Shed) -> Refusal {
        if self.tls.is_some() { Refusal::TlsAlert } else { Refusal::Shed(reason) }
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
                let refusal = self.refusal(Shed::Descriptors);
                refuse(io, refusal, RESERVE_LINGER).await;
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

/// Starts the task of one connection.
fn serve<Io, S>(
    core: &Arc<Core>,
    io: Io,
    peer: Peer,
    slot: Slot,
    tls: Option<Arc<Tls>>,
    service: S,
    reset_on_close: fn(&Io),
) where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: HttpService,
{
    let connection = connection::run(io, reset_on_close, peer, slot, tls, service, Arc::clone(core));
    spawn(core, TaskKind::NewConnection, connection);
}

/// The place of a connection that was asked to make room. One that has begun a request meanwhile keeps its place: then
/// another is asked.
async fn slot_of_evicted(core: &Arc<Core>) -> Option<Slot> {
    for _ in 0..EVICTIONS_PER_CLIENT {
        if let Ok(slot) = tokio::time::timeout(EVICTION_WAIT, Slots::take(core)).await {
            return Some(slot);
        }
        if !core.registry.evict_one(&core.config) {
            break;
        }
    }
    None
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
