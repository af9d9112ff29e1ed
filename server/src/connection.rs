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
    let carry = move || carry(protocol, TokioIo::new(io), service, activity);
    if let Some((_counted, carry)) = task::go_on_as(&core, (TaskKind::NewConnection, kind), carry) {
        carry().await;
    }
}

/// From the known protocol to the close.
async fn carry<Io, S>(protocol: Protocol, io: TokioIo<Io>, service: S, activity: Activity)
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: HttpService,
{
    let end = match protocol {
        Protocol::Http1 => serve::http1(io, service, &activity).await,
        Protocol::Http2 => serve::http2(io, service, &activity).await,
    };
    ended(end, &activity);
}

fn ended(end: ConnectionEnd, activity: &Activity) {
    activity.core().metrics.shard().connection_closed(end);
    if !matches!(end, ConnectionEnd::Complete | ConnectionEnd::Idle | ConnectionEnd::Drained) {
        tracing::debug!(peer = %activity.peer(), end = end.name(), "connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;
    use crate::echo::Echo;

    fn size_of_future<F: Future>(_make: impl FnOnce(TcpStream, SocketAddr, Slot, Arc<Core>) -> F) -> usize {
        size_of::<F>()
    }

    /// Each connection has one for as long as it lives, idle or not: bytes here are memory per client.
    #[test]
    fn the_future_of_a_connection_stays_small() {
        let size = size_of_future(|io, peer, slot, core| run(io, peer, slot, Echo, core));
        assert!(size <= 4096, "{size}");
    }
}
