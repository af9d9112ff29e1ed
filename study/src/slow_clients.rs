//! Slow clients: without this, nobody would know what thousands of them cost those who behave, and what each costs in memory.

use std::{
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{
    experiments::say,
    harness::{
        cores::Cores,
        load::{Load, Outcome},
        report::{Report, Table, kib, ms},
        server::{Server, Spec},
    },
    hostile::{Hostile, Kind},
    usage::Order,
};

/// What it shows.
pub(crate) const ABOUT: &str =
    "thousands of slow clients of each kind beside healthy load: what they cost it, and in memory";

/// Healthy requests per second; a tenth of what one core serves.
const RATE: u64 = 5_000;

/// The healthy p99 may grow by this factor...
const P99_FACTOR_MAX: f64 = 2.0;

/// ...or by so much, because below it the figure is the scheduling of two processes on one core.
const P99_NOISE_US: f64 = 250.0;

/// The server's deadlines where it is shown that they cut.
const SHORT: &str = "--first-byte-timeout 1s --header-read-timeout 2s --keep-alive-timeout 2s --body-stall-timeout 2s \
     --write-stall-timeout 2s --rate-grace 2s --tls-handshake-timeout 2s --websocket-idle-timeout 2s --evict-idle off";

/// The two deadlines that are shorter than an attack, so that nobody is cut before its end.
const PATIENT: &str = "--first-byte-timeout 1m --header-read-timeout 1m";

/// All are cut within this time, or are not cut at all.
const CUT_MAX: Duration = Duration::from_secs(15);

struct Size {
    clients: u32,
    /// Length of each of the four pieces of a round.
    piece: Duration,
}

/// Runs it.
///
/// # Errors
/// If a server, a load or the clients could not be run.
pub(crate) fn run(order: &Order) -> anyhow::Result<Report> {
    let (clients, seconds) = if order.quick { (500, 1) } else { (5_000, 5) };
    let size = Size { clients: order.clients.unwrap_or(clients), piece: Duration::from_secs(seconds) };
    let cores = Cores::split()?;
    let mut report = Report::new(&cores);
    report.method(format!(
        "for each kind a fresh server; healthy load is an open loop of {RATE} POST /echo of 64 bytes per second on 64 \
         connections, every byte checked; four runs of {seconds} s: quiet, attacked, attacked, quiet"
    ));
    report.method("memory per client is the growth of RssAnon (heap and stacks of the server) over the clients that are \
         attached; socket buffers in the kernel are not in it");
    report.method("the clients run at nice 19 beside the load");
    let mut table = Table::with_columns(
        format!("{} slow clients of one kind, default deadlines but {}", size.clients, PATIENT),
        "kind | attached | still there | quiet p50 ms | p50 ms | quiet p99 ms | p99 ms | healthy requests | never sent | failed | failures | KiB per client | ended",
    );
    let mut cuts = Table::with_columns(
        "The same with deadlines of 1 to 2 s: who is cut, and does the memory come back",
        "kind | attached | cut after s | still there by their account | the server holds | KiB per client before | after | ended",
    );
    let kinds = Kind::SLOW.into_iter().filter(|kind| kind.name().contains(&order.only));
    let (mut worst, mut failed) = ((0.0_f64, "none"), 0);
    for kind in kinds {
        say(&format!("  {}\n", kind.name()))?;
        let round = beside(kind, &size, &cores).with_context(|| kind.name().to_owned())?;
        failed += round.failed;
        let excess = round.p99 / (round.quiet_p99 + P99_NOISE_US / P99_FACTOR_MAX);
        if excess > worst.0 {
            worst = (excess, kind.name());
        }
        table.row(round.cells);
        cuts.row(cut(kind, &size, &cores).with_context(|| format!("{} with short deadlines", kind.name()))?);
    }
    report.tables = vec![table, cuts];
    report.criterion("healthy requests that failed: 0", failed.to_string(), failed == 0);
    report.criterion(
        format!("healthy p99 within {P99_FACTOR_MAX} times the quiet one (and {P99_NOISE_US} us for the scheduler)"),
        format!("at worst {:.2} of that bound, {}", worst.0 / P99_FACTOR_MAX, worst.1),
        worst.0 <= P99_FACTOR_MAX,
    );
    Ok(report)
}

struct Round {
    cells: Vec<String>,
    quiet_p99: f64,
    p99: f64,
    failed: u64,
}

/// One kind beside healthy load.
fn beside(kind: Kind, size: &Size, cores: &Cores) -> anyhow::Result<Round> {
    let (server, target) = start(kind, cores, PATIENT)?;
    let load = Load::new(format!("http://{}/echo", server.http), &cores.client).with(&[
        "-c",
        "64",
        "--body-size",
        "64",
        "--warmup",
        "300ms",
    ]);
    let first = load.at(RATE, size.piece)?;
    let before = server.usage()?;
    let mut clients = Hostile::attach(kind, target, size.clients, &cores.client)?;
    let attached = clients.count()?;
    // Some cost most at once, others when their buffers are full.
    let mut most_bytes = server.usage()?.anonymous_bytes;
    let mut attack = || {
        let run = load.at(RATE, size.piece)?;
        most_bytes = most_bytes.max(server.usage()?.anonymous_bytes);
        anyhow::Ok(run)
    };
    let runs = [attack()?, attack()?];
    let count = clients.end()?;
    let last = load.at(RATE, size.piece)?;
    let grown = most_bytes as f64 - before.anonymous_bytes as f64;
    let all = [&first, &runs[0], &runs[1], &last];
    let failed: u64 = all.iter().map(|run| run.lost()).sum();
    let quiet = Outcome::merged(&[&first, &last])?;
    let beside = Outcome::merged(&[&runs[0], &runs[1]])?;
    let (quiet_p99, p99) = (quiet.quantile_us(0.99), beside.quantile_us(0.99));
    Ok(Round {
        cells: vec![
            kind.name().to_owned(),
            attached.attached.to_string(),
            count.alive.to_string(),
            ms(quiet.quantile_us(0.5)),
            ms(beside.quantile_us(0.5)),
            ms(quiet_p99),
            ms(p99),
            all.iter().map(|run| run.count("sent")).sum::<u64>().to_string(),
            Outcome::unsent(&all).to_string(),
            failed.to_string(),
            Outcome::all_failures(&all),
            kib(grown / attached.attached.max(1) as f64),
            count.ends_by_frequency(),
        ],
        quiet_p99,
        p99,
        failed,
    })
}

/// One kind against short deadlines.
fn cut(kind: Kind, size: &Size, cores: &Cores) -> anyhow::Result<Vec<String>> {
    let (server, target) = start(kind, cores, SHORT)?;
    // What the first requests allocate for good is not the clients'.
    Load::new(format!("http://{}/echo", server.http), &cores.client)
        .with(&["-n", "2k"])
        .at(RATE, size.piece)?;
    let before = server.usage()?;
    let mut clients = Hostile::attach(kind, target, size.clients, &cores.client)?;
    let attached = clients.count()?;
    let during = server.usage()?;
    let began = Instant::now();
    // A client that does not read sees nothing of its end, so the server is asked, too.
    let state = |clients: &mut Hostile| {
        anyhow::Ok((clients.count()?, server.metrics()?.sum("echo_connections_open", &[])))
    };
    let (mut count, mut held) = state(&mut clients)?;
    while count.alive > 0 && held >= 1.0 && began.elapsed() < CUT_MAX {
        sleep(Duration::from_millis(50));
        (count, held) = state(&mut clients)?;
    }
    let after_s = began.elapsed().as_secs_f64();
    clients.end()?;
    let after = server.usage()?;
    let each =
        |bytes: u64| kib((bytes as f64 - before.anonymous_bytes as f64) / attached.attached.max(1) as f64);
    Ok(vec![
        kind.name().to_owned(),
        attached.attached.to_string(),
        if count.alive == 0 || held < 1.0 {
            format!("{after_s:.1}")
        } else {
            format!("not within {after_s:.0}")
        },
        count.alive.to_string(),
        held.to_string(),
        each(during.anonymous_bytes),
        each(after.anonymous_bytes),
        count.ends_by_frequency(),
    ])
}

/// A server with these flags, and where this kind attacks it.
fn start(kind: Kind, cores: &Cores, flags: &str) -> anyhow::Result<(Server, SocketAddr)> {
    let spec = Spec::new(&cores.server).with(&flags.split(' ').collect::<Vec<_>>());
    let server = Server::start(&if kind.needs_tls() { spec.with_tls() } else { spec })?;
    let target = if kind.needs_tls() { server.https.context("no TLS listener")? } else { server.http };
    Ok((server, target))
}
