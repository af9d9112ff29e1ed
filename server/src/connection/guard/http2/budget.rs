//! How many frames of a kind a client may send: so many per second, and more where work pays for them. A fixed number
//! would hit the fast client before the hostile one.

/// What work has paid for and was not spent is kept up to here: one burst of a client that was long at work.
const SAVINGS_MAX: i64 = 65_536;

/// Tokens: refilled by time up to one second's worth, by work above that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    tokens: i64,
    per_second: i64,
    refilled_at: u64,
}

impl Budget {
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = i64::from(per_second);
        Self { tokens: per_second, per_second, refilled_at: 0 }
    }

    /// Work was done.
    pub(super) fn earn(&mut self, tokens: u32) {
        self.tokens = (self.tokens + i64::from(tokens)).min(SAVINGS_MAX.max(self.per_second));
    }

    /// A frame came, `now` in nanoseconds; false if it is one too many.
    pub(super) fn spend(&mut self, cost: u32, now: u64) -> bool {
        self.tokens -= i64::from(cost);
        if self.tokens >= 0 {
            return true;
        }
        let elapsed = now.saturating_sub(self.refilled_at);
        // More than a second gives no more than a second's worth.
        let elapsed = i64::try_from(elapsed.min(1_000_000_000)).unwrap_or(1_000_000_000);
        let refill = elapsed * self.per_second / 1_000_000_000;
        if refill > 0 {
            self.tokens = (self.tokens + refill).min(self.per_second);
            self.refilled_at = now;
        }
        self.tokens >= 0
    }
}
