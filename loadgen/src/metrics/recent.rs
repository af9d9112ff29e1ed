//! Without a verdict while the run lasts, a load that is not what it claims to be is noticed when it is over.
//!
//! The rules are those of the report, over the last [`SPAN_NS`] of the measured time in place of all of it. What only
//! the end can tell is left out: requests that are never sent.

use std::collections::VecDeque;

use crate::{
    board::{Board, Notice, RunPhase},
    clock::NANOS_PER_SECOND,
    course::{WINDOWS, Window},
    verdict::{Evidence, Verdict, judge},
};

/// What the verdict covers. Long enough for the 1,000 samples that it needs at 34 requests per second.
pub(super) const SPAN_NS: u64 = 30 * NANOS_PER_SECOND;

const WINDOW_NS: u64 = SPAN_NS / WINDOWS as u64;

/// The last stretches of the run.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// The ends of the last windows, the oldest first; one more than there are windows.
    marks: VecDeque<Mark>,
    /// The least that the schedule was behind since the last mark.
    behind_min_ns: Option<u64>,
    open_loop: bool,
}

/// What was on the board at one moment.
#[derive(Debug)]
struct Mark {
    at_ns: u64,
    notices: Vec<Notice>,
    /// The least that the schedule was behind before it.
    behind_min_ns: u64,
}

impl Recent {
    /// Looks at the board, ten times a second or so.
    pub(super) fn look(&mut self, now_ns: u64, board: &Board) {
        // The last verdict of a run stays.
        if board.phase(now_ns) == RunPhase::Measuring {
            self.open_loop = board.is_open_loop();
            self.add(now_ns, board.notices());
        }
    }

    fn add(&mut self, now_ns: u64, notices: Vec<Notice>) {
        let behind_ns = notices.iter().map(|notice| notice.behind_ns).min().unwrap_or(0);
        let behind_min_ns = self.behind_min_ns.map_or(behind_ns, |least| least.min(behind_ns));
        self.behind_min_ns = Some(behind_min_ns);
        if self.marks.back().is_some_and(|last| now_ns < last.at_ns + WINDOW_NS) {
            return;
        }
        self.behind_min_ns = None;
        self.marks.push_back(Mark { at_ns: now_ns, notices, behind_min_ns });
        if self.marks.len() > WINDOWS + 1 {
            self.marks.pop_front();
        }
    }

    /// The verdict on what has been seen.
    pub(super) fn verdict(&self) -> Verdict {
        self.evidence().map_or(Verdict::TooFewSamples, |evidence| judge(&evidence).name)
    }

    fn evidence(&self) -> Option<Evidence> {
        let (first, last) = (self.marks.front()?, self.marks.back()?);
        let elapsed_ns = last.at_ns.checked_sub(first.at_ns).filter(|elapsed_ns| *elapsed_ns > 0)?;
        let grown = |count: fn(&Notice) -> u64| last.sum(count) - first.sum(count);
        let per_second = |count: u64| count as f64 * NANOS_PER_SECOND as f64 / elapsed_ns as f64;
        let highest_share = |time_ns: fn(&Notice) -> u64| {
            let workers = first.notices.iter().zip(&last.notices);
            let shares = workers.map(|(first, last)| time_ns(last).saturating_sub(time_ns(first)) as f64);
            shares.fold(0.0, f64::max) / elapsed_ns as f64
        };
        Some(Evidence {
            rate: self.open_loop.then(|| per_second(grown(|notice| notice.scheduled))),
            achieved_rate: per_second(grown(|notice| notice.ok + notice.failures())),
            samples: grown(|notice| notice.latencies.response.count()),
            unsent: 0,
            elapsed_ns,
            busiest_cpu: highest_share(|notice| notice.cpu_ns),
            starved: highest_share(|notice| notice.waited_ns),
            stalled: highest_share(|notice| notice.stalled_ns),
            response_p99_ns: None,
            lag_generator_p99_ns: None,
            windows: self
                .marks
                .iter()
                .zip(self.marks.iter().skip(1))
                .map(|(from, to)| to.window(from))
                .collect(),
        })
    }
}

impl Mark {
    fn sum(&self, count: impl Fn(&Notice) -> u64) -> u64 {
        self.notices.iter().map(count).sum()
    }

    /// What happened between `from` and this mark.
    fn window(&self, from: &Self) -> Window {
        let sum_ns = |mark: &Self, sum: fn(&Notice) -> u128| mark.notices.iter().map(sum).sum::<u128>();
        let grown = |sum: fn(&Notice) -> u128| sum_ns(self, sum) - sum_ns(from, sum);
        let requests = |mark: &Self| mark.sum(|notice| notice.latencies.response.count());
        Window {
            requests: requests(self) - requests(from),
            response_sum_ns: grown(|notice| notice.latencies.response.sum_ns),
            lag_generator_sum_ns: grown(|notice| notice.latencies.lag_generator.sum_ns),
            behind_min_ns: self.behind_min_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that has had `seconds` of 1,000 requests each, answered in 1 ms.
    fn notice(seconds: u64) -> Notice {
        let mut notice = Notice {
            scheduled: seconds * 1_000,
            ok: seconds * 1_000,
            cpu_ns: seconds * 300_000_000,
            ..Notice::default()
        };
        notice.latencies.response.buckets[5] = seconds * 1_000;
        notice.latencies.response.sum_ns = u128::from(seconds) * 1_000_000_000;
        notice
    }

    fn after(seconds: u64, change: impl Fn(u64, &mut Notice)) -> Recent {
        let mut recent = Recent { open_loop: true, ..Recent::default() };
        for tenth in 0..=seconds * 10 {
            let mut notice = notice(tenth / 10);
            change(tenth, &mut notice);
            recent.add(1_000 + tenth * 100_000_000, vec![notice, Notice::default()]);
        }
        recent
    }

    #[test]
    fn it_follows_the_rules_of_the_report() {
        assert_eq!(after(0, |_, _| ()).verdict(), Verdict::TooFewSamples);
        assert_eq!(after(10, |_, _| ()).verdict(), Verdict::Valid);
        let short = after(10, |_, notice| notice.scheduled *= 2);
        assert_eq!(short.verdict(), Verdict::ServerOverloaded);
        let starved = after(10, |tenth, notice| notice.waited_ns = tenth * 70_000_000);
        assert_eq!(starved.verdict(), Verdict::ClientLimited);
    }

    #[test]
    fn what_is_long_ago_does_not_count() {
        // 100 s with a load that was not kept, then 60 s with one that was.
        let recovered = after(160, |tenth, notice| notice.scheduled += tenth.min(1_000) * 1_000);
        assert_eq!(recovered.marks.len(), WINDOWS + 1);
        assert_eq!(recovered.verdict(), Verdict::Valid);
        let evidence = recovered.evidence().unwrap();
        assert_eq!((evidence.elapsed_ns, evidence.samples), (SPAN_NS, 30_000));
        assert_eq!(evidence.windows.iter().map(|window| window.requests).sum::<u64>(), 30_000);
    }

    #[test]
    fn a_window_knows_the_least_that_the_schedule_was_behind() {
        let mut recent = Recent::default();
        for (tenth, behind_ns) in [(0, 9), (1, 5), (2, 7), (15, 8), (16, 1), (30, 3)] {
            let notice = Notice { behind_ns, ..Notice::default() };
            recent.add(tenth * 100_000_000, vec![notice]);
        }
        let least: Vec<_> = recent.marks.iter().map(|mark| mark.behind_min_ns).collect();
        assert_eq!(least, [9, 5, 1]);
    }
}
