//! Without the client's own figures beside the server's, a dashboard cannot tell a slow server from a load that was
//! never sent.
//!
//! `--metrics ADDR` answers `/metrics` (OpenMetrics) and `/livez` on a thread of its own, from what the workers leave on
//! the [`Board`] anyway; requests do not notice it.

mod page;
mod recent;

use std::{
    convert::Infallible,
    future::ready,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    num::NonZeroUsize,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use echo_server::{Config, RequestBody, serve};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tokio::{net::TcpListener, sync::oneshot};

use self::recent::Recent;
use crate::{board::Board, clock::monotonic_ns, plan::PlanError};

/// How often the verdict so far looks at the board.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Scrapers, probes and a few people.
const CONNECTIONS_MAX: usize = 16;

/// The endpoint of one run. It ends when this is dropped.
#[derive(Debug)]
pub struct Metrics {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Metrics {
    /// Listens on `addr` and answers from `board`.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub fn start(addr: SocketAddr, board: Arc<Board>) -> Result<Self, PlanError> {
        let error = |cause: io::Error| {
            PlanError::new(addr.to_string(), format!("cannot be listened on: {cause}"), "--metrics")
        };
        let listener = StdListener::bind(addr).map_err(error)?;
        listener.set_nonblocking(true).map_err(error)?;
        let addr = listener.local_addr().map_err(error)?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || answer_all(listener, board, stopped))
            .map_err(error)?;
        Ok(Self { addr, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens, with the port that the kernel chose for port 0.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        // A thread that has ended already needs neither; what it says then is of no use any more.
        drop(self.stop.take());
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// What the answers are made of.
#[derive(Clone, Debug)]
struct View {
    board: Arc<Board>,
    recent: Arc<Mutex<Recent>>,
}

/// Serves with the server's own core, and keeps the verdict so far, until `stopped` loses its other end.
fn answer_all(listener: StdListener, board: Arc<Board>, stopped: oneshot::Receiver<()>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let view = View { board, recent: Arc::default() };
        let answers = view.clone();
        let service = tower::service_fn(move |request: Request<RequestBody>| {
            ready(Ok::<_, Infallible>(answer(&request, &answers)))
        });
        let shutdown = async { stopped.await.unwrap_or_default() };
        let mut served = pin!(serve(TcpListener::from_std(listener)?, service, limits(), shutdown));
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        loop {
            tokio::select! {
                _report = &mut served => break Ok(()),
                _ = look.tick() => {
                    let mut recent = view.recent.lock().unwrap_or_else(PoisonError::into_inner);
                    recent.look(monotonic_ns(), &view.board);
                }
            }
        }
    })
}

fn limits() -> Config {
    Config {
        workers: NonZeroUsize::new(1),
        connections_max: NonZeroUsize::new(CONNECTIONS_MAX),
        requests_max: NonZeroUsize::new(2 * CONNECTIONS_MAX),
        body_max: 64 * 1024,
        request_timeout: Duration::from_secs(10),
        lame_duck: Duration::ZERO,
        drain_idle_grace: Duration::from_millis(1),
        drain_grace: Duration::from_millis(250),
        linger_timeout: Duration::from_millis(100),
        linger_max: Duration::from_millis(250),
        trace_one_in: 0,
        ..Config::default()
    }
}

fn answer(request: &Request<RequestBody>, view: &View) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
    }
    match request.uri().path() {
        "/livez" => reply(StatusCode::OK, TEXT, "alive\n".to_owned()),
        "/metrics" => match page::render(view) {
            Ok(text) => reply(StatusCode::OK, page::CONTENT_TYPE, text),
            Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("metrics: {error}\n")),
        },
        _ => reply(StatusCode::NOT_FOUND, TEXT, "try /livez /metrics\n".to_owned()),
    }
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
