//! The list of endpoints: without one, dispatch, span names, 405 answers and the documentation each believe in another.

use std::{pin::Pin, sync::Arc};

use http::{HeaderValue, Method, Request, Response, StatusCode};

use super::{
    abort,
    answer::{self, Refusal},
    body::EchoBody,
    delay, faults, health, inspect, lines, openapi, payload, range, response_headers, retry,
    settings::Settings,
    status, stream, timed, trailers, unstable, upload, websocket, work,
};
use crate::{
    config::CatchAll,
    request::{BoxError, RequestBody},
};

/// One endpoint.
pub(super) struct Route {
    /// The path. Ends in `{name}` where one more segment belongs to it, and in `*` where anything does.
    pub(super) pattern: &'static str,
    pub(super) methods: Methods,
    /// What it does, in a line.
    pub(super) about: &'static str,
    pub(super) controls: Controls,
    pub(super) handler: Handler,
}

/// The methods of a route.
#[derive(Clone, Copy)]
pub(super) enum Methods {
    /// Every one but CONNECT, which asks for a tunnel.
    Any,
    /// These. HEAD comes with GET, and OPTIONS with all, as far as they are not named.
    Only(&'static [Method]),
}

/// From where an endpoint takes controls (delay, status, ...).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Controls {
    /// It has none: whoever probes or measures it wants nothing else.
    None,
    /// From the headers: all names in the query are its own.
    Headers,
    /// From headers and query.
    All,
}

/// How an endpoint is called.
#[derive(Clone, Copy)]
pub(super) enum Handler {
    /// With the head of the request, after its body was read and discarded.
    Head(fn(&Request<RequestBody>, &Settings) -> Result<Response<EchoBody>, Refusal>),
    /// With all of the request.
    Whole(fn(Request<RequestBody>, Arc<Settings>) -> HandlerFuture),
}

pub(super) type HandlerFuture = Pin<Box<dyn Future<Output = Result<Response<EchoBody>, BoxError>> + Send>>;

const GET: Methods = Methods::Only(&[Method::GET]);
const POST: Methods = Methods::Only(&[Method::POST]);
const PUT: Methods = Methods::Only(&[Method::PUT]);
const PATCH: Methods = Methods::Only(&[Method::PATCH]);
const DELETE: Methods = Methods::Only(&[Method::DELETE]);
const GET_OR_POST: Methods = Methods::Only(&[Method::GET, Method::POST]);
const UPLOADS: Methods = Methods::Only(&[Method::POST, Method::PUT, Method::PATCH]);

const ECHO: Handler = Handler::Whole(|request, settings| Box::pin(stream::echo(request, settings)));
const INSPECT: Handler = Handler::Whole(|request, settings| Box::pin(inspect::anything(request, settings)));
const UPLOAD: Handler = Handler::Whole(|request, settings| Box::pin(upload::upload(request, settings)));
const DELAY: Handler = Handler::Whole(|request, settings| Box::pin(delay::delay(request, settings)));

const LINES: Handler = Handler::Whole(|request, settings| Box::pin(lines::answer(request, settings)));
const WEBSOCKET: Handler = Handler::Whole(|request, settings| {
    Box::pin(std::future::ready(websocket::open(request, &settings).map_err(Into::into)))
});

const fn row(
    pattern: &'static str,
    methods: Methods,
    controls: Controls,
    handler: Handler,
    about: &'static str,
) -> Route {
    Route { pattern, methods, about, controls, handler }
}

/// Every endpoint. The first row whose path and method fit is taken; of one path there may be several.
pub(super) const ROUTES: &[Route] = &[
    row(
        "/",
        Methods::Only(&[Method::GET, Method::OPTIONS]),
        Controls::All,
        Handler::Head(|_, _| Ok(answer::text(StatusCode::OK, answer::WELCOME))),
        "a line of text",
    ),
    row("/", UPLOADS, Controls::All, ECHO, "the request's body"),
    row("/echo", Methods::Any, Controls::All, ECHO, "the request's body, byte for byte, while it comes"),
    row("/echo/*", Methods::Any, Controls::All, ECHO, "the same"),
    row("/payload", POST, Controls::All, ECHO, "the same"),
    row(
        "/bench",
        GET,
        Controls::None,
        Handler::Head(|_, _| Ok(answer::text(StatusCode::OK, answer::BENCH))),
        "`1`: the least that a response can be",
    ),
    row(
        "/pipeline",
        GET,
        Controls::None,
        Handler::Head(|_, _| Ok(answer::text(StatusCode::OK, answer::PIPELINE))),
        "`ok`",
    ),
    row("/anything", Methods::Any, Controls::All, INSPECT, "everything about the request, as JSON"),
    row("/anything/*", Methods::Any, Controls::All, INSPECT, "the same"),
    row("/get", GET, Controls::All, INSPECT, "the same"),
    row("/post", POST, Controls::All, INSPECT, "the same"),
    row("/put", PUT, Controls::All, INSPECT, "the same"),
    row("/patch", PATCH, Controls::All, INSPECT, "the same"),
    row("/delete", DELETE, Controls::All, INSPECT, "the same"),
    row("/headers", GET, Controls::All, Handler::Head(inspect::headers), "the request's header fields"),
    row("/ip", GET, Controls::All, Handler::Head(inspect::ip), "the client's address"),
    row("/user-agent", GET, Controls::All, Handler::Head(inspect::user_agent), "the client's name"),
    row("/hostname", GET, Controls::All, Handler::Head(inspect::hostname), "which instance answers"),
    row("/version", GET, Controls::All, Handler::Head(inspect::version), "the server's version"),
    row("/upload", UPLOADS, Controls::All, UPLOAD, "counts and discards the request's body"),
    row("/status/{codes}", Methods::Any, Controls::All, Handler::Head(status::status), "one of the statuses"),
    row("/delay/{duration}", Methods::Any, Controls::All, DELAY, "waits, and then answers as /anything"),
    row("/bytes/{n}", GET, Controls::All, Handler::Head(payload::bytes), "so many generated bytes"),
    row(
        "/stream-bytes/{n}",
        GET,
        Controls::All,
        Handler::Head(payload::stream_bytes),
        "so many generated bytes, without their length",
    ),
    row("/range/{n}", GET, Controls::All, Handler::Head(range::range), "generated bytes, also in part"),
    row(
        "/response-headers",
        GET_OR_POST,
        Controls::Headers,
        Handler::Head(response_headers::response_headers),
        "each parameter as a header field",
    ),
    row("/livez", GET, Controls::None, Handler::Head(health::alive), "200 while the process works"),
    row("/healthz", GET, Controls::None, Handler::Head(health::alive), "the same"),
    row("/readyz", GET, Controls::None, Handler::Head(health::ready), "200 where new clients are welcome"),
    row("/health", GET, Controls::None, Handler::Head(health::ready), "the same"),
    row("/openapi.json", GET, Controls::None, Handler::Head(openapi::document), "this list, for machines"),
    row("/ws", GET, Controls::None, WEBSOCKET, "a WebSocket that echoes"),
    row("/ws/echo", GET, Controls::None, WEBSOCKET, "the same"),
    row("/websocket/echo", GET, Controls::None, WEBSOCKET, "the same"),
    row(
        "/sse",
        GET,
        Controls::All,
        Handler::Head(|request, settings| Ok(timed::events(request, &settings.config)?.map(EchoBody::boxed))),
        "server-sent events over some time",
    ),
    row(
        "/jsonl",
        GET,
        Controls::All,
        Handler::Head(|request, settings| {
            Ok(timed::json_lines(request, &settings.config)?.map(EchoBody::boxed))
        }),
        "lines of JSON over some time",
    ),
    row(
        "/drip",
        GET,
        Controls::All,
        Handler::Head(|request, settings| Ok(timed::drip(request, &settings.config)?.map(EchoBody::boxed))),
        "single bytes over some time",
    ),
    row("/stream/{n}", GET, Controls::All, LINES, "the request as JSON, on so many lines"),
    row(
        "/trailers",
        GET,
        Controls::Headers,
        Handler::Head(|request, _| Ok(trailers::trailers(request)?.map(EchoBody::boxed))),
        "each parameter as a trailer",
    ),
    row(
        "/unstable",
        Methods::Any,
        Controls::All,
        Handler::Head(|request, _| {
            faults::check(request)?;
            Ok(answer::intended(unstable::outcome(request)?))
        }),
        "200 or, now and then, 500",
    ),
    row(
        "/retry/*",
        Methods::Any,
        Controls::All,
        Handler::Whole(|request, settings| Box::pin(retry::answer(request, settings))),
        "fails the first attempts of an id",
    ),
    row(
        "/abort",
        Methods::Any,
        Controls::All,
        Handler::Head(|request, settings| {
            faults::check(request)?;
            let activity = request.body().activity();
            Ok(abort::abort(request, activity, &settings.config)?.map(EchoBody::boxed))
        }),
        "a response that goes wrong: reset, cut, garbage",
    ),
    row(
        "/work",
        Methods::Any,
        Controls::All,
        Handler::Whole(|request, settings| Box::pin(work::answer(request, settings))),
        "costs the CPU time and memory that is asked for",
    ),
];

/// What stands for every path that no row has, as `catch_all` says.
static INSPECT_ANY: Route =
    row("/*", Methods::Any, Controls::All, INSPECT, "everything about the request, as JSON");
static ECHO_ANY: Route = row("/*", Methods::Any, Controls::All, ECHO, "the request's body");

impl Route {
    fn takes_path(&self, path: &str) -> bool {
        match self.pattern.split_once(['{', '*']) {
            None => path == self.pattern,
            Some((prefix, rest)) => path
                .strip_prefix(prefix)
                .is_some_and(|tail| rest.is_empty() || !tail.is_empty() && !tail.contains('/')),
        }
    }

    fn takes_method(&self, method: &Method) -> bool {
        match self.methods {
            Methods::Any => *method != Method::CONNECT,
            Methods::Only(methods) => {
                methods.contains(method) || *method == Method::HEAD && methods.contains(&Method::GET)
            }
        }
    }
}

/// What there is at a path.
pub(super) enum Found {
    Route(&'static Route),
    /// Only for other methods: the value of `Allow`.
    OtherMethods(HeaderValue),
    Nothing,
}

/// Looks a path and method up.
pub(super) fn find(method: &Method, path: &str, catch_all: CatchAll) -> Found {
    let mut here = ROUTES.iter().filter(|route| route.takes_path(path)).peekable();
    // `OPTIONS *` asks about the server, and no path (RFC 9110, section 9.3.7).
    if here.peek().is_none() && path != "*" {
        return match catch_all {
            _ if *method == Method::CONNECT => Found::OtherMethods(allowed(path)),
            CatchAll::Inspect => Found::Route(&INSPECT_ANY),
            CatchAll::Echo => Found::Route(&ECHO_ANY),
            CatchAll::NotFound => Found::Nothing,
        };
    }
    here.find(|route| route.takes_method(method))
        .map_or_else(|| Found::OtherMethods(allowed(path)), Found::Route)
}

/// The methods of a path, as `Allow` lists them (RFC 9110, section 10.2.1).
pub(super) fn allowed(path: &str) -> HeaderValue {
    let mut here = ROUTES.iter().filter(|route| route.takes_path(path)).peekable();
    let takes_any = here.peek().is_none() || here.clone().any(|route| matches!(route.methods, Methods::Any));
    if takes_any {
        return HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    }
    let mut listed: Vec<&str> = Vec::new();
    for route in here {
        let Methods::Only(methods) = route.methods else { continue };
        for method in methods {
            listed.push(method.as_str());
            if method == Method::GET {
                listed.push("HEAD");
            }
        }
    }
    if !listed.contains(&"OPTIONS") {
        listed.push("OPTIONS");
    }
    HeaderValue::try_from(listed.join(", ")).unwrap_or(HeaderValue::from_static("OPTIONS"))
}

/// What there is at a path, in a line.
pub(super) fn about(path: &str) -> &'static str {
    ROUTES.iter().find(|route| route.takes_path(path)).map_or("nothing of its own", |route| route.about)
}

/// The route of a path, for the names of spans: clients choose paths, and a name must be one of few.
pub(crate) fn route(path: &str) -> Option<&'static str> {
    ROUTES.iter().find(|route| route.takes_path(path)).map(|route| route.pattern)
}
