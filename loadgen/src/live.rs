//! Without a sign of life, a long run against a stalled server looks like a hung tool.
//!
//! The line is put together from what the workers leave on the [`board`](crate::board), so it costs nothing per request.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    time::Duration,
};

use crate::board::Notice;

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
    last: Notice,
    last_at: Duration,
}

impl ProgressLine {
    /// A progress line that has shown nothing yet.
    pub fn new(progress: Progress) -> Self {
        Self {
            progress,
            rewrite: io::stderr().is_terminal(),
            last: Notice::default(),
            last_at: Duration::ZERO,
        }
    }

    /// Shows the state at `at` since the start of the run.
    pub fn show(&mut self, at: Duration, now: Notice) {
        if self.progress == Progress::Off {
            return;
        }
        let text = line(at, self.last_at, &now, &self.last);
        (self.last, self.last_at) = (now, at);
        write_stderr(&if self.rewrite { format!("\r\x1b[K{text}") } else { format!("{text}\n") });
    }

    /// Says something that has to be known, whether progress is shown or not.
    pub fn say(&self, text: &str) {
        self.clear();
        write_stderr(&format!("loadgen: {text}\n"));
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

fn line(at: Duration, before_at: Duration, now: &Notice, before: &Notice) -> String {
    let seconds = at.saturating_sub(before_at).as_secs_f64().max(1e-9);
    let rate = (now.ok + now.failures()).saturating_sub(before.ok + before.failures()) as f64 / seconds;
    let mut text = format!(
        "{:>5.1} s  {rate:>8.0} req/s  ok {}  failed {}  in flight {}",
        at.as_secs_f64(),
        now.ok,
        now.failures(),
        now.in_flight
    );
    if now.backlog > 0 {
        // Writing to a String does not fail.
        write!(text, "  waiting {}", now.backlog).unwrap_or_default();
    }
    if now.connections_open == 0 {
        text.push_str("  no connection is open");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_shows_the_rate_of_the_last_interval() {
        let before = Notice { ok: 1_000, ..Notice::default() };
        let mut now =
            Notice { ok: 1_500, in_flight: 3, backlog: 7, connections_open: 9, ..Notice::default() };
        now.failed[2] = 2;
        let (at, before_at) = (Duration::from_secs(2), Duration::from_secs(1));
        let text = line(at, before_at, &now, &before);
        assert_eq!(text, "  2.0 s       502 req/s  ok 1500  failed 2  in flight 3  waiting 7");
        now.connections_open = 0;
        assert!(line(at, before_at, &now, &before).ends_with("  no connection is open"));
    }
}
