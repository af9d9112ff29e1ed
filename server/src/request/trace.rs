//! A span for one request in N, and for each whose caller traces it: a span for all costs 15 % of throughput, so whether
//! there is one is decided before it is made.

use std::{
    borrow::Cow,
    cell::Cell,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;
use tracing::{Span, field::Empty};

use super::{body::RequestBody, failure::Failure};
use crate::{
    activity::Activity,
    telemetry::{
        access::{Outcome, protocol},
        metrics::{SampledBy, method_name},
        otel,
        trace_context::{self, Parent, TraceContext},
    },
};

/// Makes the span of a sampled request, and leaves it to the request's `Account`, which sees its end.
#[derive(Clone, Debug)]
pub(crate) struct Trace<S> {
    inner: S,
    activity: Activity,
}

impl<S> Trace<S> {
    pub(super) fn new(inner: S, activity: Activity) -> Self {
        Self { inner, activity }
    }

    /// Who wants this request traced, if anybody. A caller that does not trace its part does not want ours.
    fn decide(&self, request: &Request<RequestBody>) -> Option<(SampledBy, Option<Parent>)> {
        let one_in = self.activity.config().trace_one_in;
        if one_in == 0 {
            return None;
        }
        match Parent::of(request.headers()) {
            Some(parent) => parent.is_sampled.then_some((SampledBy::Parent, Some(parent))),
            None => is_one_in(one_in).then_some((SampledBy::Ratio, None)),
        }
    }

    fn sample(&self, request: &mut Request<RequestBody>) -> Held {
        let Some((by, parent)) = self.decide(request) else { return Held(None) };
        self.activity.core().metrics.shard().sampled(by);
        Held(Some(Box::new(SampledTrace::begin(&self.activity, request, parent))))
    }
}

/// Every N-th request of this thread that has nobody else to decide for it.
fn is_one_in(n: u64) -> bool {
    thread_local!(static SEEN: Cell<u64> = const { Cell::new(0) });
    let seen = SEEN.replace(SEEN.get() + 1);
    seen.is_multiple_of(n)
}

/// A request that is traced. Its span ends when this does.
#[derive(Debug)]
pub(super) struct SampledTrace {
    span: Span,
    context: TraceContext,
    /// Bytes of the request's body.
    received: Arc<AtomicU64>,
}

impl SampledTrace {
    /// Names and attributes are those of OpenTelemetry's HTTP conventions; ours begin with `echo.`.
    fn begin(activity: &Activity, request: &mut Request<RequestBody>, parent: Option<Parent>) -> Self {
        let received = request.body_mut().counter();
        let (method, path) = (request.method(), request.uri().path());
        let known_method = method_name(method);
        let route = activity.core().reporting.route.and_then(|route| route(path));
        let span = tracing::info_span!(
            target: otel::TARGET,
            parent: None,
            "request",
            otel.name = &*name(known_method, route),
            otel.kind = "server",
            otel.status_code = Empty,
            http.request.method = known_method,
            http.request.method_original = (known_method != method.as_str()).then_some(method.as_str()),
            http.route = route,
            url.path = path,
            url.query = request.uri().query(),
            url.scheme = "http",
            network.protocol.version = protocol(request.version()),
            client.address = activity.peer().ip().map(tracing::field::display),
            client.port = activity.peer().port().map(i64::from),
            echo.request_id = request.body().request_id().or_clients(request).to_str().unwrap_or(""),
            http.response.status_code = Empty,
            http.request.body.size = Empty,
            http.response.body.size = Empty,
            error.type = Empty,
            echo.queue_us = Empty,
            echo.service_us = Empty,
        );
        let context = otel::start_span(&span, parent);
        Self { span, context, received }
    }

    pub(super) fn context(&self) -> TraceContext {
        self.context
    }

    /// Makes it the current one for one poll: a span that stays entered across polls leaks into other tasks.
    pub(super) fn enter(&self) -> Entered<'_> {
        Entered { _span: self.span.enter(), _context: self.context.enter() }
    }

    /// The request is over, and so is its span.
    pub(super) fn end(self, outcome: &Outcome) {
        let error = match outcome.status {
            None => Some("aborted_before_response"),
            Some(_) if !outcome.is_complete => Some("aborted_in_body"),
            Some(ref status) if status.is_server_error() => Some(status.as_str()),
            Some(_) => None,
        };
        // The exporter takes i64 for a number, and writes others as text.
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        // The span ends when it is left for the last time, which is now.
        let _entered = self.span.enter();
        tracing::record_all!(
            self.span,
            http.response.status_code = outcome.status.map(|status| i64::from(status.as_u16())),
            http.request.body.size = bytes(self.received.load(Relaxed)),
            http.response.body.size = bytes(outcome.response_bytes),
            error.type = error,
            otel.status_code = error.map(|_| "ERROR"),
            echo.queue_us = micros(outcome.queue),
            echo.service_us = micros(outcome.duration.saturating_sub(outcome.queue)),
        );
    }
}

/// `POST /echo`: what a client chooses has no part in it.
fn name(method: &'static str, route: Option<&'static str>) -> Cow<'static, str> {
    match (method, route) {
        // The conventions' word for a method that is not known.
        ("_OTHER", None) => "HTTP".into(),
        ("_OTHER", Some(route)) => format!("HTTP {route}").into(),
        (method, None) => method.into(),
        (method, Some(route)) => format!("{method} {route}").into(),
    }
}

/// See [`SampledTrace::enter`].
#[derive(Debug)]
pub(super) struct Entered<'a> {
    _span: tracing::span::Entered<'a>,
    _context: trace_context::Entered,
}

thread_local! {
    /// What a [`Held`] has left, for the few instructions until [`take_left`]. Not the response's extensions: a request
    /// that is cut has no response, and its span is the one that is wanted most.
    static LEFT: Cell<Option<Box<SampledTrace>>> = const { Cell::new(None) };
}

/// The trace that the layers inside have left in the call or poll that has just returned, or by being dropped.
pub(super) fn take_left() -> Option<Box<SampledTrace>> {
    // A runtime may be dropped so late that its thread has no cells any more.
    LEFT.try_with(Cell::take).ok().flatten()
}

/// A trace in the layers, which leave it behind however they end: with a response, with a failure, in a panic, or cut.
#[derive(Debug)]
struct Held(Option<Box<SampledTrace>>);

impl Held {
    fn enter(&self) -> Option<Entered<'_>> {
        self.0.as_deref().map(SampledTrace::enter)
    }

    fn leave(&mut self) {
        if let Some(trace) = self.0.take() {
            let _left_or_ended_here = LEFT.try_with(|left| left.set(Some(trace)));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<S, B> Service<Request<RequestBody>> for Trace<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Failure>,
{
    type Response = Response<B>;
    type Error = Failure;
    type Future = TraceFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> TraceFuture<S::Future> {
        let held = self.sample(&mut request);
        let inner = {
            let _entered = held.enter();
            self.inner.call(request)
        };
        TraceFuture { inner, held }
    }
}

pin_project! {
    /// See [`Trace`].
    pub(crate) struct TraceFuture<F> {
        #[pin]
        inner: F,
        held: Held,
    }
}

impl<F, B> Future for TraceFuture<F>
where
    F: Future<Output = Result<Response<B>, Failure>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let result = {
            let _entered = this.held.enter();
            ready!(this.inner.poll(cx))
        };
        this.held.leave();
        Poll::Ready(result)
    }
}
