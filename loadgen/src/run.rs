//! Without one controller for all workers, they would neither start at the same instant nor stop on a signal.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use http::Method;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc, watch},
};

use crate::{
    clock::{NANOS_PER_SECOND, monotonic_ns},
    engine::request::RequestTemplate,
    engine::{Job, Link},
    failure::Failure,
    live::{LiveCell, Progress, ProgressLine, Snapshot},
    plan::Plan,
    record::Record,
    schedule::Schedule,
    worker::{self, WorkerReport},
};

/// Time between the decision to start and the start, enough to reach every worker.
const START_MARGIN_NS: u64 = 5_000_000;

/// Time between two progress lines.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// A run as it went.
#[derive(Debug)]
pub struct Outcome {
    /// What was to be done.
    pub plan: Plan,
    /// What happened to each request.
    pub record: Record,
    /// Measured time: from the end of the warm-up to the end of the schedule or the last response.
    pub elapsed_ns: u64,
    /// CPU time of all worker threads, without `spun_ns`.
    pub cpu_ns: u64,
    /// CPU time that the pacers spent on waiting for the next instant.
    pub spun_ns: u64,
    /// The highest share of its time that a worker thread worked on a CPU.
    pub busiest_cpu: f64,
    /// The highest share of its time that a worker thread was ready to run and had no CPU.
    pub starved: f64,
    /// The highest share of its time that a worker's event loop did not turn although it was due to.
    pub stalled: f64,
    /// The signal that cut the run short.
    pub interrupted: Option<Interrupt>,
}

/// Signals that end a run early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// SIGINT, Ctrl-C.
    Int,
    /// SIGTERM.
    Term,
}

impl Interrupt {
    /// The name of the signal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int => "SIGINT",
            Self::Term => "SIGTERM",
        }
    }

    /// The exit code of a program that ended because of this signal: 128 + its number.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Int => 130,
            Self::Term => 143,
        }
    }
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The host has no address.
    #[error("dns: '{host}' has no address: {cause}")]
    Resolve {
        /// The host of the URL.
        host: String,
        /// What the resolver said.
        cause: io::Error,
    },
    /// Not one connection could be opened.
    #[error("{}: no connection to {target} could be opened: {}", failure.class, failure.detail)]
    NoConnection {
        /// Host and port.
        target: String,
        /// Why the last attempt failed.
        failure: Failure,
    },
    /// A signal came before the first request.
    #[error("interrupted before the first request")]
    Interrupted(Interrupt),
    /// The operating system refused a thread, a timer or an event queue.
    #[error("cannot set up the run: {0}")]
    Setup(#[from] io::Error),
}

/// Executes `plan` and returns when all is answered or given up.
///
/// # Errors
/// If the run could not begin. What goes wrong later is part of the outcome.
pub fn execute(plan: Plan, progress: Progress) -> Result<Outcome, RunError> {
    let addresses = resolve(&plan)?;
    let shared = Arc::new(share(plan, addresses));
    let (phase, phase_seen) = watch::channel(Phase::Connect);
    let (connected, connected_seen) = mpsc::channel(shared.plan.threads.get());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let workers = spawn(&shared, &phase_seen, &connected)?;
    // The workers hold the only senders from here on: the channel closes when the last one ends.
    drop(connected);
    let line = ProgressLine::new(progress);
    let leader = Controller { shared: &shared, phase, line, interrupted: None, start_ns: None };
    let controlled = runtime.block_on(leader.control(connected_seen));
    let reports = join(workers);
    let (start_ns, interrupted) = controlled?;
    Ok(outcome(&shared, &reports?, start_ns, interrupted))
}

/// What all workers of a run share: nothing that changes per request.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) schedule: Schedule,
    pub(crate) job: Arc<Job>,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) live: Vec<LiveCell>,
}

/// What the controller tells the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Connect,
    Run { start_ns: u64 },
    Stop,
}

/// What a worker tells the controller when it has opened its connections.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) opened: usize,
    pub(crate) failure: Option<Failure>,
}

impl Shared {
    /// Opens one connection, one of those that `opening` permits at a time.
    pub(crate) async fn open(&self, opening: &Semaphore) -> Result<Link, Failure> {
        // The semaphore is never closed; without a permit the attempt just is not limited.
        let _permit = opening.acquire().await.ok();
        let to_head_request = self.plan.head.method == Method::HEAD;
        Link::open(&self.addresses, self.plan.timeout, to_head_request).await
    }
}

fn resolve(plan: &Plan) -> Result<Vec<SocketAddr>, RunError> {
    let error = |cause| RunError::Resolve { host: plan.target.host.clone(), cause };
    let addresses: Vec<_> =
        (plan.target.host.as_str(), plan.target.port).to_socket_addrs().map_err(error)?.collect();
    if addresses.is_empty() {
        return Err(error(io::ErrorKind::NotFound.into()));
    }
    Ok(addresses)
}

fn share(plan: Plan, addresses: Vec<SocketAddr>) -> Shared {
    let body = plan.body.clone();
    let template = RequestTemplate::new(&plan.head, &body.sizes());
    Shared {
        schedule: plan.schedule(),
        job: Arc::new(Job { template, body, check: plan.check }),
        addresses,
        live: (0..plan.threads.get()).map(|_| LiveCell::default()).collect(),
        plan,
    }
}

type WorkerThread = JoinHandle<io::Result<WorkerReport>>;

fn spawn(
    shared: &Arc<Shared>,
    phase: &watch::Receiver<Phase>,
    connected: &mpsc::Sender<Connected>,
) -> io::Result<Vec<WorkerThread>> {
    (0..shared.plan.threads.get())
        .map(|index| {
            let (shared, phase, connected) = (Arc::clone(shared), phase.clone(), connected.clone());
            std::thread::Builder::new()
                .name(format!("loadgen-{index}"))
                .spawn(move || worker::run(&shared, index, phase, &connected))
        })
        .collect()
}

fn join(workers: Vec<WorkerThread>) -> io::Result<Vec<WorkerReport>> {
    workers
        .into_iter()
        .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        .collect()
}

/// Leads the workers through a run.
struct Controller<'a> {
    shared: &'a Shared,
    phase: watch::Sender<Phase>,
    line: ProgressLine,
    interrupted: Option<Interrupt>,
    start_ns: Option<u64>,
}

impl Controller<'_> {
    /// Starts the run when all workers are connected, shows its progress, stops it on a signal, and returns
    /// its start when the last worker is done.
    async fn control(
        mut self,
        mut connected: mpsc::Receiver<Connected>,
    ) -> Result<(u64, Option<Interrupt>), RunError> {
        let mut sigint = signal(SignalKind::interrupt())?;
        let mut sigterm = signal(SignalKind::terminate())?;
        let mut progress = tokio::time::interval(PROGRESS_INTERVAL);
        let mut arrived = Vec::new();
        loop {
            tokio::select! {
                news = connected.recv() => match news {
                    // Each worker holds its sender until it ends.
                    None => break,
                    Some(news) => {
                        arrived.push(news);
                        if arrived.len() == self.shared.plan.threads.get() {
                            self.start(&mut arrived)?;
                            progress.reset();
                        }
                    }
                },
                Some(()) = sigint.recv() => self.interrupt(Interrupt::Int),
                Some(()) = sigterm.recv() => self.interrupt(Interrupt::Term),
                _ = progress.tick() => self.show(),
            }
        }
        self.line.clear();
        match (self.start_ns, self.interrupted) {
            (Some(start_ns), interrupted) => Ok((start_ns, interrupted)),
            (None, Some(interrupt)) => Err(RunError::Interrupted(interrupt)),
            (None, None) => Err(RunError::Setup(io::Error::other("the workers ended before the start"))),
        }
    }

    /// Sets the common start, unless there is nobody to talk to.
    fn start(&mut self, arrived: &mut Vec<Connected>) -> Result<(), RunError> {
        let opened: usize = arrived.iter().map(|connected| connected.opened).sum();
        let failure = arrived.drain(..).find_map(|connected| connected.failure);
        if self.interrupted.is_some() {
            return Ok(());
        }
        if let (0, Some(failure)) = (opened, failure) {
            self.phase.send_replace(Phase::Stop);
            let target = format!("{}:{}", self.shared.plan.target.host, self.shared.plan.target.port);
            return Err(RunError::NoConnection { target, failure });
        }
        let start_ns = monotonic_ns() + START_MARGIN_NS;
        self.start_ns = Some(start_ns);
        self.phase.send_replace(Phase::Run { start_ns });
        Ok(())
    }

    fn interrupt(&mut self, interrupt: Interrupt) {
        self.interrupted = self.interrupted.or(Some(interrupt));
        self.phase.send_replace(Phase::Stop);
    }

    fn show(&mut self) {
        if let Some(start_ns) = self.start_ns {
            let at = Duration::from_nanos(monotonic_ns().saturating_sub(start_ns));
            self.line.show(at, Snapshot::sum(&self.shared.live));
        }
    }
}

fn outcome(
    shared: &Shared,
    reports: &[WorkerReport],
    start_ns: u64,
    interrupted: Option<Interrupt>,
) -> Outcome {
    let highest = |part: fn(&WorkerReport) -> u64| {
        let fraction = |report: &WorkerReport| part(report) as f64 / report.wall_ns.max(1) as f64;
        reports.iter().map(fraction).fold(0.0, f64::max)
    };
    let end_ns = end_ns(shared, reports, start_ns, interrupted);
    let mut record = Record::new();
    for report in reports {
        record.merge(&report.record);
    }
    Outcome {
        plan: shared.plan.clone(),
        record,
        elapsed_ns: end_ns.saturating_sub(start_ns + shared.plan.warmup_ns()),
        cpu_ns: reports.iter().map(|report| report.cpu_ns).sum(),
        spun_ns: reports.iter().map(|report| report.spun_ns).sum(),
        busiest_cpu: highest(|report| report.cpu_ns),
        starved: highest(|report| report.waited_ns),
        stalled: highest(|report| report.stalled_ns),
        interrupted,
    }
}

/// The end of the measured time: when the schedule ended or, if later, the last response was complete.
fn end_ns(shared: &Shared, reports: &[WorkerReport], start_ns: u64, interrupted: Option<Interrupt>) -> u64 {
    let last_finished_ns = reports.iter().map(|report| report.last_finished_ns).max().unwrap_or(0);
    if interrupted.is_some() {
        let wall_ns = reports.iter().map(|report| report.wall_ns).max().unwrap_or(0);
        return start_ns + wall_ns;
    }
    let gap_ns = shared.plan.rate().map_or(0, |rate| NANOS_PER_SECOND / rate);
    let scheduled_ns = shared.schedule.last_due_ns().map_or(0, |last| start_ns + last + gap_ns);
    last_finished_ns.max(scheduled_ns)
}
