//! One client connection, from its first byte to its close.

mod detect;
mod lifecycle;
mod serve;
mod stream;

use std::{net::SocketAddr, sync::Arc};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use self::detect::Protocol;
use crate::{
    activity::Activity,
    core::{Core, Slot},
    request::HttpService,
    socket::progress::Progress,
    task::{self, TaskKind},
    telemetry::metrics::ConnectionEnd,
};

/// Carries one client from accept to close. Ends when the socket is closed and no task of it is left but HTTP/2
/// streams that have their own owner.
pub(crate) async fn run<Io, S>(io: Io, peer: SocketAddr, slot: Slot, service: S, core: Arc<Core>)
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: HttpService,
{
    let activity = Activity::new(Arc::clone(&core), peer);
    let io = Progress::new(io, activity.clone(), slot);
    let (protocol, io) = match detect::detect(io, &activity).await {
        Ok(detected) => detected,
        Err(end) => return ended(end, &activity),
    };
    let kind = match protocol {
        Protocol::Http1 => TaskKind::Http1Connection,
        Protocol::Http2 => TaskKind::Http2Connection,
    };
    let carry = async move {
        let io = TokioIo::new(io);
        let end = match protocol {
            Protocol::Http1 => serve::http1(io, service, &activity).await,
            Protocol::Http2 => serve::http2(io, service, &activity).await,
        };
        ended(end, &activity);
    };
    task::go_on_as(&core, (TaskKind::NewConnection, kind), carry).await;
}

fn ended(end: ConnectionEnd, activity: &Activity) {
    activity.core().metrics.shard().connection_closed(end);
    if !matches!(end, ConnectionEnd::Complete | ConnectionEnd::Idle | ConnectionEnd::Drained) {
        tracing::debug!(peer = %activity.peer(), end = end.name(), "connection ended early");
    }
}
