//! One client connection, from its first byte to its close.

pub(crate) mod detect;
pub(crate) mod guard;
mod lifecycle;
mod serve;
mod stream;
pub(crate) mod tls;

use std::sync::Arc;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

pub(crate) use self::guard::Violation;
use self::{
    detect::Protocol,
    guard::Guard,
    tls::{Secured, Tls},
};
use crate::{
    activity::{Activity, Stage},
    core::{AddressPlace, Core, Slot},
    request::HttpService,
    socket::{
        linger::LingerLimits,
        peer::{Peer, is_trusted},
        progress::Progress,
        proxy_protocol::{self, ReadError},
        refuse::{Refusal, refuse},
    },
    task::{self, TaskKind},
    telemetry::metrics::{ConnectionEnd, Shed},
};

/// Carries one client from accept to close. Ends when the socket is closed and no task of it is left but HTTP/2
/// streams that have their own owner.
///
/// `reset_on_close` makes the close of `io` a reset.
pub(crate) async fn run<Io, S>(
    io: Io,
    reset_on_close: fn(&Io),
    peer: Peer,
    mut slot: Slot,
    tls: Option<Arc<Tls>>,
    service: S,
    core: Arc<Core>,
) where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: HttpService,
{
    let activity = Activity::new(Arc::clone(&core), peer);
    slot.list(&activity);
    let io = Progress::new(io, reset_on_close, activity.clone(), slot);
    let proxied = core.config.proxy_protocol && is_trusted(&peer, &core.config.trusted_proxies);
    let (mut io, agreed) = if proxied || tls.is_some() {
        // Boxed: a plain connection has no room for what only others need, and these only at first.
        match Box::pin(open(io, proxied, tls, &activity)).await {
            Ok(opened) => opened,
            Err(end) => return ended(end, &activity),
        }
    } else {
        (Secured::Plain(io), None)
    };
    let (protocol, seen) = match detect::detect(&mut io, agreed, &activity).await {
        Ok(detected) => detected,
        Err(end) => return ended(end, &activity),
    };
    let config = activity.config();
    let (kind, is_spoken) = match protocol {
        Protocol::Http1 => (TaskKind::Http1Connection, config.http1),
        Protocol::Http2 => (TaskKind::Http2Connection, config.http2),
    };
    if !is_spoken {
        return ended(serve::not_spoken(io, protocol, &activity).await, &activity);
    }
    let carry = move || carry(protocol, io, seen, service, activity);
    if let Some((_counted, carry)) = task::go_on_as(&core, (TaskKind::NewConnection, kind), carry) {
        carry().await;
    }
}

/// What stands between the first byte of the socket and the first byte of HTTP. Returns the protocol, too, if client and
/// server have agreed on one.
async fn open<Io>(
    mut io: Progress<Io, Slot>,
    proxied: bool,
    tls: Option<Arc<Tls>>,
    activity: &Activity,
) -> Result<(Secured<Progress<Io, Slot>>, Option<Protocol>), ConnectionEnd>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    if proxied {
        read_proxy_header(&mut io, activity).await?;
        // Not at accept: there every client had the address of the proxy.
        match AddressPlace::take(activity.core(), activity.peer()) {
            Ok(place) => io.slot().count_address(place),
            Err(why) => return Err(shed(io, why, tls.is_some(), activity).await),
        }
    }
    match tls {
        Some(tls) => tls::handshake(io, &tls, activity).await,
        None => Ok((Secured::Plain(io), None)),
    }
}

/// Tells a client why it is not served.
async fn shed<Io>(io: Io, why: Shed, speaks_tls: bool, activity: &Activity) -> ConnectionEnd
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    activity.core().metrics.shard().shed(why);
    let refusal = if speaks_tls { Refusal::TlsAlert } else { Refusal::Shed(why) };
    refuse(io, refusal, LingerLimits::of(activity.config())).await;
    ConnectionEnd::Complete
}

/// Learns the client's address from a trusted proxy. From that, nothing but a header is right: a client that reaches us
/// past the header could call itself anything.
async fn read_proxy_header<Io>(io: &mut Io, activity: &Activity) -> Result<(), ConnectionEnd>
where
    Io: AsyncRead + Unpin,
{
    let read = tokio::select! {
        read = timeout(activity.config().first_byte_timeout, proxy_protocol::read(io)) => read,
        end = lifecycle::silent_at_drain(activity) => return Err(end),
    };
    match read {
        Ok(Ok(client)) => {
            if let Some(client) = client {
                activity.set_client(client.into());
            }
            Ok(())
        }
        Ok(Err(ReadError::Silent)) => Err(ConnectionEnd::Complete),
        Ok(Err(ReadError::Header)) => Err(ConnectionEnd::ProxyHeader),
        Err(_elapsed) => Err(ConnectionEnd::FirstByteTimeout),
    }
}

/// From the known protocol to the close.
async fn carry<Io, S>(protocol: Protocol, io: Io, seen: Bytes, service: S, activity: Activity)
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: HttpService,
{
    activity.enter(match protocol {
        Protocol::Http1 => Stage::Http1,
        Protocol::Http2 => Stage::Http2,
    });
    let (io, salvage) = Guard::new(io, seen, protocol, activity.clone());
    let end = match protocol {
        Protocol::Http1 => serve::http1(TokioIo::new(io), salvage, service, &activity).await,
        Protocol::Http2 => serve::http2(TokioIo::new(io), salvage, service, &activity).await,
    };
    // Otherwise counted at the end of what it was upgraded to (guard.rs).
    if !activity.is_upgraded() {
        ended(end, &activity);
    }
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
    use crate::{config::Config, echo::Echo};

    fn size_of_future<F: Future>(_make: impl FnOnce(TcpStream, Peer, Slot, Arc<Core>) -> F) -> usize {
        size_of::<F>()
    }

    /// Each connection has one for as long as it lives, idle or not: bytes here are memory per client.
    #[test]
    fn the_future_of_a_connection_stays_small() {
        let size = size_of_future(|io, peer, slot, core| {
            run(io, |_| {}, peer, slot, None, Echo::new(&Config::default()), core)
        });
        assert!(size <= 4096, "{size}");
    }
}
