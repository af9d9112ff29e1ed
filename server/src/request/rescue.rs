//! The one place where an error or a panic becomes a status: without it a panic in a handler kills the connection and
//! every request on it, and each layer invents its own answers.

use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
};

use http::{Request, Response, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::Service;

use super::{body::RequestBody, failure::Failure, fault::Fault, response::ResponseBody};
use crate::activity::Activity;

/// Catches errors and panics of everything inside.
#[derive(Clone, Debug)]
pub(crate) struct Rescue<S> {
    inner: S,
    activity: Activity,
}

impl<S> Rescue<S> {
    pub(super) fn new(inner: S, activity: Activity) -> Self {
        Self { inner, activity }
    }
}

impl<S, B> Service<Request<RequestBody>> for Rescue<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody<B>>, Error = Failure>,
    B: Body,
{
    type Response = Response<ResponseBody<B>>;
    type Error = Infallible;
    type Future = RescueFuture<S::Future>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> RescueFuture<S::Future> {
        let version = request.version();
        // The service is dropped with the connection at the latest; nothing else sees what the panic left behind.
        let inner = catch_unwind(AssertUnwindSafe(|| self.inner.call(request))).ok();
        RescueFuture { inner, version, activity: self.activity.clone() }
    }
}

pin_project! {
    /// See [`Rescue`].
    pub(crate) struct RescueFuture<F> {
        // `None` after a panic in `call`.
        #[pin]
        inner: Option<F>,
        version: Version,
        activity: Activity,
    }
}

impl<F, B> Future for RescueFuture<F>
where
    F: Future<Output = Result<Response<ResponseBody<B>>, Failure>>,
    B: Body,
{
    type Output = Result<Response<ResponseBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let polled = match this.inner.as_mut().as_pin_mut() {
            Some(inner) => {
                catch_unwind(AssertUnwindSafe(|| inner.poll(cx))).unwrap_or(Poll::Ready(Err(Failure::Panic)))
            }
            None => Poll::Ready(Err(Failure::Panic)),
        };
        let failure = match polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(response)) => return Poll::Ready(Ok(response)),
            Poll::Ready(Err(failure)) => failure,
        };
        // Drops the service's future, and with it the guard and the request body, before the answer is made.
        this.inner.set(None);
        if let Failure::Panic = failure {
            this.activity.core().metrics.shard().panics.fetch_add(1, Relaxed);
        }
        let fault = Fault::of(&failure);
        let mut answer = failure.into_response(*this.version).map(ResponseBody::prepared);
        if let Some(fault) = fault {
            answer.extensions_mut().insert(fault);
        }
        Poll::Ready(Ok(answer))
    }
}
