//! What browsers need before they let the pages of other origins talk to us (`--cors on`).

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};

use super::{answer, body::EchoBody};

/// How long a browser may remember the answer.
const MAX_AGE_S: u64 = 600;

/// Whether a request asks if another may be sent (Fetch standard, section 3.3.2).
pub(super) fn is_preflight<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    *request.method() == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight: whatever is asked for is allowed. Without credentials: there are none here to be used.
pub(super) fn preflight(headers: &HeaderMap) -> Response<EchoBody> {
    let asked = |name: HeaderName| headers.get(name).cloned().unwrap_or(HeaderValue::from_static("*"));
    let mut response = answer::empty(StatusCode::NO_CONTENT);
    let answered = response.headers_mut();
    answered.insert(header::ACCESS_CONTROL_ALLOW_METHODS, asked(header::ACCESS_CONTROL_REQUEST_METHOD));
    answered.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked(header::ACCESS_CONTROL_REQUEST_HEADERS));
    answered.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(MAX_AGE_S));
    response
}

/// Lets pages of any origin read a response, with all its fields.
pub(super) fn open(headers: &mut HeaderMap) {
    let any = HeaderValue::from_static("*");
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any.clone());
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, any);
}
