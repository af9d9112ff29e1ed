//! The limit of requests in progress, and who waits for it: a limit that refuses all above it at once refuses bursts that
//! would have had their turn within milliseconds, and one that lets all wait makes all late.

use std::{
    future::Future as _,
    pin::Pin,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::place::{Admitted, Streams};
use crate::{activity::Activity, config::Config, overload::Queue, telemetry::metrics::Shed};

/// One request that waits, in [`Gate::state`].
const WAITING: u64 = 1 << 32;

/// Above this part of the limit, in quarters, it is mostly used.
const MOSTLY: u64 = 3;

/// The limit of requests in progress, its queue, and the limit of long-lived responses.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Requests that have a place (the lower half) and requests that wait for one (the upper half): one word, so that
    /// whoever leaves knows by the same atomic whether somebody waits.
    state: AtomicU64,
    limit: AtomicU32,
    queue: Mutex<Queue>,
    queue_max: u64,
    queue_timeout: Duration,
    streams: Streams,
    began: Instant,
}

/// How a request finds the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// It has a place.
    Free,
    /// It has a place, of which few are left.
    MostlyUsed,
    /// It has none.
    Full,
}

impl Gate {
    /// `connections` is the connection limit.
    pub(crate) fn new(config: &Config, connections: usize) -> Self {
        Self {
            state: AtomicU64::new(0),
            limit: AtomicU32::new(saturating_u32(config.requests_max())),
            queue: Mutex::default(),
            // Half a word counts them.
            queue_max: config.queue_max.min(u64::from(u32::MAX / 2)),
            queue_timeout: config.queue_timeout,
            streams: Streams::new(config.streams_max.map_or_else(|| connections.div_ceil(2), Into::into)),
            began: Instant::now(),
        }
    }

    /// Requests in progress.
    pub(crate) fn entered(&self) -> u64 {
        entered(self.state.load(Relaxed))
    }

    /// Requests that wait for a place.
    pub(crate) fn waiting(&self) -> u64 {
        self.state.load(Relaxed) / WAITING
    }

    pub(crate) fn limit(&self) -> u64 {
        u64::from(self.limit.load(Relaxed))
    }

    pub(crate) fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Changes the limit of requests. Those above a lower one stay.
    pub(crate) fn set_limit(&self, limit: usize) {
        let before = self.limit.swap(saturating_u32(limit), Relaxed);
        if u64::from(before) < self.limit() && self.waiting() > 0 {
            self.call_up();
        }
    }

    /// Takes a place, if there is one and nobody waits for it.
    pub(super) fn try_enter(&self) -> Entry {
        let before = self.state.fetch_add(1, Relaxed);
        let limit = self.limit();
        if before < limit {
            return if before * 4 < limit * MOSTLY { Entry::Free } else { Entry::MostlyUsed };
        }
        self.leave();
        Entry::Full
    }

    /// Gives a place back.
    pub(super) fn leave(&self) {
        let before = self.state.fetch_sub(1, Relaxed);
        if before >= WAITING {
            self.call_up();
        }
    }

    /// Gives free places to those who wait.
    fn call_up(&self) {
        let has_room = |state| {
            let is_free = state >= WAITING && entered(state) < self.limit();
            is_free.then(|| state - WAITING + 1)
        };
        loop {
            let called = {
                let mut queue = self.lock();
                // Without an order between this word and the queue somebody could be overlooked; the lock is that order.
                if self.state.fetch_update(Relaxed, Relaxed, has_room).is_err() {
                    return;
                }
                queue.pop(self.began.elapsed())
            };
            match called {
                Some(waker) => waker.wake(),
                None => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place in the queue.
    ///
    /// # Errors
    /// With the reason to refuse where nobody may wait, or too many do.
    pub(super) fn enqueue(activity: &Activity) -> Result<Ticket, Shed> {
        let gate = &activity.core().gate;
        if gate.queue_max == 0 {
            return Err(Shed::Concurrency);
        }
        let number = {
            let mut queue = gate.lock();
            if queue.len() as u64 >= gate.queue_max {
                return Err(Shed::QueueFull);
            }
            gate.state.fetch_add(WAITING, Relaxed);
            queue.push(gate.began.elapsed(), Waker::noop().clone())
        };
        // A place that was released before we were in the queue has called nobody up.
        gate.call_up();
        Ok(Ticket {
            activity: activity.clone(),
            number: Some(number),
            timer: Box::pin(sleep_until(Instant::now() + gate.queue_timeout)),
        })
    }
}

fn entered(state: u64) -> u64 {
    state % WAITING
}

fn saturating_u32(value: usize) -> u32 {
    // One below the end: who enters counts before it is known whether there is room.
    u32::try_from(value).unwrap_or(u32::MAX).min(u32::MAX - 1)
}

/// A request's place in the queue, given up on drop.
#[derive(Debug)]
pub(super) struct Ticket {
    activity: Activity,
    /// `None` once what it stands for has been taken.
    number: Option<u64>,
    timer: Pin<Box<Sleep>>,
}

impl Ticket {
    /// Ready when its turn has come, or `queue_timeout` has.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<Admitted, Shed>> {
        let Some(number) = self.number else { return Poll::Pending };
        let gate = &self.activity.core().gate;
        if let Some(waker) = gate.lock().get_mut(number) {
            waker.clone_from(cx.waker());
        } else {
            self.number = None;
            return Poll::Ready(Ok(Admitted::request(&self.activity)));
        }
        if self.timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.number = None;
        Poll::Ready(if give_up(gate, number) {
            Err(Shed::QueueTimeout)
        } else {
            Ok(Admitted::request(&self.activity))
        })
    }
}

/// False where its turn has come meanwhile.
fn give_up(gate: &Gate, number: u64) -> bool {
    let mut queue = gate.lock();
    let was_waiting = queue.cancel(number);
    if was_waiting {
        gate.state.fetch_sub(WAITING, Relaxed);
    }
    was_waiting
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let gate = &self.activity.core().gate;
        if let Some(number) = self.number.take()
            && !give_up(gate, number)
        {
            gate.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroUsize, pin::pin, sync::Arc, task::Poll};

    use futures_util::poll;

    use super::*;
    use crate::{
        config::FdBudget,
        core::{Core, Reporting, Role},
        socket::peer::Peer,
    };

    fn activity(requests_max: usize, queue_max: u64) -> Activity {
        let config = Config {
            requests_max: NonZeroUsize::new(requests_max),
            queue_max,
            queue_timeout: Duration::from_millis(100),
            ..Config::default()
        };
        let fds = FdBudget { connections: 3, refusals: 1 };
        Activity::new(Core::new(Role::Data, config, fds, Reporting::default()), Peer::Unix)
    }

    fn counts(activity: &Activity) -> (u64, u64) {
        let gate = &activity.core().gate;
        (gate.entered(), gate.waiting())
    }

    fn streams(core: &Core) -> (usize, usize) {
        let streams = core.gate.streams();
        (streams.taken(), streams.max())
    }

    fn enter(activity: &Activity) -> Admitted {
        assert_ne!(activity.core().gate.try_enter(), Entry::Full);
        Admitted::request(activity)
    }

    async fn turn(ticket: &mut Ticket) -> Result<Admitted, Shed> {
        std::future::poll_fn(|cx| ticket.poll_turn(cx)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_free_again_goes_to_who_has_waited_longest() {
        let activity = activity(1, 2);
        let held = enter(&activity);
        let (mut first, mut second) = (Gate::enqueue(&activity).unwrap(), Gate::enqueue(&activity).unwrap());
        assert_eq!(Gate::enqueue(&activity).err(), Some(Shed::QueueFull));
        assert_eq!((counts(&activity), activity.core().gate.try_enter()), ((1, 2), Entry::Full));
        drop(held);
        assert_eq!(counts(&activity), (1, 1));
        let mut second_turn = pin!(turn(&mut second));
        assert!(poll!(&mut second_turn).is_pending());
        let Poll::Ready(Ok(held)) = poll!(pin!(turn(&mut first))) else { panic!("it is the first's turn") };
        drop(held);
        assert!(matches!(poll!(second_turn), Poll::Ready(Ok(_))));
        assert_eq!(counts(&activity), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_the_queue_leaves_nothing_behind() {
        let activity = activity(1, 10);
        let held = enter(&activity);
        // In the queue; its turn has come; its turn has come and was taken; too late.
        drop(Gate::enqueue(&activity).unwrap());
        assert_eq!(counts(&activity), (1, 0));
        let (called, mut next) = (Gate::enqueue(&activity).unwrap(), Gate::enqueue(&activity).unwrap());
        drop(held);
        assert_eq!(counts(&activity), (1, 1));
        drop(called);
        assert_eq!(counts(&activity), (1, 0));
        let held = turn(&mut next).await.unwrap();
        drop(next);
        assert_eq!(counts(&activity), (1, 0));
        let mut late = Gate::enqueue(&activity).unwrap();
        assert_eq!(turn(&mut late).await.err(), Some(Shed::QueueTimeout));
        assert_eq!(counts(&activity), (1, 0));
        drop((late, held));
        assert_eq!(counts(&activity), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_higher_limit_is_used_at_once_and_a_lower_one_takes_nothing_away() {
        let activity = activity(2, 10);
        let held = [enter(&activity), enter(&activity)];
        let mut waiting = Gate::enqueue(&activity).unwrap();
        activity.core().gate.set_limit(1);
        assert_eq!(counts(&activity), (2, 1));
        activity.core().gate.set_limit(3);
        assert_eq!(counts(&activity), (3, 0));
        drop(turn(&mut waiting).await.unwrap());
        drop(held);
        assert_eq!(counts(&activity), (0, 0));
    }

    #[test]
    fn a_long_lived_response_gives_its_place_back_and_takes_another() {
        let activity = activity(1, 0);
        let core = activity.core();
        let held: Vec<Admitted> = (0..2).map(|_| enter(&activity).into_stream(false).unwrap()).collect();
        assert_eq!((counts(&activity), streams(core)), ((0, 0), (2, 2)), "half of three connections");
        assert!(enter(&activity).into_stream(false).is_err());
        assert_eq!(counts(&activity), (0, 0));
        drop(held);
        assert_eq!(streams(core).0, 0);
        drop(enter(&activity).into_stream(true).unwrap());
        assert_eq!(streams(core).0, 1, "the connection has it");
        let core = Arc::clone(core);
        drop(activity);
        assert_eq!(streams(&core).0, 0);
    }
}
