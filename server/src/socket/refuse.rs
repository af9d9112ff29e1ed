//! Answers that are given before, or instead of, an HTTP engine: without them a client over a limit sees a reset, and
//! cannot tell a full server from a broken one.

use std::{future::poll_fn, pin::Pin};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::linger::{Linger, LingerLimits};
use crate::{request::RequestId, telemetry::metrics::Shed};

/// Why a connection is closed with an answer of our own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refusal {
    /// The request head did not arrive in time: 408.
    HeaderTimeout,
    /// A limit is reached: 503.
    Shed(Shed),
}

impl Refusal {
    /// The whole response, HTTP/1.1.
    fn response(self) -> String {
        let (status, headers) = match self {
            Self::HeaderTimeout => ("408 Request Timeout", String::new()),
            Self::Shed(reason) => (
                "503 Service Unavailable",
                format!("retry-after: {}\r\nx-echo-overloaded: {}\r\n", retry_after_s(), reason.name()),
            ),
        };
        format!(
            "HTTP/1.1 {status}\r\n{headers}x-request-id: {}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            RequestId::next()
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
