//! What the service manager is told (sd_notify(3)): without it systemd takes a server for ready that is not, for dead
//! when a new process has taken over, and for alive when it hangs.
//!
//! Nothing happens where `NOTIFY_SOCKET` is not set.

use std::convert::Infallible;

use sd_notify::NotifyState;
use tokio::{
    signal::unix::Signal,
    time::{MissedTickBehavior, interval},
};

use super::Pulse;
use crate::core::Core;

/// The server serves.
pub(super) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// The server drains, and nobody takes its place.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Runs `reload` between the two messages that `Type=notify-reload` wants.
pub(crate) fn reloading(reload: impl FnOnce()) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager is not told of the reload"),
    }
    reload();
    ready();
}

/// Answers SIGHUP where there are no certificate files, whose reload is answered where they are loaded.
pub(crate) async fn hangups(core: &Core, hangups: Option<Signal>) -> Infallible {
    if let Some(mut hangups) = hangups.filter(|_| core.config.tls_cert.is_none()) {
        while hangups.recv().await.is_some() {
            reloading(|| tracing::info!("SIGHUP: no certificate files to load again"));
        }
    }
    std::future::pending().await
}

/// For people (`systemctl status`).
pub(super) fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// Another process is the service from now on.
pub(super) fn main_process(process: u32) {
    tell(&[
        NotifyState::MainPid(process),
        NotifyState::Status("serving in a new process; the old one drains"),
    ]);
}

/// Feeds the service manager's watchdog (`WatchdogSec=`) at half its interval, as long as every thread of the data plane
/// answers.
#[expect(clippy::infinite_loop, reason = "whoever runs it drops it")]
pub(crate) async fn watchdog(core: &Core) -> Infallible {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return std::future::pending().await;
    };
    let mut pulse = Pulse::of(core);
    let mut beats = interval(limit / 2);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        match pulse.feel(limit / 4).await {
            Ok(()) => tell(&[NotifyState::Watchdog]),
            Err(silent) => tracing::error!("{silent}; the service manager's watchdog is not fed"),
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
