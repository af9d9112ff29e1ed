//! Why a request has no response of its own, and what the client is told: without one list, each layer invents its own
//! answers.

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, Version, header};

use super::{BoxError, body::BodyError, conformance::Rule};
use crate::{
    socket::refuse::retry_after_s,
    telemetry::{json, metrics::Shed},
};

/// Says why an overloaded server refused.
const X_ECHO_OVERLOADED: HeaderName = HeaderName::from_static("x-echo-overloaded");

/// Why a request has no response of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("overloaded: {}", .0.name())]
    Shed(Shed),
    #[error("no response within {0:?} (--request-timeout)")]
    Deadline(Duration),
    #[error("{}", .0.detail())]
    Refused(Rule),
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
            Self::Refused(rule) => rule.status(),
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
        if let Self::Shed(reason) = self {
            return shed(reason);
        }
        let status = self.status();
        let body = error_body(status, &self.detail());
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, retry_after_s().into());
        }
        if let Self::Refused(rule) = self
            && let Some(methods) = rule.allow()
        {
            headers.insert(header::ALLOW, methods);
        }
        // What is left of the body will not be read, so the connection cannot carry another request; and a client that
        // writes what is none is not trusted with the next.
        let is_no_request = matches!(self, Self::Refused(_)) && status == StatusCode::BAD_REQUEST;
        if (matches!(self, Self::Body(_)) || is_no_request) && version < Version::HTTP_2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// The answer that an overloaded server gives most: nothing in it is made anew. The connection stays where the request's
/// body is here already, and closes in our own way (connection/guard.rs) where the client still sends it.
fn shed(reason: Shed) -> Response<Bytes> {
    static BODIES: LazyLock<[&'static str; Shed::ALL.len()]> = LazyLock::new(|| {
        Shed::ALL.map(|reason| {
            let detail = Failure::Shed(reason).detail();
            &*error_body(StatusCode::SERVICE_UNAVAILABLE, &detail).leak()
        })
    });
    let mut response = Response::new(Bytes::from_static(BODIES[reason as usize].as_bytes()));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let seconds = ["1", "2", "3"][usize::try_from(retry_after_s() - 1).unwrap_or(0).min(2)];
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
    headers.insert(X_ECHO_OVERLOADED, HeaderValue::from_static(reason.name()));
    response
}

fn body_status(error: &BodyError) -> StatusCode {
    match error {
        BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        BodyError::Stalled(_) | BodyError::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
        BodyError::Broken(_) | BodyError::Malformed(_) => StatusCode::BAD_REQUEST,
    }
}

/// The body of an error: `{"status_code":503,"error":"Service Unavailable","detail":"..."}`, the form that go-httpbin's clients know.
pub(crate) fn error_body(status: StatusCode, detail: &str) -> String {
    let error = status.canonical_reason().unwrap_or_default();
    let mut body =
        format!("{{\"status_code\":{},\"error\":\"{error}\",\"detail\":\"", status.as_u16()).into_bytes();
    json::escape(&mut body, detail);
    body.extend_from_slice(b"\"}\n");
    // What is escaped text was text.
    String::from_utf8(body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's own text stands in it, decoded from its query.
    #[test]
    fn an_error_is_json_whatever_it_quotes() {
        for detail in ["a\"b\\c", "line\r\nend\t\u{1}", "\u{e9}"] {
            let body = error_body(StatusCode::BAD_REQUEST, detail);
            let value: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!((value["detail"].as_str(), value["status_code"].as_u64()), (Some(detail), Some(400)));
        }
    }
}
