//! Ends a request whose response head does not come: without it a handler that hangs holds its place for ever.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use http::Request;
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower::{Service, ServiceExt as _, util::Oneshot};

use super::{BoxError, body::RequestBody, failure::Failure};

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
        // Nearly every service is ready, and then its future can stand here by itself: with the request beside it,
        // waiting for readiness, the future of every request would be three times as large to move. It is called where
        // it stands, because a clone is a count that all cores share. A service that is not ready has kept the waker that
        // does not wake, and perhaps a place in a queue: it goes along, to be asked again, and a fresh one stays.
        let answer = match self.service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Answer::Called { future: self.service.call(request) },
            Poll::Ready(Err(error)) => Answer::Failed { failure: Some(Failure::of(error.into())) },
            Poll::Pending => {
                let fresh = self.service.clone();
                let waiting = std::mem::replace(&mut self.service, fresh);
                Answer::Waiting { oneshot: Box::pin(waiting.oneshot(request)) }
            }
        };
        DeadlineFuture { answer, timer: None, timeout: self.timeout }
    }
}

pin_project! {
    /// See [`Deadline`].
    pub(crate) struct DeadlineFuture<S: Service<Request<RequestBody>>> {
        #[pin]
        answer: Answer<S>,
        timer: Option<Pin<Box<Sleep>>>,
        timeout: Duration,
    }
}

pin_project! {
    #[project = AnswerProjection]
    enum Answer<S: Service<Request<RequestBody>>> {
        Called { #[pin] future: S::Future },
        Waiting { oneshot: Pin<Box<Oneshot<S, Request<RequestBody>>>> },
        Failed { failure: Option<Failure> },
    }
}

impl<S> Future for Answer<S>
where
    S: Service<Request<RequestBody>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = match self.project() {
            AnswerProjection::Called { future } => ready!(future.poll(cx)),
            AnswerProjection::Waiting { oneshot } => ready!(oneshot.as_mut().poll(cx)),
            AnswerProjection::Failed { failure } => {
                #[expect(clippy::expect_used, reason = "the contract of Future::poll")]
                return Poll::Ready(Err(failure.take().expect("a future is not polled after it was ready")));
            }
        };
        Poll::Ready(answered.map_err(|error| Failure::of(error.into())))
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
        if let Poll::Ready(result) = this.answer.poll(cx) {
            return Poll::Ready(result);
        }
        // A service that answers at its first poll never pays for a timer.
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(*this.timeout)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(Failure::Deadline(*this.timeout)))
    }
}
