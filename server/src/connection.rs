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
    telemetry::metrics::ConnectionEnd,
};

/// Carries one client from accept to close. Ends when the socket is closed and no task of it is left but HTTP/2
/// streams that have their own owner.
pub(crate) async fn run<Io, S>(io: Io, peer: SocketAddr, slot: Slot, service: S, core: Arc<Core>)
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: HttpService,
{
    let activity = Activity::new(Arc::clone(&core));
    let io = Progress::new(io, activity.clone(), slot);
    let end = match detect::detect(io, &activity).await {
        Ok((Protocol::Http1, io)) => serve::http1(TokioIo::new(io), service, &activity).await,
        Ok((Protocol::Http2, io)) => serve::http2(TokioIo::new(io), service, &activity).await,
        Err(end) => end,
    };
    core.metrics.shard().connection_closed(end);
    if !matches!(end, ConnectionEnd::Complete | ConnectionEnd::Idle | ConnectionEnd::Drained) {
        tracing::debug!(%peer, end = end.name(), "connection ended early");
    }
}
