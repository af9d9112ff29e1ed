//! Why a request has no response of its own, and what the client is told: without one list, each layer invents its own
//! answers.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, Version, header};

use super::{BoxError, body::BodyError};
use crate::{socket::refuse::retry_after_s, telemetry::metrics::Shed};

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

    pub(super) fn into_response(self, version: Version) -> Response<Bytes> {
        let status = self.status();
        let body = error_body(status, &self.detail());
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

/// The body of an error: `{"status_code":503,"error":"Service Unavailable","detail":"..."}`, the form that go-httpbin's clients know.
pub(crate) fn error_body(status: StatusCode, detail: &str) -> String {
    let error = status.canonical_reason().unwrap_or_default();
    let detail = detail.replace('\\', "\\\\").replace('"', "\\\"");
    format!("{{\"status_code\":{},\"error\":\"{error}\",\"detail\":\"{detail}\"}}\n", status.as_u16())
}
