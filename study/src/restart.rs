//! Restart: without this, "no lost request" would be a hope.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::{
    experiments::say,
    harness::{
        cores::Cores,
        load::{Load, Outcome},
        report::{Report, Table, ms},
        server::{Server, Spec},
    },
    usage::Order,
};

/// What it shows.
pub(crate) const ABOUT: &str =
    "restarts and drains under open-loop load at half of the capacity: requests that failed";

/// How much of the capacity in percent is asked for.
const CAPACITY_PERCENT: u64 = 50;

/// Between two restarts: the load runs undisturbed for a while.
const PAUSE: Duration = Duration::from_millis(300);

/// A short lame duck and a short wait for idle connections, so that twenty of them end within minutes.
const FLAGS: [&str; 4] = ["--lame-duck", "200ms", "--drain-idle-grace", "250ms"];

/// How the server is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// SIGUSR2: the new process inherits the listening sockets.
    Restart,
    /// SIGTERM, while a second server shares the address (SO_REUSEPORT).
    Drain,
}

/// One protocol under one kind of replacement.
struct Case {
    name: &'static str,
    how: How,
    tls: bool,
    flags: &'static [&'static str],
}

const CASES: [Case; 6] = [
    Case { name: "restart h1", how: How::Restart, tls: false, flags: &["-c", "64"] },
    Case {
        name: "restart h2c",
        how: How::Restart,
        tls: false,
        flags: &["-c", "8", "--http2", "--streams", "8"],
    },
    Case { name: "restart tls h1", how: How::Restart, tls: true, flags: &["-c", "64"] },
    Case {
        name: "restart tls h2",
        how: How::Restart,
        tls: true,
        flags: &["-c", "8", "--http2", "--streams", "8"],
    },
    Case { name: "drain h1", how: How::Drain, tls: false, flags: &["-c", "64"] },
    Case { name: "drain h2c", how: How::Drain, tls: false, flags: &["-c", "8", "--http2", "--streams", "8"] },
];

/// Runs it.
///
/// # Errors
/// If a server or a load could not be run, or a restart did not come about.
pub(crate) fn run(order: &Order) -> anyhow::Result<Report> {
    let (times, probe) = if order.quick { (2, 1) } else { (20, 3) };
    let cores = Cores::split()?;
    let mut report = Report::new(&cores);
    report.method(format!(
        "capacity: closed loop for {probe} s; then an open loop at {CAPACITY_PERCENT} % of it, POST /echo of 64 bytes, every byte \
         checked, while the server is replaced {times} times with {PAUSE:?} between",
    ));
    report.method("restart: SIGUSR2, the new process inherits the listening sockets and the old one drains; drain: a \
         second server starts at the same address (SO_REUSEPORT) and the first one gets SIGTERM. Each old process has to \
         end with exit code 0");
    report.method(format!("server flags: {}", FLAGS.join(" ")));
    report.method("retried: requests that an HTTP/2 server had provably not processed (REFUSED_STREAM, or above the last \
         stream of its GOAWAY) and that were sent again");
    let mut table = Table::with_columns(
        "Requests across replacements",
        "case | replacements | capacity /s | rate /s | requests | never sent | failed | retried | p50 ms | p99 ms | p99.9 ms | max ms | one takes s | failures",
    );
    let (mut failed, mut requests) = (0, 0);
    for case in CASES.iter().filter(|case| case.name.contains(&order.only)) {
        say(&format!("  {}\n", case.name))?;
        let (cells, outcome) =
            replace(case, times, Duration::from_secs(probe), &cores).with_context(|| case.name.to_owned())?;
        failed += outcome.lost();
        requests += outcome.count("sent");
        table.row(cells);
    }
    report.tables.push(table);
    report.criterion("requests that failed: 0", format!("{failed} of {requests}"), failed == 0);
    Ok(report)
}

fn replace(
    case: &Case,
    times: u32,
    probe: Duration,
    cores: &Cores,
) -> anyhow::Result<(Vec<String>, Outcome)> {
    let mut spec = match case.how {
        How::Restart => Spec::new(&cores.server),
        // Two listeners of one server share their address (SO_REUSEPORT), and so do those of its successor.
        How::Drain => Spec::with_workers(&cores.server, 2).with(&["--runtime", "per-core"]),
    };
    spec = spec.with(&FLAGS);
    if case.tls {
        spec = spec.with_tls();
    }
    let mut server = Server::start(&spec)?;
    let url = match server.https {
        Some(https) => format!("https://{https}/echo"),
        None => format!("http://{}/echo", server.http),
    };
    let load = Load::new(url, &cores.client).with(&["--body-size", "64"]).with(case.flags);
    let probed = load.as_fast_as_possible(probe)?;
    let capacity = (probed.count("ok") * 1_000).checked_div(probed.elapsed_ms()).unwrap_or(0);
    ensure!(capacity > 10, "the server answers {capacity} requests per second");
    let rate = capacity * CAPACITY_PERCENT / 100;
    let running = load.start(rate)?;
    sleep(2 * PAUSE);
    let mut longest = Duration::ZERO;
    for _ in 0..times {
        let began = Instant::now();
        server = succeed(server, case.how, &spec)?;
        longest = longest.max(began.elapsed());
        sleep(PAUSE);
    }
    let outcome = running.stop()?;
    let (code, last_words) = server.drain()?;
    ensure!(code == 0, "the last server ended with {code}: {last_words}");
    let quantile = |quantile| ms(outcome.response.quantile_us(quantile));
    let cells = vec![
        case.name.to_owned(),
        times.to_string(),
        capacity.to_string(),
        rate.to_string(),
        outcome.count("sent").to_string(),
        outcome.count("unsent").to_string(),
        outcome.lost().to_string(),
        outcome.count("retried").to_string(),
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
        quantile(1.0),
        format!("{:.2}", longest.as_secs_f64()),
        outcome.failures(),
    ];
    Ok((cells, outcome))
}

/// The server that follows on `server`.
fn succeed(mut server: Server, how: How, spec: &Spec) -> anyhow::Result<Server> {
    if how == How::Restart {
        server.restart()?;
        return Ok(server);
    }
    let successor = Server::start_at(spec, &server.http.to_string())?;
    let (code, last_words) = server.drain()?;
    ensure!(code == 0, "the drained server ended with {code}: {last_words}");
    Ok(successor)
}
