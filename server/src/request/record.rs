//! What becomes of one request: counted by whoever drops it last, so that no way to end is forgotten.

use std::sync::atomic::Ordering::Relaxed;

use http::{HeaderValue, Method, Request, StatusCode};
use tokio::time::Instant;

use super::{account::Account, body::RequestBody};
use crate::{
    activity::{Activity, Exchange},
    overload,
    telemetry::metrics::{Aborted, RequestLabels, Shard},
};

/// What becomes of one request; written to the metrics on drop, whoever drops it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) exchange: Exchange,
    pub(super) received_at: Instant,
    labels: RequestLabels,
    pub(super) is_head: bool,
    /// Set once there is a response.
    pub(super) status: Option<StatusCode>,
    /// Whether its body has been handed over to the end.
    pub(super) is_complete: bool,
    pub(super) account: Account,
}

impl Record {
    /// `id` is what the client will see.
    pub(super) fn begin(activity: &Activity, request: &mut Request<RequestBody>, id: &HeaderValue) -> Self {
        let account = Account::begin(activity, request, id);
        let method = request.method();
        let exchange = Exchange::begin(activity);
        activity.core().metrics.shard().active_requests.fetch_add(1, Relaxed);
        Self {
            received_at: exchange.received_at(),
            exchange,
            labels: RequestLabels::new(method, request.version()),
            is_head: method == Method::HEAD,
            status: None,
            is_complete: false,
            account,
        }
    }

    /// The layers see the request for the first time, at `now`: until then it has waited for its turn.
    pub(super) fn reached_layers(&self, now: Instant) {
        let core = self.exchange.activity().core();
        core.overload.arrived(core, now);
        overload::keep_arrival(Some(now));
        if self.is_measured() {
            self.shard().queue_delay.record(now.saturating_duration_since(self.received_at));
        }
    }

    fn is_measured(&self) -> bool {
        self.exchange.activity().config().request_metrics
    }

    /// The counters of the calling thread.
    pub(super) fn shard(&self) -> &Shard {
        self.exchange.activity().core().metrics.shard()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let now = Instant::now();
        self.exchange.end(now);
        let duration = now.saturating_duration_since(self.received_at);
        let trace_id = self.account.trace().map(|trace| trace.context().trace_id);
        self.account.end(self.exchange.activity(), self.status, self.is_complete, duration);
        let shard = self.shard();
        match self.status {
            None => shard.aborted(Aborted::BeforeResponse),
            Some(status) => {
                if self.is_measured() {
                    shard.request_done(self.labels, status, duration);
                }
                if let Some(trace_id) = trace_id {
                    let metrics = &self.exchange.activity().core().metrics;
                    metrics.request_traced(self.labels, status, duration, trace_id);
                }
                if !self.is_complete {
                    shard.aborted(Aborted::InBody);
                }
            }
        }
        shard.active_requests.fetch_sub(1, Relaxed);
    }
}
