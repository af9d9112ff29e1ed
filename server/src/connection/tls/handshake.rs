//! The handshake under a deadline: without one, a client that stops half way holds a task and a descriptor for ever.

use std::pin::pin;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    time::{Instant, timeout_at},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{HandshakeKind, ProtocolVersion, ServerConnection},
    server::TlsStream,
};

use super::{
    Tls,
    secured::{Begun, Secured},
};
use crate::{
    activity::{Activity, Stage, TlsFacts},
    connection::{detect::Protocol, lifecycle},
    socket::{
        linger::LingerLimits,
        refuse::{Refusal, refuse},
    },
    telemetry::metrics::{ConnectionEnd, Handshake},
};

/// The names of the protocols in ALPN (RFC 7301, RFC 9113 section 3.2).
pub(super) const H2: &[u8] = b"h2";
pub(super) const HTTP11: &[u8] = b"http/1.1";

/// Bytes that rustls takes from us while the client does not read: what one slow reader costs, beside its socket.
const BUFFER_MAX: usize = 64 * 1024;

/// Makes TLS of `io`, within `tls_handshake_timeout`; returns the protocol, too, if client and server agreed on one.
///
/// # Errors
/// Why the connection ended before that. Its socket is closed then.
pub(crate) async fn handshake<Io>(
    mut io: Io,
    tls: &Tls,
    activity: &Activity,
) -> Result<(Secured<Io>, Option<Protocol>), ConnectionEnd>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let deadline = Instant::now() + activity.config().tls_handshake_timeout;
    let first = first_byte(&mut io, deadline, activity).await?;
    activity.enter(Stage::Opening);
    // TLS records begin with a number below 32.
    if first.is_ascii_alphabetic() {
        count(activity, Handshake::PlainHttp);
        refuse(io, Refusal::PlainHttp, LingerLimits::of(activity.config())).await;
        return Err(ConnectionEnd::TlsFailed);
    }
    let acceptor = TlsAcceptor::from(tls.config());
    let limit = |session: &mut ServerConnection| session.set_buffer_limit(Some(BUFFER_MAX));
    let mut accept = pin!(acceptor.accept_with(Begun { first: Some(first), io }, limit));
    let accepted = tokio::select! {
        accepted = timeout_at(deadline, &mut accept) => accepted,
        () = activity.core().lifecycle.killed() => return Err(ConnectionEnd::Killed),
    };
    match accepted {
        Ok(Ok(stream)) => {
            let protocol = note(&stream, activity);
            activity.enter(Stage::Silent);
            Ok((Secured::Tls(Box::new(stream)), protocol))
        }
        Ok(Err(error)) => {
            tracing::debug!(peer = %activity.peer(), %error, "TLS handshake failed");
            count(activity, Handshake::Failed);
            Err(ConnectionEnd::TlsFailed)
        }
        Err(_elapsed) => Err(too_late(activity)),
    }
}

/// Waits for the client to begin. Balancers that check a port by connecting to it are no failures.
async fn first_byte<Io>(io: &mut Io, deadline: Instant, activity: &Activity) -> Result<u8, ConnectionEnd>
where
    Io: AsyncRead + Unpin,
{
    let mut first = [0];
    let read = tokio::select! {
        read = timeout_at(deadline, io.read(&mut first)) => read,
        end = lifecycle::silent_at_drain(activity) => return Err(end),
    };
    match read {
        Ok(Ok(1..)) => Ok(first[0]),
        Ok(Ok(0)) => Err(ConnectionEnd::Complete),
        Ok(Err(_reset)) => Err(ConnectionEnd::Broken),
        Err(_elapsed) => Err(too_late(activity)),
    }
}

fn too_late(activity: &Activity) -> ConnectionEnd {
    count(activity, Handshake::TimedOut);
    ConnectionEnd::TlsFailed
}

fn count(activity: &Activity, outcome: Handshake) {
    activity.core().metrics.shard().handshake(outcome);
}

/// Notes what the handshake has settled; returns the protocol that was agreed on.
fn note<Io>(stream: &TlsStream<Io>, activity: &Activity) -> Option<Protocol> {
    let (_, session) = stream.get_ref();
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    let (version, outcome) = match (session.protocol_version(), resumed) {
        (Some(ProtocolVersion::TLSv1_2), false) => ("TLSv1.2", Handshake::Full12),
        (Some(ProtocolVersion::TLSv1_2), true) => ("TLSv1.2", Handshake::Resumed12),
        (_, false) => ("TLSv1.3", Handshake::Full13),
        (_, true) => ("TLSv1.3", Handshake::Resumed13),
    };
    count(activity, outcome);
    let agreed = session.alpn_protocol();
    let suite = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    let certificates = session.peer_certificates().unwrap_or_default();
    activity.set_tls(TlsFacts {
        version,
        server_name: session.server_name().map(str::to_owned),
        negotiated_protocol: agreed.map(|name| String::from_utf8_lossy(name).into_owned()),
        cipher_suite: suite.unwrap_or_default(),
        peer_certificates: certificates.iter().map(|certificate| certificate.to_vec()).collect(),
    });
    agreed.map(|name| if name == H2 { Protocol::Http2 } else { Protocol::Http1 })
}
