//! The endpoints: gives back, byte for byte and frame by frame, what was sent.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;
use tower::Service;

use crate::request::BoxError;

/// What `GET /` says.
const WELCOME: &str = "echo-server: POST / or anything to /echo, and it comes back byte for byte\n";

/// `GET|HEAD /` answers a line of text; `POST|PUT|PATCH /` and any method on `/echo` or below it echo the body.
///
/// Works on any body, so it can be put under other servers and into tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl<B> Service<Request<B>> for Echo
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Response = Response<EchoBody<B>>;
    type Error = BoxError;
    type Future = EchoFuture<B>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> EchoFuture<B> {
        EchoFuture(Some(match (request.method(), request.uri().path()) {
            (_, path) if path == "/echo" || path.starts_with("/echo/") => echo(request),
            (&Method::POST | &Method::PUT | &Method::PATCH, "/") => echo(request),
            (&Method::GET | &Method::HEAD, "/") => Answer::Text(StatusCode::OK, WELCOME),
            (_, "/") => {
                Answer::Text(StatusCode::METHOD_NOT_ALLOWED, "allowed: GET, HEAD, POST, PUT, PATCH\n")
            }
            _ => Answer::Text(StatusCode::NOT_FOUND, "not found; try / or /echo\n"),
        }))
    }
}

/// The route of a path, for the names of spans: clients choose paths, and a name must be one of few.
pub(crate) fn route(path: &str) -> Option<&'static str> {
    match path {
        "/" => Some("/"),
        "/echo" => Some("/echo"),
        path if path.starts_with("/echo/") => Some("/echo/*"),
        _ => None,
    }
}

/// Keeps what an echo keeps of the head: the type and the coding of the body, not the client's other headers.
fn echo<B>(mut request: Request<B>) -> Answer<B> {
    let mut head = Response::new(());
    for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING] {
        if let Some(value) = request.headers_mut().remove(&name) {
            head.headers_mut().insert(name, value);
        }
    }
    Answer::Echo { head, body: request.into_body() }
}

enum Answer<B> {
    Text(StatusCode, &'static str),
    Echo { head: Response<()>, body: B },
}

/// Resolves to the response head once the first frame of the request body is there.
///
/// Waiting for it lets hyper send `100 Continue` (it does when a body is polled before the response head), and turns a
/// failure before the first byte into a status instead of a cut response.
pub struct EchoFuture<B>(Option<Answer<B>>);

impl<B> std::fmt::Debug for EchoFuture<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EchoFuture")
    }
}

impl<B> Future for EchoFuture<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<EchoBody<B>>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let first = match &mut self.0 {
            Some(Answer::Echo { body, .. }) if !body.is_end_stream() => {
                ready!(Pin::new(body).poll_frame(cx)).transpose().map_err(Into::into)?
            }
            _ => None,
        };
        #[expect(clippy::expect_used, reason = "the contract of Future::poll")]
        let answer = self.0.take().expect("a future is not polled after it was ready");
        Poll::Ready(Ok(match answer {
            Answer::Text(status, text) => text_response(status, text),
            // Empty stays empty, with a length, also where it came chunked.
            Answer::Echo { head, .. } if first.is_none() => {
                head.map(|()| EchoBody::Text { text: Full::default() })
            }
            Answer::Echo { head, body } => head.map(|()| EchoBody::Stream { first, rest: body }),
        }))
    }
}

fn text_response<B>(status: StatusCode, text: &'static str) -> Response<EchoBody<B>> {
    let mut response = Response::new(EchoBody::Text { text: Full::from(text) });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH"));
    }
    response
}

pin_project! {
    /// A short text, or the request's own body with its length, frames and errors. An error is passed on: a body that
    /// broke never ends cleanly.
    #[project = EchoBodyProjection]
    #[derive(Debug)]
    #[expect(missing_docs, reason = "an implementation detail that only has to be nameable")]
    pub enum EchoBody<B> {
        Text { #[pin] text: Full<Bytes> },
        Stream { first: Option<Frame<Bytes>>, #[pin] rest: B },
    }
}

impl<B> Body for EchoBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project() {
            EchoBodyProjection::Text { text } => text.poll_frame(cx).map_err(|never| match never {}),
            EchoBodyProjection::Stream { first, rest } => match first.take() {
                Some(frame) => Poll::Ready(Some(Ok(frame))),
                None => rest.poll_frame(cx).map_err(Into::into),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text { text } => text.is_end_stream(),
            Self::Stream { first, rest } => first.is_none() && rest.is_end_stream(),
        }
    }

    /// Forwarded, or the echo would lose its Content-Length.
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text { text } => text.size_hint(),
            Self::Stream { first, rest } => {
                let ahead = first.as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
                let hint = rest.size_hint();
                let mut sum = SizeHint::new();
                sum.set_lower(hint.lower() + ahead);
                if let Some(upper) = hint.upper() {
                    sum.set_upper(upper + ahead);
                }
                sum
            }
        }
    }
}
