//! A span and a line for one request in N: a span for each costs 15 % of throughput, a line for each more than all of
//! hyper.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;
use tracing::Span;

use super::{body::RequestBody, failure::Failure};

/// Decides before a span is made whether there is one.
#[derive(Clone, Debug)]
pub(crate) struct Trace<S> {
    inner: S,
    one_in: u64,
}

impl<S> Trace<S> {
    pub(super) fn new(inner: S, one_in: u64) -> Self {
        Self { inner, one_in }
    }

    /// Every N-th request of this thread.
    fn is_sampled(&self) -> bool {
        thread_local!(static SEEN: Cell<u64> = const { Cell::new(0) });
        let seen = SEEN.replace(SEEN.get() + 1);
        self.one_in > 0 && seen.is_multiple_of(self.one_in)
    }
}

impl<S, B> Service<Request<RequestBody>> for Trace<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Failure>,
{
    type Response = Response<B>;
    type Error = Failure;
    type Future = TraceFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> TraceFuture<S::Future> {
        let span = self.is_sampled().then(|| {
            tracing::info_span!(
                "request",
                method = %request.method(),
                path = request.uri().path(),
                version = ?request.version(),
                id = ?request.body().request_id().or_clients(&request),
            )
        });
        TraceFuture { inner: self.inner.call(request), span }
    }
}

pin_project! {
    /// See [`Trace`].
    pub(crate) struct TraceFuture<F> {
        #[pin]
        inner: F,
        span: Option<Span>,
    }
}

impl<F, B> Future for TraceFuture<F>
where
    F: Future<Output = Result<Response<B>, Failure>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        // Entered for this poll only: a span that stays entered across polls leaks into other tasks.
        let _entered = this.span.as_ref().map(Span::enter);
        let result = ready!(this.inner.poll(cx));
        if this.span.is_some() {
            match &result {
                Ok(response) => tracing::info!(status = response.status().as_u16(), "answered"),
                Err(failure) => tracing::warn!(%failure, "failed"),
            }
        }
        Poll::Ready(result)
    }
}
