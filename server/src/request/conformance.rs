//! Refuses requests that parse and that the RFCs forbid all the same: what each service understood in its own way (two
//! hosts, a target that is none) is what the next proxy in line understands differently.

use std::{
    net::Ipv6Addr,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use hyper::ext::Protocol;
use pin_project_lite::pin_project;
use tower::Service;

use super::{body::RequestBody, failure::Failure};

/// Lets through what RFC 9110, RFC 9112 and RFC 9113 allow.
#[derive(Clone, Debug)]
pub(crate) struct Conformance<S> {
    inner: S,
}

impl<S> Conformance<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B> Service<Request<RequestBody>> for Conformance<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Failure>,
{
    type Response = Response<B>;
    type Error = Failure;
    type Future = ConformanceFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> ConformanceFuture<S::Future> {
        match check(&mut request) {
            Ok(()) => ConformanceFuture::Passed { inner: self.inner.call(request) },
            Err(rule) => ConformanceFuture::Refused { rule },
        }
    }
}

pin_project! {
    /// See [`Conformance`].
    #[project = ConformanceProjection]
    pub(crate) enum ConformanceFuture<F> {
        Passed { #[pin] inner: F },
        Refused { rule: Rule },
    }
}

impl<F, B> Future for ConformanceFuture<F>
where
    F: Future<Output = Result<Response<B>, Failure>>,
{
    type Output = Result<Response<B>, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            ConformanceProjection::Passed { inner } => inner.poll(cx),
            ConformanceProjection::Refused { rule } => Poll::Ready(Err(Failure::Refused(*rule))),
        }
    }
}

/// A rule that a request breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    HostMissing,
    HostTwice,
    HostMalformed,
    HostDiffers,
    TargetForm,
    TargetAsterisk,
    TargetScheme,
    TargetAuthority,
    TargetBytes,
    Connect,
    Preface,
    Trace,
    Expectation,
}

impl Rule {
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Preface => StatusCode::NOT_IMPLEMENTED,
            Self::Connect | Self::Trace => StatusCode::METHOD_NOT_ALLOWED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// What the client is told.
    pub(super) const fn detail(self) -> &'static str {
        match self {
            Self::HostMissing => "HTTP/1.1 requests have a Host (RFC 9112, section 3.2)",
            Self::HostTwice => "more than one Host (RFC 9112, section 3.2)",
            Self::HostMalformed => "Host is not a host and a port (RFC 9110, sections 4.2.1 and 7.2)",
            Self::HostDiffers => "Host differs from :authority (RFC 9113, section 8.3.1)",
            Self::TargetForm => {
                "the request target is neither a path nor an absolute URI (RFC 9112, section 3.2)"
            }
            Self::TargetAsterisk => "the target * is for OPTIONS alone (RFC 9112, section 3.2.4)",
            Self::TargetScheme => {
                "the scheme of the target is neither http nor https (RFC 9110, section 4.2)"
            }
            Self::TargetAuthority => {
                "the authority of the target is not a host and a port (RFC 9110, section 4.2; user information: 4.2.4)"
            }
            Self::TargetBytes => {
                "the target has bytes that must be percent-encoded (RFC 9113, section 8.3.1)"
            }
            Self::Connect => "this server is no tunnel (RFC 9110, section 9.3.6)",
            Self::Preface => "PRI is not a method (RFC 9113, section 3.4)",
            Self::Trace => {
                "TRACE would show a browser's script what its requests carry (RFC 9110, section 9.3.8)"
            }
            Self::Expectation => "only the expectation 100-continue is met (RFC 9110, section 10.1.1)",
        }
    }

    /// A header that the answer must have (RFC 9110, section 15.5.6).
    pub(super) fn allow(self) -> Option<HeaderValue> {
        let methods = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        matches!(self, Self::Connect | Self::Trace).then_some(methods)
    }
}

/// Holds a request against the rules; gives one in absolute form the host of its target.
fn check<B>(request: &mut Request<B>) -> Result<(), Rule> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Rule::HostTwice);
    }
    match host {
        None if request.version() == Version::HTTP_11 => return Err(Rule::HostMissing),
        // RFC 9110, section 4.2.1: a URI with an empty host is invalid, so no target has one.
        Some(host) if !is_authority(host.as_bytes()) => return Err(Rule::HostMalformed),
        _ => {}
    }
    method(request)?;
    target(request.method(), request.uri())?;
    expectation(request)?;
    let Some(authority) = request.uri().authority() else { return Ok(()) };
    let agrees = host.is_some_and(|host| host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()));
    match host {
        Some(_) if agrees => {}
        Some(_) if request.version() == Version::HTTP_2 => return Err(Rule::HostDiffers),
        // RFC 9112, section 3.2.2: the target's host counts, whatever Host says.
        Some(_) => {
            let value =
                HeaderValue::from_str(authority.as_str()).map_err(|_invalid| Rule::TargetAuthority)?;
            request.headers_mut().insert(header::HOST, value);
        }
        None => {}
    }
    Ok(())
}

fn method<B>(request: &Request<B>) -> Result<(), Rule> {
    match *request.method() {
        Method::TRACE => Err(Rule::Trace),
        // RFC 8441: with a protocol it is a WebSocket over HTTP/2.
        Method::CONNECT if request.extensions().get::<Protocol>().is_none() => Err(Rule::Connect),
        ref other if other.as_str() == "PRI" => Err(Rule::Preface),
        _ => Ok(()),
    }
}

fn target(method: &Method, uri: &Uri) -> Result<(), Rule> {
    match (uri.scheme_str(), uri.authority()) {
        (None, Some(_)) => return Err(Rule::TargetForm),
        (Some(scheme), _) if scheme != "http" && scheme != "https" => return Err(Rule::TargetScheme),
        (_, Some(authority)) if !is_authority(authority.as_str().as_bytes()) => {
            return Err(Rule::TargetAuthority);
        }
        _ => {}
    }
    match uri.path() {
        "*" if *method != Method::OPTIONS => Err(Rule::TargetAsterisk),
        "*" => Ok(()),
        path if !path.starts_with('/') => Err(Rule::TargetForm),
        _ if !uri.path_and_query().is_none_or(|target| target.as_str().is_ascii()) => Err(Rule::TargetBytes),
        _ => Ok(()),
    }
}

fn expectation<B>(request: &Request<B>) -> Result<(), Rule> {
    // RFC 9110, section 10.1.1: on HTTP/1.0 it is ignored.
    if request.version() == Version::HTTP_10 {
        return Ok(());
    }
    match request.headers().get(header::EXPECT) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => Err(Rule::Expectation),
        _ => Ok(()),
    }
}

/// Whether this is `uri-host [ ":" port ]` (RFC 9110, section 7.2; RFC 3986, section 3.2), and not empty.
///
/// A comma is allowed in names there, and is what two Hosts look like that somebody has joined.
pub(crate) fn is_authority(text: &[u8]) -> bool {
    if let Some(rest) = text.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
        return is_ip_literal(&rest[..end]) && is_port_or_nothing(&rest[end + 1..]);
    }
    let end = text.iter().position(|byte| *byte == b':').unwrap_or(text.len());
    end > 0 && is_name(&text[..end]) && is_port_or_nothing(&text[end..])
}

/// The inside of the brackets: an IPv6 address, or `v1.` and more for addresses of the future.
fn is_ip_literal(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let of_the_future = || {
        let (version, address) = text.strip_prefix(['v', 'V'])?.split_once('.')?;
        let is_hex = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_address = !address.is_empty() && address.bytes().all(|byte| is_plain(byte) || byte == b':');
        Some(is_hex && is_address)
    };
    text.parse::<Ipv6Addr>().is_ok() || of_the_future() == Some(true)
}

fn is_name(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        let is_fine = match byte {
            b'%' => (0..2).all(|_| bytes.next().is_some_and(u8::is_ascii_hexdigit)),
            _ => is_plain(*byte),
        };
        if !is_fine {
            return false;
        }
    }
    true
}

/// RFC 3986: unreserved and sub-delims, without the comma.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'='
        )
}

/// `:80`, `:` or nothing.
fn is_port_or_nothing(text: &[u8]) -> bool {
    match text {
        [] => true,
        [b':', digits @ ..] => {
            let port = digits.iter().try_fold(0_u16, |port, digit| {
                let digit = digit.is_ascii_digit().then(|| u16::from(digit - b'0'))?;
                port.checked_mul(10)?.checked_add(digit)
            });
            port.is_some()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn checked(request: http::request::Builder) -> Result<(), Rule> {
        check(&mut request.body(()).unwrap())
    }

    #[test]
    fn hosts_and_ports_are_told_from_what_is_neither() {
        for good in [
            "a",
            "a:80",
            "a:",
            "a.b-c_d~e:65535",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:80",
            "%41b",
            "[v1.a:b]",
            "a!$&'()*+;=",
        ] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a:b", "a:80:80", "a:65536", "a:-1", "a b", "a,b", "a/b", "a?b", "a#b", "u@a", "a\\b",
            "[::1", "::1]", "[]", "[::1]a", "[::g]", "%4", "%zz", "\u{e4}", "a\t", "[v.a]", "[v1.]", "a]",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn the_host_of_an_absolute_target_counts() {
        let request = Request::get("http://a:80/x").version(Version::HTTP_11).header("host", "b");
        let mut request = request.body(()).unwrap();
        assert_eq!(check(&mut request), Ok(()));
        assert_eq!(request.headers()["host"], "a:80");
    }

    #[test]
    fn http2_requests_have_one_authority() {
        let request = |host| Request::get("http://a/").version(Version::HTTP_2).header("host", host);
        assert_eq!(checked(request("A")), Ok(()));
        assert_eq!(checked(request("b")), Err(Rule::HostDiffers));
        assert_eq!(checked(request("b").header("host", "a")), Err(Rule::HostTwice));
        assert_eq!(checked(Request::get("/").version(Version::HTTP_2)), Ok(()));
        let to = |target: &str| Request::get(target).version(Version::HTTP_2);
        assert_eq!(checked(to("http://u@a/")), Err(Rule::TargetAuthority));
        assert_eq!(checked(to("ftp://a/")), Err(Rule::TargetScheme));
        assert_eq!(checked(to("/\u{e4}")), Err(Rule::TargetBytes));
    }

    proptest! {
        #[test]
        fn whatever_is_taken_for_an_authority_is_one_for_the_http_crate_too(text in "[\\[\\]:.0-9a-z%@, -]{0,20}|\\PC{0,8}") {
            // RFC 3986 has percent-encoding in names, the crate has not.
            if is_authority(text.as_bytes()) && !text.contains('%') {
                prop_assert!(text.parse::<http::uri::Authority>().is_ok());
            }
        }
    }
}
