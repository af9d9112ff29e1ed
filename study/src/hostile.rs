//! Without hostile clients in numbers, every server looks as if it could take them.
//!
//! A child process of its own, because a process may have 20,000 descriptors and each client needs one. One task per
//! client; [`crate::harness::server::Server`] is told of nothing. The parent asks for the tally by a line on standard
//! input and ends the child by closing it.

mod fleet;
mod flood;
mod http1;
mod http2;
mod tally;

use std::{
    ffi::OsString,
    io::{self, BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{ChildStdin, ChildStdout, ExitCode},
    time::{Duration, Instant},
};

use anyhow::Context as _;

pub use self::{fleet::Kind, tally::Count};
use crate::harness::child::{Process, Role};

/// The time for all of them to attach; a server that lets nobody in is a result, too.
const ATTACH_MAX: Duration = Duration::from_mins(1);

/// Between two looks at how many have attached.
const LOOK: Duration = Duration::from_millis(50);

/// The time for the child to end.
const END_MAX: Duration = Duration::from_secs(20);

/// Hostile clients of one kind.
#[derive(Debug)]
pub struct Hostile {
    process: Process,
    ask: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Hostile {
    /// Starts `count` clients of `kind` that attack `target`, and waits until they are where they want to be, or until
    /// that gets nowhere any more.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn attach(kind: Kind, target: SocketAddr, count: u32, cores: &[usize]) -> anyhow::Result<Self> {
        let mut hostile = Self::start(kind, target, count, cores)?;
        let deadline = Instant::now() + ATTACH_MAX;
        loop {
            let now = hostile.count()?;
            if now.attached + now.failed >= u64::from(count) || Instant::now() >= deadline {
                return Ok(hostile);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Starts them and does not wait.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn start(kind: Kind, target: SocketAddr, count: u32, cores: &[usize]) -> anyhow::Result<Self> {
        let args = [kind.name().to_owned(), target.to_string(), count.to_string()];
        let mut process = Process::start(Role::Hostile, &args, cores)?;
        let child = process.child();
        let ask = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("the hostile clients have no stdout")?);
        Ok(Self { process, ask, answers })
    }

    /// How they are doing.
    ///
    /// # Errors
    /// If their process is gone.
    pub fn count(&mut self) -> anyhow::Result<Count> {
        if let Some(ask) = &mut self.ask {
            writeln!(ask).context("the hostile clients are gone")?;
        }
        self.answer()
    }

    /// Ends them; their connections are closed by the kernel.
    ///
    /// # Errors
    /// If their process does not end.
    pub fn end(mut self) -> anyhow::Result<Count> {
        drop(self.ask.take());
        let count = self.answer()?;
        let pid = self.process.pid();
        self.process.wait(pid, END_MAX).context("the hostile clients")?;
        Ok(count)
    }

    fn answer(&mut self) -> anyhow::Result<Count> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("the hostile clients do not answer")?;
        serde_json::from_str(&line).with_context(|| format!("the hostile clients said '{}'", line.trim()))
    }
}

/// What the child does: `KIND TARGET COUNT`.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    match attack(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "study hostile: {error:#}").unwrap_or_default();
            ExitCode::FAILURE
        }
    }
}

fn attack(args: &[OsString]) -> anyhow::Result<()> {
    let text = |at: usize| args.get(at).and_then(|arg| arg.to_str()).unwrap_or_default();
    let kind = Kind::named(text(1)).with_context(|| format!("there is no kind '{}'", text(1)))?;
    let target: SocketAddr = text(2).parse().context("the target")?;
    let count: u32 = text(3).parse().context("the number of clients")?;
    loadgen::fd_limit::make_room(count as usize, 1)?;
    // Load on the same core comes first: what is measured is the server.
    rustix::process::nice(19).context("nice")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(fleet::run(kind, target, count))
}
