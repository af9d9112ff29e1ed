//! The second listener, on the control thread: health and metrics on the data port fail first when the data plane is
//! saturated, and the orchestrator then kills a server that works.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 while the process works, also while it drains |
//! | `/readyz` | 200 while it serves; 503 with the phase before and after |
//! | `/metrics` | OpenMetrics |
//! | `/debug/config` | the effective configuration as TOML |
//! | `/debug/log-filter` | the filter of the log; `PUT` changes it, from a loopback address only |
//! | `/debug/tasks` | where every task stands, in a build for tokio-console |

#[cfg(feature = "console")]
mod tasks;

use std::{convert::Infallible, num::NonZeroUsize, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use tokio::net::TcpListener;

use crate::{
    config::{Config, FdBudget},
    core::{Core, Reporting, Role},
    drain::{self, DrainReport},
    request::RequestBody,
    socket::accept,
    telemetry::{exposition, log::Filter},
};

/// Serves the admin endpoints of `data` until `shutdown`, with the same server core and small limits.
pub(crate) async fn serve(
    listener: TcpListener,
    data: Arc<Core>,
    shutdown: impl Future<Output = ()>,
) -> DrainReport {
    let fds = FdBudget { connections: CONNECTIONS_MAX, refusals: 2 };
    let core = Core::new(Role::Admin, limits(&data.config), fds, Reporting::default());
    let service = tower::service_fn(move |request: Request<RequestBody>| {
        let data = Arc::clone(&data);
        async move { Ok::<_, Infallible>(answer(request, &data).await) }
    });
    accept::start(listener, service, &core);
    drain::coordinate(core, shutdown).await
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
        ..data.clone()
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

async fn answer(request: Request<RequestBody>, data: &Arc<Core>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::PUT, "/debug/log-filter") => return change_log_filter(request.into_body()).await,
        (&Method::GET | &Method::HEAD, _) => {}
        _ => {
            let text = "only GET and HEAD, and PUT /debug/log-filter\n".to_owned();
            return reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
        }
    }
    match request.uri().path() {
        "/livez" => reply(StatusCode::OK, TEXT, "alive\n".to_owned()),
        "/readyz" => {
            let ready = data.lifecycle.is_ready();
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            reply(status, TEXT, format!("{}\n", data.lifecycle.phase().name()))
        }
        "/metrics" => match exposition::render(data) {
            Ok(text) => reply(StatusCode::OK, exposition::CONTENT_TYPE, text),
            Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("metrics: {error}\n")),
        },
        "/debug/config" => reply(StatusCode::OK, "application/toml", data.config.to_toml()),
        "/debug/log-filter" => match Filter::of_process() {
            Some(filter) => reply(StatusCode::OK, TEXT, format!("{}\n", filter.get())),
            None => no_log_of_ours(),
        },
        #[cfg(feature = "console")]
        "/debug/tasks" => reply(StatusCode::OK, TEXT, tasks::dump(data).await),
        _ => {
            let text = "try /livez /readyz /metrics /debug/config /debug/log-filter\n".to_owned();
            reply(StatusCode::NOT_FOUND, TEXT, text)
        }
    }
}

/// Takes the text of a filter. Whoever can reach the admin listener may look; to change something one must be on the
/// machine.
async fn change_log_filter(body: RequestBody) -> Response<Full<Bytes>> {
    let peer = body.peer();
    if !peer.ip().to_canonical().is_loopback() {
        let text = format!("{peer} may not change the log filter: only a loopback address may\n");
        return reply(StatusCode::FORBIDDEN, TEXT, text);
    }
    let Some(filter) = Filter::of_process() else { return no_log_of_ours() };
    let bytes = match Limited::new(body, FILTER_MAX).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) => {
            return reply(StatusCode::BAD_REQUEST, TEXT, format!("the filter did not arrive: {error}\n"));
        }
    };
    match std::str::from_utf8(&bytes).map_err(|error| error.to_string()).and_then(|text| filter.set(text)) {
        Ok(()) => reply(StatusCode::OK, TEXT, format!("{}\n", filter.get())),
        Err(why) => reply(StatusCode::BAD_REQUEST, TEXT, format!("{why}\n")),
    }
}

/// Where the core runs in somebody else's process, the log is theirs.
fn no_log_of_ours() -> Response<Full<Bytes>> {
    reply(StatusCode::NOT_FOUND, TEXT, "the log of this process is not the server's\n".to_owned())
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
