//! Without one controller for all workers, they would neither start at the same instant nor stop on a signal.

use std::{
    io::{self, IsTerminal as _},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    addresses::Addresses,
    board::Board,
    clock::monotonic_ns,
    course::WINDOWS,
    engine::Job,
    failure::Failure,
    live::{Progress, ProgressLine},
    plan::Plan,
    record::Record,
    schedule::Schedule,
    worker::{self, WorkerReport},
};

/// Time between the decision to start and the start, enough to reach every worker.
const START_MARGIN_NS: u64 = 5_000_000;

/// Time between two progress lines.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The same where the lines of an endless run pile up in a log.
const PROGRESS_INTERVAL_LOGGED: Duration = Duration::from_secs(10);

/// Time between two lines that say what an endless run waits for.
const WAITING_INTERVAL: Duration = Duration::from_secs(3);

/// How long an endless run waits for a connection: an address that is gone does not answer, and the name may have got
/// another one meanwhile.
const ENDLESS_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// First length of the windows of a run whose length is not known.
const WINDOW_NS: u64 = 100_000_000;

/// A run as it went.
#[derive(Debug)]
pub struct Outcome {
    /// What was to be done.
    pub plan: Plan,
    /// What happened to each request.
    pub record: Record,
    /// Measured time: from the end of the warm-up to the end of the schedule or the last response.
    pub elapsed_ns: u64,
    /// Requests per second that were due, on average; `None` in closed loop.
    pub offered_rate: Option<f64>,
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
    /// The signal that ended the run.
    pub interrupted: Option<Interrupt>,
}

impl Outcome {
    /// The signal that cut the run short; an endless run is whole when a signal ends it.
    pub fn cut_short_by(&self) -> Option<Interrupt> {
        self.interrupted.filter(|_| !self.plan.is_endless())
    }
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
    let board = Arc::new(Board::new(&plan));
    execute_on(plan, progress, board)
}

/// The same, seen by others on `board`, which has been made for this plan.
///
/// # Errors
/// If the run could not begin.
pub fn execute_on(plan: Plan, progress: Progress, board: Arc<Board>) -> Result<Outcome, RunError> {
    let shared = Arc::new(Shared::new(plan, board));
    if !shared.endless && shared.plan.unix.is_none() {
        shared.addresses.ask_now().map_err(|cause| {
            let host = shared.plan.target.host.clone();
            RunError::Resolve { host, cause }
        })?;
    }
    let (phase, phase_seen) = watch::channel(Phase::Connect);
    let (news, news_seen) = mpsc::channel(shared.plan.threads.get());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let workers = spawn(&shared, &phase_seen, &news)?;
    // The workers hold the only senders from here on: the channel closes when the last one ends.
    drop(news);
    let line = ProgressLine::new(progress);
    let leader =
        Controller { shared: &shared, phase, line, interrupted: None, start_ns: None, waiting_said: None };
    let controlled = runtime.block_on(leader.control(news_seen));
    let reports = join(workers);
    shared.board.stopped();
    let (start_ns, interrupted) = controlled?;
    Ok(outcome(&shared, &reports?, start_ns, interrupted))
}

/// What all workers of a run share: nothing that changes per request.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) schedule: Schedule,
    pub(crate) job: Arc<Job>,
    pub(crate) board: Arc<Board>,
    /// True if only a signal ends the run.
    pub(crate) endless: bool,
    pub(crate) addresses: Addresses,
}

/// What the controller tells the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Connect,
    Run { start_ns: u64 },
    Stop,
}

/// What a worker tells the controller before the start.
#[derive(Debug)]
pub(crate) enum News {
    /// All its connections have been tried, and so many are open.
    Connected { opened: usize, failure: Option<Failure> },
    /// Nobody is there yet, and it goes on trying.
    Waiting(Failure),
}

impl Shared {
    fn new(plan: Plan, board: Arc<Board>) -> Self {
        let schedule = plan.schedule();
        Self {
            endless: schedule.is_endless(),
            schedule,
            job: Arc::new(plan.job()),
            addresses: Addresses::new(&plan.target),
            board,
            plan,
        }
    }

    /// An empty record for one worker.
    pub(crate) fn record(&self) -> Record {
        let measured_ns =
            self.schedule.last_due_ns().map(|last| last.saturating_sub(self.plan.warmup_ns()) + 1);
        Record::new(measured_ns.map_or(WINDOW_NS, |measured_ns| measured_ns.div_ceil(WINDOWS as u64)))
    }

    /// How long opening one connection may take.
    pub(crate) fn connect_timeout(&self) -> Duration {
        if self.endless { self.plan.timeout.min(ENDLESS_CONNECT_TIMEOUT) } else { self.plan.timeout }
    }
}

type WorkerThread = JoinHandle<io::Result<WorkerReport>>;

fn spawn(
    shared: &Arc<Shared>,
    phase: &watch::Receiver<Phase>,
    news: &mpsc::Sender<News>,
) -> io::Result<Vec<WorkerThread>> {
    (0..shared.plan.threads.get())
        .map(|index| {
            let (shared, phase, news) = (Arc::clone(shared), phase.clone(), news.clone());
            std::thread::Builder::new()
                .name(format!("loadgen-{index}"))
                .spawn(move || worker::run(&shared, index, phase, &news))
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
    /// When it was last said what the run waits for.
    waiting_said: Option<Instant>,
}

impl Controller<'_> {
    /// Starts the run when all workers are connected, shows its progress, stops it on a signal, and returns
    /// its start when the last worker is done.
    async fn control(mut self, mut news: mpsc::Receiver<News>) -> Result<(u64, Option<Interrupt>), RunError> {
        let mut sigint = signal(SignalKind::interrupt())?;
        let mut sigterm = signal(SignalKind::terminate())?;
        let mut progress = tokio::time::interval(self.progress_interval());
        let (mut arrived, mut opened, mut failure) = (0, 0, None);
        loop {
            tokio::select! {
                news = news.recv() => match news {
                    // Each worker holds its sender until it ends.
                    None => break,
                    Some(News::Waiting(failure)) => self.say_waiting(&failure),
                    Some(News::Connected { opened: more, failure: last }) => {
                        (arrived, opened, failure) = (arrived + 1, opened + more, failure.or(last));
                        if arrived == self.shared.plan.threads.get() {
                            self.start(opened, failure.take())?;
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
    fn start(&mut self, opened: usize, failure: Option<Failure>) -> Result<(), RunError> {
        if self.interrupted.is_some() {
            return Ok(());
        }
        if let (0, Some(failure)) = (opened, failure) {
            self.phase.send_replace(Phase::Stop);
            return Err(RunError::NoConnection { target: self.target(), failure });
        }
        let start_ns = monotonic_ns() + START_MARGIN_NS;
        self.start_ns = Some(start_ns);
        self.shared.board.started(start_ns);
        self.phase.send_replace(Phase::Run { start_ns });
        Ok(())
    }

    fn interrupt(&mut self, interrupt: Interrupt) {
        self.interrupted = self.interrupted.or(Some(interrupt));
        self.shared.board.stopped();
        self.phase.send_replace(Phase::Stop);
    }

    /// Says now and then why nothing happens.
    fn say_waiting(&mut self, failure: &Failure) {
        if self.waiting_said.is_none_or(|said| said.elapsed() >= WAITING_INTERVAL) {
            self.waiting_said = Some(Instant::now());
            self.line.say(&format!("waiting for {}: {}", self.target(), failure.detail));
        }
    }

    fn target(&self) -> String {
        match &self.shared.plan.unix {
            Some(path) => path.display().to_string(),
            None => format!("{}:{}", self.shared.plan.target.host, self.shared.plan.target.port),
        }
    }

    fn progress_interval(&self) -> Duration {
        let piles_up = self.shared.endless && !io::stderr().is_terminal();
        if piles_up { PROGRESS_INTERVAL_LOGGED } else { PROGRESS_INTERVAL }
    }

    fn show(&mut self) {
        if let Some(start_ns) = self.start_ns {
            let at = Duration::from_nanos(monotonic_ns().saturating_sub(start_ns));
            self.line.show(at, self.shared.board.sum());
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
    let mut record = shared.record();
    for report in reports {
        record.merge(&report.record);
    }
    Outcome {
        plan: shared.plan.clone(),
        record,
        elapsed_ns: end_ns.saturating_sub(start_ns + shared.plan.warmup_ns()),
        offered_rate: shared.schedule.mean_rate(end_ns.saturating_sub(start_ns)),
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
    last_finished_ns.max(shared.schedule.end_ns().map_or(0, |end| start_ns + end))
}
