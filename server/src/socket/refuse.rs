//! Answers that are given before, or instead of, an HTTP engine: without them a client over a limit sees a reset, and
//! cannot tell a full server from a broken one.

use std::{future::poll_fn, pin::Pin};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::linger::{Linger, LingerLimits};
use crate::{
    connection::Violation,
    request::{RequestId, error_body},
    telemetry::metrics::Shed,
};

/// A fatal alert, `internal_error`, in a record of its own (RFC 8446, sections 5.1 and 6): there is none that says
/// "overloaded".
const INTERNAL_ERROR_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// Why a connection is closed with an answer of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The request head did not arrive in time: 408.
    HeaderTimeout,
    /// The request head breaks a rule of HTTP/1.1 (400, 501, 505), or is too large (414, 431).
    Malformed(Violation),
    /// HTTP/1 is switched off: 505.
    Http1Off,
    /// A limit is reached: 503.
    Shed(Shed),
    /// HTTP where TLS should be: 400.
    PlainHttp,
    /// A limit is reached, and the client waits for TLS: its word for that something is wrong on our side.
    TlsAlert,
}

impl Refusal {
    /// The whole answer: a response of HTTP/1.1, except to those who would not understand it.
    fn answer(self) -> Vec<u8> {
        match self {
            Self::TlsAlert => INTERNAL_ERROR_ALERT.to_vec(),
            _ => self.response().into_bytes(),
        }
    }

    fn response(self) -> String {
        let (status, headers, detail) = match self {
            Self::HeaderTimeout => {
                let detail = "the request head did not arrive in time (--header-read-timeout)";
                (StatusCode::REQUEST_TIMEOUT, String::new(), detail)
            }
            Self::Http1Off => {
                let detail = "this server speaks HTTP/2 alone (--http1)";
                (StatusCode::HTTP_VERSION_NOT_SUPPORTED, String::new(), detail)
            }
            Self::Malformed(violation) => (violation.status(), String::new(), violation.detail()),
            Self::PlainHttp => {
                let detail = "client sent an HTTP request to an HTTPS server (--listen-tls)";
                (StatusCode::BAD_REQUEST, String::new(), detail)
            }
            Self::TlsAlert => (StatusCode::SERVICE_UNAVAILABLE, String::new(), "overloaded"),
            Self::Shed(reason) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("retry-after: {}\r\nx-echo-overloaded: {}\r\n", retry_after_s(), reason.name()),
                "overloaded",
            ),
        };
        let body = error_body(status, detail);
        format!(
            "HTTP/1.1 {status}\r\n{headers}x-request-id: {}\r\nserver-timing: queue;dur=0, service;dur=0\r\n\
             content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            RequestId::next(),
            body.len(),
        )
    }
}

/// Seconds after which a refused client may come again: spread, so that those refused together do not return together.
pub(crate) fn retry_after_s() -> u32 {
    fastrand::u32(1..=3)
}

/// Answers, and closes without a reset that would take the answer away.
pub(crate) async fn refuse<Io>(io: Io, refusal: Refusal, limits: LingerLimits)
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    close(io, Some(refusal.answer()), true, limits).await;
}

/// Writes the last words, if there are any, and closes; lingers where input may be unread.
pub(crate) async fn close<Io>(mut io: Io, last_words: Option<Vec<u8>>, lingers: bool, limits: LingerLimits)
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let farewell = async {
        if let Some(words) = last_words {
            io.write_all(&words).await?;
        }
        io.shutdown().await
    };
    // A client that takes no answer, or whose connection is broken, has nothing to linger for.
    if let Ok(Ok(())) = tokio::time::timeout(limits.silent, farewell).await
        && lingers
    {
        let mut linger = Linger::begin(limits);
        poll_fn(|cx| linger.poll(Pin::new(&mut io), cx)).await;
    }
}
