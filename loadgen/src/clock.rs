//! Without one clock for every stamp, `response = lags + service` could not hold to the nanosecond.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds in a second.
pub const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Now on `CLOCK_MONOTONIC`, in ns: the clock that timerfd counts in too, so an instant can be armed as it is.
pub fn monotonic_ns() -> u64 {
    to_ns(clock_gettime(ClockId::Monotonic))
}

/// CPU time that the calling thread has used so far, user and kernel, in ns.
pub fn thread_cpu_ns() -> u64 {
    to_ns(clock_gettime(ClockId::ThreadCPUTime))
}

/// Time for which the calling thread was ready to run and had no CPU so far, in ns; `None` where the kernel does
/// not say.
pub fn thread_wait_ns() -> Option<u64> {
    // Time on a CPU, time waiting for one, number of time slices (Documentation/scheduler/sched-stats.rst).
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split_whitespace().nth(1)?.parse().ok()
}

/// A length of time in ns; exact for every one that a plan lets pass.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// An instant of [`monotonic_ns`] in the form that timerfd takes.
pub fn to_timespec(instant_ns: u64) -> Timespec {
    // Both parts fit: an i64 of seconds holds every u64 of nanoseconds.
    Timespec {
        tv_sec: (instant_ns / NANOS_PER_SECOND).cast_signed(),
        tv_nsec: (instant_ns % NANOS_PER_SECOND).cast_signed(),
    }
}

/// Any of the kernel's clocks in ns.
pub(crate) fn to_ns(time: Timespec) -> u64 {
    // The kernel's monotonic and CPU clocks start at zero and never go below it.
    time.tv_sec.cast_unsigned() * NANOS_PER_SECOND + time.tv_nsec.cast_unsigned()
}
