//! Without strict rules for a response head, a wrong length would be read as a right body (RFC 9112 section 6).

use std::mem::MaybeUninit;

/// The bytes are not a valid HTTP/1.1 response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(super) String);

impl Malformed {
    pub(super) fn new(what: &str) -> Self {
        Self(what.to_owned())
    }
}

const HEADERS_MAX: usize = 100;

/// What a response head says about its length, its owner and its connection.
#[derive(Debug)]
pub(super) struct Head<'a> {
    /// Length of the head itself.
    pub(super) len: usize,
    pub(super) status: u16,
    pub(super) framing: Framing,
    pub(super) keep_alive: bool,
    pub(super) request_id: Option<&'a [u8]>,
}

/// How the end of the body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Empty,
    Sized(u64),
    Chunked,
    UntilClose,
}

/// Parses one head; `None` if it is not complete.
pub(super) fn parse(bytes: &[u8], to_head_request: bool) -> Result<Option<Head<'_>>, Malformed> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, bytes, &mut headers)
        .map_err(|error| Malformed(format!("bad response head: {error}")))?;
    let httparse::Status::Complete(len) = parsed else { return Ok(None) };
    let status = response.code.unwrap_or(0);
    if status < 100 || status == 101 {
        return Err(Malformed(format!("unexpected status {status}")));
    }
    let fields = Fields::read(response.headers)?;
    let framing = match fields.length {
        _ if to_head_request || matches!(status, 204 | 304) => Framing::Empty,
        _ if fields.chunked => Framing::Chunked,
        Some(0) => Framing::Empty,
        Some(length) => Framing::Sized(length),
        None => Framing::UntilClose,
    };
    let http_1_0 = response.version == Some(0);
    let persistent = if http_1_0 { fields.keep_alive } else { !fields.close };
    let keep_alive = persistent && framing != Framing::UntilClose;
    Ok(Some(Head { len, status, framing, keep_alive, request_id: fields.request_id }))
}

/// The header fields that matter here.
#[derive(Default)]
struct Fields<'a> {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    request_id: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn read(headers: &[httparse::Header<'a>]) -> Result<Self, Malformed> {
        let mut fields = Self::default();
        for header in headers {
            // The length tells nearly all other names apart at once.
            match header.name.len() {
                14 if header.name.eq_ignore_ascii_case("content-length") => {
                    let length = decimal(header.value).ok_or_else(|| Malformed::new("bad content-length"))?;
                    if fields.length.is_some_and(|earlier| earlier != length) {
                        return Err(Malformed::new("two different content-lengths"));
                    }
                    fields.length = Some(length);
                }
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                    if !header.value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Malformed::new("transfer-encoding other than chunked"));
                    }
                    fields.chunked = true;
                }
                10 if header.name.eq_ignore_ascii_case("connection") => {
                    fields.close |= has_token(header.value, b"close");
                    fields.keep_alive |= has_token(header.value, b"keep-alive");
                }
                12 if header.name.eq_ignore_ascii_case("x-request-id") => {
                    fields.request_id = Some(header.value);
                }
                _ => {}
            }
        }
        if fields.chunked && fields.length.is_some() {
            return Err(Malformed::new("both content-length and transfer-encoding"));
        }
        Ok(fields)
    }
}

fn has_token(value: &[u8], token: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}

/// Digits only: a sign, which `parse` would accept, is a framing error.
fn decimal(value: &[u8]) -> Option<u64> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(value).ok()?.parse().ok()
}
