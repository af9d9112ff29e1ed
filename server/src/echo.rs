//! The endpoints of the data listener: without them the core would serve nothing that a client can check.
//!
//! [`Echo`] is the service. [`routes::ROUTES`] is the one list of endpoints: dispatch, the names of spans, the answers 404
//! and 405, and the test of openapi.json all read it. A new endpoint is a row there, and a function here:
//!
//! - needs the head only: `fn name(request: &Request<RequestBody>, settings: &Settings) -> Result<Response<EchoBody>,
//!   Refusal>` in a row with `Handler::Head`; the request's body is read and discarded before it is called;
//! - needs more: `async fn name(request: Request<RequestBody>, settings: Arc<Settings>) -> Result<Response<EchoBody>,
//!   BoxError>` in a row with `Handler::Whole`. A [`Refusal`](answer::Refusal) in the error becomes its answer, a
//!   [`BodyError`](crate::BodyError) its status, anything else a 500.
//!
//! What clients may ask of every endpoint (delay, status, ...) is done around the function, where its row says so.

mod abort;
mod answer;
mod ask;
mod body;
mod chance;
mod controls;
mod cors;
mod delay;
mod digest;
mod dispatch;
mod duration;
mod generated;
mod health;
mod inspect;
mod lines;
mod names;
mod openapi;
mod payload;
mod preconditions;
mod query;
mod random;
mod range;
mod response_headers;
mod retry;
mod routes;
mod settings;
mod status;
mod stream;
mod timed;
mod trailers;
mod unstable;
mod upload;
mod websocket;
mod work;

pub(crate) mod faults;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Method, Request, Response, header};
use tower::Service;

pub use self::body::EchoBody;
pub(crate) use self::{
    abort::how,
    routes::route,
    settings::check_default_params,
    websocket::{WebSocketEnd, fuzz_websocket, has_token, is_key},
};
use self::{settings::Settings, stream::PlainEcho};
use crate::{
    config::Config,
    request::{BoxError, RequestBody},
};

/// The echo server's endpoints as a service: `/echo` gives back what was sent, the others are in openapi.json.
#[derive(Clone, Debug)]
pub struct Echo(Arc<Settings>);

impl Echo {
    /// Takes the settings of the endpoints from `config`; the layers around it have their own.
    pub fn new(config: &Config) -> Self {
        Self(Arc::new(Settings::new(config)))
    }
}

impl Service<Request<RequestBody>> for Echo {
    type Response = Response<EchoBody>;
    type Error = BoxError;
    type Future = EchoFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> EchoFuture {
        if self.0.answers_inline && is_plain(&request) {
            match inline(&request) {
                Some(Inline::Echo) => return EchoFuture(State::Echo { echo: PlainEcho::of(request) }),
                Some(Inline::Text(text)) => return EchoFuture(State::Text { text }),
                None => {}
            }
        }
        EchoFuture(State::Boxed { answer: Box::pin(dispatch::answer(request, Arc::clone(&self.0))) })
    }
}

/// The parsers of clients' texts, for [`fuzzing`](crate::fuzzing).
pub(crate) mod fuzz {
    pub(crate) use super::{
        controls::fuzz as controls, preconditions::fuzz as preconditions, random::fuzz as random,
        range::fuzz as range, status::fuzz_list as status_list,
    };

    pub(crate) fn duration(text: &str) {
        let _parsed_or_refused = super::duration::parse(text).is_some();
    }

    pub(crate) fn query(text: &str) {
        let _parsed_or_refused = super::query::Query::parse(text).is_ok();
    }
}

/// Whether a request asks for nothing beyond its method and path. All that the most frequent requests pay for the
/// others.
fn is_plain(request: &Request<RequestBody>) -> bool {
    let asks = |name: &http::HeaderName| {
        *name == header::TE || *name == header::UPGRADE || controls::is_control(name)
    };
    request.uri().query().is_none() && !request.headers().keys().any(asks)
}

/// What needs no more than a look at method and path, and no memory.
enum Inline {
    Echo,
    Text(&'static str),
}

fn inline(request: &Request<RequestBody>) -> Option<Inline> {
    match (request.method(), request.uri().path()) {
        // The response to HEAD has no body, and to CONNECT none that is HTTP.
        (&Method::HEAD | &Method::CONNECT, _) => None,
        (_, path) if path == "/echo" || path.starts_with("/echo/") => Some(Inline::Echo),
        (&Method::POST | &Method::PUT | &Method::PATCH, "/") => Some(Inline::Echo),
        (&Method::GET, "/") => Some(Inline::Text(answer::WELCOME)),
        (&Method::GET, "/bench") => Some(Inline::Text(answer::BENCH)),
        (&Method::GET, "/pipeline") => Some(Inline::Text(answer::PIPELINE)),
        _ => None,
    }
}

/// Whether a path is one of the health endpoints, which are answered however high the load is.
pub(crate) fn is_health(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/healthz" | "/health")
}

/// Resolves to the response's head.
pub struct EchoFuture(State);

enum State {
    Echo { echo: PlainEcho },
    Text { text: &'static str },
    Boxed { answer: Pin<Box<dyn Future<Output = Result<Response<EchoBody>, BoxError>> + Send>> },
}

impl std::fmt::Debug for EchoFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EchoFuture")
    }
}

impl Future for EchoFuture {
    type Output = Result<Response<EchoBody>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match &mut self.0 {
            State::Echo { echo } => ready!(echo.poll_head(cx)),
            State::Text { text } => Ok(answer::text(http::StatusCode::OK, *text)),
            State::Boxed { answer } => ready!(answer.as_mut().poll(cx)),
        })
    }
}
