//! What is told of a single request, beside the counters: its span and its line in the access log. Both end where the
//! request ends, which is at the end of its response body; what ends at the head calls a cut response a success.

use std::time::Duration;

use http::{HeaderValue, Request, StatusCode};

use super::{
    body::RequestBody,
    trace::{self, SampledTrace},
};
use crate::{
    activity::Activity,
    telemetry::access::{Line, Outcome},
};

/// What is told of one request. Most have neither.
#[derive(Debug, Default)]
pub(super) struct Account {
    trace: Option<Box<SampledTrace>>,
    line: Option<Box<Line>>,
    response_bytes: u64,
    queue: Duration,
}

impl Account {
    /// `id` is what the client will see.
    pub(super) fn begin(activity: &Activity, request: &mut Request<RequestBody>, id: &HeaderValue) -> Self {
        let access = activity.core().reporting.access.as_ref();
        let line = access.and_then(|access| access.begin(request, activity.peer(), id));
        if let Some(line) = &line {
            request.body_mut().count_in(line.received());
        }
        Self { line, ..Self::default() }
    }

    /// Takes the trace of this request, if the layers inside have just left one.
    pub(super) fn take_trace(&mut self) {
        if let Some(left) = trace::take_left() {
            self.trace = Some(left);
        }
    }

    pub(super) fn trace(&self) -> Option<&SampledTrace> {
        self.trace.as_deref()
    }

    /// The request has waited for its turn so long.
    pub(super) fn waited(&mut self, queue: Duration) {
        self.queue = queue;
    }

    /// A part of the response's body was handed over.
    pub(super) fn responded(&mut self, bytes: usize) {
        self.response_bytes += bytes as u64;
    }

    /// The request is over.
    pub(super) fn end(
        &mut self,
        activity: &Activity,
        status: Option<StatusCode>,
        is_complete: bool,
        duration: Duration,
    ) {
        if status.is_none() {
            // Cut while the layers were at work: they have left it just now.
            self.take_trace();
        }
        if self.trace.is_none() && self.line.is_none() {
            return;
        }
        let outcome = Outcome {
            status,
            is_complete,
            response_bytes: self.response_bytes,
            duration,
            queue: self.queue,
            trace: self.trace().map(SampledTrace::context),
        };
        if let Some((line, access)) = self.line.take().zip(activity.core().reporting.access.as_ref()) {
            access.end(line, &outcome);
        }
        if let Some(trace) = self.trace.take() {
            (*trace).end(&outcome);
        }
    }
}
