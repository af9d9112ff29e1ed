//! The process that is to replace this one: started, waited for, and removed without a trace where it does not get ready.

use std::{
    env,
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    net::UnixDatagram,
    time::{sleep, timeout},
};

use super::{
    handover::{self, PREDECESSOR},
    sockets::Sockets,
};
use crate::telemetry::metrics::Restart;

/// How long a process that is asked to end may take before it is made to.
const END_MAX: Duration = Duration::from_secs(2);

/// Between looks at whether it has ended.
const END_LOOK: Duration = Duration::from_millis(5);

/// What was started as this process.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// `arguments` with the program's name first, as it was given them. To be called at the start: once the file has been
    /// replaced, the kernel only knows the path of the old one.
    pub(crate) fn of_this_process(arguments: &[OsString]) -> Self {
        let (name, rest) = arguments.split_first().map_or((None, &[][..]), |(name, rest)| (Some(name), rest));
        // As it was called, so that a link that is set to another version leads there.
        let as_called = name.map(Path::new).filter(|path| path.components().count() > 1 && path.exists());
        let path = as_called.map_or_else(|| env::current_exe().unwrap_or_default(), Path::to_owned);
        Self { path, arguments: rest.to_vec() }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// Why a new process has not taken over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("cannot start it: {0}")]
    Start(#[from] io::Error),
    #[error("it ended before it was ready: {0}")]
    Ended(ExitStatus),
    #[error("it was not ready within {} (--restart-timeout)", humantime::format_duration(*.0))]
    Silent(Duration),
}

/// A new process that has not taken over yet. Asked to end when it is dropped.
#[derive(Debug)]
pub(super) struct Successor {
    child: Child,
    channel: UnixDatagram,
    is_unwanted: bool,
}

impl Successor {
    /// Starts `program` with `sockets`, in this process's environment.
    pub(super) fn start(
        program: &Program,
        sockets: &Sockets,
        restarts: [u64; Restart::ALL.len()],
    ) -> io::Result<Self> {
        let (ours, theirs) = handover::channel()?;
        // The kernel keeps it until the new process reads it.
        handover::offer(&ours, sockets, restarts)?;
        let child = Command::new(&program.path)
            .args(&program.arguments)
            .stdin(Stdio::from(theirs))
            .env(PREDECESSOR, std::process::id().to_string())
            // They are about this process.
            .env_remove("LISTEN_FDNAMES")
            .env_remove("WATCHDOG_PID")
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
        Ok(Self { child, channel: handover::nonblocking(ours)?, is_unwanted: true })
    }

    /// Waits until it is ready and lets it go on alone; returns its process id.
    pub(super) async fn take_over(mut self, limit: Duration) -> Result<u32, Failure> {
        let process = self.child.id();
        match timeout(limit, handover::hear_ready(&self.channel)).await {
            Ok(Ok(true)) => {
                self.is_unwanted = false;
                // Before it speaks to the service manager, which listens to the main process only.
                super::systemd::main_process(process);
                handover::say_go(&self.channel);
                Ok(process)
            }
            Ok(Ok(false)) => Err(Failure::Ended(self.end().await?)),
            Ok(Err(error)) => {
                self.end().await?;
                Err(error.into())
            }
            Err(_elapsed) => {
                self.end().await?;
                Err(Failure::Silent(limit))
            }
        }
    }

    /// Has it end, one way or another.
    async fn end(&mut self) -> io::Result<ExitStatus> {
        self.is_unwanted = false;
        let ended = async {
            loop {
                match self.child.try_wait() {
                    Ok(None) => sleep(END_LOOK).await,
                    Ok(Some(status)) => return Ok(status),
                    Err(error) => return Err(error),
                }
            }
        };
        // One that is ending by itself keeps its exit code.
        if let Ok(status) = timeout(END_LOOK * 20, ended).await {
            return status;
        }
        self.ask_to_end();
        let began = tokio::time::Instant::now();
        while began.elapsed() < END_MAX {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            sleep(END_LOOK).await;
        }
        self.child.kill()?;
        // The kernel ends it now, whatever it does.
        self.child.wait()
    }

    fn ask_to_end(&self) {
        let _gone_already = kill_process(Pid::from_child(&self.child), Signal::TERM);
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if self.is_unwanted {
            // It may serve already: like us it finishes what it has.
            self.ask_to_end();
        }
    }
}
