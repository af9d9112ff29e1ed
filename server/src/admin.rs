//! The second listener, on the control thread: health and metrics on the data port fail first when the data plane is
//! saturated, and the orchestrator then kills a server that works.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 while the process works, also while it drains |
//! | `/readyz` | 200 while it serves; 503 with the phase before and after |
//! | `/metrics` | OpenMetrics |
//! | `/debug/config` | the effective configuration as TOML |
//! | `/debug/tasks` | where every task stands, in a build for tokio-console |

#[cfg(feature = "console")]
mod tasks;

use std::{convert::Infallible, num::NonZeroUsize, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tokio::net::TcpListener;

use crate::{
    config::{Config, FdBudget},
    core::{Core, Reporting, Role},
    drain::{self, DrainReport},
    request::RequestBody,
    socket::accept,
    telemetry::exposition,
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

async fn answer(request: Request<RequestBody>, data: &Arc<Core>) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
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
        #[cfg(feature = "console")]
        "/debug/tasks" => reply(StatusCode::OK, TEXT, tasks::dump(data).await),
        "/debug/config" => reply(StatusCode::OK, "application/toml", data.config.to_toml()),
        _ => reply(StatusCode::NOT_FOUND, TEXT, "try /livez /readyz /metrics /debug/config\n".to_owned()),
    }
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
