//! Attacks: without this, a defence would be believed because its unit test passes.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{
    experiments::say,
    harness::{
        cores::Cores,
        load::{Load, Outcome},
        probe::{self, RECOVERED_ANSWERS, RECOVERED_WITHIN},
        process::Usage,
        report::{Report, Table, kib, ms},
        server::{Server, Spec},
    },
    hostile::{Hostile, Kind},
    usage::Order,
};

/// What it shows.
pub(crate) const ABOUT: &str =
    "HTTP/2 attacks and connection floods beside healthy load: how each ends, and what is left afterwards";

/// Healthy requests per second.
const RATE: u64 = 2_000;

/// Descriptors of the server that runs out of them; it started with more, and has set its limits by that.
const FDS_MAX: u64 = 256;

/// Connections that the server of the connection flood allows.
const CONNECTIONS_MAX: &str = "200";

/// An attack, and the server that it meets.
struct Case {
    name: &'static str,
    kind: Kind,
    attackers: u32,
    flags: &'static [&'static str],
    fds_max: Option<u64>,
}

impl Case {
    const fn of(kind: Kind, name: &'static str, attackers: u32) -> Self {
        Self { name, kind, attackers, flags: &[], fds_max: None }
    }
}

const CASES: [Case; 10] = [
    Case::of(Kind::RapidReset, "h2-rapid-reset", 4),
    Case::of(Kind::ContinuationFlood, "h2-continuation-flood", 4),
    Case::of(Kind::EmptyDataFlood, "h2-empty-data-flood", 4),
    Case::of(Kind::SettingsFlood, "h2-settings-flood", 4),
    Case::of(Kind::PingFlood, "h2-ping-flood", 4),
    Case::of(Kind::WindowStall, "h2-window-stall", 20),
    Case::of(Kind::HeaderBomb, "h2-header-bomb", 4),
    Case::of(Kind::ResetStorm, "reset-storm", 4),
    Case {
        flags: &["--connections-max", CONNECTIONS_MAX],
        ..Case::of(Kind::ConnectionFlood, "connection-limit-flood", 1_000)
    },
    Case { fds_max: Some(FDS_MAX), ..Case::of(Kind::ConnectionFlood, "descriptor-exhaustion", 1_000) },
];

/// Runs it.
///
/// # Errors
/// If a server, a load or the attackers could not be run.
pub(crate) fn run(order: &Order) -> anyhow::Result<Report> {
    let seconds = if order.quick { 1 } else { 5 };
    let cores = Cores::split()?;
    let mut report = Report::new(&cores);
    report.method(format!(
        "for each attack a fresh server; healthy load is an open loop of {RATE} POST /echo of 64 bytes per second on 32 \
         connections that are open before the attack; quiet {seconds} s, attacked {} s, quiet {seconds} s",
        2 * seconds
    ));
    report.method("each attacker comes back 20 ms after it was thrown out, the reset storm at once; they run at nice 19");
    report.method(format!(
        "recovery: from the end of the attack until {RECOVERED_ANSWERS} new connections in a row are answered within \
         {RECOVERED_WITHIN:?} each"
    ));
    let mut table = Table::with_columns(
        "Attack by attack",
        "attack | attackers | how their connections ended | healthy requests | never sent | failed | failures | quiet p99 ms | p99 ms | server CPU quiet % | CPU % | RssAnon before KiB | during | after | recovered after ms",
    );
    let (mut failed, mut slowest) = (0, Duration::ZERO);
    for case in CASES.iter().filter(|case| case.name.contains(&order.only)) {
        say(&format!("  {}\n", case.name))?;
        let attackers = order.clients.map_or(case.attackers, |clients| case.attackers.min(clients));
        let attacked = attack(case, attackers, Duration::from_secs(seconds), &cores);
        let (cells, lost, recovered) = attacked.with_context(|| case.name.to_owned())?;
        failed += lost;
        slowest = slowest.max(recovered);
        table.row(cells);
    }
    report.tables.push(table);
    report.criterion("healthy requests that failed: 0", failed.to_string(), failed == 0);
    let recovered = slowest < Duration::from_secs(1);
    report.criterion(
        "recovered within 1 s of the end",
        format!("the slowest after {slowest:.0?}"),
        recovered,
    );
    Ok(report)
}

fn attack(
    case: &Case,
    attackers: u32,
    piece: Duration,
    cores: &Cores,
) -> anyhow::Result<(Vec<String>, u64, Duration)> {
    let server = Server::start(&Spec::new(&cores.server).with(case.flags))?;
    if let Some(fds_max) = case.fds_max {
        server.limit_fds(fds_max)?;
    }
    let load = Load::new(format!("http://{}/echo", server.http), &cores.client).with(&[
        "-c",
        "32",
        "--body-size",
        "64",
        "--warmup",
        "300ms",
    ]);
    let start = server.usage()?;
    let first = load.at(RATE, piece)?;
    let before = server.usage()?;
    // Its connections are open when the attack begins.
    let running = load.start(RATE)?;
    sleep(Duration::from_millis(500));
    let (attack_began, cpu_before) = (Instant::now(), server.usage()?.cpu);
    let hostile = Hostile::start(case.kind, server.http, attackers, &cores.client)?;
    let peak = watch(&server, 2 * piece)?;
    let (wall, cpu) = (attack_began.elapsed(), peak.cpu.saturating_sub(cpu_before));
    let under_attack = running.stop()?;
    let count = hostile.end()?;
    let recovered = probe::recovery(server.http)?;
    let again = load.at(RATE, piece)?;
    let after = server.usage()?;
    let runs = [&first, &under_attack, &again];
    let failed: u64 = runs.iter().map(|run| run.lost()).sum();
    let quiet = Outcome::merged(&[&first, &again])?;
    let percent =
        |cpu: Duration, wall: Duration| format!("{:.0}", 100.0 * cpu.as_secs_f64() / wall.as_secs_f64());
    let cells = vec![
        case.name.to_owned(),
        attackers.to_string(),
        count.ends_by_frequency(),
        runs.iter().map(|run| run.count("sent")).sum::<u64>().to_string(),
        Outcome::unsent(&runs).to_string(),
        failed.to_string(),
        Outcome::all_failures(&runs),
        ms(quiet.quantile_us(0.99)),
        ms(under_attack.response.quantile_us(0.99)),
        percent(before.cpu.saturating_sub(start.cpu), piece),
        percent(cpu, wall),
        kib(before.anonymous_bytes as f64),
        kib(peak.anonymous_bytes as f64),
        kib(after.anonymous_bytes as f64),
        format!("{:.0}", recovered.as_secs_f64() * 1e3),
    ];
    Ok((cells, failed, recovered))
}

/// Watches the server for `time`: its CPU time at the end, the most memory that it had.
fn watch(server: &Server, time: Duration) -> anyhow::Result<Usage> {
    let began = Instant::now();
    let mut peak = server.usage()?;
    while began.elapsed() < time {
        sleep(Duration::from_millis(20));
        let now = server.usage()?;
        peak = Usage { anonymous_bytes: now.anonymous_bytes.max(peak.anonymous_bytes), ..now };
    }
    Ok(peak)
}
