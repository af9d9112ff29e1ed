//! Who waits where the limit of requests is reached: without a queue a burst of a few milliseconds is refused that would
//! have had its turn at once; with a plain one, an overloaded server serves nobody but those who have waited longest, and
//! are about to give up.
//!
//! First in, first out while the queue comes and goes: that is fair, and each waits about as long as the others. Once it has
//! stood for [`STANDING`], waiting longer helps nobody: then last in, first out. The newest gets its place at once, with a
//! client behind it that has just begun to wait, and the oldest run into their deadline, as some must: more come than go
//! ("Fail at Scale", ACM Queue 13(8), calls the two adaptive LIFO and `CoDel`). With first in, first out a standing queue
//! would make *every* request wait for all of `queue_timeout`.

use std::{collections::BTreeMap, task::Waker, time::Duration};

/// A queue that has not been empty for so long stands.
const STANDING: Duration = Duration::from_millis(20);

/// Those who wait, by the number of their ticket. Pure: time, since any beginning, is handed in.
#[derive(Debug)]
pub(crate) struct Queue<W = Waker> {
    waiting: BTreeMap<u64, W>,
    next: u64,
    /// When it was last empty.
    empty_until: Duration,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), next: 0, empty_until: Duration::ZERO }
    }
}

impl<W> Queue<W> {
    /// Takes a place in the queue; returns its ticket.
    pub(crate) fn push(&mut self, now: Duration, waiting: W) -> u64 {
        if self.waiting.is_empty() {
            self.empty_until = now;
        }
        let ticket = self.next;
        self.next += 1;
        self.waiting.insert(ticket, waiting);
        ticket
    }

    /// Whose turn it is.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<W> {
        let stands = now.saturating_sub(self.empty_until) >= STANDING;
        let next = if stands { self.waiting.pop_last() } else { self.waiting.pop_first() };
        next.map(|(_ticket, waiting)| waiting)
    }

    /// Who holds `ticket`, as long as it waits.
    pub(crate) fn get_mut(&mut self, ticket: u64) -> Option<&mut W> {
        self.waiting.get_mut(&ticket)
    }

    /// Gives the place up; false where its turn has come meanwhile.
    pub(crate) fn cancel(&mut self, ticket: u64) -> bool {
        self.waiting.remove(&ticket).is_some()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_short_queue_is_first_in_first_out() {
        let mut queue = Queue::default();
        for name in ["first", "second", "third"] {
            queue.push(100 * MS, name);
        }
        assert_eq!(queue.pop(101 * MS), Some("first"));
        assert_eq!(queue.pop(119 * MS), Some("second"));
    }

    #[test]
    fn a_standing_queue_is_last_in_first_out_until_it_has_been_empty() {
        let mut queue = Queue::default();
        queue.push(100 * MS, "old");
        queue.push(119 * MS, "new");
        queue.push(120 * MS, "newest");
        assert_eq!(queue.pop(120 * MS), Some("newest"));
        assert_eq!(queue.pop(200 * MS), Some("new"));
        assert_eq!(queue.pop(200 * MS), Some("old"));
        assert_eq!(queue.pop(200 * MS), None);
        queue.push(201 * MS, "first");
        queue.push(202 * MS, "second");
        assert_eq!(queue.pop(203 * MS), Some("first"));
    }

    #[test]
    fn a_place_that_is_given_up_is_nobodys_turn() {
        let mut queue = Queue::default();
        let (first, second) = (queue.push(MS, 1), queue.push(MS, 2));
        assert!(queue.cancel(first) && !queue.cancel(first));
        assert_eq!(queue.pop(MS), Some(2));
        assert!(!queue.cancel(second) && queue.get_mut(second).is_none());
    }

    /// Requests that each hold one of ten places for 10 ms, so 1 per ms; `load` times as many come, for 10 s. Returns those
    /// that got a place within 100 ms, and the median of their waits in ms.
    fn play(load: f64, pop_first: bool) -> (usize, u128) {
        let (timeout, mut arrived) = (100 * MS, 0.0);
        let mut queue = Queue::<(Duration, u64)>::default();
        let (mut waits, mut tickets) = (Vec::new(), std::collections::VecDeque::new());
        for tick in 0..10_000 {
            let now = MS * tick;
            arrived += load;
            while arrived >= 1.0 {
                arrived -= 1.0;
                let ticket = queue.push(now, (now, 0));
                tickets.push_back((now + timeout, ticket));
            }
            while tickets.front().is_some_and(|(until, _)| *until <= now) {
                let (_, ticket) = tickets.pop_front().unwrap();
                queue.cancel(ticket);
            }
            let next = if pop_first { queue.pop(queue.empty_until) } else { queue.pop(now) };
            if let Some((since, _)) = next {
                waits.push(now.saturating_sub(since).as_millis());
            }
        }
        waits.sort_unstable();
        (waits.len(), waits[waits.len() / 2])
    }

    #[test]
    fn under_overload_most_wait_a_moment_and_not_the_whole_time() {
        let (served, median_ms) = play(2.0, false);
        assert!(served > 9_900 && median_ms <= 2, "{served} served, half within {median_ms} ms");
        let (served, median_ms) = play(2.0, true);
        assert!(served > 9_900 && median_ms >= 95, "first in, first out: {median_ms} ms");
    }
}
