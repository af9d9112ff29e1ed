//! Ends a request whose response head does not come: without it a handler that hangs holds its place for ever.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::Request;
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower::{Service, ServiceExt as _, util::Oneshot};

use super::{BoxError, body::RequestBody, rescue::Failure};

/// The innermost layer: waits until the service is ready, calls it, and bounds the time to the response head.
///
/// The body has deadlines of its own (progress and rate, in both directions): a total would cut large bodies.
#[derive(Clone, Debug)]
pub(crate) struct Deadline<S> {
    service: S,
    timeout: Duration,
}

impl<S> Deadline<S> {
    pub(super) fn new(service: S, timeout: Duration) -> Self {
        Self { service, timeout }
    }
}

impl<S> Service<Request<RequestBody>> for Deadline<S>
where
    S: Service<Request<RequestBody>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = Failure;
    type Future = DeadlineFuture<S>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> DeadlineFuture<S> {
        let call = self.service.clone().oneshot(request);
        DeadlineFuture { call, timer: None, timeout: self.timeout }
    }
}

pin_project! {
    /// See [`Deadline`].
    pub(crate) struct DeadlineFuture<S: Service<Request<RequestBody>>> {
        #[pin]
        call: Oneshot<S, Request<RequestBody>>,
        timer: Option<Pin<Box<Sleep>>>,
        timeout: Duration,
    }
}

impl<S> Future for DeadlineFuture<S>
where
    S: Service<Request<RequestBody>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(result) = this.call.poll(cx) {
            return Poll::Ready(result.map_err(|error| Failure::of(error.into())));
        }
        // A service that answers at its first poll never pays for a timer.
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(*this.timeout)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(Failure::Deadline(*this.timeout)))
    }
}
