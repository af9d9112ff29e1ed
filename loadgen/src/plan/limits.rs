//! Without limits, a slip of the finger would be a run that no machine can make.

use std::{fmt::Display, time::Duration};

use super::PlanError;

/// More than one machine can hold open.
pub(crate) const CONNECTIONS_MAX: usize = 2_000_000;

/// More threads than cores only disturb the measurement.
pub(crate) const THREADS_MAX: usize = 1_024;

/// More streams on one connection than servers allow.
pub(crate) const STREAMS_MAX: usize = 1_000;

/// Above this the gap between requests is below what any clock here resolves.
pub(crate) const RATE_MAX: u64 = 100_000_000;

/// More stages than anybody types.
pub(crate) const STAGES_MAX: usize = 1_000;

/// A number of requests that no run reaches, small enough that no sum overflows.
pub(crate) const REQUESTS_MAX: u64 = 1 << 48;

/// The longest time that latencies are told apart for.
pub(crate) const TIMEOUT_MAX: Duration = Duration::from_hours(1);

/// Keeps every instant of a run within 64 bits of ns. A year as messages write it: 365.25 days.
pub(crate) const DURATION_MAX: Duration = Duration::from_hours(24 * 365 + 6);

/// Bodies larger than this are not kept in memory.
pub const BODY_LEN_MAX: u64 = 1 << 30;

/// `value`, if it is from `min` to `max`.
pub(super) fn within<T: PartialOrd + Display + Copy>(
    value: T,
    min: T,
    max: T,
    flag: &'static str,
) -> Result<T, PlanError> {
    if value >= min && value <= max {
        return Ok(value);
    }
    Err(PlanError::new(value.to_string(), format!("it must be from {min} to {max}"), flag))
}

/// The same for a length of time.
pub(super) fn within_time(
    value: Duration,
    min: Duration,
    max: Duration,
    flag: &'static str,
) -> Result<(), PlanError> {
    if value >= min && value <= max {
        return Ok(());
    }
    let [value, min, max] = [value, min, max].map(humantime::format_duration);
    Err(PlanError::new(value.to_string(), format!("it must be from {min} to {max}"), flag))
}
