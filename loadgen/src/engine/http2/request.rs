//! Without heads that are made once, each request would be put together from its flags again.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{CONTENT_LENGTH, HOST},
    uri::{Authority, InvalidUriParts, Parts, PathAndQuery, Scheme},
};

use crate::{
    body::Payload,
    engine::request::{RequestHead, default_headers, expects_length},
    trace::Tracer,
};

/// The field that names a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The field that asks for a trace.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The heads of a run for HTTP/2, one for each body size.
#[derive(Clone, Debug)]
pub struct Http2Template {
    method: Method,
    uri: Uri,
    headers: Vec<HeaderMap>,
    tracer: Option<Tracer>,
}

impl Http2Template {
    /// The heads for each of the body lengths in `sizes`; as in [`super::super::request::RequestTemplate::new`].
    ///
    /// # Errors
    /// If a `host` field from the command line is no authority.
    pub fn new(head: &RequestHead, sizes: &[u64], trace_one_in: u64, seed: u64) -> Result<Self, http::Error> {
        let has_body = sizes.iter().any(|size| *size > 0);
        let mut common = head.headers.clone();
        let host = common.remove(HOST);
        for (name, value) in default_headers(head, has_body) {
            if name != HOST && !common.contains_key(&name) {
                common.insert(name, HeaderValue::try_from(value)?);
            }
        }
        let with_length = |size: &u64| {
            let mut headers = common.clone();
            if expects_length(head, has_body) {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(*size));
            }
            headers
        };
        Ok(Self {
            method: head.method.clone(),
            uri: uri(head, host.as_ref())?,
            headers: sizes.iter().map(with_length).collect(),
            tracer: Tracer::new(trace_one_in, seed),
        })
    }

    /// The head for `payload`.
    pub(super) fn render(&self, payload: &Payload) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_2;
        let mut headers = self.headers[payload.size_class].clone();
        // Hex digits and dashes are always a field value.
        if let Ok(id) = HeaderValue::from_bytes(&payload.id) {
            headers.insert(REQUEST_ID, id);
        }
        let parent = self.tracer.and_then(|tracer| tracer.traceparent(payload.request));
        if let Some(Ok(parent)) = parent.map(|parent| HeaderValue::from_bytes(&parent)) {
            headers.insert(TRACEPARENT, parent);
        }
        *request.headers_mut() = headers;
        request
    }
}

/// `:scheme`, `:authority` and `:path` (RFC 9113 section 8.3.1).
fn uri(head: &RequestHead, host: Option<&HeaderValue>) -> Result<Uri, http::Error> {
    let mut parts = Parts::default();
    parts.scheme = Some(if head.https { Scheme::HTTPS } else { Scheme::HTTP });
    let authority = host.map_or(head.authority.as_bytes(), HeaderValue::as_bytes);
    parts.authority = Some(Authority::try_from(authority)?);
    parts.path_and_query = Some(PathAndQuery::try_from(head.path.as_str())?);
    Uri::from_parts(parts).map_err(InvalidUriParts::into)
}
