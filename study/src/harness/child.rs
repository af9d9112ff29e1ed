//! Without children that are this program, a result would depend on which binaries happened to lie about.
//!
//! What a child is to be stands in its environment and not in its arguments: a server that restarts itself starts its
//! program again with the arguments it got, and its successor inherits the environment.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitCode, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use loadgen::demo::server::pin;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process_group, set_child_subreaper, waitpgid};

use tokio::signal::unix::{SignalKind, signal};

use crate::hostile;

const ROLE: &str = "STUDY_ROLE";
const CORES: &str = "STUDY_CORES";

/// Between two looks at whether a child has ended.
const LOOK: Duration = Duration::from_millis(2);

/// What a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The echo server.
    Server,
    /// The load generator.
    Load,
    /// Hostile clients.
    Hostile,
}

impl Role {
    const ALL: [Self; 3] = [Self::Server, Self::Load, Self::Hostile];

    fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Load => "load",
            Self::Hostile => "hostile",
        }
    }
}

/// Children that are alive, by their process groups.
static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// From now on SIGTERM and SIGINT end the children before they end this process; they are in groups of their own, which
/// a signal for ours does not reach.
///
/// # Errors
/// If the signals cannot be watched.
pub fn end_with_children() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt) = runtime.block_on(async {
        io::Result::Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    })?;
    let watch = move || {
        let code = runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => 143,
                _ = interrupt.recv() => 130,
            }
        });
        for group in GROUPS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            kill_process_group(*group, Signal::KILL).unwrap_or_default();
        }
        #[expect(clippy::exit, reason = "the experiment is in the middle of something on another thread")]
        std::process::exit(code);
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(watch)?;
    Ok(())
}

/// Plays the role that the environment gives to this process, if it gives one.
pub fn play(args: &[OsString]) -> Option<ExitCode> {
    let named = std::env::var(ROLE).ok()?;
    let role = Role::ALL.into_iter().find(|role| role.name() == named)?;
    Some(match prepare() {
        Err(error) => {
            writeln!(io::stderr(), "study {named}: {error:#}").unwrap_or_default();
            ExitCode::FAILURE
        }
        Ok(()) => match role {
            Role::Server => echo_server::cli(args.iter().cloned()),
            Role::Load => loadgen::program::main(args),
            Role::Hostile => hostile::main(args),
        },
    })
}

/// Takes the cores that the environment says.
fn prepare() -> anyhow::Result<()> {
    if let Ok(cores) = std::env::var(CORES) {
        let cores: Result<Vec<usize>, _> =
            cores.split(',').filter(|core| !core.is_empty()).map(str::parse).collect();
        pin(&cores.context(CORES)?)?;
    }
    Ok(())
}

/// A child and whatever it starts in its turn; all of it is killed when the value is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    group: Pid,
}

impl Process {
    /// Starts this program as `role` with `args` on `cores`. Its standard input and output are pipes.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(role: Role, args: &[String], cores: &[usize]) -> anyhow::Result<Self> {
        // What a child starts and leaves behind is then ours to wait for.
        set_child_subreaper(Some(getpid())).context("cannot become the parent of orphans")?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let cores: Vec<_> = cores.iter().map(ToString::to_string).collect();
        let mut command = Command::new(program);
        command
            .args(args)
            .env(ROLE, role.name())
            .env(CORES, cores.join(","))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start the {}", role.name()))?;
        let group = Pid::from_child(&child);
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).push(group);
        Ok(Self { child, group })
    }

    /// The pipes and the id of the child itself.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The process id of the child itself.
    pub fn pid(&self) -> Pid {
        self.group
    }

    /// Waits until process `pid` of the group has ended, and returns its exit code (128 + N for signal N). Processes that
    /// the child started are among those that can be waited for, once their parent has ended.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub fn wait(&mut self, pid: Pid, limit: Duration) -> anyhow::Result<i32> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some((ended, status)) = waitpgid(self.group, WaitOptions::NOHANG).context("waiting")?
                && ended == pid
            {
                let code =
                    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
                return Ok(code.unwrap_or(-1));
            }
            if Instant::now() >= deadline {
                anyhow::bail!("process {pid} has not ended within {limit:?}");
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only where nothing of the group is left, which is what is wanted.
        kill_process_group(self.group, Signal::KILL).unwrap_or_default();
        while let Ok(Some(_)) = waitpgid(self.group, WaitOptions::empty()) {}
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).retain(|group| *group != self.group);
    }
}
