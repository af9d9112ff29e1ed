//! What is used of each limit now, and by whom: metrics have the sums of the past, not who holds a connection open.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    activity::{Activity, Stage},
    core::Core,
    telemetry::proc,
};

/// Connections that are shown where no other number is asked for.
const SHOWN: usize = 100;

/// The most that can be asked for: an answer of some megabytes.
const SHOWN_MAX: usize = 10_000;

/// Every limit of the data plane, and what is used of it.
pub(super) fn limits(core: &Core) -> String {
    let Core { config, slots, addresses, gate, overload, lifecycle, metrics, refusals, .. } = core;
    let streams = gate.streams();
    pretty(&json!({
        "phase": lifecycle.phase().name(),
        "ready": lifecycle.is_ready(),
        "connections": { "open": slots.taken(), "max": slots.limit() },
        "connections_per_address": {
            "most": addresses.most(),
            "max": config.connections_per_address_max,
            "addresses": addresses.len(),
        },
        "refusals": { "free": refusals.available_permits() },
        "requests": {
            "in_progress": metrics.active_requests(),
            "admitted": gate.entered(),
            "max": gate.limit(),
        },
        "queue": { "waiting": gate.waiting(), "max": config.queue_max },
        "streams": { "in_progress": streams.taken(), "max": streams.max() },
        "workers": { "paused": overload.parked() > 0, "connections_held_back": overload.parked() },
        "descriptors": { "open": proc::fds_open(), "max": proc::fds_max() },
    }))
}

/// The oldest connections. `query` may hold `limit=N`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn connections(core: &Core, query: Option<&str>) -> Result<String, String> {
    let limit = limit_of(query.unwrap_or_default())?;
    let (oldest, open) = core.registry.oldest(limit);
    let now = Instant::now();
    let shown: Vec<Value> = oldest.iter().map(|activity| row(activity, now)).collect();
    Ok(pretty(&json!({ "open": open, "shown": shown.len(), "connections": shown })))
}

fn limit_of(query: &str) -> Result<usize, String> {
    let mut limit = SHOWN;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name != "limit" {
            return Err(format!("no such parameter: {name:?}; there is limit=N"));
        }
        limit = value
            .parse()
            .ok()
            .filter(|limit| *limit <= SHOWN_MAX)
            .ok_or_else(|| format!("limit={value}: must be 0 to {SHOWN_MAX}"))?;
    }
    Ok(limit)
}

fn row(activity: &Activity, now: Instant) -> Value {
    json!({
        "peer": activity.peer().to_string(),
        "protocol": activity.stage().name(),
        "tls": activity.tls().map(|tls| tls.version),
        "state": state(activity),
        "leaving": activity.leaving().map(|why| why.end().name()),
        "age_ms": millis(activity.age()),
        "idle_ms": (!activity.has_request())
            .then(|| millis(now.saturating_duration_since(activity.idle_since()))),
        "requests": activity.requests_begun(),
        "requests_in_progress": activity.requests_in_progress(),
    })
}

fn state(activity: &Activity) -> &'static str {
    match activity.stage() {
        Stage::Silent => "silent",
        Stage::Opening => "opening",
        _ if activity.has_request() => "request",
        Stage::Http1 if activity.head_has_begun() => "head",
        Stage::WebSocket => "websocket",
        _ => "idle",
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_up_to_the_most_that_is_shown() {
        assert_eq!((limit_of(""), limit_of("limit=7"), limit_of("limit=0")), (Ok(100), Ok(7), Ok(0)));
        for (query, why) in [
            ("limit=10001", "0 to 10000"),
            ("limit=-1", "0 to 10000"),
            ("limit=", "0 to 10000"),
            ("n=1", "no such parameter"),
        ] {
            assert!(limit_of(query).unwrap_err().contains(why), "{query}");
        }
    }
}
