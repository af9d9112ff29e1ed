//! The server as a process and as a function: binds before it says that it is ready, and reports how it ended.

use std::{io, net::SocketAddr, path::Path, sync::Arc, thread::JoinHandle, time::Duration};

use crate::{
    admin,
    config::{Config, ConfigError, FdBudget},
    connection::tls::{self, Tls, TlsError},
    core::{Core, Reporting, Role},
    drain::{self, DrainReport},
    echo::{self, Echo},
    phase::Phase,
    request::HttpService,
    restart::{SocketKind, Sockets},
    runtime,
    socket::{
        accept,
        listen::{Listener, Listeners, TcpSocket},
    },
    task::{self, TaskKind},
    telemetry::{access::AccessLog, watch::Watch},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// After the drain, how long a stalled access log may hold us up.
const ACCESS_LOG_WAIT: Duration = Duration::from_secs(2);

/// Serves `service` on `listener`, with every limit of `config`, until `shutdown` resolves and the server has drained.
///
/// Runs on the current tokio runtime (with IO and time enabled). Of `config` it uses the limits, timeouts, drain phases
/// and access log; addresses, runtime, log and export of spans are the caller's. Dropping the future cuts all connections.
///
/// The connection limit is lowered, with a warning, where the process's file-descriptor limit cannot carry it.
pub async fn serve<L, S>(
    listener: L,
    service: S,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> DrainReport
where
    L: Listener,
    S: HttpService,
{
    let fd_limit = raise_fd_limit();
    let fds = config.fd_budget(fd_limit).unwrap_or_else(|error| {
        tracing::warn!(%error, "going on with fewer connections");
        let fewer = Config { connections_max: None, ..config.clone() }.fd_budget(fd_limit);
        fewer.unwrap_or(FdBudget { connections: 1, refusals: 1 })
    });
    let access = AccessLog::open(&config).unwrap_or_else(|error| {
        tracing::warn!("going on without an access log: {error:#}");
        None
    });
    let core = Core::new(Role::Data, config, fds, Reporting { access, ..Reporting::default() });
    core.sources.add_runtime("data-0".to_owned(), tokio::runtime::Handle::current());
    core.lifecycle.enter(Phase::Serving);
    accept::start(listener, None, service, &core);
    watched(&core, drain::coordinate(Arc::clone(&core), shutdown)).await
}

/// The echo server as a process: data plane, admin listener and control thread.
#[derive(Debug)]
pub struct Server {
    core: Arc<Core>,
    data: Listeners,
    tls: Option<Arc<Tls>>,
    admin: TcpSocket,
}

/// Why a server drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shutdown {
    /// It is to end.
    Stop,
    /// Another process has its sockets, and what is in their queues.
    HandedOver,
}

/// Why a server did not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The configuration does not fit this machine.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on, or a thread or runtime cannot be had.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Certificate or key are not to be had.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The access log cannot be written.
    #[error("{0:#}")]
    AccessLog(anyhow::Error),
}

impl Server {
    /// Binds all listeners. Clients can connect from now on; they are answered from [`Self::run`] on.
    ///
    /// # Errors
    /// [`ServerError::Config`] where the fd limit does not carry the connections, [`ServerError::Io`] where an address
    /// cannot be had.
    pub fn bind(config: Config) -> Result<Self, ServerError> {
        Self::bind_or_take(config, Sockets::default())
    }

    /// As [`Self::bind`], and what there is among `inherited` is not bound again.
    pub(crate) fn bind_or_take(config: Config, mut inherited: Sockets) -> Result<Self, ServerError> {
        let fd_limit = raise_fd_limit();
        let fds = config.fd_budget(fd_limit)?;
        let (connections_max, requests_max) = (fds.connections, config.requests_max());
        tracing::info!(fd_limit, connections_max, requests_max, "limits");
        // Before anybody can connect: without a certificate there is nobody to answer.
        let tls = Tls::load(&config)?;
        let data = Listeners::bind(&config, runtime::accepting_threads(&config), &mut inherited)?;
        let admin =
            TcpSocket::bind_or_take(SocketKind::Admin, "--admin", config.admin, &config, &mut inherited)?;
        let access = AccessLog::open(&config).map_err(ServerError::AccessLog)?;
        let reporting = Reporting { access, route: Some(echo::route), is_exempt: Some(echo::is_health) };
        let core = Core::new(Role::Data, config, fds, reporting);
        core.sources.add_listeners(data.tcp().map(TcpSocket::listener), core.config.backlog);
        if let Some(tls) = &tls {
            core.sources.set_tls(Arc::clone(tls));
        }
        Ok(Self { core, data, tls, admin })
    }

    /// The address of the data listener, with the port that the kernel chose for port 0.
    ///
    /// # Errors
    /// As the kernel gives them.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.data.http_address()
    }

    /// The address of the TLS listener, if there is one.
    ///
    /// # Errors
    /// As the kernel gives them.
    pub fn tls_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.data.https_address()
    }

    /// The path of the Unix socket, if there is one.
    pub fn unix_path(&self) -> Option<&Path> {
        self.data.unix_path()
    }

    /// The address of the admin listener.
    ///
    /// # Errors
    /// As the kernel gives them.
    pub fn admin_addr(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Descriptors of all listeners, for a process that is to replace this one.
    ///
    /// # Errors
    /// If there are none left.
    pub(crate) fn sockets(&self) -> io::Result<Sockets> {
        let mut sockets = Sockets::default();
        self.data.keep_in(&mut sockets)?;
        sockets.keep(SocketKind::Admin, self.admin.listener(), self.admin.is_held())?;
        Ok(sockets)
    }

    /// Serves until `shutdown` resolves and the server has drained. Blocks the calling thread, which carries the
    /// control plane (admin, drain, and both given futures); `hurry` ends lame duck and grace at once.
    ///
    /// # Errors
    /// [`ServerError::Io`] when a thread or runtime cannot be had.
    pub fn run(
        self,
        shutdown: impl Future<Output = ()>,
        hurry: impl Future<Output = ()>,
    ) -> Result<DrainReport, ServerError> {
        let shutdown = async {
            shutdown.await;
            Shutdown::Stop
        };
        self.run_until(shutdown, hurry)
    }

    /// As [`Self::run`], with the reason.
    pub(crate) fn run_until(
        self,
        shutdown: impl Future<Output = Shutdown>,
        hurry: impl Future<Output = ()>,
    ) -> Result<DrainReport, ServerError> {
        let Self { core, data, tls, admin } = self;
        let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let threads = start_data_plane(&core, data, tls.as_ref())?;
        core.sources.add_runtime("control".to_owned(), control.handle().clone());
        let report = control.block_on(async {
            let admin = admin.open()?;
            if let Some(tls) = tls {
                task::spawn(&core, TaskKind::Upkeep, tls::keep_fresh(tls, Arc::clone(&core)));
            }
            let stop_admin = tokio_util::sync::CancellationToken::new();
            let admin = admin::serve(admin, Arc::clone(&core), stop_admin.cancelled());
            let shutdown = async {
                let why = tokio::select! {
                    why = shutdown => why,
                    () = core.lifecycle.stop_requested() => Shutdown::Stop,
                };
                if why == Shutdown::HandedOver {
                    core.lifecycle.hand_over();
                    // Whoever asks now means the other process.
                    stop_admin.cancel();
                }
            };
            let data = async {
                core.lifecycle.enter(Phase::Serving);
                let report = tokio::select! {
                    report = watched(&core, drain::coordinate(Arc::clone(&core), shutdown)) => report,
                    never = hurry_when(hurry, &core) => match never {},
                };
                stop_admin.cancel();
                report
            };
            let (report, _admin_report) = tokio::join!(data, admin);
            Ok::<_, io::Error>(report)
        })?;
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a data-plane thread panicked");
            }
        }
        Ok(report)
    }
}

/// The echo service, and in a build for tokio-console the lab around it, where it is asked for.
fn start_data_plane(
    core: &Arc<Core>,
    listeners: Listeners,
    tls: Option<&Arc<Tls>>,
) -> io::Result<Vec<JoinHandle<()>>> {
    #[cfg(feature = "console")]
    if core.config.lab {
        let lab = crate::lab::Lab::around(Echo::new(&core.config), core);
        return runtime::start(core, listeners, tls, &lab);
    }
    runtime::start(core, listeners, tls, &Echo::new(&core.config))
}

/// Runs `coordinated` under a [`Watch`], and writes what requests have left to write.
async fn watched(core: &Core, coordinated: impl Future<Output = DrainReport>) -> DrainReport {
    let mut watch = Watch::new(core);
    let report = tokio::select! {
        report = coordinated => report,
        never = watch.run() => match never {},
    };
    if let Some(access) = &core.reporting.access {
        access.flush(ACCESS_LOG_WAIT).await;
    }
    watch.look();
    report
}

async fn hurry_when(hurry: impl Future<Output = ()>, core: &Core) -> std::convert::Infallible {
    hurry.await;
    core.lifecycle.hurry();
    std::future::pending().await
}

/// Raises the soft limit of file descriptors to the hard one, and returns what then holds.
fn raise_fd_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the soft limit of file descriptors stays");
            limit.current
        }
    };
    current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
