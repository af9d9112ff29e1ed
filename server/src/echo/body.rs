//! The bodies of our responses: one type for all endpoints, in which the frequent ones cost no memory of their own.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use super::digest::Digested;
use crate::request::{BodyError, BoxError, RequestBody};

/// The body of a response of [`Echo`](crate::Echo). An error is passed on: a body that broke never ends cleanly.
pub struct EchoBody(Content);

enum Content {
    Text(Full<Bytes>),
    /// `first` has been read ahead; empty once it is handed over.
    Stream {
        first: Bytes,
        rest: RequestBody,
    },
    Digested(Box<Digested>),
    Boxed(BoxedBody),
}

type BoxedBody = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;

impl EchoBody {
    /// All of it, at once.
    pub(super) fn text(text: impl Into<Bytes>) -> Self {
        Self(Content::Text(Full::new(text.into())))
    }

    /// Nothing, with a length that says so.
    pub(super) fn empty() -> Self {
        Self::text(Bytes::new())
    }

    /// The request's own body with its length and errors, after `first`, which has been read from it. Its trailers are
    /// dropped: a client that wants them says so, and gets another body.
    pub(super) fn stream(first: Bytes, rest: RequestBody) -> Self {
        Self(Content::Stream { first, rest })
    }

    /// Any other.
    pub(super) fn boxed(body: impl Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static) -> Self {
        Self(Content::Boxed(Box::pin(http_body_util::BodyExt::map_err(body, Into::into))))
    }

    /// An echo with trailers.
    pub(super) fn digested(body: Digested) -> Self {
        Self(Content::Digested(Box::new(body)))
    }

    /// Reads what is still to come of the request's body, where this is an echo of it, so that the connection can carry
    /// another request.
    pub(super) async fn exhaust(self) -> Result<(), BodyError> {
        match self.0 {
            Content::Stream { mut rest, .. } => rest.discard().await,
            Content::Digested(digested) => digested.into_rest().discard().await,
            Content::Text(_) | Content::Boxed(_) => Ok(()),
        }
    }
}

impl Body for EchoBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Content::Text(text) => Pin::new(text).poll_frame(cx).map_err(|never| match never {}),
            Content::Stream { first, .. } if !first.is_empty() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(first)))))
            }
            Content::Stream { rest, .. } => match Pin::new(rest).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => Poll::Ready(None),
                polled => polled.map_err(Into::into),
            },
            Content::Digested(body) => Pin::new(&mut **body).poll_frame(cx).map_err(Into::into),
            Content::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Text(text) => text.is_end_stream(),
            Content::Stream { first, rest } => first.is_empty() && rest.is_end_stream(),
            Content::Digested(body) => body.is_end_stream(),
            Content::Boxed(body) => body.is_end_stream(),
        }
    }

    /// Forwarded, or the echo would lose its Content-Length.
    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Text(text) => text.size_hint(),
            Content::Stream { first, rest } => {
                let (ahead, hint) = (first.len() as u64, rest.size_hint());
                let mut sum = SizeHint::new();
                if let Some(upper) = hint.upper() {
                    sum.set_upper(upper.saturating_add(ahead));
                }
                sum.set_lower(hint.lower().saturating_add(ahead));
                sum
            }
            Content::Digested(body) => body.size_hint(),
            Content::Boxed(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for EchoBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EchoBody")
    }
}
