//! Overload: without this, "stays useful at ten times its capacity" would be a promise.

use std::time::Duration;

use anyhow::ensure;

use crate::{
    experiments::say,
    harness::{
        cores::Cores,
        load::{Load, Outcome},
        metrics::Metrics,
        report::{Report, Table, ms},
        server::{Server, Spec},
    },
    usage::Order,
};

/// What it shows.
pub(crate) const ABOUT: &str = "1 ms of CPU per request, at up to ten times the capacity: what is answered in time, with and without control";

/// Each request burns 1 ms of CPU time on the worker that carries its connection.
const PATH: &str = "/work?cpu=1ms";

/// An answer that comes later than this after its request was due has nobody who waits for it.
const DEADLINE: Duration = Duration::from_secs(1);

/// An open loop waits for a free connection or stream: enough that it never has to.
const HTTP1: [&str; 2] = ["-c", "1024"];
const HTTP2: [&str; 5] = ["-c", "128", "--http2", "--streams", "8"];

/// As many at a time as keep the server busy, and no queue.
const HTTP1_CLOSED: [&str; 2] = ["-c", "4"];
const HTTP2_CLOSED: [&str; 5] = ["-c", "4", "--http2", "--streams", "1"];

/// Before the measured time: what control has to build up, and a queue without control to become longer than
/// [`DEADLINE`].
const WARMUP: Duration = Duration::from_secs(3);

/// Every part of the control, switched off.
const OFF: [&str; 10] = [
    "--busy-max",
    "0s",
    "--busy-pause",
    "0s",
    "--queue-max",
    "0",
    "--requests-max",
    "1000000",
    "--fair-share",
    "off",
];

/// Multiples of the capacity, in tenths.
const LOADS: [u64; 5] = [5, 10, 20, 50, 100];

/// One server, with the requests that it can do.
struct Case {
    name: &'static str,
    runtime: &'static str,
    flags: &'static [&'static str],
    is_controlled: bool,
    is_http2: bool,
}

const CASES: [Case; 6] = [
    Case {
        name: "work-stealing",
        runtime: "work-stealing",
        flags: &[],
        is_controlled: true,
        is_http2: false,
    },
    Case { name: "per-core", runtime: "per-core", flags: &[], is_controlled: true, is_http2: false },
    Case {
        name: "work-stealing, HTTP/2",
        runtime: "work-stealing",
        flags: &[],
        is_controlled: true,
        is_http2: true,
    },
    Case { name: "per-core, HTTP/2", runtime: "per-core", flags: &[], is_controlled: true, is_http2: true },
    Case {
        name: "work-stealing, no control",
        runtime: "work-stealing",
        flags: &OFF,
        is_controlled: false,
        is_http2: false,
    },
    Case {
        name: "per-core, no control",
        runtime: "per-core",
        flags: &OFF,
        is_controlled: false,
        is_http2: false,
    },
];

impl Case {
    fn load<'a>(&self, http1: &'a [&'a str], http2: &'a [&'a str]) -> &'a [&'a str] {
        if self.is_http2 { http2 } else { http1 }
    }
}

/// What came of one load.
struct Figures {
    load: u64,
    offered: f64,
    goodput: f64,
    p50_us: f64,
    p99_us: f64,
    /// `None` where nothing was refused.
    shed_us: Option<f64>,
    sheds: String,
    paused: f64,
    verdict: String,
}

/// Runs it.
///
/// # Errors
/// If a server or a load could not be run.
pub(crate) fn run(order: &Order) -> anyhow::Result<Report> {
    let cores = Cores::split()?;
    let time = Duration::from_secs(if order.quick { 2 } else { 8 });
    let mut report = Report::new(&cores);
    report.method(format!(
        "GET {PATH}; capacity: closed loop over 4 connections; then open loops over 1024 connections (HTTP/2: 128 of 8 \
         streams), {} s each after {} s that are not counted",
        time.as_secs(),
        WARMUP.as_secs()
    ));
    report.method(format!(
        "goodput: answers with 200 within {} s of the instant at which their request was due; latency counts from there, \
         too, and is that of answers with 200",
        DEADLINE.as_secs()
    ));
    report
        .method("CPU per refusal: the server's CPU time less what the answers with 200 cost at the capacity");
    for case in CASES.iter().filter(|case| case.name.contains(&order.only)) {
        let (capacity, all) = measure(case, &cores, time)?;
        report.tables.push(table(case, capacity, &all));
        judge(&mut report, case, capacity, &all);
    }
    Ok(report)
}

fn measure(case: &Case, cores: &Cores, time: Duration) -> anyhow::Result<(f64, Vec<Figures>)> {
    let spec = Spec::new(&cores.server).with(&["--runtime", case.runtime]).with(case.flags);
    let server = Server::start(&spec)?;
    let load = Load::new(format!("http://{}{PATH}", server.http), &cores.client);
    let before = server.usage()?;
    let closed = load.clone().with(case.load(&HTTP1_CLOSED, &HTTP2_CLOSED)).as_fast_as_possible(time)?;
    ensure!(closed.count("ok") > 0, "nothing was answered: {}", closed.failures());
    let ok_us =
        server.usage()?.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / closed.count("ok") as f64;
    let capacity = closed.rate();
    say(&format!("  {}: {capacity:.0} requests/s, {ok_us:.0} us of CPU each\n", case.name))?;
    let load = load.with(case.load(&HTTP1, &HTTP2));
    let mut all = Vec::new();
    for tenths in LOADS {
        let figures = overload(&server, &load, capacity, tenths, time, ok_us)?;
        say(&format!(
            "  {}: {:.1}x: goodput {:.3} of the capacity, p99 {} ms\n",
            case.name,
            figures.load as f64 / 10.0,
            figures.goodput / capacity,
            ms(figures.p99_us)
        ))?;
        all.push(figures);
    }
    server.drain()?;
    Ok((capacity, all))
}

/// One load on a server that may still have the queue of the one before: the warm-up is for that, too.
fn overload(
    server: &Server,
    load: &Load,
    capacity: f64,
    tenths: u64,
    time: Duration,
    ok_us: f64,
) -> anyhow::Result<Figures> {
    let rate = capacity * tenths as f64 / 10.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "requests per second")]
    let per_second = rate.round() as u64;
    let warmup = format!("{}s", WARMUP.as_secs());
    let load = load.clone().with(&["--warmup", &warmup, "--timeout", "5s"]);
    let (usage, counts) = (server.usage()?, server.metrics()?);
    let outcome = load.at(per_second, time)?;
    let cpu_us = server.usage()?.cpu.saturating_sub(usage.cpu).as_secs_f64() * 1e6;
    let counts = Sheds::between(&counts, &server.metrics()?);
    let worked = counts.answered * ok_us;
    Ok(Figures {
        load: tenths,
        offered: rate,
        goodput: in_time(&outcome) as f64 / time.as_secs_f64(),
        p50_us: outcome.response.quantile_us(0.5),
        p99_us: outcome.response.quantile_us(0.99),
        shed_us: (counts.total > 0.0).then(|| (cpu_us - worked).max(0.0) / counts.total),
        sheds: counts.by_reason,
        paused: counts.paused,
        verdict: outcome.verdict().to_owned(),
    })
}

/// What was never answered has a latency, too (at least so long), and is not an answer.
fn in_time(outcome: &Outcome) -> u64 {
    outcome.response.count_within(DEADLINE).min(outcome.count("ok"))
}

/// What the server refused in one load, warm-up included, and what it answered with 200.
struct Sheds {
    total: f64,
    answered: f64,
    by_reason: String,
    /// Times that a connection was not read from for a while.
    paused: f64,
}

impl Sheds {
    fn between(before: &Metrics, after: &Metrics) -> Self {
        const REASONS: [&str; 6] =
            ["busy", "fair-share", "concurrency", "queue-full", "queue-timeout", "connections"];
        let grown = |name: &str, label: &str| after.sum(name, &[label]) - before.sum(name, &[label]);
        let sheds =
            REASONS.map(|reason| (reason, grown("echo_sheds_total", &format!("reason=\"{reason}\""))));
        let named = sheds.iter().filter(|(_, count)| *count > 0.0);
        Self {
            total: sheds.iter().map(|(_, count)| count).sum(),
            answered: grown("echo_responses_total", "\"200\""),
            paused: grown("echo_reads_paused_total", ""),
            by_reason: named
                .map(|(reason, count)| format!("{reason} {count}"))
                .collect::<Vec<_>>()
                .join(", "),
        }
    }
}

fn table(case: &Case, capacity: f64, all: &[Figures]) -> Table {
    let title = format!("{}: {capacity:.0} requests/s at most", case.name);
    let mut table = Table::new(
        title,
        &[
            "offered",
            "requests/s",
            "goodput / capacity",
            "p50 ms",
            "p99 ms",
            "CPU per refusal us",
            "refused",
            "reads paused",
            "verdict",
        ],
    );
    for figures in all {
        table.row(vec![
            format!("{:.1}x", figures.load as f64 / 10.0),
            format!("{:.0}", figures.offered),
            format!("{:.3}", figures.goodput / capacity),
            ms(figures.p50_us),
            ms(figures.p99_us),
            figures.shed_us.map_or_else(|| "-".to_owned(), |us| format!("{us:.1}")),
            figures.sheds.clone(),
            figures.paused.to_string(),
            figures.verdict.clone(),
        ]);
    }
    table
}

fn judge(report: &mut Report, case: &Case, capacity: f64, all: &[Figures]) {
    let of = |load: u64| all.iter().find(|figures| figures.load == load);
    let wanted: &[(u64, f64)] =
        if case.is_controlled { &[(20, 0.90), (100, 0.80)] } else { &[(20, 0.0), (100, 0.0)] };
    for (load, least) in wanted {
        let Some(figures) = of(*load) else { continue };
        let (share, times) = (figures.goodput / capacity, *load / 10);
        let name = case.name;
        if case.is_controlled {
            let asked = format!("{name}: goodput at {times}x at least {least:.2} of the capacity");
            report.criterion(asked, format!("{share:.3}"), share >= *least);
        } else {
            let asked = format!("{name}: goodput at {times}x near 0 (below 0.05)");
            report.criterion(asked, format!("{share:.3}"), share < 0.05);
        }
    }
    if let Some(figures) = of(100).filter(|_| case.is_controlled) {
        let asked = format!("{}: p99 of what is answered at 10x at most 50 ms", case.name);
        report.criterion(asked, format!("{} ms", ms(figures.p99_us)), figures.p99_us <= 50e3);
    }
}
