//! Without a timer finer than tokio's 1 ms wheel, 10,000 requests a second would leave as ten per millisecond.
//!
//! A timerfd wakes the worker shortly before the instant; the rest is spun away in turns of the event loop, so
//! that responses are still read meanwhile.

use std::{cell::Cell, io, os::fd::OwnedFd};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::{io::Interest, io::unix::AsyncFd};

use crate::clock::{monotonic_ns, to_timespec};

/// The spin never lasts longer than this; what wakes up later than that is noise no spin can hide.
const LEAD_MAX_NS: u64 = 50_000;

/// A turn that takes this long has lost its CPU to somebody, perhaps to the server under test.
const PREEMPTED_TURN_NS: u64 = 1_000_000;

/// For how long the pacer then does without spinning.
const SPIN_PAUSE_NS: u64 = 100_000_000;

/// Waits for instants of the monotonic clock.
#[derive(Debug)]
pub struct Pacer {
    timer: AsyncFd<OwnedFd>,
    /// How long before the instant the timer is armed: the lateness of recent wake-ups, smoothed.
    lead_ns: u64,
    spun_ns: u64,
    /// Until then no CPU is spent on waiting, because somebody else needs it.
    spin_from_ns: u64,
}

impl Pacer {
    /// A pacer on the current runtime.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(deprecated, reason = "its successor is an unsafe fn; an OwnedFd keeps what that asks for")]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        Ok(Self { timer, lead_ns: 0, spun_ns: 0, spin_from_ns: 0 })
    }

    /// Returns at `instant_ns` or as soon after it as the machine allows, with the time at which it did.
    /// Whoever does something else on this thread meanwhile sets `worked`.
    ///
    /// # Errors
    /// If the kernel refuses the timer.
    pub async fn wait_until(&mut self, instant_ns: u64, worked: &Cell<bool>) -> io::Result<u64> {
        let mut now_ns = monotonic_ns();
        let lead_ns = if now_ns < self.spin_from_ns { 0 } else { self.lead_ns };
        if now_ns + lead_ns < instant_ns {
            let armed_ns = instant_ns - lead_ns;
            self.sleep_until(armed_ns).await?;
            now_ns = monotonic_ns();
            self.learn(now_ns.saturating_sub(armed_ns));
        }
        while now_ns < instant_ns {
            let turn_started_ns = now_ns;
            worked.set(false);
            tokio::task::yield_now().await;
            now_ns = monotonic_ns();
            let turn_ns = now_ns - turn_started_ns;
            if turn_ns >= PREEMPTED_TURN_NS {
                self.spin_from_ns = now_ns + SPIN_PAUSE_NS;
            } else if !worked.get() {
                self.spun_ns += turn_ns;
            }
        }
        Ok(now_ns)
    }

    /// CPU time spent on waiting so far: turns of the event loop in which nothing else was done.
    pub fn spun_ns(&self) -> u64 {
        self.spun_ns
    }

    async fn sleep_until(&self, instant_ns: u64) -> io::Result<()> {
        let once =
            Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: to_timespec(instant_ns) };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &once)?;
        // The expiry is never read: arming the timer again resets it, and epoll reports each one.
        self.timer.readable().await?.clear_ready();
        Ok(())
    }

    /// Follows the usual lateness; a wake-up far beyond it says nothing about the next one.
    fn learn(&mut self, late_ns: u64) {
        self.lead_ns = (self.lead_ns * 7 + late_ns.min(LEAD_MAX_NS)) / 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn it_is_never_early_and_returns_at_once_for_the_past() {
        let (mut pacer, worked) = (Pacer::new().unwrap(), Cell::new(false));
        for step in 0..50 {
            let instant = monotonic_ns() + step * 10_000;
            assert!(pacer.wait_until(instant, &worked).await.unwrap() >= instant);
        }
        let past = monotonic_ns() - 1;
        assert!(pacer.wait_until(past, &worked).await.unwrap() > past);
    }
}
