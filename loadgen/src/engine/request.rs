//! Without rendering the head beforehand, each request would pay for formatting that never changes.

use http::{
    header::{
        ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, TRANSFER_ENCODING, USER_AGENT,
    },
    {HeaderValue, Method},
};

use crate::{
    body::{ID_LEN, Payload},
    target::Target,
    trace::{TRACEPARENT_LEN, Tracer},
};

/// Header fields that the generator writes itself, because its checks depend on them.
pub const OWN_HEADERS: [HeaderName; 3] =
    [CONTENT_LENGTH, TRANSFER_ENCODING, HeaderName::from_static("x-request-id")];

/// What every request of a run says, bodies apart.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// Request method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// `host[:port]` of the target.
    pub authority: String,
    /// True if the target is an https URL.
    pub https: bool,
    /// Header fields from the command line; they replace the defaults of the same name.
    pub headers: HeaderMap,
}

impl RequestHead {
    /// The head of requests to `target`.
    pub fn new(method: Method, target: &Target, headers: HeaderMap) -> Self {
        let (path, authority) = (target.path.clone(), target.authority.clone());
        Self { method, path, authority, https: target.https, headers }
    }
}

/// The rendered heads of a run, one for each body size, with a gap for the request id.
#[derive(Clone, Debug)]
pub struct RequestTemplate {
    heads: Vec<Vec<u8>>,
    id_at: usize,
    traced: Option<TracedHeads>,
}

/// The same heads with a gap for a `traceparent`.
#[derive(Clone, Debug)]
struct TracedHeads {
    tracer: Tracer,
    heads: Vec<Vec<u8>>,
    parent_at: usize,
}

impl RequestTemplate {
    /// Renders `head` for each of the body lengths in `sizes`. One request in `trace_one_in` (none if 0) carries a
    /// `traceparent` whose ids are drawn from `seed`.
    pub fn new(head: &RequestHead, sizes: &[u64], trace_one_in: u64, seed: u64) -> Self {
        let mut text = format!("{} {} HTTP/1.1\r\nx-request-id: ", head.method, head.path).into_bytes();
        let id_at = text.len();
        text.extend_from_slice(&[b'0'; ID_LEN]);
        text.extend_from_slice(b"\r\n");
        let traced = Tracer::new(trace_one_in, seed).map(|tracer| {
            let mut text = text.clone();
            text.extend_from_slice(b"traceparent: ");
            let parent_at = text.len();
            text.extend_from_slice(&[b'0'; TRACEPARENT_LEN]);
            text.extend_from_slice(b"\r\n");
            TracedHeads { tracer, heads: heads(text, head, sizes), parent_at }
        });
        Self { heads: heads(text, head, sizes), id_at, traced }
    }

    /// Puts the head for `payload` into `out`, which keeps its memory from request to request.
    pub fn render(&self, payload: &Payload, out: &mut Vec<u8>) {
        out.clear();
        let traced = self
            .traced
            .as_ref()
            .and_then(|traced| traced.tracer.traceparent(payload.request).map(|parent| (traced, parent)));
        if let Some((TracedHeads { heads, parent_at, .. }, parent)) = traced {
            out.extend_from_slice(&heads[payload.size_class]);
            out[*parent_at..parent_at + TRACEPARENT_LEN].copy_from_slice(&parent);
        } else {
            out.extend_from_slice(&self.heads[payload.size_class]);
        }
        out[self.id_at..self.id_at + ID_LEN].copy_from_slice(&payload.id);
    }
}

/// The heads that begin with `text`, for each of the body lengths in `sizes`.
fn heads(mut text: Vec<u8>, head: &RequestHead, sizes: &[u64]) -> Vec<Vec<u8>> {
    let has_body = sizes.iter().any(|size| *size > 0);
    for (name, value) in default_headers(head, has_body) {
        if !head.headers.contains_key(&name) {
            push_header(&mut text, &name, value.as_bytes());
        }
    }
    for (name, value) in &head.headers {
        push_header(&mut text, name, value.as_bytes());
    }
    let expects_length = expects_length(head, has_body);
    let with_length = |size: &u64| {
        let mut text = text.clone();
        if expects_length {
            push_header(&mut text, &CONTENT_LENGTH, size.to_string().as_bytes());
        }
        text.extend_from_slice(b"\r\n");
        text
    };
    sizes.iter().map(with_length).collect()
}

/// Whether requests say how long their body is, be it empty (RFC 9110 section 8.6).
pub(super) fn expects_length(head: &RequestHead, has_body: bool) -> bool {
    has_body || matches!(head.method, Method::POST | Method::PUT | Method::PATCH)
}

pub(super) fn default_headers(head: &RequestHead, has_body: bool) -> Vec<(HeaderName, String)> {
    let mut headers = vec![
        (HOST, head.authority.clone()),
        (USER_AGENT, concat!("loadgen/", env!("CARGO_PKG_VERSION")).to_owned()),
        (ACCEPT, "*/*".to_owned()),
    ];
    if has_body {
        headers.push((CONTENT_TYPE, "application/octet-stream".to_owned()));
    }
    headers
}

fn push_header(text: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    text.extend_from_slice(name.as_str().as_bytes());
    text.extend_from_slice(b": ");
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n");
}

/// Parses `Name: value` as given to `-H`.
///
/// # Errors
/// Says what is wrong with the text, without naming the flag.
pub fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("it has no colon; write it as 'Name: value'")?;
    let name: HeaderName = name.trim().parse().map_err(|error| format!("'{}': {error}", name.trim()))?;
    if OWN_HEADERS.contains(&name) {
        return Err(format!("{name} is set by loadgen itself, its checks depend on it"));
    }
    let value = HeaderValue::from_str(value.trim()).map_err(|error| format!("the value: {error}"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{Body, RunId};

    fn head(method: Method, headers: &[&str]) -> RequestHead {
        let target = Target::parse("http://localhost:8080/echo?x=1").unwrap();
        let headers = headers.iter().map(|text| parse_header(text).unwrap()).collect();
        RequestHead::new(method, &target, headers)
    }

    fn rendered(head: &RequestHead, body: &Body) -> String {
        let payload = body.payload(RunId::from_seed(1), 5);
        let mut out = Vec::new();
        RequestTemplate::new(head, &body.sizes(), 0, 1).render(&payload, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_get_has_an_id_and_no_length() {
        let text = rendered(&head(Method::GET, &[]), &Body::None);
        assert!(text.starts_with("GET /echo?x=1 HTTP/1.1\r\nx-request-id: "));
        assert!(text.contains("0000000000000005\r\nhost: localhost:8080\r\n"));
        assert!(!text.contains("content-length"));
        assert!(text.ends_with("\r\n\r\n"));
    }

    #[test]
    fn each_body_size_has_its_own_length_traced_or_not() {
        let body = Body::generated(1, &[64, 16_384]);
        let template = RequestTemplate::new(&head(Method::POST, &[]), &body.sizes(), 3, 1);
        let mut out = Vec::new();
        for request in 0..20 {
            let payload = body.payload(RunId::from_seed(1), request);
            template.render(&payload, &mut out);
            let text = str::from_utf8(&out).unwrap();
            assert!(text.contains(&format!("content-length: {}\r\n", payload.len)));
            assert!(text.contains(str::from_utf8(&payload.id).unwrap()));
            assert_eq!(text.matches("\r\ntraceparent: 00-").count(), usize::from(request % 3 == 0), "{text}");
            assert_eq!(
                text.matches("-01\r\nhost: localhost:8080\r\n").count(),
                usize::from(request % 3 == 0)
            );
        }
    }

    #[test]
    fn a_given_header_replaces_the_default() {
        let text = rendered(&head(Method::POST, &["Host: other", "X-A: 1", "x-a: 2"]), &Body::None);
        assert_eq!(text.matches("host:").count(), 1);
        assert!(text.contains("host: other\r\n") && text.contains("x-a: 1\r\nx-a: 2\r\n"));
        assert!(text.contains("content-length: 0\r\n"));
    }

    #[test]
    fn headers_that_would_break_the_checks_are_refused() {
        for text in
            ["Content-Length: 3", "Transfer-Encoding: chunked", "X-Request-Id: me", "no colon", "a b: c"]
        {
            assert!(parse_header(text).is_err(), "{text}");
        }
    }
}
