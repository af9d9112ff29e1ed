//! The one place where an error or a panic becomes a status: without it a panic in a handler kills the connection and
//! every request on it, and each layer invents its own answers.

use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::Service;

use super::{
    BoxError,
    body::{BodyError, RequestBody},
    response::ResponseBody,
};
use crate::{connection::Activity, socket::refuse::retry_after_s, telemetry::metrics::Shed};

/// Says why an overloaded server refused.
const X_ECHO_OVERLOADED: HeaderName = HeaderName::from_static("x-echo-overloaded");

/// Why a request has no response of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("overloaded: {}", .0.name())]
    Shed(Shed),
    #[error("no response within {0:?} (--request-timeout)")]
    Deadline(Duration),
    #[error(transparent)]
    Body(BodyError),
    #[error("the service failed: {0}")]
    Service(BoxError),
    #[error("the service panicked")]
    Panic,
}

impl Failure {
    /// A service's error: if a [`BodyError`] is its cause, that is the failure.
    pub(super) fn of(error: BoxError) -> Self {
        match error.downcast::<BodyError>() {
            Ok(body) => Self::Body(*body),
            Err(error) => Self::Service(error),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Shed(_) | Self::Deadline(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Body(error) => body_status(error),
            Self::Service(error) => {
                let mut cause = error.source();
                while let Some(error) = cause {
                    if let Some(body) = error.downcast_ref() {
                        return body_status(body);
                    }
                    cause = error.source();
                }
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Panic => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What a client may know: the details of our own failures stay in the log.
    fn detail(&self) -> String {
        match self {
            Self::Service(_) | Self::Panic => "the service failed".to_owned(),
            known => known.to_string(),
        }
    }

    fn into_response(self, version: Version) -> Response<Bytes> {
        let status = self.status();
        let body = serde_json_line(status, &self.detail());
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, retry_after_s().into());
        }
        if let Self::Shed(reason) = self {
            headers.insert(X_ECHO_OVERLOADED, HeaderValue::from_static(reason.name()));
        }
        // What is left of the body will not be read, so the connection cannot carry another request.
        if matches!(self, Self::Body(_)) && version < Version::HTTP_2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn body_status(error: &BodyError) -> StatusCode {
    match error {
        BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        BodyError::Stalled(_) | BodyError::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
        BodyError::Broken(_) => StatusCode::BAD_REQUEST,
    }
}

/// `{"status_code":503,"error":"Service Unavailable","detail":"..."}`, the form that go-httpbin's clients know.
fn serde_json_line(status: StatusCode, detail: &str) -> String {
    let error = status.canonical_reason().unwrap_or_default();
    let detail = detail.replace('\\', "\\\\").replace('"', "\\\"");
    format!("{{\"status_code\":{},\"error\":\"{error}\",\"detail\":\"{detail}\"}}\n", status.as_u16())
}

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
        match &failure {
            Failure::Panic => {
                this.activity.core().metrics.shard().panics.fetch_add(1, Relaxed);
                tracing::error!("{failure}; answered 500");
            }
            Failure::Service(error) => tracing::error!(%error, "the service failed"),
            Failure::Shed(_) | Failure::Deadline(_) | Failure::Body(_) => tracing::debug!("{failure}"),
        }
        let answer = failure.into_response(*this.version);
        Poll::Ready(Ok(answer.map(ResponseBody::prepared)))
    }
}
