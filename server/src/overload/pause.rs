//! Stops reading where even refusing is too dear: with enough clients a worker that refuses all of them does nothing else,
//! and whoever it takes waits until it has refused the rest.
//!
//! What is not read waits in the kernel, and costs nothing. The worker then takes as many connections at a time as it can
//! answer, the newest first: behind those there is most likely still somebody who waits.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Waker,
};

use crate::activity::Activity;

/// Connections that go on reading at a time, at first.
const BATCH: usize = 256;

/// The connections of one worker that wait until it reads again.
#[derive(Debug, Default)]
pub(super) struct Parking {
    is_closed: AtomicBool,
    parked: Mutex<Parked>,
}

#[derive(Debug, Default)]
struct Parked {
    connections: Vec<(Activity, Waker)>,
    batch: usize,
}

impl Parking {
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Relaxed)
    }

    /// The worker stops reading until [`Self::release`] has let all go.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Relaxed);
    }

    /// Keeps a connection from reading its next request; false where it may read all the same.
    pub(super) fn park(&self, activity: &Activity, waker: &Waker) -> bool {
        if !activity.may_be_held_back() {
            return false;
        }
        let mut parked = self.lock();
        // Under the lock, or it could wait for a release that has just been.
        if !self.is_closed() {
            return false;
        }
        if activity.hold_back() {
            activity.core().metrics.shard().reads_paused.fetch_add(1, Relaxed);
            parked.connections.push((activity.clone(), waker.clone()));
        }
        true
    }

    /// The worker has gone through its queue: the next connections may read. True where more wait.
    pub(super) fn release(&self, keeps_up: bool) -> bool {
        let (released, more_wait) = {
            let mut parked = self.lock();
            parked.batch = if keeps_up { (parked.batch * 2).max(BATCH) } else { BATCH };
            let stay = parked.connections.len().saturating_sub(parked.batch);
            self.is_closed.store(stay > 0, Relaxed);
            (parked.connections.split_off(stay), stay > 0)
        };
        wake(released);
        more_wait
    }

    /// All may read.
    pub(super) fn open(&self) {
        let released = {
            let mut parked = self.lock();
            self.is_closed.store(false, Relaxed);
            std::mem::take(&mut parked.connections)
        };
        wake(released);
    }

    pub(super) fn parked(&self) -> usize {
        self.lock().connections.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Parked> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Newest first.
fn wake(released: Vec<(Activity, Waker)>) {
    for (activity, waker) in released.into_iter().rev() {
        activity.let_go();
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicUsize};

    use futures_util::task::{ArcWake, waker};
    use tokio::time::Instant;

    use super::*;
    use crate::{
        activity::{Exchange, Stage},
        config::{Config, FdBudget},
        core::{Core, Reporting, Role},
        socket::peer::Peer,
    };

    struct Woken(AtomicUsize);

    impl ArcWake for Woken {
        fn wake_by_ref(this: &Arc<Self>) {
            this.0.fetch_add(1, Relaxed);
        }
    }

    fn core() -> Arc<Core> {
        let fds = FdBudget { connections: 1000, refusals: 1 };
        Core::new(Role::Data, Config::default(), fds, Reporting::default())
    }

    /// A connection that has had a request.
    fn connection(core: &Arc<Core>) -> Activity {
        let activity = Activity::new(Arc::clone(core), Peer::Unix);
        activity.enter(Stage::Http1);
        activity.read(100);
        Exchange::begin(&activity).end(Instant::now());
        activity
    }

    #[tokio::test]
    async fn connections_go_on_in_batches_while_the_worker_is_behind_and_then_all() {
        let (core, parking, woken) = (core(), Parking::default(), Arc::new(Woken(AtomicUsize::new(0))));
        let waker = waker(Arc::clone(&woken));
        let connections: Vec<Activity> = (0..1000).map(|_| connection(&core)).collect();
        assert!(!connections.iter().any(|each| parking.park(each, &waker)), "it reads");
        parking.close();
        assert!(connections.iter().all(|each| parking.park(each, &waker)));
        assert!(connections.iter().all(|each| parking.park(each, &waker)), "polled again, still waiting");
        assert_eq!(parking.parked(), 1000);
        assert!(parking.release(false) && parking.is_closed());
        assert_eq!((woken.0.load(Relaxed), parking.parked()), (256, 744));
        assert!(parking.release(true));
        assert_eq!((woken.0.load(Relaxed), parking.parked()), (256 + 512, 232));
        assert!(!parking.release(true) && !parking.is_closed());
        assert_eq!((woken.0.load(Relaxed), parking.parked()), (1000, 0));
        parking.close();
        assert!(parking.park(&connections[0], &waker), "and so again");
        parking.open();
        assert_eq!(woken.0.load(Relaxed), 1001);
    }

    #[tokio::test]
    async fn new_connections_requests_in_progress_and_those_who_ask_for_health_are_always_read() {
        let (core, parking) = (core(), Parking::default());
        parking.close();
        let waker = Waker::noop();
        let new = Activity::new(Arc::clone(&core), Peer::Unix);
        assert!(!parking.park(&new, waker));
        let with_body = connection(&core);
        let exchange = Exchange::begin(&with_body);
        assert!(!parking.park(&with_body, waker));
        exchange.end(Instant::now());
        assert!(parking.park(&with_body, waker));
        let health = connection(&core);
        health.asks_for_health();
        assert!(!parking.park(&health, waker));
    }
}
