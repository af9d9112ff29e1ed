//! Connections: those we have, those that wait, and those that never reached us.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::families::{counter, counters, gauge, gauges};
use crate::{
    core::Core,
    echo::WebSocketEnd,
    telemetry::{
        metrics::{AcceptError, ConnectionEnd, TaskKind},
        proc::listen_losses,
    },
};

pub(super) fn encode(core: &Core, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Core { metrics, slots, .. } = core;
    gauge(out, "echo_connections_open", "Client connections", slots.taken() as u64)?;
    gauge(out, "echo_connections_max", "Limit of client connections", slots.limit() as u64)?;
    gauges(
        out,
        "echo_connections_active",
        "Client connections whose protocol is known; the others have said nothing yet",
        [("http1", TaskKind::Http1Connection), ("http2", TaskKind::Http2Connection)].map(
            |(protocol, kind)| ([("protocol", protocol)], metrics.level(|shard| &shard.tasks[kind as usize])),
        ),
    )?;
    counter(
        out,
        "echo_connections_opened_total",
        "Client connections accepted",
        metrics.sum(|shard| &shard.connections_opened),
    )?;
    counters(
        out,
        "echo_connections_closed_total",
        "Client connections ended",
        ConnectionEnd::ALL.map(|end| {
            ([("reason", end.name())], metrics.sum(|shard| &shard.connections_closed[end as usize]))
        }),
    )?;
    counters(
        out,
        "echo_accept_errors_total",
        "Failures of accept",
        AcceptError::ALL
            .map(|kind| ([("kind", kind.name())], metrics.sum(|shard| &shard.accept_errors[kind as usize]))),
    )?;
    websockets(core, out)?;
    if let Some((length, max)) = core.sources.accept_queue() {
        gauge(
            out,
            "echo_accept_queue_length",
            "Connections that the kernel has completed and the server has not accepted, over all data listeners",
            length,
        )?;
        gauge(
            out,
            "echo_accept_queue_max",
            "What the accept queues of all data listeners hold: backlog, or net.core.somaxconn where that is less",
            max,
        )?;
    }
    if let Some(losses) = listen_losses() {
        counter(
            out,
            "echo_listen_overflows_total",
            "Connections dropped because an accept queue was full, of any process in the network namespace",
            losses.overflows,
        )?;
        counter(
            out,
            "echo_listen_drops_total",
            "Connections dropped before they were accepted, for any reason, of any process in the network namespace",
            losses.drops,
        )?;
    }
    Ok(())
}

fn websockets(core: &Core, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Core { metrics, .. } = core;
    gauge(
        out,
        "echo_websockets_open",
        "WebSockets that have not ended",
        metrics.level(|shard| &shard.tasks[TaskKind::WebSocket as usize]),
    )?;
    counter(
        out,
        "echo_websocket_messages_total",
        "Messages that came over WebSockets",
        metrics.sum(|shard| &shard.websocket_messages),
    )?;
    counter(
        out,
        "echo_websocket_bytes_total",
        "Bytes of the messages that came over WebSockets",
        metrics.sum(|shard| &shard.websocket_bytes),
    )?;
    counters(
        out,
        "echo_websockets_closed_total",
        "WebSockets that have ended",
        WebSocketEnd::ALL.map(|end| {
            ([("reason", end.name())], metrics.sum(|shard| &shard.websockets_closed[end as usize]))
        }),
    )
}
