//! Without a sign of life, a long run against a stalled server looks like a hung tool.
//!
//! Workers publish their counts a hundred times a second; the line is put together from these snapshots, so it
//! costs nothing per request.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// What one worker last published. On a cache line of its own, so that workers do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LiveCell {
    ok: AtomicU64,
    failed: AtomicU64,
    in_flight: AtomicU64,
    backlog: AtomicU64,
}

/// A worker's counts at one moment, or the sum over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Right answers.
    pub ok: u64,
    /// All other ends.
    pub failed: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// Requests due and not sent.
    pub backlog: u64,
}

impl LiveCell {
    /// Replaces what was published before.
    pub fn publish(&self, snapshot: Snapshot) {
        self.ok.store(snapshot.ok, Relaxed);
        self.failed.store(snapshot.failed, Relaxed);
        self.in_flight.store(snapshot.in_flight, Relaxed);
        self.backlog.store(snapshot.backlog, Relaxed);
    }

    fn read(&self) -> Snapshot {
        Snapshot {
            ok: self.ok.load(Relaxed),
            failed: self.failed.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            backlog: self.backlog.load(Relaxed),
        }
    }
}

impl Snapshot {
    /// The sum over `cells`.
    pub fn sum<'a>(cells: impl IntoIterator<Item = &'a LiveCell>) -> Self {
        cells.into_iter().map(LiveCell::read).fold(Self::default(), |sum, cell| Self {
            ok: sum.ok + cell.ok,
            failed: sum.failed + cell.failed,
            in_flight: sum.in_flight + cell.in_flight,
            backlog: sum.backlog + cell.backlog,
        })
    }
}

/// Where progress goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nowhere.
    Off,
    /// To stderr: one line that is rewritten on a terminal, a line each second elsewhere.
    Stderr,
}

/// Prints the course of a run to stderr.
#[derive(Debug)]
pub struct ProgressLine {
    progress: Progress,
    rewrite: bool,
    last: Snapshot,
    last_at: Duration,
}

impl ProgressLine {
    /// A progress line that has shown nothing yet.
    pub fn new(progress: Progress) -> Self {
        Self {
            progress,
            rewrite: io::stderr().is_terminal(),
            last: Snapshot::default(),
            last_at: Duration::ZERO,
        }
    }

    /// Shows the state at `at` since the start of the run.
    pub fn show(&mut self, at: Duration, now: Snapshot) {
        if self.progress == Progress::Off {
            return;
        }
        let text = line(at, self.last_at, now, self.last);
        (self.last, self.last_at) = (now, at);
        write_stderr(&if self.rewrite { format!("\r\x1b[K{text}") } else { format!("{text}\n") });
    }

    /// Takes a rewritten line away, so that the report begins on a clean one.
    pub fn clear(&self) {
        if self.progress != Progress::Off && self.rewrite {
            write_stderr("\r\x1b[K");
        }
    }
}

fn write_stderr(text: &str) {
    // A closed stderr must not end a run.
    io::stderr().write_all(text.as_bytes()).unwrap_or_default();
}

fn line(at: Duration, before_at: Duration, now: Snapshot, before: Snapshot) -> String {
    let seconds = at.saturating_sub(before_at).as_secs_f64().max(1e-9);
    let rate = (now.ok + now.failed).saturating_sub(before.ok + before.failed) as f64 / seconds;
    let mut text = format!(
        "{:>5.1} s  {rate:>8.0} req/s  ok {}  failed {}  in flight {}",
        at.as_secs_f64(),
        now.ok,
        now.failed,
        now.in_flight
    );
    if now.backlog > 0 {
        // Writing to a String does not fail.
        write!(text, "  waiting {}", now.backlog).unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_shows_the_rate_of_the_last_interval() {
        let before = Snapshot { ok: 1_000, ..Snapshot::default() };
        let now = Snapshot { ok: 1_500, failed: 2, in_flight: 3, backlog: 7 };
        let text = line(Duration::from_secs(2), Duration::from_secs(1), now, before);
        assert_eq!(text, "  2.0 s       502 req/s  ok 1500  failed 2  in flight 3  waiting 7");
    }

    #[test]
    fn snapshots_of_workers_add_up() {
        let cells = [LiveCell::default(), LiveCell::default()];
        for cell in &cells {
            cell.publish(Snapshot { ok: 4, failed: 1, in_flight: 2, backlog: 3 });
        }
        let sum = Snapshot { ok: 8, failed: 2, in_flight: 4, backlog: 6 };
        assert_eq!(Snapshot::sum(&cells), sum);
    }
}
