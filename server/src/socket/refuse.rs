//! Answers that are given before, or instead of, an HTTP engine: without them a client over a limit sees a reset, and
//! cannot tell a full server from a broken one.

use std::{future::poll_fn, pin::Pin};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::linger::{Linger, LingerLimits};
use crate::{
    request::{RequestId, error_body},
    telemetry::metrics::Shed,
};

/// Why a connection is closed with an answer of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The request head did not arrive in time: 408.
    HeaderTimeout,
    /// The request head is not HTTP (400), or too large (414, 431).
    Malformed(StatusCode),
    /// A limit is reached: 503.
    Shed(Shed),
}

impl Refusal {
    /// The whole response, HTTP/1.1.
    fn response(self) -> String {
        let (status, headers, detail) = match self {
            Self::HeaderTimeout => {
                let detail = "the request head did not arrive in time (--header-read-timeout)";
                (StatusCode::REQUEST_TIMEOUT, String::new(), detail)
            }
            Self::Malformed(StatusCode::BAD_REQUEST) => {
                (StatusCode::BAD_REQUEST, String::new(), "the request head is not valid HTTP/1.1")
            }
            Self::Malformed(status) => {
                (status, String::new(), "the request head is too large (--header-max)")
            }
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

/// Answers, if there is an answer, and closes, without a reset that would take the answer away.
pub(crate) async fn refuse<Io>(mut io: Io, refusal: Option<Refusal>, limits: LingerLimits)
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let answer = async {
        if let Some(refusal) = refusal {
            io.write_all(refusal.response().as_bytes()).await?;
        }
        io.shutdown().await
    };
    // A client that takes no answer, or whose connection is broken, has nothing to linger for.
    if let Ok(Ok(())) = tokio::time::timeout(limits.silent, answer).await
        && refusal.is_some()
    {
        let mut linger = Linger::begin(limits);
        poll_fn(|cx| linger.poll(Pin::new(&mut io), cx)).await;
    }
}
