//! Without the checks and the verdict beside the latencies, a reader has to believe them.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use crate::{
    body::Body,
    latency::Series,
    plan::{Plan, Protocol},
    record::Counts,
    report::Report,
    schedule::Arrivals,
    verify::Check,
};

/// Quantiles in the table, with their headings.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.header(f)?;
        self.counts(f)?;
        self.rate(f)?;
        self.latencies(f)?;
        self.failures(f)?;
        writeln!(f, "\nverdict    {}: {}", self.judgement.name.name(), self.judgement.reason)
    }
}

impl Report {
    fn header(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = &self.outcome.plan;
        if let Some(interrupt) = self.outcome.cut_short_by() {
            writeln!(f, "PARTIAL REPORT: the run was cut short by {}\n", interrupt.name())?;
        }
        writeln!(f, "target     {} {}", plan.head.method, plan.target.url)?;
        match &plan.arrivals {
            Arrivals::Constant { per_second } => {
                write!(f, "mode       open loop, {per_second} req/s in total")?;
            }
            Arrivals::Staged { stages, .. } => write!(f, "mode       open loop, stages {stages}")?,
            Arrivals::Closed => write!(f, "mode       closed loop, as fast as answers come")?,
        }
        if let Some(interrupt) = self.outcome.interrupted.filter(|_| plan.is_endless()) {
            write!(f, ", again and again until {}", interrupt.name())?;
        }
        if let Some(requests) = plan.requests {
            write!(f, ", {requests} requests")?;
        }
        if let Some(duration) = plan.duration {
            write!(f, ", {}", humantime::format_duration(duration))?;
        }
        if plan.warmup > Duration::ZERO {
            write!(f, " after {} of warm-up", humantime::format_duration(plan.warmup))?;
        }
        let (connections, threads) = (connections(plan), plan.threads);
        let timeout = humantime::format_duration(plan.timeout);
        writeln!(f, "\n           {connections}, {threads} threads, timeout {timeout}, seed {}", plan.seed)?;
        writeln!(f, "bodies     {}; {}", bodies(&plan.body), check(plan.check))
    }

    fn counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = &self.outcome.record;
        writeln!(f)?;
        conservation(f, "requests", &record.measured)?;
        if self.outcome.plan.warmup > Duration::ZERO {
            conservation(f, "warm-up", &record.warmup)?;
        }
        let (sent, received) = (record.measured.body_bytes_sent, record.measured.body_bytes_received);
        if record.measured.retried + record.warmup.retried > 0 {
            let (measured, warmup) = (record.measured.retried, record.warmup.retried);
            writeln!(
                f,
                "retried    {measured} ({warmup} in the warm-up) that the server had provably not processed"
            )?;
        }
        if record.places_unavailable > 0 {
            let unavailable = record.places_unavailable;
            writeln!(f, "streams    {unavailable} of those asked for are more than the server allows")?;
        }
        writeln!(f, "bytes      {sent} of bodies sent, {received} received")
    }

    fn rate(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = &self.outcome;
        let seconds = outcome.elapsed_ns as f64 / 1e9;
        write!(f, "rate       {:.1} req/s achieved", outcome.achieved_rate())?;
        if let Some(rate) = outcome.offered_rate {
            write!(f, " of {rate:.1} offered")?;
        }
        writeln!(f, " in {seconds:.3} s")?;
        writeln!(
            f,
            "client     {:.2} us CPU per request and {:.2} us of pacing spin; busiest thread {:.0} % on its CPU, \
             waited for it {:.1} %, stood still {:.1} %",
            outcome.client_us_per_request(),
            outcome.spin_us_per_request(),
            outcome.busiest_cpu * 100.0,
            outcome.starved * 100.0,
            outcome.stalled * 100.0
        )
    }

    fn latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{:<15}{:>11}", "latency", "mean")?;
        for (heading, _) in QUANTILES {
            write!(f, "{heading:>11}")?;
        }
        writeln!(f, "{:>11}", "max")?;
        let record = &self.outcome.record;
        for (name, series) in record.latencies.named() {
            row(f, name, series)?;
        }
        let identity = if record.latencies.identity_holds() { "holds" } else { "BROKEN" };
        let censored = record.censored;
        writeln!(
            f,
            "  response counts from the intended instant; response = service + both lags: {identity}"
        )?;
        writeln!(
            f,
            "  of {} values {} are lower bounds (timeout {}, in flight at end {}, unsent {}); failed requests \
             have no latency; - means fewer than ten values above",
            record.latencies.response.count(),
            censored.total(),
            censored.timeout,
            censored.in_flight_at_end,
            censored.unsent
        )
    }

    fn failures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = &self.outcome.record;
        if !record.measured.statuses.is_empty() {
            write!(f, "\nstatus    ")?;
            for (status, count) in &record.measured.statuses {
                write!(f, " {status}: {count}")?;
            }
            writeln!(f)?;
        }
        for (phase, counts) in [("errors", &record.measured), ("warm-up errors", &record.warmup)] {
            if counts.errors.is_empty() {
                continue;
            }
            writeln!(f, "{phase}")?;
            for (class, count) in &counts.errors {
                let sample = record.samples.get(class).map_or("", String::as_str);
                writeln!(f, "  {:<24}{count:>10}  first: {sample}", class.name())?;
            }
        }
        Ok(())
    }
}

fn connections(plan: &Plan) -> String {
    let count = plan.connections;
    let socket = if plan.unix.is_some() { " over a Unix socket" } else { "" };
    match plan.protocol {
        Protocol::Http1 => format!("{count} connections{socket}"),
        Protocol::Http2 { streams } => {
            format!("{count} connections{socket}, HTTP/2 with {streams} streams each")
        }
    }
}

fn conservation(f: &mut fmt::Formatter<'_>, name: &str, counts: &Counts) -> fmt::Result {
    let (scheduled, unsent) = (counts.scheduled.scheduled, counts.scheduled.unsent);
    writeln!(f, "{name:<11}scheduled {scheduled} = sent {} + unsent {unsent}", counts.sent)?;
    writeln!(
        f,
        "           sent {} = ok {} + errors {} + in flight at end {}: {}",
        counts.sent,
        counts.ok,
        counts.failed(),
        counts.in_flight_at_end,
        if counts.is_conserved() { "both hold" } else { "BROKEN, a request was lost by loadgen" }
    )
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, series: &Series) -> fmt::Result {
    let has_values = series.count() > 0;
    write!(f, "  {name:<13}{:>11}", time(has_values.then(|| series.mean_ns())))?;
    for (_, quantile) in QUANTILES {
        write!(f, "{:>11}", time(series.quantile_ns(quantile)))?;
    }
    writeln!(f, "{:>11}", time(has_values.then(|| series.histogram.max())))
}

fn bodies(body: &Body) -> String {
    let sizes: Vec<_> = body.sizes().iter().map(|size| format!("{size} B")).collect();
    match body {
        Body::None => "none".to_owned(),
        Body::Fixed(_) => format!("{}, the same each time", sizes.join(", ")),
        Body::Generated(_) => format!("{}, another content each time", sizes.join(", ")),
    }
}

fn check(check: Check) -> &'static str {
    match check {
        Check::Echo => "every byte of every echo is checked",
        Check::Status => "the status of every response is checked",
    }
}

/// A time with three or four significant digits in a unit that fits.
fn time(ns: Option<u64>) -> String {
    let Some(ns) = ns else { return "-".to_owned() };
    let value = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", value / 1e6),
        _ => format!("{:.3} s", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_the_unit_that_fits() {
        assert_eq!(time(Some(999)), "999 ns");
        assert_eq!(time(Some(12_345)), "12.3 us");
        assert_eq!(time(Some(1_234_567)), "1.23 ms");
        assert_eq!(time(Some(61_000_000_000)), "61.000 s");
        assert_eq!(time(None), "-");
    }
}
