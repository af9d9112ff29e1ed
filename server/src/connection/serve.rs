//! hyper's two protocol engines with every limit explicit: its defaults allow 1 MiB of buffers per slow reader and
//! freeze a connection on one stalled stream.

use std::{
    cell::RefCell,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Request;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service;

use super::{
    detect::Protocol,
    guard::{
        Guard, Salvage,
        http2::{ErrorCode, SETTINGS, goaway},
    },
    lifecycle::{self, Drive, Expired, HeadDeadline, Stopped},
    stream::StreamExecutor,
};
use crate::{
    activity::Activity,
    config::{Config, saturating_u32},
    request::{self, HttpService, RequestBody, Stack},
    socket::{
        linger::LingerLimits,
        refuse::{Refusal, close, refuse},
    },
    telemetry::metrics::ConnectionEnd,
};

/// How long a connection that makes room for another may take to end, so that its client knows which requests to repeat.
const EVICTED_FAREWELL: Duration = Duration::from_millis(100);

/// Serves HTTP/1.0 and HTTP/1.1 until the connection ends.
pub(super) async fn http1<Io, S>(
    io: TokioIo<Guard<Io>>,
    salvage: Salvage<Io>,
    service: S,
    activity: &Activity,
) -> ConnectionEnd
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: HttpService,
{
    let connection =
        http1_builder(activity.config()).serve_connection(io, ConnectionService::new(service, activity));
    let mut connection = connection.with_upgrades();
    let stopped = lifecycle::drive(Pin::new(&mut connection), activity).await;
    let end = stopped.end(activity);
    // hyper closes what it has finished, except where a client offered an upgrade that nobody took (also in an earlier
    // request: hyper keeps the offer).
    if let Some(salvaged) = salvage.take_from(connection) {
        let io = salvaged.io;
        let limits = LingerLimits::of(activity.config());
        match &stopped {
            Stopped::Expired(Expired::Head) => refuse(io, Refusal::HeaderTimeout, limits).await,
            Stopped::Expired(_) => close(io, None, false, limits).await,
            Stopped::Finished(result) => match activity.violation() {
                Some(violation) if !violation.is_in_body() => {
                    refuse(io, Refusal::Malformed(violation), limits).await;
                }
                _ if result.is_ok() => close(io, None, activity.input_is_unread(), limits).await,
                _ => {}
            },
            Stopped::Killed => {}
        }
    }
    end
}

/// Serves HTTP/2 with prior knowledge until the connection ends.
pub(super) async fn http2<Io, S>(
    io: TokioIo<Guard<Io>>,
    salvage: Salvage<Io>,
    service: S,
    activity: &Activity,
) -> ConnectionEnd
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: HttpService,
{
    // Boxed, so that it can be dropped for its socket; its state is on the heap anyway.
    let mut connection =
        Box::pin(http2_builder(activity).serve_connection(io, ConnectionService::new(service, activity)));
    let stopped = lifecycle::drive(connection.as_mut(), activity).await;
    let end = stopped.end(activity);
    match stopped {
        Stopped::Expired(Expired::Head) => {}
        Stopped::Expired(expired) => {
            // Tell the client, but do not wait for it: it had `keep_alive_timeout` to say something.
            connection.as_mut().graceful_shutdown();
            let farewell = match expired {
                // Somebody waits for the place.
                Expired::Evicted => activity.config().linger_timeout.min(EVICTED_FAREWELL),
                _ => activity.config().linger_timeout,
            };
            let _closed_or_not = tokio::time::timeout(farewell, connection).await;
            return end;
        }
        Stopped::Finished(_) if activity.has_flooded() => {}
        Stopped::Finished(_) | Stopped::Killed => return end,
    }
    // hyper has no way to end a connection with an error of ours.
    if let Some(salvaged) = salvage.take_from(connection) {
        let words = salvaged.last_stream.map(|last_stream| {
            let has_only_greeted = last_stream == 0 && !activity.has_flooded();
            let code = if has_only_greeted { ErrorCode::SettingsTimeout } else { ErrorCode::EnhanceYourCalm };
            goaway(last_stream, code)
        });
        close(salvaged.io, words, true, LingerLimits::of(activity.config())).await;
    }
    end
}

/// Tells a client which speaks a protocol that is switched off, and closes.
pub(super) async fn not_spoken<Io>(io: Io, protocol: Protocol, activity: &Activity) -> ConnectionEnd
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let limits = LingerLimits::of(activity.config());
    match protocol {
        Protocol::Http1 => refuse(io, Refusal::Http1Off, limits).await,
        Protocol::Http2 => {
            let words = [SETTINGS.as_slice(), &goaway(0, ErrorCode::Http11Required)].concat();
            close(io, Some(words), true, limits).await;
        }
    }
    ConnectionEnd::Malformed
}

fn http1_builder(config: &Config) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Ours (lifecycle.rs) tells head from keep-alive; hyper's runs while idle, too.
        .header_read_timeout(None)
        // A client that has sent all and closed its side still gets its answer.
        .half_close(true)
        .max_header_size(saturating_usize(config.header_max))
        // Below 8 KiB hyper panics; a `Config` that was filled in by hand has not been checked.
        .max_buf_size(saturating_usize(config.http1_buffer_max).max(8 * 1024));
    builder
}

fn http2_builder(activity: &Activity) -> http2::Builder<StreamExecutor> {
    let config = activity.config();
    let mut builder = http2::Builder::new(StreamExecutor(activity.clone()));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(saturating_u32(config.http2_streams_max))
        .initial_stream_window_size(saturating_u32(config.http2_stream_window))
        .initial_connection_window_size(saturating_u32(config.http2_connection_window))
        .max_send_buf_size(saturating_usize(config.http2_send_buffer_max))
        .max_header_list_size(saturating_u32(config.header_max))
        .max_pending_accept_reset_streams(saturating_usize(config.http2_resets_pending_max))
        .max_local_error_reset_streams(saturating_usize(config.http2_resets_local_max))
        .keep_alive_interval(config.http2_ping_interval)
        .keep_alive_timeout(config.http2_ping_timeout)
        // WebSockets (RFC 8441).
        .enable_connect_protocol();
    builder
}

/// [`SETTINGS`](crate::config::SETTINGS) bounds each value far below the types' ends.
fn saturating_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

impl<Io, S> Drive for http1::UpgradeableConnection<TokioIo<Io>, ConnectionService<S>>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: HttpService,
{
    const HEAD_DEADLINE: HeadDeadline = HeadDeadline::Own;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        Future::poll(self, cx)
    }

    /// Nothing: hyper's `graceful_shutdown` closes at once where no request is parsed yet, and loses one that has
    /// half arrived or is on its way. From now on every response carries `connection: close`, which ends the
    /// connection after it, and `drain_idle_grace` ends it where no request comes.
    fn drain(self: Pin<&mut Self>) {}
}

impl<Io, S> Drive for http2::Connection<TokioIo<Io>, ConnectionService<S>, StreamExecutor>
where
    Io: AsyncRead + AsyncWrite + Unpin + 'static,
    S: HttpService,
{
    const HEAD_DEADLINE: HeadDeadline = HeadDeadline::None;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        Future::poll(self, cx)
    }

    /// GOAWAY: streams in progress finish, requests on their way are still taken until the client has answered a ping.
    fn drain(self: Pin<&mut Self>) {
        http2::Connection::graceful_shutdown(self);
    }
}

/// The layers around the user's service, as hyper calls them.
///
/// hyper calls with `&self`, tower with `&mut self`. A cell, not a clone per request: the layers are always ready, and
/// the innermost clones the user's service, as tower's contract asks.
struct ConnectionService<S> {
    activity: Activity,
    stack: RefCell<Box<Stack<S>>>,
}

impl<S> ConnectionService<S> {
    fn new(service: S, activity: &Activity) -> Self {
        let stack = request::stack(service, activity);
        Self { activity: activity.clone(), stack: RefCell::new(Box::new(stack)) }
    }
}

impl<S> hyper::service::Service<Request<Incoming>> for ConnectionService<S>
where
    S: HttpService,
{
    type Response = <Stack<S> as Service<Request<RequestBody>>>::Response;
    type Error = Infallible;
    type Future = <Stack<S> as Service<Request<RequestBody>>>::Future;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let request = request.map(|body| RequestBody::new(body, &self.activity));
        self.stack.borrow_mut().call(request)
    }
}
