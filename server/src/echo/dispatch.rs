//! From a request to its endpoint and back: what holds for all endpoints is done here, once.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;

use super::{
    answer::{self, Refusal},
    body::EchoBody,
    controls::{Caps, Controls, Effects},
    cors, names, payload,
    routes::{self, Found, Handler, Route},
    settings::Settings,
    status, websocket,
};
use crate::request::{BoxError, RequestBody};

/// A body of this size is read also where it is of no use: cheaper than a new connection.
const WORTH_READING: u64 = 64 * 1024;

/// What the answer to a request depends on beside the endpoint.
struct Context {
    version: Version,
    path: String,
}

/// Answers any request.
pub(super) async fn answer(
    request: Request<RequestBody>,
    settings: Arc<Settings>,
) -> Result<Response<EchoBody>, BoxError> {
    let has_cors = settings.config.cors;
    let is_head = request.method() == Method::HEAD;
    let is_http1_with_body = request.version() < Version::HTTP_2 && !request.body().is_end_stream();
    let mut response = match find_and_call(request, settings).await {
        Ok(response) => response,
        Err(error) => {
            let refusal = *error.downcast::<Refusal>()?;
            let is_unread = is_http1_with_body && !refusal.body_is_read();
            let mut response = refusal.into_response();
            if is_unread {
                // What is left of the body will not be read, so the connection cannot carry another request.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    };
    if has_cors {
        cors::open(response.headers_mut());
    }
    if is_head { without_body(response).await } else { Ok(response) }
}

async fn find_and_call(
    mut request: Request<RequestBody>,
    settings: Arc<Settings>,
) -> Result<Response<EchoBody>, BoxError> {
    // Not by its row: over HTTP/2 its method is CONNECT, which no other endpoint has.
    if websocket::is_asked_for(&request) {
        return Ok(websocket::open(request, &settings)?);
    }
    if settings.config.cors && cors::is_preflight(&request) {
        return Ok(cors::preflight(request.headers()));
    }
    let method = request.method();
    let found = routes::find(method, request.uri().path(), settings.config.catch_all);
    let refusal = match found {
        Found::Route(route) => return controlled(route, request, settings).await,
        Found::OtherMethods(allow) if *method == Method::OPTIONS => {
            let mut response = answer::empty(StatusCode::NO_CONTENT);
            response.headers_mut().insert(header::ALLOW, allow);
            return Ok(response);
        }
        Found::OtherMethods(allow) => {
            let allowed = allow.to_str().unwrap_or_default();
            let (path, about) = (request.uri().path(), routes::about(request.uri().path()));
            let detail = format!("{method} is not for {path} ({about}); allowed: {allowed}");
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, detail).with(header::ALLOW, allow)
        }
        Found::Nothing => {
            let detail =
                format!("there is nothing at {}; /openapi.json lists what there is", request.uri().path());
            Refusal::new(StatusCode::NOT_FOUND, detail)
        }
    };
    let is_worth_reading = request.body().size_hint().exact().is_some_and(|size| size <= WORTH_READING)
        && !request.headers().contains_key(header::EXPECT);
    if is_worth_reading {
        request.body_mut().discard().await?;
        return Err(refusal.after_body().into());
    }
    Err(refusal.into())
}

/// Calls the endpoint with what the client asks for around it.
async fn controlled(
    route: &Route,
    request: Request<RequestBody>,
    settings: Arc<Settings>,
) -> Result<Response<EchoBody>, BoxError> {
    if !settings.config.controls || route.controls == routes::Controls::None {
        return call(route, request, settings).await;
    }
    let caps = Caps::of(&settings.config);
    let effects = Controls::effects(&request, route.controls, &settings.default_controls, caps)?;
    if effects == Effects::default() {
        return call(route, request, settings).await;
    }
    let context = Context { version: request.version(), path: request.uri().path().to_owned() };
    // Before the body is asked for: what the client sends meanwhile waits with the client.
    if let Some(delay) = effects.delay.filter(|delay| *delay > Duration::ZERO) {
        tokio::time::sleep(delay).await;
    }
    let response = call(route, request, settings).await?;
    apply(effects, response, &context).await
}

async fn call(
    route: &Route,
    request: Request<RequestBody>,
    settings: Arc<Settings>,
) -> Result<Response<EchoBody>, BoxError> {
    match route.handler {
        Handler::Whole(handle) => handle(request, settings).await,
        Handler::Head(handle) => {
            let (head, mut body) = request.into_parts();
            body.discard().await?;
            handle(&Request::from_parts(head, body), &settings).map_err(|refusal| refusal.after_body().into())
        }
    }
}

/// Changes a response as the client asked for.
async fn apply(
    effects: Effects,
    mut response: Response<EchoBody>,
    context: &Context,
) -> Result<Response<EchoBody>, BoxError> {
    // The connection now speaks something else.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    if let Some(status) = effects.status {
        *response.status_mut() = status;
        status::complete(&mut response, context.version, &context.path);
    }
    // A 304 of the endpoint's own stays as it is, with its ETag.
    if effects.status.is_some_and(status::has_no_body) {
        response = replace_body(response, EchoBody::empty()).await?;
    } else if let Some(size) = effects.size.filter(|_| !status::has_no_body(response.status())) {
        response = replace_body(response, payload::generated(effects.seed, size)).await?;
        let octets = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, octets);
        response.headers_mut().insert(payload::X_ECHO_SEED, HeaderValue::from(effects.seed));
    }
    if effects.close && context.version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    names::set_fields(response.headers_mut(), effects.headers);
    Ok(response)
}

/// Puts `body` in place of a body, and takes away what was said of that. Where it was the echo of a request that is still
/// being sent, this waits for the end of it: it decides whether there is an answer at all.
async fn replace_body(response: Response<EchoBody>, body: EchoBody) -> Result<Response<EchoBody>, BoxError> {
    let (mut head, replaced) = response.into_parts();
    replaced.exhaust().await?;
    for name in [
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::ACCEPT_RANGES,
        header::ETAG,
        header::TRAILER,
    ] {
        head.headers.remove(name);
    }
    Ok(Response::from_parts(head, body))
}

/// The response to HEAD: the length that the body would have had, and no body (RFC 9110, section 9.3.2). Over HTTP/1 hyper
/// leaves the body out by itself, over HTTP/2 it does not.
async fn without_body(response: Response<EchoBody>) -> Result<Response<EchoBody>, BoxError> {
    let length = response.body().size_hint().exact();
    let (mut head, body) = response.into_parts();
    body.exhaust().await?;
    let has_length = !matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let Some(length) = length.filter(|_| has_length) {
        head.headers.entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(length));
    }
    Ok(Response::from_parts(head, EchoBody::empty()))
}
