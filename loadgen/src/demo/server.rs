//! Without a server in a process of its own, generator and server would share threads and neither be believed.
//!
//! The embedded echo server as a child process: started, read, asked to drain, and reaped whatever happens.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdout, Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
    thread::{CpuSet, sched_setaffinity},
};

use crate::cli::ServeArgs;

/// The server binds and says so within this time, or something is wrong.
const START_MAX: Duration = Duration::from_secs(10);

/// A drain without load takes milliseconds; the server's own deadline is below this.
const DRAIN_MAX: Duration = Duration::from_secs(15);

/// Lines of output that wait to be read; more than a server prints between two reads.
const LINES_MAX: usize = 256;

/// The hidden subcommand `serve`: the echo server, on some of the cores.
///
/// # Errors
/// If the cores do not exist.
pub fn serve(args: ServeArgs) -> anyhow::Result<ExitCode> {
    pin(&args.cores)?;
    Ok(echo_server::cli([OsString::from("echo-server")].into_iter().chain(args.server)))
}

/// Keeps the calling thread, and the threads and children that it starts from now on, on `cores`; on any if there are none.
///
/// # Errors
/// If one of the cores does not exist or may not be used.
pub fn pin(cores: &[usize]) -> anyhow::Result<()> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on cores {cores:?}"))
}

/// The lines that a child prints, read by a thread of their own: a full pipe would stop the child.
///
/// # Errors
/// If there is no thread to be had.
pub fn lines_of(stdout: ChildStdout) -> std::io::Result<Receiver<String>> {
    let (line, lines) = sync_channel(LINES_MAX);
    std::thread::Builder::new().name("server-output".to_owned()).spawn(move || {
        // Ends with the last process that holds the pipe, or when nobody listens any more.
        for text in BufReader::new(stdout).lines().map_while(Result::ok) {
            if line.send(text).is_err() {
                break;
            }
        }
    })?;
    Ok(lines)
}

/// User and system time in `/proc/PID/stat`; the name in parentheses may contain anything (proc(5)).
pub fn cpu_time(stat: &str) -> Option<Duration> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second()))
}

/// A running echo server.
#[derive(Debug)]
pub struct Server {
    process: Process,
    /// What it prints.
    lines: Receiver<String>,
    /// Where it echoes.
    pub data: SocketAddr,
    /// Where it answers for itself.
    pub admin: SocketAddr,
}

impl Server {
    /// Starts this program's own `serve` on `cores` (all if empty) and waits until it listens.
    ///
    /// # Errors
    /// If it cannot be started or does not say where it listens.
    pub fn start(cores: &[usize]) -> anyhow::Result<Self> {
        let mut process = Process::spawn(cores)?;
        let stdout = process.0.stdout.take().context("the server has no stdout")?;
        let lines = lines_of(stdout)?;
        let deadline = Instant::now() + START_MAX;
        let data = address(&lines, deadline, "listening on http://")?;
        let admin = address(&lines, deadline, "admin on http://")?;
        Ok(Self { process, lines, data, admin })
    }

    /// CPU time that the server has used so far, in the kernel's ticks of 10 ms.
    pub fn cpu_time(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.0.id())).ok()?;
        cpu_time(&stat)
    }

    /// Asks the server to drain, waits for its end, and returns its last words and its exit status.
    ///
    /// # Errors
    /// If it does not end in time; then it is killed.
    pub fn drain(mut self) -> anyhow::Result<(Vec<String>, ExitStatus)> {
        kill_process(self.process.pid(), Signal::TERM).context("cannot reach the server")?;
        if !self.process.ends_within(DRAIN_MAX)? {
            bail!("the server did not drain within {DRAIN_MAX:?}");
        }
        let status = self.process.0.wait()?;
        // The process is gone, so its pipe ends and the reader closes the channel.
        Ok((self.lines.iter().collect(), status))
    }
}

/// A child that is killed and reaped when it is dropped, so that no error leaves it behind.
#[derive(Debug)]
struct Process(Child);

impl Process {
    fn spawn(cores: &[usize]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.arg("serve");
        if !cores.is_empty() {
            let cores: Vec<_> = cores.iter().map(ToString::to_string).collect();
            command.arg("--cores").arg(cores.join(","));
        }
        command
            .args(["--", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--lame-duck", "0s", "--log", "warn"])
            // Looks for the capacity, which a server that sheds where something else takes the cores would hide.
            .args(["--busy-max", "0s"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Ctrl-C is for the generator alone, which lets the server drain afterwards.
            .process_group(0);
        Ok(Self(command.spawn().context("cannot start the server")?))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    /// Waits for the end of the process; false if it still runs after `limit`.
    fn ends_within(&self, limit: Duration) -> anyhow::Result<bool> {
        let process = pidfd_open(self.pid(), PidfdFlags::empty())?;
        let limit = Timespec::try_from(limit)?;
        let mut ready = [PollFd::new(&process, PollFlags::IN)];
        Ok(poll(&mut ready, Some(&limit))? > 0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that is gone and reaped already, which is what is wanted.
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

/// The address behind `prefix` in the next line, but for those of other listeners (TLS, Unix).
fn address(lines: &Receiver<String>, deadline: Instant, prefix: &str) -> anyhow::Result<SocketAddr> {
    let line = loop {
        let wait = deadline.saturating_duration_since(Instant::now());
        let line =
            lines.recv_timeout(wait).with_context(|| format!("the server did not say '{prefix}...'"))?;
        if line.starts_with(prefix) || !line.starts_with("listening on ") {
            break line;
        }
    };
    let address = line.strip_prefix(prefix).and_then(|address| address.parse().ok());
    address.with_context(|| format!("the server said '{line}' instead of '{prefix}...'"))
}
