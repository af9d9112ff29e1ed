//! TLS: what handshakes come to, and how long the certificate is still good. Nothing where there is no TLS listener.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::families::{counters, gauge};
use crate::{
    core::Core,
    telemetry::metrics::{Handshake, Reload},
};

pub(super) fn encode(core: &Core, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Some(tls) = core.sources.tls() else { return Ok(()) };
    let metrics = &core.metrics;
    counters(
        out,
        "echo_tls_handshakes_total",
        "TLS handshakes that clients began",
        Handshake::ALL.map(|outcome| {
            let (version, result) = outcome.labels();
            let labels = [("version", version), ("result", result)];
            (labels, metrics.sum(|shard| &shard.tls_handshakes[outcome as usize]))
        }),
    )?;
    counters(
        out,
        "echo_tls_reloads_total",
        "Attempts to load certificate files that had changed",
        Reload::ALL.map(|outcome| {
            ([("result", outcome.name())], metrics.sum(|shard| &shard.tls_reloads[outcome as usize]))
        }),
    )?;
    if let Some(expires_s) = tls.expires_s() {
        gauge(
            out,
            "echo_tls_certificate_expiry_timestamp_seconds",
            "When the certificate in use ends, in Unix time",
            expires_s,
        )?;
    }
    Ok(())
}
