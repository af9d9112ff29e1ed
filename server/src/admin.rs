//! The second listener, on the control thread: health and metrics on the data port fail first when the data plane is
//! saturated, and the orchestrator then kills a server that works.
//!
//! | path | answer |
//! |---|---|
//! | `/livez`, `/healthz` | 200 while the process works, also while it drains |
//! | `/readyz`, `/health` | 200 while it serves; 503 with the phase before and after, and with `disabled` |
//! | `POST /readyz/enable`, `POST /readyz/disable` | whether it says that it is ready; it serves all the same |
//! | `POST /drain` | drains, as SIGTERM does |
//! | `/metrics` | OpenMetrics |
//! | `/fault_injection/status` | whether clients may ask for faults |
//! | `POST /fault_injection/enable`, `POST /fault_injection/disable` | the same, changed |
//! | `/debug/config` | the effective configuration as TOML |
//! | `/debug/limits` | every limit beside what is used of it now, as JSON |
//! | `/debug/connections?limit=N` | the oldest connections and what they are doing, as JSON |
//! | `/debug/log-filter` | the filter of the log; `PUT` changes it |
//! | `/debug/tasks` | where every task stands, in a build for tokio-console |
//!
//! Whoever can reach the listener may look; who may change something is decided in `authority`.

mod authority;
mod live;
#[cfg(feature = "console")]
mod tasks;

use std::{convert::Infallible, num::NonZeroUsize, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};

use crate::{
    config::{Config, FdBudget, RequestsLimit},
    core::{Core, Reporting, Role},
    drain::{self, DrainReport},
    phase::Phase,
    request::RequestBody,
    socket::{accept, listen::DataListener},
    telemetry::{exposition, log::Filter},
};

/// Serves the admin endpoints of `data` until `shutdown`, with the same server core and small limits.
pub(crate) async fn serve(
    listener: DataListener,
    data: Arc<Core>,
    shutdown: impl Future<Output = ()>,
) -> DrainReport {
    let fds = FdBudget { connections: CONNECTIONS_MAX, refusals: 2 };
    let core = Core::new(Role::Admin, limits(&data.config), fds, Reporting::default());
    let watched = Arc::clone(&data);
    let service = tower::service_fn(move |request: Request<RequestBody>| {
        let data = Arc::clone(&data);
        async move { Ok::<_, Infallible>(answer(request, &data).await) }
    });
    accept::start(listener, None, service, &core);
    let shutdown = async {
        shutdown.await;
        if watched.lifecycle.is_handed_over() {
            // The same sockets, the same reason.
            core.lifecycle.hand_over();
        }
    };
    drain::coordinate(Arc::clone(&core), shutdown).await
}

/// Longest text of a log filter, in bytes.
const FILTER_MAX: usize = 4096;

/// Scrapers, probes and a few people.
const CONNECTIONS_MAX: usize = 16;

fn limits(data: &Config) -> Config {
    Config {
        workers: NonZeroUsize::new(1),
        requests_max: NonZeroUsize::new(2 * CONNECTIONS_MAX),
        body_max: 64 * 1024,
        request_timeout: Duration::from_secs(10),
        lame_duck: Duration::ZERO,
        drain_idle_grace: Duration::from_millis(1),
        drain_grace: Duration::from_secs(1),
        linger_timeout: Duration::from_millis(250),
        linger_max: Duration::from_secs(1),
        trace_one_in: 0,
        // What holds for clients does not hold for those who look after the server: they are few, and known.
        connections_per_address_max: 0,
        connection_requests_max: 0,
        evict_idle: true,
        evict_idle_min: Duration::ZERO,
        requests_limit: RequestsLimit::Fixed,
        queue_max: 0,
        busy_max: Duration::ZERO,
        fair_share: false,
        proxy_protocol: false,
        trusted_proxies: Vec::new(),
        ..data.clone()
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

const LOOK: &[Method] = &[Method::GET, Method::HEAD];
const CHANGE: &[Method] = &[Method::POST];
const LOOK_OR_REPLACE: &[Method] = &[Method::GET, Method::HEAD, Method::PUT];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Live,
    Ready,
    /// Whether the server says that it is ready.
    SetReady(bool),
    Drain,
    Metrics,
    Faults,
    SetFaults(bool),
    Config,
    Limits,
    Connections,
    LogFilter,
    #[cfg(feature = "console")]
    Tasks,
}

/// Every path, with its methods. Any other than GET and HEAD changes something.
const ENDPOINTS: &[(&str, &[Method], Endpoint)] = &[
    ("/livez", LOOK, Endpoint::Live),
    ("/healthz", LOOK, Endpoint::Live),
    ("/readyz", LOOK, Endpoint::Ready),
    ("/health", LOOK, Endpoint::Ready),
    ("/readyz/enable", CHANGE, Endpoint::SetReady(true)),
    ("/readyz/disable", CHANGE, Endpoint::SetReady(false)),
    ("/drain", CHANGE, Endpoint::Drain),
    ("/metrics", LOOK, Endpoint::Metrics),
    ("/fault_injection/status", LOOK, Endpoint::Faults),
    ("/fault_injection/enable", CHANGE, Endpoint::SetFaults(true)),
    ("/fault_injection/disable", CHANGE, Endpoint::SetFaults(false)),
    ("/debug/config", LOOK, Endpoint::Config),
    ("/debug/limits", LOOK, Endpoint::Limits),
    ("/debug/connections", LOOK, Endpoint::Connections),
    ("/debug/log-filter", LOOK_OR_REPLACE, Endpoint::LogFilter),
    #[cfg(feature = "console")]
    ("/debug/tasks", LOOK, Endpoint::Tasks),
];

type Answer = Response<Full<Bytes>>;

async fn answer(request: Request<RequestBody>, data: &Arc<Core>) -> Answer {
    let path = request.uri().path();
    let Some((_, methods, endpoint)) = ENDPOINTS.iter().find(|(known, ..)| *known == path) else {
        return unknown_path();
    };
    if !methods.contains(request.method()) {
        return wrong_method(methods);
    }
    if !LOOK.contains(request.method())
        && let Some(denied) = authority::denial(&request, &data.config)
    {
        return denied;
    }
    match endpoint {
        Endpoint::Live => line(StatusCode::OK, "alive"),
        Endpoint::Ready => readiness(data),
        Endpoint::SetReady(ready) => {
            data.lifecycle.disable(!ready);
            tracing::info!(ready, "readiness set over the admin listener");
            line(StatusCode::OK, switch(*ready))
        }
        Endpoint::Drain => {
            tracing::info!("asked to drain over the admin listener");
            // This answer is still given: the admin listener stops last.
            data.lifecycle.request_stop();
            line(StatusCode::ACCEPTED, "draining")
        }
        Endpoint::Metrics => match exposition::render(data) {
            Ok(text) => reply(StatusCode::OK, exposition::CONTENT_TYPE, text),
            Err(error) => line(StatusCode::INTERNAL_SERVER_ERROR, &format!("metrics: {error}")),
        },
        Endpoint::Faults => line(StatusCode::OK, switch(data.faults.is_on())),
        Endpoint::SetFaults(on) => {
            data.faults.set(*on);
            tracing::info!(on, "fault injection set over the admin listener");
            line(StatusCode::OK, switch(*on))
        }
        Endpoint::Config => reply(StatusCode::OK, "application/toml", data.config.to_toml()),
        Endpoint::Limits => reply(StatusCode::OK, JSON, live::limits(data)),
        Endpoint::Connections => match live::connections(data, request.uri().query()) {
            Ok(text) => reply(StatusCode::OK, JSON, text),
            Err(why) => line(StatusCode::BAD_REQUEST, &why),
        },
        Endpoint::LogFilter => log_filter(request).await,
        #[cfg(feature = "console")]
        Endpoint::Tasks => reply(StatusCode::OK, TEXT, tasks::dump(data).await),
    }
}

fn readiness(data: &Core) -> Answer {
    let lifecycle = &data.lifecycle;
    let status = if lifecycle.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let phase = lifecycle.phase();
    line(status, if phase == Phase::Serving && lifecycle.is_disabled() { "disabled" } else { phase.name() })
}

const fn switch(on: bool) -> &'static str {
    if on { "enabled" } else { "disabled" }
}

/// The filter of the log; with PUT the body is the new one.
async fn log_filter(request: Request<RequestBody>) -> Answer {
    // Where the core runs in somebody else's process, the log is theirs.
    let Some(filter) = Filter::of_process() else {
        return line(StatusCode::NOT_FOUND, "the log of this process is not the server's");
    };
    if request.method() == Method::PUT {
        let bytes = match Limited::new(request.into_body(), FILTER_MAX).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) => {
                return line(StatusCode::BAD_REQUEST, &format!("the filter did not arrive: {error}"));
            }
        };
        let text = std::str::from_utf8(&bytes).map_err(|error| error.to_string());
        if let Err(why) = text.and_then(|text| filter.set(text)) {
            return line(StatusCode::BAD_REQUEST, &why);
        }
    }
    line(StatusCode::OK, &filter.get())
}

fn unknown_path() -> Answer {
    let mut text = String::from("no such path; there are:\n");
    for (path, methods, _) in ENDPOINTS {
        text.push_str(&format_methods(methods));
        text.push(' ');
        text.push_str(path);
        text.push('\n');
    }
    reply(StatusCode::NOT_FOUND, TEXT, text)
}

fn wrong_method(methods: &[Method]) -> Answer {
    let allowed = format_methods(methods);
    let answer = line(StatusCode::METHOD_NOT_ALLOWED, &format!("allowed: {allowed}"));
    with_header(answer, header::ALLOW, &allowed)
}

fn format_methods(methods: &[Method]) -> String {
    methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
}

fn line(status: StatusCode, text: &str) -> Answer {
    reply(status, TEXT, format!("{text}\n"))
}

fn with_header(mut answer: Answer, name: HeaderName, value: &str) -> Answer {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
    answer
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    // What is true now is not true in a moment.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
