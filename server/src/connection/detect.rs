//! Tells HTTP/1.1 from HTTP/2 under a deadline: hyper-util's `auto` has none, so that a client which connects and says
//! nothing holds its task for ever.

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::{Instant, timeout_at},
};

use super::lifecycle;
use crate::{
    activity::{Activity, Stage},
    telemetry::metrics::ConnectionEnd,
};

/// What an HTTP/2 client with prior knowledge says first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes read for the decision. Most first requests fit, so that HTTP/1.1 needs no read of its own for them.
const FIRST_READ: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// Reads until the protocol is known; returns what was read, too. One that was `agreed` on (ALPN) is known, but the client
/// still has to begin.
///
/// # Errors
/// Why the connection ended before that.
pub(super) async fn detect<Io>(
    io: &mut Io,
    agreed: Option<Protocol>,
    activity: &Activity,
) -> Result<(Protocol, Bytes), ConnectionEnd>
where
    Io: AsyncRead + Unpin,
{
    let deadline = Instant::now() + activity.config().first_byte_timeout;
    let mut seen = BytesMut::with_capacity(FIRST_READ);
    let protocol = loop {
        let silent = seen.is_empty();
        let read = tokio::select! {
            read = timeout_at(deadline, io.read_buf(&mut seen)) => read,
            end = lifecycle::silent_at_drain(activity), if silent => return Err(end),
        };
        match read {
            Ok(Ok(0)) if silent => return Err(ConnectionEnd::Complete),
            // The client closed in the middle of the preface: hyper answers 400 to what there is of a request line.
            Ok(Ok(0)) => break Protocol::Http1,
            Ok(Ok(_)) => {}
            Ok(Err(_reset)) => return Err(ConnectionEnd::Broken),
            Err(_elapsed) => return Err(ConnectionEnd::FirstByteTimeout),
        }
        activity.enter(Stage::Opening);
        if let Some(protocol) = agreed.or_else(|| decide(&seen)) {
            break protocol;
        }
    };
    Ok((protocol, seen.freeze()))
}

/// The protocol that `seen` begins, or `None` while it is a true beginning of the preface.
pub(crate) fn decide(seen: &[u8]) -> Option<Protocol> {
    let compared = seen.len().min(PREFACE.len());
    if seen[..compared] != PREFACE[..compared] {
        Some(Protocol::Http1)
    } else if compared == PREFACE.len() {
        Some(Protocol::Http2)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_whole_preface_is_http2() {
        assert_eq!(decide(PREFACE), Some(Protocol::Http2));
        for n in 0..PREFACE.len() {
            assert_eq!(decide(&PREFACE[..n]), None, "{n} bytes of it decide nothing");
        }
        assert_eq!(decide(b"PRI * HTTP/1.1"), Some(Protocol::Http1));
        assert_eq!(decide(b"GET / HTTP/1.1\r\n"), Some(Protocol::Http1));
    }

    proptest! {
        #[test]
        fn a_decision_never_changes_with_more_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40), preface in any::<bool>()) {
            let bytes = if preface { [PREFACE.as_slice(), &bytes].concat() } else { bytes };
            let decisions: Vec<_> = (0..=bytes.len()).filter_map(|n| decide(&bytes[..n])).collect();
            prop_assert!(decisions.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }
}
