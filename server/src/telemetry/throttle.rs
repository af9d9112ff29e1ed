//! Keeps a log from becoming the load: a line for each of 100,000 failures in a second costs more than the failures.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lets so many lines through in each period; the others are counted.
#[derive(Debug)]
pub(crate) struct Throttle {
    lines_max: u64,
    period: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    began: Option<Instant>,
    lines: u64,
    suppressed: u64,
}

impl Throttle {
    pub(crate) const fn new(lines_max: u64, period: Duration) -> Self {
        Self { lines_max, period, state: Mutex::new(State { began: None, lines: 0, suppressed: 0 }) }
    }

    /// Whether a line may be written now, and then how many have been suppressed since the last.
    pub(crate) fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.began.is_none_or(|began| now.saturating_duration_since(began) >= self.period) {
            (state.began, state.lines) = (Some(now), 0);
        }
        if state.lines >= self.lines_max {
            state.suppressed += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_counted_and_said_with_the_next_line() {
        let throttle = Throttle::new(2, Duration::from_secs(1));
        let now = Instant::now();
        let at = |ms| throttle.admit_at(now + Duration::from_millis(ms));
        assert_eq!([at(0), at(10), at(20), at(999)], [Some(0), Some(0), None, None]);
        assert_eq!([at(1000), at(1001), at(1002)], [Some(2), Some(0), None]);
        assert_eq!(at(5000), Some(1));
    }
}
