//! Restarts without a lost request: a process that closes its listeners before another has them resets every client in
//! its accept queue, and one that binds anew starts with an empty queue.
//!
//! A listening socket, with its accept queue, outlives the process that made it if another process holds it, too. Two
//! ways lead there, and a server may use both:
//!
//! - systemd holds the sockets (`activation`), so that they outlive every process of the service;
//! - on SIGUSR2 the server starts its program again (`successor`) and gives it the sockets (`handover`). The new process
//!   serves beside the old one, says that it is ready, and the old one then drains. Until that word the old one serves as if
//!   nothing had happened, and it goes on if the word does not come.

mod activation;
mod handover;
mod pulse;
mod sockets;
mod successor;
pub(crate) mod systemd;

use std::{io, sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::signal::unix::Signal;

use self::{
    handover::{Predecessor, Terms},
    successor::{Failure, Successor},
};
pub(crate) use self::{
    pulse::Pulse,
    sockets::{Inherited, SocketKind, Sockets},
    successor::Program,
};
use crate::{core::Core, telemetry::metrics::Restart};

pub(crate) use self::handover::{PREDECESSOR, parse as parse_handover};

/// Longest wait for a runtime of the data plane to answer for the first time, before that is told.
const FIRST_PULSE_MAX: Duration = Duration::from_secs(5);

/// What this process was started with beside its arguments.
#[derive(Debug, Default)]
pub(crate) struct Inheritance {
    sockets: Sockets,
    /// The process that we are to replace.
    predecessor: Option<Predecessor>,
    restarts: [u64; Restart::ALL.len()],
}

impl Inheritance {
    /// Takes what the service manager or a predecessor has for us. Before the first thread: it changes the environment.
    ///
    /// # Errors
    /// A socket that is not what it should be.
    pub(crate) fn take() -> io::Result<Self> {
        match Predecessor::of_this_process() {
            Some(predecessor) => {
                let Terms { sockets, restarts } = predecessor.terms()?;
                Ok(Self { sockets, predecessor: Some(predecessor), restarts })
            }
            None => Ok(Self { sockets: activation::sockets()?, ..Self::default() }),
        }
    }

    pub(crate) fn take_sockets(&mut self) -> Sockets {
        std::mem::take(&mut self.sockets)
    }

    /// Waits until the data plane of `core` answers; then the predecessor goes, and the service manager knows of us.
    pub(crate) async fn serving(self, core: &Core) {
        let mut pulse = Pulse::of(core);
        while let Err(silent) = pulse.feel(FIRST_PULSE_MAX).await {
            tracing::error!("{silent}; not ready");
        }
        for (result, count) in Restart::ALL.into_iter().zip(self.restarts) {
            core.metrics.shard().restarts[result as usize].fetch_add(count, Relaxed);
        }
        if let Some(predecessor) = self.predecessor {
            predecessor.dismiss().await;
        }
        systemd::ready();
    }
}

/// Starts the program again at each SIGUSR2, until one of the new processes has taken over; returns its process id.
///
/// `sockets` are what it is given.
pub(crate) async fn replaced(
    core: &Core,
    program: &Program,
    sockets: &Sockets,
    orders: Option<Signal>,
) -> u32 {
    let Some(mut orders) = orders else { return std::future::pending().await };
    loop {
        if orders.recv().await.is_none() {
            return std::future::pending().await;
        }
        if std::process::id() == 1 {
            tracing::error!(
                "no restart: as process 1 we take the container with us when we end; start a new one instead"
            );
            core.metrics.shard().restarted(Restart::Failed);
            continue;
        }
        let ignore_others = async {
            while orders.recv().await.is_some() {
                tracing::warn!("SIGUSR2 ignored: a restart is under way already");
            }
            std::future::pending().await
        };
        let replaced = tokio::select! {
            replaced = replace(core, program, sockets) => replaced,
            never = ignore_others => never,
        };
        match replaced {
            Ok(process) => return process,
            Err(error) => {
                let result =
                    if matches!(error, Failure::Silent(_)) { Restart::TimedOut } else { Restart::Failed };
                core.metrics.shard().restarted(result);
                tracing::error!("restart failed, going on as before: {error}");
                systemd::status("serving; the last restart failed");
            }
        }
    }
}

async fn replace(core: &Core, program: &Program, sockets: &Sockets) -> Result<u32, Failure> {
    tracing::info!(program = %program, "restarting");
    systemd::status("restarting");
    let mut restarts = Restart::ALL.map(|result| core.metrics.sum(|shard| &shard.restarts[result as usize]));
    restarts[Restart::Completed as usize] += 1;
    let successor = Successor::start(program, sockets, restarts)?;
    let process = successor.take_over(core.config.restart_timeout).await?;
    core.metrics.shard().restarted(Restart::Completed);
    tracing::info!(process, "a new process has taken over; draining");
    Ok(process)
}
