//! Without the course of a run, one stall of a shared machine would look like a server that falls behind.
//!
//! A run is judged by up to [`WINDOWS`] stretches. Where its length is known they are parts of it; where it is not,
//! two neighbours become one whenever the room is used up, so that the memory stays and the course is whole.

/// The most stretches that a run is judged by: see [`crate::verdict`].
pub const WINDOWS: usize = 20;

/// One stretch of the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Requests whose latency was recorded in it.
    pub requests: u64,
    /// Sum of their response times.
    pub response_sum_ns: u128,
    /// Sum of their generator lags.
    pub lag_generator_sum_ns: u128,
    /// The least that the schedule was behind at any look; `u64::MAX` if nobody looked.
    pub behind_min_ns: u64,
}

impl Window {
    /// Takes in what belongs to the same stretch, or to the one after it.
    pub fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.response_sum_ns += other.response_sum_ns;
        self.lag_generator_sum_ns += other.lag_generator_sum_ns;
        self.behind_min_ns = self.behind_min_ns.min(other.behind_min_ns);
    }
}

impl Default for Window {
    fn default() -> Self {
        Self { requests: 0, response_sum_ns: 0, lag_generator_sum_ns: 0, behind_min_ns: u64::MAX }
    }
}

/// The stretches of one run, as one worker or all of them saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course {
    windows: [Window; WINDOWS],
    /// The window that is being filled.
    current: usize,
    window_ns: u64,
}

impl Course {
    /// An empty course of windows of `window_ns`, which grow if they have to.
    pub fn new(window_ns: u64) -> Self {
        Self { windows: [Window::default(); WINDOWS], current: 0, window_ns: window_ns.max(1) }
    }

    /// The windows up to the one that is being filled.
    pub fn windows(&self) -> &[Window] {
        &self.windows[..=self.current]
    }

    /// The measured time is `elapsed_ns` old, and the schedule is `behind_ns` behind.
    pub fn look(&mut self, elapsed_ns: u64, behind_ns: u64) {
        while elapsed_ns / self.window_ns >= WINDOWS as u64 {
            self.fold();
        }
        // Below WINDOWS, as the loop has seen to.
        self.current = usize::try_from(elapsed_ns / self.window_ns).unwrap_or(self.current);
        let least_ns = &mut self.windows[self.current].behind_min_ns;
        *least_ns = behind_ns.min(*least_ns);
    }

    /// A latency was recorded.
    pub fn add(&mut self, response_ns: u64, lag_generator_ns: u64) {
        self.windows[self.current].merge(&Window {
            requests: 1,
            response_sum_ns: response_ns.into(),
            lag_generator_sum_ns: lag_generator_ns.into(),
            ..Window::default()
        });
    }

    /// Adds what another worker saw of the same run.
    pub fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        while self.window_ns < other.window_ns {
            self.fold();
        }
        while other.window_ns < self.window_ns {
            other.fold();
        }
        self.current = self.current.max(other.current);
        for (window, other) in self.windows.iter_mut().zip(&other.windows) {
            window.merge(other);
        }
    }

    /// Makes one window of each two.
    fn fold(&mut self) {
        for place in 0..WINDOWS {
            let pair = self.windows.get(2 * place..2 * place + 2);
            let mut folded = Window::default();
            pair.unwrap_or_default().iter().for_each(|window| folded.merge(window));
            self.windows[place] = folded;
        }
        self.current /= 2;
        self.window_ns = self.window_ns.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_run_of_known_length_fills_its_windows_in_order() {
        let mut course = Course::new(10);
        for elapsed_ns in 0..200 {
            course.look(elapsed_ns, elapsed_ns);
            course.add(2, 1);
        }
        assert_eq!(course.windows().len(), WINDOWS);
        for (place, window) in course.windows().iter().enumerate() {
            let behind_min_ns = place as u64 * 10;
            let expected =
                Window { requests: 10, response_sum_ns: 20, lag_generator_sum_ns: 10, behind_min_ns };
            assert_eq!(*window, expected);
        }
    }

    proptest! {
        /// However long the run, every request is in one window, the windows in use are 10 to 20, and workers that
        /// looked at different instants are put together right.
        #[test]
        fn a_run_of_unknown_length_keeps_everything_in_bounded_memory(
            steps in proptest::collection::vec((0..3_000_u64, 0..50_u64, any::<bool>()), 1..300),
        ) {
            let mut workers = [Course::new(10), Course::new(10)];
            let mut whole = Course::new(10);
            let mut elapsed_ns = 0;
            for (step_ns, behind_ns, second) in &steps {
                elapsed_ns += step_ns;
                for course in [&mut workers[usize::from(*second)], &mut whole] {
                    course.look(elapsed_ns, *behind_ns);
                    course.add(7, 3);
                }
            }
            let [mut merged, other] = workers;
            merged.merge(&other);
            prop_assert_eq!(&merged, &whole);
            let requests: u64 = merged.windows().iter().map(|window| window.requests).sum();
            prop_assert_eq!(requests, steps.len() as u64);
            prop_assert!(merged.windows().len() >= 10 || elapsed_ns < 200);
        }
    }
}
