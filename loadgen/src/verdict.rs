//! Without a verdict, a run that was limited by its own generator reads like a slow server.
//!
//! Pure: figures in, a name and a sentence out. The rules look at the course of the run and not at single
//! events, so that one stall of a shared machine does not decide.

use serde::Serialize;

use crate::{course::Window, run::Outcome};

/// p99 needs ten values above it.
const SAMPLES_MIN: u64 = 1_000;

/// The generator distorts a window if its lag is more than this part of the mean response time...
const LAG_PART_MAX: f64 = 0.25;

/// ...and longer than this, because below it the lag is the wake-up time of any machine.
const LAG_NS_MIN: f64 = 500_000.0;

/// A thread that is on its CPU for more than this has nothing left.
const CPU_MAX: f64 = 0.95;

/// A generator that has no CPU although it needs one, or whose event loop does not turn although it should, for
/// more than this part of the run cannot time anything.
const STARVED_MAX: f64 = 0.60;

/// Above this part it cannot blame the server for a schedule that was not kept.
const STARVED_BLAME_MAX: f64 = 0.20;

/// The schedule may be behind by this part of the run's length before that counts as growth.
const BEHIND_PART_MAX: f64 = 0.01;

/// Below this part of the offered rate the schedule was not kept, whatever the course.
const ACHIEVED_PART_MIN: f64 = 0.90;

/// What a run is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
pub enum Verdict {
    /// The figures say what the server does under this load.
    Valid,
    /// The figures say what the generator cannot do.
    ClientLimited,
    /// The server does less than was asked for: its latencies grow with the length of the run.
    ServerOverloaded,
    /// There is no p99 to speak of.
    TooFewSamples,
}

impl Verdict {
    /// All verdicts.
    pub const ALL: [Self; 4] =
        [Self::Valid, Self::ClientLimited, Self::ServerOverloaded, Self::TooFewSamples];

    /// The name in reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Valid => "VALID",
            Self::ClientLimited => "CLIENT-LIMITED",
            Self::ServerOverloaded => "SERVER-OVERLOADED",
            Self::TooFewSamples => "TOO-FEW-SAMPLES",
        }
    }
}

/// A verdict and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// The verdict.
    pub name: Verdict,
    /// The evidence in a sentence.
    pub reason: String,
}

/// The figures that a verdict rests on.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Offered rate, on average; `None` in closed loop.
    pub rate: Option<f64>,
    /// Requests that ended, per second of the measured time.
    pub achieved_rate: f64,
    /// Latencies recorded.
    pub samples: u64,
    /// Requests that were due and never sent.
    pub unsent: u64,
    /// Length of the measured time.
    pub elapsed_ns: u64,
    /// The highest share of its time that a worker was on a CPU.
    pub busiest_cpu: f64,
    /// The highest share of its time that a worker was ready to run and had no CPU.
    pub starved: f64,
    /// The highest share of its time that a worker's event loop stood still.
    pub stalled: f64,
    /// Response time, if it has a p99.
    pub response_p99_ns: Option<u64>,
    /// Generator lag, if it has a p99.
    pub lag_generator_p99_ns: Option<u64>,
    /// The course of the run.
    pub windows: Vec<Window>,
}

impl Evidence {
    /// The evidence in `outcome`.
    pub fn from_outcome(outcome: &Outcome) -> Self {
        let record = &outcome.record;
        let latencies = &record.latencies;
        Self {
            rate: outcome.offered_rate,
            achieved_rate: outcome.achieved_rate(),
            samples: latencies.response.count(),
            // What a signal kept from being sent is nobody's fault.
            unsent: if outcome.interrupted.is_some() { 0 } else { record.measured.scheduled.unsent },
            elapsed_ns: outcome.elapsed_ns,
            busiest_cpu: outcome.busiest_cpu,
            starved: outcome.starved,
            stalled: outcome.stalled,
            response_p99_ns: latencies.response.quantile_ns(0.99),
            lag_generator_p99_ns: latencies.lag_generator.quantile_ns(0.99),
            windows: record.course.windows().to_vec(),
        }
    }
}

/// Judges a run.
pub fn judge(evidence: &Evidence) -> Judgement {
    let (name, reason) = if evidence.samples < SAMPLES_MIN {
        (Verdict::TooFewSamples, too_few(evidence))
    } else if let Some(reason) = client_limit(evidence) {
        (Verdict::ClientLimited, reason)
    } else if let Some(reason) = overload(evidence) {
        (Verdict::ServerOverloaded, reason)
    } else {
        (Verdict::Valid, valid(evidence))
    };
    Judgement { name, reason }
}

fn too_few(evidence: &Evidence) -> String {
    format!(
        "{} requests have a latency; p99 needs {SAMPLES_MIN}, so that ten lie above it.",
        evidence.samples
    )
}

fn client_limit(evidence: &Evidence) -> Option<String> {
    let starved = evidence.starved.max(evidence.stalled);
    let overloaded = overload(evidence).is_some();
    if starved > STARVED_MAX || overloaded && starved > STARVED_BLAME_MAX {
        return Some(format!(
            "a client thread had to wait for a CPU for {:.0} % of the run and its event loop stood still for \
             {:.0} %; give loadgen cores of its own.",
            evidence.starved * 100.0,
            evidence.stalled * 100.0
        ));
    }
    let Some(rate) = evidence.rate else {
        return (evidence.busiest_cpu >= CPU_MAX).then(|| {
            format!(
                "a client thread was on its CPU for {:.0} % of the run, so {:.0} req/s is what the generator \
                 can do; give it more --threads or cores.",
                evidence.busiest_cpu * 100.0,
                evidence.achieved_rate
            )
        });
    };
    let (distorted, filled) = distorted_windows(&evidence.windows);
    if distorted * 2 > filled {
        return Some(format!(
            "in {distorted} of {filled} stretches of the run more than {:.0} % of the response time was \
             generator lag (p99 {}); give loadgen more --threads or cores of its own.",
            LAG_PART_MAX * 100.0,
            milliseconds(evidence.lag_generator_p99_ns),
        ));
    }
    (overloaded && evidence.busiest_cpu >= CPU_MAX).then(|| {
        format!(
            "{:.0} of {rate:.0} req/s were achieved while a client thread was on its CPU for {:.0} % of the run; \
             give loadgen more --threads or cores.",
            evidence.achieved_rate,
            evidence.busiest_cpu * 100.0
        )
    })
}

/// How many of the windows that have requests are distorted by the generator.
fn distorted_windows(windows: &[Window]) -> (usize, usize) {
    let filled = windows.iter().filter(|window| window.requests > 0);
    let distorted = filled.clone().filter(|window| {
        let lag_ns = window.lag_generator_sum_ns as f64;
        lag_ns > LAG_PART_MAX * window.response_sum_ns as f64 && lag_ns > LAG_NS_MIN * window.requests as f64
    });
    (distorted.count(), filled.count())
}

fn overload(evidence: &Evidence) -> Option<String> {
    let rate = evidence.rate?;
    let achieved = evidence.achieved_rate;
    if evidence.unsent > 0 {
        return Some(format!(
            "{achieved:.0} of {rate:.0} req/s were achieved with every connection busy, and {} requests were \
             never sent.",
            evidence.unsent
        ));
    }
    let course = behind_by_quarter(&evidence.windows);
    let behind_max_ns = BEHIND_PART_MAX * evidence.elapsed_ns as f64;
    let grows = course[1] < course[2] && course[2] < course[3] && course[3] as f64 > behind_max_ns;
    let falls_short = achieved < ACHIEVED_PART_MIN * rate;
    (grows || falls_short).then(|| {
        format!(
            "{achieved:.0} of {rate:.0} req/s were achieved with every connection busy; the schedule was never \
             less behind than {}, {}, {} and {} in the four quarters of the run.",
            milliseconds(Some(course[0])),
            milliseconds(Some(course[1])),
            milliseconds(Some(course[2])),
            milliseconds(Some(course[3]))
        )
    })
}

/// The least that the schedule was behind in each quarter. A stall that the server recovers from leaves no
/// trace here; a load that it cannot carry grows from quarter to quarter.
fn behind_by_quarter(windows: &[Window]) -> [u64; 4] {
    let bound = |quarter: usize| quarter * windows.len() / 4;
    [0, 1, 2, 3].map(|quarter| {
        let windows = &windows[bound(quarter)..bound(quarter + 1)];
        let least = windows.iter().map(|window| window.behind_min_ns).min();
        least.filter(|behind| *behind != u64::MAX).unwrap_or(0)
    })
}

fn valid(evidence: &Evidence) -> String {
    let cpu = evidence.busiest_cpu * 100.0;
    let Some(rate) = evidence.rate else {
        return format!(
            "closed loop: {:.0} req/s with the busiest client thread on its CPU for {cpu:.0} % of the run; \
             latencies of a closed loop do not show what waits before a request is sent.",
            evidence.achieved_rate
        );
    };
    format!(
        "{:.0} of {rate:.0} req/s were achieved on schedule; generator lag p99 is {} beside a response p99 of {}; \
         the busiest client thread was on its CPU for {cpu:.0} % of the run.",
        evidence.achieved_rate,
        milliseconds(evidence.lag_generator_p99_ns),
        milliseconds(evidence.response_p99_ns)
    )
}

fn milliseconds(ns: Option<u64>) -> String {
    ns.map_or_else(|| "-".to_owned(), |ns| format!("{:.3} ms", ns as f64 / 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::course::WINDOWS;

    const MS: u64 = 1_000_000;

    const MS_SUM: u128 = 1_000_000;

    /// 10 s at 1,000/s, answered in 1 ms, sent 50 us late.
    fn calm() -> Evidence {
        let window = Window {
            requests: 500,
            response_sum_ns: 500 * MS_SUM,
            lag_generator_sum_ns: 500 * 50_000,
            behind_min_ns: 0,
        };
        Evidence {
            rate: Some(1_000.0),
            achieved_rate: 999.9,
            samples: 10_000,
            unsent: 0,
            elapsed_ns: 10_000 * MS,
            busiest_cpu: 0.4,
            starved: 0.01,
            stalled: 0.0,
            response_p99_ns: Some(2 * MS),
            lag_generator_p99_ns: Some(80_000),
            windows: vec![window; WINDOWS],
        }
    }

    fn name(evidence: &Evidence) -> Verdict {
        judge(evidence).name
    }

    #[test]
    fn a_kept_schedule_is_valid_and_says_its_figures() {
        let judgement = judge(&calm());
        assert_eq!(judgement.name, Verdict::Valid);
        assert!(judgement.reason.contains("0.080 ms") && judgement.reason.contains("2.000 ms"));
    }

    #[test]
    fn a_few_stalls_of_the_machine_do_not_decide() {
        let mut evidence = calm();
        for window in &mut evidence.windows[3..9] {
            window.lag_generator_sum_ns = 500 * 20 * MS_SUM;
            window.response_sum_ns = 500 * 21 * MS_SUM;
        }
        // A stall at the very end leaves the schedule behind there, once.
        evidence.windows[19].behind_min_ns = 300 * MS;
        evidence.achieved_rate = 960.0;
        assert_eq!(name(&evidence), Verdict::Valid);
    }

    #[test]
    fn a_backlog_that_grows_is_the_servers() {
        let mut evidence = calm();
        for (place, window) in evidence.windows.iter_mut().enumerate() {
            window.behind_min_ns = place as u64 * 20 * MS;
        }
        evidence.achieved_rate = 960.0;
        let judgement = judge(&evidence);
        assert_eq!(judgement.name, Verdict::ServerOverloaded);
        assert!(judgement.reason.contains("960 of 1000 req/s"), "{}", judgement.reason);
    }

    #[test]
    fn unsent_requests_are_the_servers_unless_the_client_had_no_cpu_left() {
        let mut evidence = Evidence { unsent: 5, ..calm() };
        assert_eq!(name(&evidence), Verdict::ServerOverloaded);
        evidence.busiest_cpu = 0.99;
        assert_eq!(name(&evidence), Verdict::ClientLimited);
    }

    #[test]
    fn a_generator_without_a_cpu_cannot_blame_the_server() {
        let late = Evidence { achieved_rate: 300.0, ..calm() };
        assert_eq!(name(&late), Verdict::ServerOverloaded);
        assert_eq!(name(&Evidence { stalled: 0.3, ..late.clone() }), Verdict::ClientLimited);
        assert_eq!(name(&Evidence { starved: 0.3, ..late }), Verdict::ClientLimited);
        // On a machine that both sides share, the generator waits for its CPU now and then.
        assert_eq!(name(&Evidence { starved: 0.3, ..calm() }), Verdict::Valid);
        assert_eq!(name(&Evidence { starved: 0.7, ..calm() }), Verdict::ClientLimited);
    }

    #[test]
    fn lag_through_most_of_the_run_is_the_clients() {
        let mut evidence = calm();
        for window in &mut evidence.windows[..11] {
            window.lag_generator_sum_ns = 500 * 2 * MS_SUM;
            window.response_sum_ns = 500 * 3 * MS_SUM;
        }
        assert_eq!(name(&evidence), Verdict::ClientLimited);
    }

    #[test]
    fn too_few_samples_for_p99_are_said_to_be_that() {
        assert_eq!(name(&Evidence { samples: 999, ..calm() }), Verdict::TooFewSamples);
        assert_eq!(name(&Evidence { samples: 1_000, ..calm() }), Verdict::Valid);
    }

    #[test]
    fn a_closed_loop_is_limited_by_a_client_without_cpu() {
        let mut evidence = Evidence { rate: None, ..calm() };
        assert_eq!(name(&evidence), Verdict::Valid);
        evidence.busiest_cpu = 0.97;
        assert_eq!(name(&evidence), Verdict::ClientLimited);
    }
}
