//! The digest and length of an echo in its trailers: without them a client that streams cannot tell a cut or changed body
//! from its own mistake.

use std::{
    fmt::Write as _,
    pin::Pin,
    task::{Context, Poll, ready},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version, header};
use http_body::{Body, Frame, SizeHint};
use sha2::{Digest as _, Sha256};

use super::names;
use crate::request::{BodyError, RequestBody};

/// RFC 9530, section 2.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// How many bytes the server has seen.
const X_ECHO_BYTES: HeaderName = HeaderName::from_static("x-echo-bytes");

/// SHA-256 and length of what has passed.
#[derive(Default)]
pub(super) struct Tally {
    hash: Sha256,
    bytes: u64,
}

impl Tally {
    pub(super) fn of(data: &[u8]) -> Self {
        let mut tally = Self::default();
        tally.add(data);
        tally
    }

    pub(super) fn add(&mut self, data: &[u8]) {
        self.hash.update(data);
        self.bytes += data.len() as u64;
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The SHA-256 in hexadecimal.
    pub(super) fn hex(self) -> String {
        self.hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            let _infallible = write!(text, "{byte:02x}");
            text
        })
    }

    /// Sets `content-digest` and `x-echo-bytes`.
    pub(super) fn write(self, fields: &mut HeaderMap) {
        let digest = format!("sha-256=:{}:", STANDARD.encode(self.hash.finalize()));
        if let Ok(digest) = HeaderValue::try_from(digest) {
            fields.insert(CONTENT_DIGEST, digest);
        }
        fields.insert(X_ECHO_BYTES, HeaderValue::from(self.bytes));
    }
}

/// Whether a request takes trailers, and its protocol has them (RFC 9110, section 6.5.1).
pub(super) fn wants_trailers(request: &Request<RequestBody>) -> bool {
    request.version() >= Version::HTTP_11
        && tokens(request.headers(), &header::TE).any(|token| token.eq_ignore_ascii_case("trailers"))
}

/// The value of `Trailer`: ours, and those that the request announces.
pub(super) fn announced(request: &HeaderMap) -> HeaderValue {
    let ours = format!("{CONTENT_DIGEST}, {X_ECHO_BYTES}");
    let theirs = tokens(request, &header::TRAILER)
        .filter_map(|name| HeaderName::try_from(name).ok())
        .filter(|name| !names::is_forbidden_in_trailers(name));
    let list = theirs.fold(ours, |list, name| format!("{list}, {name}"));
    HeaderValue::try_from(list).unwrap_or(HeaderValue::from_static(""))
}

/// The elements of a list (RFC 9110, section 5.6.1).
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|list| list.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

/// An echo with trailers: what the client sent there, and [`Tally`].
pub(super) struct Digested {
    /// Read ahead of the head.
    first: Option<Frame<Bytes>>,
    rest: RequestBody,
    /// `None` once all is said.
    tally: Option<Tally>,
    trailers: HeaderMap,
    tells_length: bool,
}

impl Digested {
    /// `tells_length` where a length does not rule trailers out: not in HTTP/1.1.
    pub(super) fn new(first: Option<Frame<Bytes>>, rest: RequestBody, tells_length: bool) -> Self {
        Self { first, rest, tally: Some(Tally::default()), trailers: HeaderMap::new(), tells_length }
    }

    /// What is still to come of the request's body.
    pub(super) fn into_rest(self) -> RequestBody {
        self.rest
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.first.take() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None if self.rest.is_end_stream() => Poll::Ready(None),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn keep(&mut self, trailers: HeaderMap) {
        let mut last_name = None;
        for (name, value) in trailers {
            // Of a field with several values only the first comes with its name.
            last_name = name.or(last_name);
            if let Some(name) = last_name.as_ref().filter(|name| !names::is_forbidden_in_trailers(name)) {
                self.trailers.append(name, value);
            }
        }
    }
}

impl Body for Digested {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        while self.tally.is_some() {
            match ready!(self.poll_next(cx)) {
                None => break,
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        if let Some(tally) = &mut self.tally {
                            tally.add(&data);
                        }
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Err(frame) => self.keep(frame.into_trailers().unwrap_or_default()),
                },
                // What broke has no digest, and no clean end.
                Some(Err(error)) => {
                    self.tally = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        let Some(tally) = self.tally.take() else { return Poll::Ready(None) };
        tally.write(&mut self.trailers);
        Poll::Ready(Some(Ok(Frame::trailers(std::mem::take(&mut self.trailers)))))
    }

    fn is_end_stream(&self) -> bool {
        self.tally.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = self.first.as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
        match self.rest.size_hint().exact() {
            Some(rest) if self.tells_length => SizeHint::with_exact(ahead + rest),
            _ => SizeHint::default(),
        }
    }
}
