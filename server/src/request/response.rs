//! The body of every response: carries the request's place in the limit and its record to the END of the body, and
//! keeps a panic in a service's body from taking the connection with it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;

use super::{
    BoxError, failure::Failure, place::Admitted, polls::BodyPolls, record::Record, trace::SampledTrace,
};

pin_project! {
    /// One type through all layers, filled in on the way out: a wrapper per layer would move each response once more
    /// per layer.
    #[derive(Debug)]
    pub(crate) struct ResponseBody<B> {
        #[pin]
        content: Content<B>,
        // What is left of a body of known length; hyper stops polling when it is 0.
        left: Option<u64>,
        // In this order: the place is free before the request counts as over.
        admitted: Option<Admitted>,
        record: Option<Record>,
    }
}

pin_project! {
    #[project = ContentProjection]
    #[derive(Debug)]
    enum Content<B> {
        Service { #[pin] body: B },
        // An answer of ours.
        Prepared { #[pin] text: Full<Bytes> },
    }
}

impl<B> ResponseBody<B> {
    /// Whether it is the service's, and not ours in its place.
    pub(super) fn is_of_service(&self) -> bool {
        matches!(self.content, Content::Service { .. })
    }
}

impl<B: Body> ResponseBody<B> {
    /// What the service answered.
    pub(super) fn of_service(body: B, admitted: Admitted) -> Self {
        let left = body.size_hint().exact();
        Self { content: Content::Service { body }, left, admitted: Some(admitted), record: None }
    }

    /// What we answer in its place.
    pub(super) fn prepared(bytes: Bytes) -> Self {
        let left = Some(bytes.len() as u64);
        Self { content: Content::Prepared { text: Full::new(bytes) }, left, admitted: None, record: None }
    }
}

/// Hands the record of a request to the body of its response.
pub(super) fn keep_record<B>(response: &mut Response<ResponseBody<B>>, mut record: Record)
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let status = response.status();
    let has_no_body = record.is_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let body = response.body_mut();
    record.status = Some(status);
    record.is_complete = has_no_body || body.left == Some(0) || body.is_end_stream();
    body.record = Some(record);
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.as_mut().project();
        let polled = {
            let trace = this.record.as_ref().and_then(|record| record.account.trace());
            let _entered = trace.map(SampledTrace::enter);
            this.content.as_mut().poll_frame(cx)
        };
        let Poll::Ready(polled) = polled else {
            BodyPolls::pending();
            return Poll::Pending;
        };
        let Some(record) = this.record else { return Poll::Ready(polled) };
        match &polled {
            None => record.is_complete = true,
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                BodyPolls::yielded(bytes);
                record.shard().response_body_bytes.fetch_add(bytes as u64, Relaxed);
                record.account.responded(bytes);
                *this.left = this.left.map(|left| left.saturating_sub(bytes as u64));
                // hyper need not poll again after this (tower-http#625).
                record.is_complete = *this.left == Some(0) || this.content.is_end_stream();
            }
            Some(Err(error)) => {
                if let Some(Failure::Panic) = error.downcast_ref() {
                    record.shard().panics.fetch_add(1, Relaxed);
                    let _entered = record.account.trace().map(SampledTrace::enter);
                    tracing::error!("a response body panicked; the response is cut");
                }
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}

impl<B> Body for Content<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project() {
            ContentProjection::Prepared { text } => text.poll_frame(cx).map_err(|never| match never {}),
            // A body that has panicked is not polled again: hyper drops it with the response.
            ContentProjection::Service { body } => catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx)))
                .map_or_else(
                    |_panic| Poll::Ready(Some(Err(Failure::Panic.into()))),
                    |polled| polled.map_err(Into::into),
                ),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Prepared { text } => text.is_end_stream(),
            Self::Service { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Prepared { text } => text.size_hint(),
            Self::Service { body } => body.size_hint(),
        }
    }
}
