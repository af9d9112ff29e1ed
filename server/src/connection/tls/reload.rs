//! Looks after the certificate while the server runs: clients see the new one from their next handshake on, and a broken
//! file takes nothing away from them.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use super::Tls;
use crate::{core::Core, restart::systemd, telemetry::metrics::Reload};

/// Loads the files of `tls` again when they change (`tls_reload_interval`) and at every SIGHUP, until the server takes no
/// more connections. Reads files, so it belongs on the control plane.
pub(crate) async fn keep_fresh(tls: Arc<Tls>, core: Arc<Core>) {
    if tls.files.is_none() {
        return;
    }
    let mut asked = Asked::watch(core.config.tls_reload_interval);
    let accepting = core.lifecycle.accept_token().clone();
    while let Some(forced) = accepting.run_until_cancelled(asked.next()).await {
        if forced {
            systemd::reloading(|| look(&tls, &core, forced));
        } else {
            look(&tls, &core, forced);
        }
    }
}

fn look(tls: &Tls, core: &Core, forced: bool) {
    let Some(result) = tls.look(&core.config, forced) else { return };
    let outcome = match result {
        Ok(()) => {
            tracing::info!(expires_s = tls.expires_s(), "a new certificate from now on");
            Reload::Done
        }
        // Once for each change: the next look finds the same files, and is silent.
        Err(error) => {
            tracing::warn!(%error, "the certificate from before stays in use");
            Reload::Failed
        }
    };
    core.metrics.shard().tls_reloaded(outcome);
}

/// When to look.
struct Asked {
    ticks: Option<tokio::time::Interval>,
    /// `None` where it cannot be watched: then it ends the process, as it does by default.
    hangups: Option<Signal>,
}

impl Asked {
    fn watch(every: Duration) -> Self {
        let ticks = (!every.is_zero()).then(|| {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        let hangups = signal(SignalKind::hangup());
        let hangups = hangups.inspect_err(|error| tracing::error!(%error, "SIGHUP cannot be watched")).ok();
        Self { ticks, hangups }
    }

    /// Resolves when it is time for a look; true where someone has asked for it.
    async fn next(&mut self) -> bool {
        let tick = async {
            match &mut self.ticks {
                Some(ticks) => ticks.tick().await,
                None => pending().await,
            }
        };
        let hangup = async {
            let hangup = match &mut self.hangups {
                Some(hangups) => hangups.recv().await,
                None => None,
            };
            if hangup.is_none() {
                pending::<()>().await;
            }
        };
        tokio::select! {
            _now = tick => false,
            () = hangup => true,
        }
    }
}
