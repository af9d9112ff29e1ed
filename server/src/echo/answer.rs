//! Answers that all endpoints share: without them each would have its own idea of an error.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::body::EchoBody;
use crate::request::{Intended, error_body};

/// What `GET /` says.
pub(super) const WELCOME: &str = "echo-server: POST / or anything to /echo, and it comes back byte for byte; /openapi.json lists the rest\n";

/// What `/bench` says: the least that a response can be.
pub(super) const BENCH: &str = "1";

/// What `/pipeline` says.
pub(super) const PIPELINE: &str = "ok";

/// Plain text. Allocates nothing where `text` is static.
pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<EchoBody> {
    of_type(status, "text/plain; charset=utf-8", EchoBody::text(text))
}

/// A JSON document, followed by the end of the line that people's terminals want.
///
/// What could begin a tag is escaped, as Go does: a client may have the type of the response set to `text/html`, and what
/// is in it comes from the query (go-httpbin had this hole).
pub(super) fn json(status: StatusCode, value: &serde_json::Value) -> Response<EchoBody> {
    let mut text = value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    text.push('\n');
    of_type(status, "application/json", EchoBody::text(text))
}

/// Any body of any type.
pub(super) fn of_type(status: StatusCode, content_type: &'static str, body: EchoBody) -> Response<EchoBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A status and nothing else.
pub(super) fn empty(status: StatusCode) -> Response<EchoBody> {
    let mut response = Response::new(EchoBody::empty());
    *response.status_mut() = status;
    response
}

/// A status that the client has asked for, whatever it is.
pub(super) fn intended(status: StatusCode) -> Response<EchoBody> {
    let mut response = empty(status);
    response.extensions_mut().insert(Intended);
    response
}

/// Why an endpoint does not do what was asked: an answer in the form of [`error_body`].
///
/// Goes as error through `?`, also inside a `BoxError`.
#[derive(Debug, thiserror::Error)]
#[error("{status}: {detail}")]
pub(super) struct Refusal {
    status: StatusCode,
    detail: String,
    header: Option<Box<(HeaderName, HeaderValue)>>,
    body_is_read: bool,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), header: None, body_is_read: false }
    }

    /// 400: what was asked for cannot be had; `detail` names it, its limit, and the flag that changes the limit.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Adds a header; there is one at most.
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some(Box::new((name, value)));
        self
    }

    /// The request's body has been read to its end.
    pub(super) fn after_body(mut self) -> Self {
        self.body_is_read = true;
        self
    }

    pub(super) fn body_is_read(&self) -> bool {
        self.body_is_read
    }

    pub(super) fn into_response(self) -> Response<EchoBody> {
        let body = EchoBody::text(error_body(self.status, &self.detail));
        let mut response = of_type(self.status, "application/json", body);
        if let Some(header) = self.header {
            let (name, value) = *header;
            response.headers_mut().insert(name, value);
        }
        response
    }
}
