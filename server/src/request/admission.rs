//! Refuses what is too much before any work is done for it: an overloaded server that first works and then refuses does
//! nothing else.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::Service;

use super::{
    body::{BodyError, RequestBody},
    failure::Failure,
    gate::{Admitted, Gate},
    response::ResponseBody,
};
use crate::{activity::Activity, telemetry::metrics::Shed};

/// Decides in `call`: hyper has no readiness to push back on, and a place that is reserved in `poll_ready` but never
/// used is lost.
#[derive(Clone, Debug)]
pub(crate) struct Admission<S> {
    inner: S,
    activity: Activity,
}

impl<S> Admission<S> {
    pub(super) fn new(inner: S, activity: Activity) -> Self {
        Self { inner, activity }
    }

    fn decide(&self, request: &Request<RequestBody>) -> Result<Admitted, Failure> {
        // Before the body is polled, so before 100-continue: the client need not send what we would not take.
        let limit = self.activity.config().body_max;
        if request.body().size_hint().exact().is_some_and(|declared| declared > limit) {
            return Err(Failure::Body(BodyError::TooLarge { limit }));
        }
        Gate::try_enter(&self.activity).ok_or_else(|| {
            self.activity.core().metrics.shard().shed(Shed::Concurrency);
            Failure::Shed(Shed::Concurrency)
        })
    }
}

impl<S, B> Service<Request<RequestBody>> for Admission<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Failure>,
    B: Body,
{
    type Response = Response<ResponseBody<B>>;
    type Error = Failure;
    type Future = AdmissionFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> AdmissionFuture<S::Future> {
        match self.decide(&request) {
            Ok(admitted) => {
                AdmissionFuture::Admitted { inner: self.inner.call(request), admitted: Some(admitted) }
            }
            Err(failure) => AdmissionFuture::Refused { failure: Some(failure) },
        }
    }
}

pin_project! {
    /// See [`Admission`].
    #[project = AdmissionProjection]
    pub(crate) enum AdmissionFuture<F> {
        Admitted { #[pin] inner: F, admitted: Option<Admitted> },
        Refused { failure: Option<Failure> },
    }
}

impl<F, B> Future for AdmissionFuture<F>
where
    F: Future<Output = Result<Response<B>, Failure>>,
    B: Body,
{
    type Output = Result<Response<ResponseBody<B>>, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled_again = "a future is not polled after it was ready";
        match self.project() {
            AdmissionProjection::Refused { failure } => {
                #[expect(clippy::expect_used, reason = "the contract of Future::poll")]
                let failure = failure.take().expect(polled_again);
                Poll::Ready(Err(failure))
            }
            AdmissionProjection::Admitted { inner, admitted } => {
                let response = ready!(inner.poll(cx))?;
                #[expect(clippy::expect_used, reason = "the contract of Future::poll")]
                let admitted = admitted.take().expect(polled_again);
                Poll::Ready(Ok(response.map(|body| ResponseBody::of_service(body, admitted))))
            }
        }
    }
}
