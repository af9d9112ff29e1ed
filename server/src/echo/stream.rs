//! The echo itself: gives back, byte for byte and frame by frame, what was sent, while it is still being sent.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;

use super::{
    answer::Refusal,
    body::EchoBody,
    digest::{self, Digested, Tally},
    query::Query,
    settings::Settings,
};
use crate::{
    config::show_bytes,
    request::{BodyError, BoxError, RequestBody},
};

/// An echo of which nothing special is asked.
///
/// Its head comes with the first bytes of the request's body. Waiting for them lets hyper send `100 Continue` (it does
/// when a body is polled before the response's head), and turns a failure before the first byte into a status instead
/// of a cut response.
pub(super) struct PlainEcho(Option<(Response<()>, RequestBody)>);

impl PlainEcho {
    pub(super) fn of(mut request: Request<RequestBody>) -> Self {
        let head = head_of_echo(request.headers_mut());
        Self(Some((head, request.into_body())))
    }

    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<EchoBody>, BoxError>> {
        let first = match &mut self.0 {
            Some((_, body)) => ready!(poll_first(body, cx))?,
            None => Bytes::new(),
        };
        #[expect(clippy::expect_used, reason = "the contract of Future::poll")]
        let (head, body) = self.0.take().expect("a future is not polled after it was ready");
        // Empty stays empty, with a length, also where it came chunked.
        let body = if first.is_empty() { EchoBody::empty() } else { EchoBody::stream(first, body) };
        Poll::Ready(Ok(head.map(|()| body)))
    }
}

/// The first bytes of a body; none where it has none.
fn poll_first(body: &mut RequestBody, cx: &mut Context<'_>) -> Poll<Result<Bytes, BodyError>> {
    while !body.is_end_stream() {
        match ready!(Pin::new(&mut *body).poll_frame(cx)).transpose()?.map(http_body::Frame::into_data) {
            Some(Ok(data)) if data.is_empty() => {}
            Some(Ok(data)) => return Poll::Ready(Ok(data)),
            Some(Err(_trailers)) => {}
            None => break,
        }
    }
    Poll::Ready(Ok(Bytes::new()))
}

/// Keeps what an echo keeps of the head: the type and the coding of the body, not the client's other headers.
fn head_of_echo(request: &mut HeaderMap) -> Response<()> {
    let mut head = Response::new(());
    for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING] {
        if let Some(value) = request.remove(&name) {
            head.headers_mut().insert(name, value);
        }
    }
    head
}

/// The echo for those who ask for something beside it: `?mode=stream|buffer`, and trailers with `TE: trailers`.
pub(super) async fn echo(
    request: Request<RequestBody>,
    settings: Arc<Settings>,
) -> Result<Response<EchoBody>, BoxError> {
    let wants_digest = digest::wants_trailers(&request);
    if is_buffered(&request)? {
        return buffered(request, settings.config.buffer_max, wants_digest).await;
    }
    if wants_digest {
        return digested(request).await;
    }
    let mut echo = PlainEcho::of(request);
    std::future::poll_fn(|cx| echo.poll_head(cx)).await
}

fn is_buffered(request: &Request<RequestBody>) -> Result<bool, Refusal> {
    match Query::of(request.uri())?.get("mode") {
        None | Some("stream") => Ok(false),
        Some("buffer") => Ok(true),
        Some(other) => Err(Refusal::bad_request(format!("mode={other}: must be stream or buffer"))),
    }
}

/// For clients that read only once they have sent all: a stream would fill the buffers between us, and both would wait.
/// The digest stands in the head: everything is known by then.
async fn buffered(
    mut request: Request<RequestBody>,
    buffer_max: u64,
    wants_digest: bool,
) -> Result<Response<EchoBody>, BoxError> {
    let mut head = head_of_echo(request.headers_mut());
    let body = collect(request.body_mut(), buffer_max).await?;
    if wants_digest {
        Tally::of(&body).write(head.headers_mut());
    }
    Ok(head.map(|()| EchoBody::text(body)))
}

/// HTTP/1.1 has trailers only in a body that is chunked, and whose head lists them.
async fn digested(mut request: Request<RequestBody>) -> Result<Response<EchoBody>, BoxError> {
    let announced = digest::announced(request.headers());
    let tells_length = request.version() >= Version::HTTP_2;
    let mut head = head_of_echo(request.headers_mut());
    head.headers_mut().insert(header::TRAILER, announced);
    let mut body = request.into_body();
    let first = if body.is_end_stream() { None } else { body.frame().await.transpose()? };
    Ok(head.map(|()| EchoBody::digested(Digested::new(first, body, tells_length))))
}

/// All of a body that has at most `max` bytes. One that says that it is larger is not asked for (`100 Continue`).
///
/// # Errors
/// 413 for a larger one.
pub(super) async fn collect(body: &mut RequestBody, max: u64) -> Result<Bytes, BoxError> {
    let too_large = || {
        let limit = show_bytes(max);
        let detail = format!(
            "request body is larger than {limit}, and this endpoint needs all of it at once (--buffer-max)"
        );
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    };
    if body.size_hint().lower() > max {
        return Err(too_large().into());
    }
    let mut collected = BytesMut::new();
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await.transpose()? else { break };
        let Ok(data) = frame.into_data() else { continue };
        if (collected.len() + data.len()) as u64 > max {
            return Err(too_large().into());
        }
        collected.extend_from_slice(&data);
    }
    Ok(collected.freeze())
}
