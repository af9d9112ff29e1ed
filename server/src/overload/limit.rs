//! A limit of requests in progress that finds itself: a fixed one is right for one machine and one kind of request, and
//! wrong for every other.
//!
//! Steered by how long requests wait for their turn on a worker, which is our doing, and never by how long they take: the
//! time of a streamed body is the client's, and a limit that follows it refuses everybody because one client is slow.

use std::time::Duration;

/// How often the limit may change.
const INTERVAL: Duration = Duration::from_millis(50);

/// What remains of the limit after an interval with too much waiting.
const BACKOFF: f64 = 0.85;

/// A limit between two ends: lowered by a factor while requests wait too long, raised by steps where it was reached and
/// they did not (AIMD). Pure: time, since any beginning, is handed in.
///
/// Waiting too long means that the *least* wait of an interval was above the target (as in `CoDel`): a burst that is gone
/// before the interval ends is what a queue is for.
#[derive(Debug)]
pub(super) struct Adaptive {
    min: f64,
    max: f64,
    limit: f64,
    target: Duration,
    interval_began: Duration,
    least_wait: Option<Duration>,
    was_reached: bool,
}

impl Adaptive {
    /// Begins at `max`: a server that is not overloaded must not be slow to start.
    pub(super) fn new(min: u32, max: usize, target: Duration) -> Self {
        // More than 2^32 requests in progress are never.
        let max = f64::from(u32::try_from(max).unwrap_or(u32::MAX));
        Self {
            min: f64::from(min).min(max),
            max,
            limit: max,
            target,
            interval_began: Duration::ZERO,
            least_wait: None,
            was_reached: false,
        }
    }

    /// A request has waited `wait` for its turn. Returns the limit.
    pub(super) fn sample(&mut self, now: Duration, wait: Duration) -> usize {
        self.close_interval(now);
        self.least_wait = Some(self.least_wait.map_or(wait, |least| least.min(wait)));
        self.limit()
    }

    /// The limit was reached, while requests waited `wait` for their turn. Returns the limit.
    pub(super) fn reached(&mut self, now: Duration, wait: Duration) -> usize {
        let limit = self.sample(now, wait);
        self.was_reached = true;
        limit
    }

    fn close_interval(&mut self, now: Duration) {
        if now.saturating_sub(self.interval_began) < INTERVAL {
            return;
        }
        let waited = self.least_wait.take().unwrap_or_default();
        if waited > self.target {
            self.limit = (self.limit * BACKOFF).max(self.min);
        } else if self.was_reached {
            self.limit = (self.limit + self.limit.sqrt().max(1.0)).min(self.max);
        }
        self.was_reached = false;
        self.interval_began = now;
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 1, at most 2^32")]
    fn limit(&self) -> usize {
        self.limit as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const SLICE: Duration = Duration::from_micros(100);
    /// What a request costs: 1 ms.
    const SLICES: u32 = 10;
    /// What refusing one costs, in slices.
    const REFUSAL: f64 = 0.1;

    struct Played {
        limit: usize,
        /// Requests answered within 100 ms, per second of the last second.
        goodput: u32,
        refused: u32,
    }

    /// One worker that gives each request in progress one slice in turn, at `load` times its capacity, for `seconds`.
    /// Besides its slices a request is in progress for `elsewhere` (a database, or a client that reads slowly).
    fn play(limiter: &mut Adaptive, load: f64, seconds: u32, elsewhere: Duration) -> Played {
        let begin = limiter.interval_began;
        let mut limit = limiter.limit();
        let mut turns: VecDeque<(Duration, u32)> = VecDeque::new();
        let mut away: VecDeque<Duration> = VecDeque::new();
        let (mut arrived, mut debt) = (0.0, 0.0);
        let mut played = Played { limit, goodput: 0, refused: 0 };
        for tick in 0..seconds * 10_000 {
            let now = begin + SLICE * tick;
            arrived += load / f64::from(SLICES);
            while away.front().is_some_and(|until| *until <= now) {
                away.pop_front();
            }
            let wait = SLICE * u32::try_from(turns.len()).unwrap();
            while arrived >= 1.0 {
                arrived -= 1.0;
                if turns.len() + away.len() < limit {
                    turns.push_back((now, SLICES));
                } else {
                    played.refused += 1;
                    debt += REFUSAL;
                    limit = limiter.reached(now, wait);
                }
            }
            if tick % 10 == 0 {
                limit = limiter.sample(now, wait);
            }
            if debt >= 1.0 {
                debt -= 1.0;
                continue;
            }
            let Some((since, left)) = turns.pop_front() else { continue };
            if left > 1 {
                turns.push_back((since, left - 1));
                continue;
            }
            if tick >= (seconds - 1) * 10_000 && now.saturating_sub(since) < 100 * (SLICE * SLICES) {
                played.goodput += 1;
            }
            if !elsewhere.is_zero() {
                away.push_back(now + elsewhere);
            }
        }
        played.limit = limit;
        played
    }

    fn limiter() -> Adaptive {
        Adaptive::new(16, 1024, Duration::from_millis(5))
    }

    #[test]
    fn twice_and_ten_times_the_load_leave_nearly_all_of_the_goodput() {
        for (load, goodput_min) in [(2.0, 950), (10.0, 850)] {
            let played = play(&mut limiter(), load, 10, Duration::ZERO);
            assert!(played.goodput >= goodput_min, "{} at {load}x", played.goodput);
            assert!((16..=64).contains(&played.limit), "{} at {load}x", played.limit);
        }
    }

    #[test]
    fn without_it_the_same_load_leaves_none() {
        let mut fixed = Adaptive::new(1024, 1024, Duration::from_millis(5));
        assert_eq!(play(&mut fixed, 2.0, 10, Duration::ZERO).goodput, 0);
    }

    #[test]
    fn below_capacity_nothing_is_refused() {
        let played = play(&mut limiter(), 0.9, 10, Duration::ZERO);
        assert_eq!((played.refused, played.limit), (0, 1024));
    }

    #[test]
    fn requests_that_wait_for_others_or_for_their_client_do_not_lower_it() {
        // 450 in progress at any time, of which the worker has less than one.
        let played = play(&mut limiter(), 0.5, 5, Duration::from_millis(900));
        assert_eq!((played.refused, played.limit), (0, 1024));
    }

    #[test]
    fn after_a_burst_it_comes_back_as_soon_as_it_is_needed() {
        let mut limiter = limiter();
        let burst = play(&mut limiter, 10.0, 3, Duration::ZERO);
        assert!(burst.limit <= 64);
        // Now 400 have to be in progress at once, and the worker is not the reason.
        let after = play(&mut limiter, 0.5, 3, Duration::from_millis(800));
        assert!(after.limit > 400, "{}", after.limit);
        let later = play(&mut limiter, 0.5, 1, Duration::from_millis(800));
        assert_eq!(later.refused, 0);
    }

    #[test]
    fn it_is_raised_only_where_it_was_reached() {
        let mut limiter = limiter();
        for ms in 0..3000 {
            limiter.sample(Duration::from_millis(ms), Duration::from_millis(50));
        }
        let low = limiter.limit();
        assert_eq!(low, 16);
        for ms in 3000..5000 {
            limiter.sample(Duration::from_millis(ms), Duration::ZERO);
        }
        assert_eq!(limiter.limit(), low);
    }
}
