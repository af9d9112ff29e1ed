//! Without a demonstration that needs nothing else, nobody would see the whole work before reading it.
//!
//! Starts the embedded server in a process of its own, finds its capacity in closed loop, loads it in open loop
//! at a part of that, compares both sides' counters to the request and to the byte, and drains it.

pub mod counters;
pub mod server;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use rustix::thread::sched_getaffinity;

use self::{
    counters::Counters,
    server::{Server, pin},
};
use crate::{
    cli::{DemoArgs, progress},
    live::Progress,
    plan::{BodySource, Plan, PlanOptions},
    report::json::JsonFile,
    report::{EXIT_FAILED, EXIT_NOT_VALID, Report, ServerAccount},
    run,
};

/// Bodies of the demonstration: one that fits a packet, one that does not.
const BODY_SIZES: [u64; 2] = [64, 16 * 1024];

/// Enough connections to keep the server busy, few enough to keep its queue short.
const CONNECTIONS: usize = 64;

/// Time in which the capacity is found.
const CAPACITY_DURATION: Duration = Duration::from_secs(3);

/// How often capacity and load are measured before a run that is not valid is the last word. Each attempt is shown.
const ATTEMPTS_MAX: usize = 2;

/// Time in which caches and buffers fill before anything is measured.
const WARMUP: Duration = Duration::from_secs(1);

/// `loadgen demo`: returns success only if every echo was right, both sides counted the same, and the run was
/// valid.
///
/// # Errors
/// If the server or the run could not be started.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let json = args.json.as_deref().map(JsonFile::create).transpose()?;
    let progress = progress(args.no_progress);
    let cores = Cores::split()?;
    say(&format!("{cores}\n"))?;
    let server = Server::start(&cores.server)?;
    pin(&cores.generator)?;
    say(&format!("server listens on http://{}\n\n", server.data))?;

    let mut attempt = 1;
    let mut code = loop {
        let (report, code) = find_capacity_and_load(&server, args, progress)?;
        // A wrong echo, a lost request or a count that differs ends it; only a disturbed machine gets another chance.
        if code == Some(EXIT_NOT_VALID) && attempt < ATTEMPTS_MAX {
            attempt += 1;
            say("\nnot valid: if something else took the cores meanwhile, the next attempt shows it\n\n")?;
            continue;
        }
        if let Some(json) = json {
            json.write(&report)?;
        }
        break code;
    };
    let (last_words, status) = server.drain()?;
    say(&format!("server     {}\n", last_words.join("; ")))?;
    if !status.success() {
        code = code.or(Some(EXIT_FAILED));
    }
    Ok(code.unwrap_or(0).into())
}

/// Both phases: the report of the last one (the open loop, unless the first went wrong), and the exit code of what
/// went wrong.
fn find_capacity_and_load(
    server: &Server,
    args: &DemoArgs,
    progress: Progress,
) -> anyhow::Result<(Report, Option<u8>)> {
    let closed = PlanOptions { duration: Some(CAPACITY_DURATION), ..options(server) };
    let capacity = measure(server, closed, progress)?;
    let achieved = capacity.outcome.achieved_rate();
    say(&format!("capacity   {achieved:.0} req/s in closed loop\n{}\n", account_line(&capacity)))?;
    let code = comparison_code(&capacity);
    if code.is_some() {
        return Ok((capacity, code));
    }
    let rate = rate(achieved, args.rate_fraction);
    let duration = Some(Duration::from_secs(args.seconds));
    let report = measure(server, PlanOptions { rate: Some(rate), duration, ..options(server) }, progress)?;
    say(&format!("{report}{}\n", account_line(&report)))?;
    let code = comparison_code(&report).or(Some(report.exit_code()).filter(|code| *code != 0));
    Ok((report, code))
}

fn options(server: &Server) -> PlanOptions {
    PlanOptions {
        body: BodySource::Sizes(BODY_SIZES.to_vec()),
        connections: CONNECTIONS,
        warmup: WARMUP,
        ..PlanOptions::new(format!("http://{}/echo", server.data))
    }
}

/// The rate for the open loop: at least one request per second.
fn rate(capacity: f64, fraction: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is small and positive"
    )]
    let rate = (capacity * fraction) as u64;
    rate.max(1)
}

/// Executes a run and takes the server's counters around it.
fn measure(server: &Server, options: PlanOptions, progress: Progress) -> anyhow::Result<Report> {
    let before = Counters::settled(server.admin)?;
    let cpu_before = server.cpu_time();
    let outcome = run::execute(Plan::new(options)?, progress)?;
    let cpu = server.cpu_time().zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
    let counted = Counters::settled(server.admin)?.since(before);
    let per_request = |cpu: Duration| cpu.as_secs_f64() * 1e6 / counted.requests.max(1) as f64;
    let mut report = Report::new(outcome);
    report.server = Some(ServerAccount {
        requests: counted.requests,
        request_body_bytes: counted.request_body_bytes,
        response_body_bytes: counted.response_body_bytes,
        us_per_request: cpu.map(per_request),
    });
    Ok(report)
}

/// What the client counted, in the server's terms: warm-up included.
fn client_account(report: &Report) -> ServerAccount {
    let phases = [&report.outcome.record.warmup, &report.outcome.record.measured];
    ServerAccount {
        requests: phases.iter().map(|counts| counts.sent).sum(),
        request_body_bytes: phases.iter().map(|counts| counts.body_bytes_sent).sum(),
        response_body_bytes: phases.iter().map(|counts| counts.body_bytes_received).sum(),
        us_per_request: report.server.as_ref().and_then(|server| server.us_per_request),
    }
}

/// Both sides' counters, and whether they agree.
fn account_line(report: &Report) -> String {
    let client = client_account(report);
    let server = report.server.clone().unwrap_or_default();
    let row = |account: &ServerAccount| {
        let ServerAccount { requests, request_body_bytes: up, response_body_bytes: down, .. } = account;
        format!("{requests} requests, {up} bytes up, {down} bytes down")
    };
    format!(
        "counters   client {}\n           server {}: {}\n           server {} us CPU per request",
        row(&client),
        row(&server),
        if client == server { "equal" } else { "DIFFERENT" },
        server.us_per_request.map_or_else(|| "-".to_owned(), |us| format!("{us:.2}"))
    )
}

/// The exit code of a phase in which an echo was wrong or lost, or the sides disagree; an interrupted phase has
/// requests that only the server knows.
fn comparison_code(report: &Report) -> Option<u8> {
    if let Some(interrupt) = report.outcome.interrupted {
        return Some(interrupt.exit_code());
    }
    let record = &report.outcome.record;
    let agree = report.server.as_ref() == Some(&client_account(report));
    let failed = record.warmup.failed() + record.measured.failed() > 0;
    (failed || !agree).then_some(EXIT_FAILED)
}

/// Which cores each side runs on.
struct Cores {
    server: Vec<usize>,
    generator: Vec<usize>,
}

impl Cores {
    /// Half of the cores that this process may use for each side; all for both if there is only one.
    fn split() -> anyhow::Result<Self> {
        let allowed = sched_getaffinity(None).context("cannot read the allowed cores")?;
        let all: Vec<_> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        let (server, generator) = all.split_at(all.len() / 2);
        if server.is_empty() {
            return Ok(Self { server: all.clone(), generator: all });
        }
        Ok(Self { server: server.to_vec(), generator: generator.to_vec() })
    }
}

impl std::fmt::Display for Cores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.server == self.generator {
            return write!(f, "server and generator share core {:?}", self.server);
        }
        write!(f, "server pinned to cores {:?}, generator to cores {:?}", self.server, self.generator)
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")
}
