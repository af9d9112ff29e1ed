//! The WebSocket echo: without it proxies that forget Upgrade, cut quiet connections or reorder frames are found by
//! users.

mod handshake;
mod session;
mod watched;

use std::sync::{Arc, atomic::Ordering::Relaxed};

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use self::{
    handshake::{Opening, Refused, VERSION},
    session::Limits,
};
pub(crate) use self::{
    handshake::{has_token, is_key},
    session::{End as WebSocketEnd, fuzz as fuzz_websocket},
};
use super::{answer::Refusal, ask::Ask, body::EchoBody, settings::Settings};
use crate::{
    activity::{Activity, Exchange},
    config::Config,
    request::{LongLived, PlaceKeeper, RequestBody},
    socket::{linger::LingerLimits, progress::PaceLimits},
    task::{self, TaskKind},
};

/// Whether the request wants a WebSocket from a path that has one.
pub(super) fn is_asked_for(request: &Request<RequestBody>) -> bool {
    let path = request.uri().path();
    let has_one =
        matches!(path, "/echo" | "/ws" | "/ws/echo" | "/websocket/echo") || path.starts_with("/echo/");
    has_one && handshake::is_asked_for(request)
}

/// Opens a WebSocket that echoes (RFC 6455; over HTTP/2, RFC 8441), with go-httpbin's `?max_fragment_size` and
/// `?max_message_size`.
pub(super) fn open(
    mut request: Request<RequestBody>,
    settings: &Settings,
) -> Result<Response<EchoBody>, Refusal> {
    let limits = limits(&Ask::of(&request)?, &settings.config)?;
    let Opening { accept, subprotocol } = match handshake::open(&request) {
        Ok(opening) => opening,
        Err(refused) => return Ok(refusal(refused)),
    };
    let activity = request.body().activity().clone();
    let upgraded = hyper::upgrade::on(&mut request);
    let place = PlaceKeeper::default();
    let core = Arc::clone(activity.core());
    task::spawn(&core, TaskKind::WebSocket, run(upgraded, activity, limits, place.clone()));
    let mut response = Response::new(EchoBody::empty());
    let headers = response.headers_mut();
    if let Some(accept) = accept {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        invite(headers);
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
    if let Some(subprotocol) = subprotocol {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    response.extensions_mut().insert(LongLived);
    response.extensions_mut().insert(place);
    Ok(response)
}

fn limits(ask: &Ask<'_>, config: &Config) -> Result<Limits, Refusal> {
    let max = config.websocket_message_max;
    let message = ask.number("max_message_size", max, 0..=max, Some("--websocket-message-max"))?;
    let frame = ask.number("max_fragment_size", message, 0..=message, Some("max_message_size"))?;
    Ok(Limits {
        message_max: usize::try_from(message).unwrap_or(usize::MAX / 2),
        frame_max: usize::try_from(frame).unwrap_or(usize::MAX / 2),
        idle: config.websocket_idle_timeout,
        reader: PaceLimits::of_reader(config),
        farewell: LingerLimits::of(config),
    })
}

/// Says what we would change to: in a 101, and in a 426 (RFC 9110 section 15.5.22).
fn invite(headers: &mut http::HeaderMap) {
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
}

fn refusal(refused: Refused) -> Response<EchoBody> {
    let status = match refused {
        Refused::NotAsked | Refused::Version => StatusCode::UPGRADE_REQUIRED,
        Refused::Method | Refused::Connection | Refused::Key | Refused::Body => StatusCode::BAD_REQUEST,
    };
    let mut response = Refusal::new(status, refused.to_string()).into_response();
    if status == StatusCode::UPGRADE_REQUIRED {
        let headers = response.headers_mut();
        invite(headers);
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
    }
    response
}

/// One WebSocket, from the client's end of the handshake.
async fn run(upgraded: OnUpgrade, activity: Activity, limits: Limits, _place: PlaceKeeper) {
    // The client has left before it had our answer, or the answer has become another.
    let Ok(upgraded) = upgraded.await else { return };
    let _in_use = InUse(Exchange::go_on(&activity));
    let core = activity.core();
    let count = |bytes: usize| {
        let shard = core.metrics.shard();
        shard.websocket_messages.fetch_add(1, Relaxed);
        shard.websocket_bytes.fetch_add(bytes as u64, Relaxed);
    };
    let leave = activity.drain_token().cancelled();
    let session = Box::pin(session::echo(TokioIo::new(upgraded), limits, leave, count));
    let end = tokio::select! {
        biased;
        end = session => end,
        () = core.lifecycle.killed() => WebSocketEnd::Killed,
    };
    core.metrics.shard().websockets_closed[end as usize].fetch_add(1, Relaxed);
    tracing::debug!(peer = %activity.peer(), end = end.name(), "WebSocket ended");
}

/// Keeps the connection from counting as idle: in HTTP/2 it carries on, and what it carries here is no request.
struct InUse(Exchange);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.end(Instant::now());
    }
}
