//! Keeps the server at useful work when more is asked of it than it can do: without it every answer comes too late, and
//! the server is fully occupied with giving answers that nobody waits for any more.
//!
//! Each worker is watched by itself ([`signal`]): what is slow is a queue, and each worker has its own.

mod fairness;
mod limit;
mod pause;
mod queue;
mod signal;

use std::{
    cell::Cell,
    sync::{Arc, Mutex, PoisonError},
    task::Waker,
    time::Duration,
};

use tokio::time::Instant;

pub(crate) use self::queue::Queue;
use self::{
    fairness::{Share, Sketch},
    limit::Adaptive,
    pause::Parking,
    signal::{Watch, probe},
};
use crate::{
    activity::Activity,
    config::{Config, RequestsLimit, saturating_u32},
    core::{Core, Role},
    socket::peer::Peer,
    telemetry::metrics::{Shed, thread_index},
};

/// The queue delay that the adaptive limit holds to where `busy_max` is 0, and so does not say it.
const DELAY_TARGET: Duration = Duration::from_millis(5);

/// A worker that goes through its queue within so many times `busy_max` reads from more connections at a time.
const KEEPS_UP: u32 = 4;

/// What one worker thread knows of its own load. Aligned so that no two threads share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Worker {
    watch: Watch,
    clients: Mutex<Sketch>,
    parking: Parking,
}

/// What one server knows of its load.
#[derive(Debug)]
pub(crate) struct Overload {
    began: Instant,
    workers: Box<[Worker]>,
    /// Zero where no worker is to be watched.
    busy_max: Duration,
    busy_pause: Duration,
    fair_share: bool,
    is_watched: bool,
    /// `None` where the limit of requests is fixed.
    limit: Option<Mutex<Adaptive>>,
}

impl Overload {
    /// Whoever looks after a server is never refused for its load: `role` decides.
    pub(crate) fn new(role: Role, config: &Config) -> Arc<Self> {
        let is_data = role == Role::Data;
        let target = if config.busy_max.is_zero() { DELAY_TARGET } else { config.busy_max / 2 };
        let adaptive = is_data && config.requests_limit == RequestsLimit::Adaptive;
        let limit = adaptive.then(|| {
            Mutex::new(Adaptive::new(saturating_u32(config.requests_min), config.requests_max(), target))
        });
        Arc::new(Self {
            began: Instant::now(),
            workers: (0..(config.workers() + 1).next_power_of_two()).map(|_| Worker::default()).collect(),
            busy_max: config.busy_max,
            busy_pause: config.busy_pause,
            fair_share: is_data && config.fair_share,
            is_watched: is_data && (!config.busy_max.is_zero() || limit.is_some()),
            limit,
        })
    }

    fn worker(&self) -> &Worker {
        &self.workers[thread_index() & (self.workers.len() - 1)]
    }

    /// The calling worker is about to sleep: nothing waits for it.
    pub(crate) fn worker_parks(&self) {
        if self.is_watched {
            self.worker().watch.rest();
        }
    }

    /// A request has reached the calling worker at `now`.
    pub(crate) fn arrived(&self, core: &Arc<Core>, now: Instant) {
        if self.is_watched && self.worker().watch.wants_probe(self.since_begin(now)) {
            probe(core, thread_index());
        }
    }

    /// A stream of HTTP/2 has been read: whether others have before it that wait for their turn, so that nobody can know
    /// yet when its own will come.
    pub(crate) fn streams_wait(&self) -> bool {
        let read = STREAMS_READ.get().saturating_add(1);
        STREAMS_READ.set(read);
        self.is_watched && read > STREAMS_AT_ONCE
    }

    /// Whether a probe is on its way through the calling worker's queue, so that [`Self::refusal`] wants the time.
    pub(crate) fn is_probing(&self) -> bool {
        self.is_watched && self.worker().watch.is_probing()
    }

    /// Why the calling worker cannot take a request of `client` at `now`, if it cannot. Where it has been refusing for
    /// long, and is behind all the same, it stops reading.
    pub(crate) fn refusal(&self, client: &Peer, now: Instant) -> Option<Shed> {
        if self.busy_max.is_zero() || !self.is_probing() {
            return None;
        }
        let worker = self.worker();
        let flight = worker.watch.flight(self.since_begin(now))?;
        let refusal = flight
            .pressure(self.busy_max, || worker.watch.without_core())
            .refusal(|| self.share(client, now));
        if refusal.is_some() && !self.busy_pause.is_zero() && flight.age >= self.busy_pause {
            worker.parking.close();
        }
        refusal
    }

    /// The calling worker has taken a request.
    pub(crate) fn admitted(&self) {
        if self.is_watched {
            self.worker().watch.admitted();
        }
    }

    /// Whether under pressure `client` has asked the calling worker for more than its share.
    pub(crate) fn is_greedy(&self, client: &Peer, now: Instant) -> bool {
        self.share(client, now) == Share::Greedy
    }

    fn share(&self, client: &Peer, now: Instant) -> Share {
        if !self.fair_share {
            return Share::Even;
        }
        // Where two threads share a place, the one that comes second just does not count.
        let clients = self.worker().clients.try_lock();
        clients.map_or(Share::Even, |mut clients| clients.ask(client, self.since_begin(now)))
    }

    /// Whether the calling worker reads no new requests; then `cx` is woken when it does again.
    pub(crate) fn holds_back(&self, activity: &Activity, waker: &Waker) -> bool {
        let parking = &self.worker().parking;
        parking.is_closed() && parking.park(activity, waker)
    }

    /// Whether the calling worker reads no new requests.
    pub(crate) fn is_paused(&self) -> bool {
        self.worker().parking.is_closed()
    }

    /// Connections that wait until their worker reads again.
    pub(crate) fn parked(&self) -> usize {
        self.workers.iter().map(|worker| worker.parking.parked()).sum()
    }

    /// The limit of requests was reached while requests waited `delay` for their turn; returns what it is to be now.
    pub(crate) fn limit_reached(&self, now: Instant) -> Option<usize> {
        let waiting = self.worker().watch.flight(self.since_begin(now)).map(|flight| flight.age);
        self.adapt(|limit, at| limit.reached(at, waiting.unwrap_or_default()), now)
    }

    fn adapt(&self, step: impl FnOnce(&mut Adaptive, Duration) -> usize, now: Instant) -> Option<usize> {
        let mut limit = self.limit.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(step(&mut limit, self.since_begin(now)))
    }

    fn since_begin(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }
}

/// So many streams of HTTP/2 are taken one after the other, before one of them has had its turn.
const STREAMS_AT_ONCE: u32 = 4;

thread_local!(static STREAMS_READ: Cell<u32> = const { Cell::new(0) });

/// A stream of HTTP/2 has its worker for the first time.
pub(crate) fn stream_has_turn() {
    STREAMS_READ.set(0);
}

thread_local!(static ARRIVED_AT: Cell<Option<Instant>> = const { Cell::new(None) });

/// Keeps the clock reading that the outermost layer has made, for the layers inside: a second one costs as much as a
/// layer.
pub(crate) fn keep_arrival(at: Option<Instant>) {
    ARRIVED_AT.set(at);
}

/// What [`keep_arrival`] has kept for the call in progress.
pub(crate) fn arrival() -> Option<Instant> {
    ARRIVED_AT.get()
}

/// A probe has come through the queue of worker `place` in `delay`: what was waiting before it has had its turn.
fn landed(core: &Arc<Core>, place: usize, delay: Duration, now: Instant) -> bool {
    let overload = &core.overload;
    core.metrics.shard().worker_delay.record(delay);
    if let Some(limit) = overload.adapt(|limit, at| limit.sample(at, delay), now) {
        core.gate.set_limit(limit);
    }
    let worker = &overload.workers[place & (overload.workers.len() - 1)];
    worker.parking.is_closed() && worker.parking.release(delay < overload.busy_max * KEEPS_UP)
}
