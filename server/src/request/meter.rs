//! Counts every outcome to the end of the body, and stamps each response: a meter inside the limits does not see what
//! they refuse, and one that stops at the head calls a cut body a success.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::{
    BoxError,
    body::RequestBody,
    fault,
    id::X_REQUEST_ID,
    polls::BodyPolls,
    record::Record,
    response::{self, ResponseBody},
};
use crate::{
    activity::{Activity, Stage},
    hostname, overload,
};

/// Queue and service time of a response (W3C Server Timing), in milliseconds with microsecond digits.
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Which instance answered.
const X_ECHO_SERVER: HeaderName = HeaderName::from_static("x-echo-server");

/// The outermost layer.
#[derive(Clone, Debug)]
pub(crate) struct Meter<S> {
    inner: S,
    activity: Activity,
}

impl<S> Meter<S> {
    pub(super) fn new(inner: S, activity: Activity) -> Self {
        Self { inner, activity }
    }
}

impl<S, B> Service<Request<RequestBody>> for Meter<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody<B>>, Error = Infallible>,
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Response = Response<ResponseBody<B>>;
    type Error = Infallible;
    type Future = MeterFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> MeterFuture<S::Future> {
        let id = request.body().request_id().or_clients(&request);
        let version = request.version();
        let mut record = Record::begin(&self.activity, &mut request, &id);
        // The one look at the clock. A stream of HTTP/2 has it when its task has its turn, and here where that may be late.
        let core = self.activity.core();
        let began_at = (version < Version::HTTP_2).then(Instant::now);
        match began_at {
            Some(now) => record.reached_layers(now),
            None if core.overload.is_probing() => overload::keep_arrival(Some(Instant::now())),
            None => overload::keep_arrival(None),
        }
        let inner = self.inner.call(request);
        record.account.take_trace();
        MeterFuture { inner, record: Some(record), id: Some(id), version, began_at }
    }
}

pin_project! {
    /// See [`Meter`].
    pub(crate) struct MeterFuture<F> {
        #[pin]
        inner: F,
        record: Option<Record>,
        id: Option<HeaderValue>,
        version: Version,
        began_at: Option<Instant>,
    }
}

impl<F, B> Future for MeterFuture<F>
where
    F: Future<Output = Result<Response<ResponseBody<B>>, Infallible>>,
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let began_at = *this.began_at.get_or_insert_with(|| {
            overload::stream_has_turn();
            let now = Instant::now();
            if let Some(record) = this.record {
                record.reached_layers(now);
            }
            now
        });
        let mut response = ready!(this.inner.poll(cx))?;
        #[expect(clippy::expect_used, reason = "the contract of Future::poll")]
        let (mut record, id) =
            this.record.take().zip(this.id.take()).expect("a future is not polled after it was ready");
        let queue = began_at.saturating_duration_since(record.received_at);
        record.account.waited(queue);
        record.account.take_trace();
        fault::report(&mut response, &id, record.account.trace());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            record.exchange.activity().enter(Stage::WebSocket);
        }
        let headers = response.headers_mut();
        headers.entry(X_REQUEST_ID).or_insert(id);
        headers.append(SERVER_TIMING, server_timing(queue, began_at.elapsed()));
        if record.exchange.activity().config().server_header {
            headers.insert(X_ECHO_SERVER, hostname::value());
        }
        let activity = record.exchange.activity();
        if *this.version < Version::HTTP_2 && activity.is_leaving() && !activity.is_upgraded() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response::keep_record(&mut response, record);
        BodyPolls::answered();
        Poll::Ready(Ok(response))
    }
}

/// `queue;dur=0.012, service;dur=1.503`. Rendered by hand: `write!` costs as much as the whole meter.
fn server_timing(queue: Duration, service: Duration) -> HeaderValue {
    let mut text = [0_u8; 80];
    let mut end = 0;
    for (name, duration) in [("queue;dur=", queue), (", service;dur=", service)] {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        end = push(&mut text, end, name.as_bytes());
        let mut digits = itoa::Buffer::new();
        end = push(&mut text, end, digits.format(micros / 1000).as_bytes());
        // 1000 + n has the digits of n with their leading zeros.
        let fraction = digits.format(1000 + micros % 1000).as_bytes();
        end = push(&mut text, end, b".");
        end = push(&mut text, end, &fraction[1..]);
    }
    HeaderValue::from_bytes(&text[..end]).unwrap_or(HeaderValue::from_static(""))
}

/// Copies `part` to `text[at..]`; returns where it ends.
fn push(text: &mut [u8], at: usize, part: &[u8]) -> usize {
    text[at..at + part.len()].copy_from_slice(part);
    at + part.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_timing_is_in_milliseconds() {
        let text = server_timing(Duration::from_micros(12), Duration::from_micros(1_503));
        assert_eq!(text, "queue;dur=0.012, service;dur=1.503");
        let longest = server_timing(Duration::MAX, Duration::MAX);
        assert_eq!(longest, "queue;dur=18446744073709551.615, service;dur=18446744073709551.615");
    }
}
