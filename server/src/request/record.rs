//! What becomes of one request: counted by whoever drops it last, so that no way to end is forgotten.

use std::sync::atomic::Ordering::Relaxed;

use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::{
    activity::{Activity, Exchange},
    telemetry::metrics::{Aborted, Shard, method_index},
};

/// What becomes of one request; written to the metrics on drop, whoever drops it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) exchange: Exchange,
    pub(super) received_at: Instant,
    method: usize,
    pub(super) is_head: bool,
    /// Set once there is a response.
    pub(super) status: Option<StatusCode>,
    /// Whether its body has been handed over to the end.
    pub(super) is_complete: bool,
}

impl Record {
    pub(super) fn begin(activity: &Activity, method: &Method) -> Self {
        let exchange = Exchange::begin(activity);
        activity.core().metrics.shard().requests_in_flight.fetch_add(1, Relaxed);
        Self {
            received_at: exchange.received_at(),
            exchange,
            method: method_index(method),
            is_head: method == Method::HEAD,
            status: None,
            is_complete: false,
        }
    }
}

impl Record {
    /// The counters of the calling thread.
    pub(super) fn shard(&self) -> &Shard {
        self.exchange.activity().core().metrics.shard()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let now = Instant::now();
        self.exchange.end(now);
        let shard = self.shard();
        match self.status {
            None => shard.aborted(Aborted::BeforeResponse),
            Some(status) => {
                shard.request_done(self.method, status, now.saturating_duration_since(self.received_at));
                if !self.is_complete {
                    shard.aborted(Aborted::InBody);
                }
            }
        }
        shard.requests_in_flight.fetch_sub(1, Relaxed);
    }
}
