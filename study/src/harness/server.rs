//! Without the server in a process of its own, its memory and its CPU time would be those of the experiment.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use loadgen::demo::server::lines_of;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use super::{
    child::{Process, Role},
    metrics::Metrics,
    process::{Usage, members},
};

/// A server binds and says so within this time, or something is wrong.
const START_MAX: Duration = Duration::from_secs(20);

/// A drain ends within this time: the server's own deadlines are below it.
const END_MAX: Duration = Duration::from_mins(1);

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Spec {
    flags: Vec<String>,
    cores: Vec<usize>,
    has_tls: bool,
}

impl Spec {
    /// A server with its defaults on `cores`, one worker for each; it listens where the kernel chooses.
    pub fn new(cores: &[usize]) -> Self {
        Self::with_workers(cores, cores.len().max(1))
    }

    /// As [`Self::new`], with so many workers.
    pub fn with_workers(cores: &[usize], workers: usize) -> Self {
        let spec = Self { flags: Vec::new(), cores: cores.to_vec(), has_tls: false };
        spec.with(&["--admin", "127.0.0.1:0", "--log", "error", "--workers", &workers.to_string()])
    }

    /// Adds flags of the server.
    #[must_use]
    pub fn with(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(ToString::to_string));
        self
    }

    /// With a TLS listener and a certificate made at the start.
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        self.has_tls = true;
        self.with(&["--listen-tls", "127.0.0.1:0", "--tls-dev-cert", "on"])
    }
}

/// A running server, which may be replaced by its successors.
#[derive(Debug)]
pub struct Server {
    process: Process,
    lines: Receiver<String>,
    current: Pid,
    /// Where it echoes.
    pub http: SocketAddr,
    /// Where it echoes over TLS.
    pub https: Option<SocketAddr>,
    /// Where it answers for itself.
    pub admin: SocketAddr,
}

impl Server {
    /// Starts a server and waits until it listens.
    ///
    /// # Errors
    /// If it does not say where it listens.
    pub fn start(spec: &Spec) -> anyhow::Result<Self> {
        Self::start_at(spec, "127.0.0.1:0")
    }

    /// The same at an address that is given.
    ///
    /// # Errors
    /// If it does not say where it listens.
    pub fn start_at(spec: &Spec, listen: &str) -> anyhow::Result<Self> {
        let flags = [&spec.flags, ["--listen".to_owned(), listen.to_owned()].as_slice()].concat();
        let mut process = Process::start(Role::Server, &flags, &spec.cores)?;
        let stdout = process.child().stdout.take().context("the server has no stdout")?;
        let lines = lines_of(stdout)?;
        let announced = Announced::read(&lines, spec.has_tls)?;
        let current = process.pid();
        Ok(Self {
            process,
            lines,
            current,
            http: announced.http,
            https: announced.https,
            admin: announced.admin,
        })
    }

    /// Takes descriptors away from it, which it cannot have foreseen at its start.
    ///
    /// # Errors
    /// If it is gone.
    pub fn limit_fds(&self, fds_max: u64) -> anyhow::Result<()> {
        let limit = Rlimit { current: Some(fds_max), maximum: Some(fds_max) };
        prlimit(Some(self.current), Resource::Nofile, limit).map(drop).context("cannot limit the server")
    }

    /// What the process uses now.
    ///
    /// # Errors
    /// If it is gone.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.current)
    }

    /// What it counts now.
    ///
    /// # Errors
    /// If its admin listener does not answer.
    pub fn metrics(&self) -> anyhow::Result<Metrics> {
        Metrics::scrape(self.admin)
    }

    /// Has it replace itself (SIGUSR2), and waits until the old process has ended.
    ///
    /// # Errors
    /// If no successor announces itself, or the old process does not end with 0.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let old = self.current;
        kill_process(old, Signal::USR2).context("the server is gone")?;
        let announced = Announced::read(&self.lines, self.https.is_some()).context("no successor came")?;
        ensure!(announced.http == self.http, "the successor listens on {}", announced.http);
        self.admin = announced.admin;
        let code = self.process.wait(old, END_MAX).context("the old server")?;
        ensure!(code == 0, "the old server ended with {code}");
        let alive = members(self.process.pid());
        match alive.as_slice() {
            [successor] => self.current = *successor,
            others => bail!("{} processes of the server are alive after a restart", others.len()),
        }
        Ok(())
    }

    /// Has it drain (SIGTERM) and waits for its end; returns its exit code and its last words.
    ///
    /// # Errors
    /// If it does not end.
    pub fn drain(mut self) -> anyhow::Result<(i32, String)> {
        kill_process(self.current, Signal::TERM).context("the server is gone")?;
        let code = self.process.wait(self.current, END_MAX).context("the server")?;
        Ok((code, self.lines.try_iter().collect::<Vec<_>>().join("\n")))
    }
}

/// What a server says when it listens.
struct Announced {
    http: SocketAddr,
    https: Option<SocketAddr>,
    admin: SocketAddr,
}

impl Announced {
    /// Reads until the last of the addresses is known; a drain report of a predecessor may stand between them.
    fn read(lines: &Receiver<String>, has_tls: bool) -> anyhow::Result<Self> {
        let deadline = Instant::now() + START_MAX;
        let (mut http, mut https, mut admin) = (None, None, None);
        let mut said = VecDeque::new();
        loop {
            if let (Some(http), Some(admin), true) = (http, admin, https.is_some() || !has_tls) {
                return Ok(Self { http, https, admin });
            }
            let wait = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = lines.recv_timeout(wait) else {
                bail!("the server did not say where it listens, only {said:?}");
            };
            for (prefix, address) in [
                ("listening on http://", &mut http),
                ("listening on https://", &mut https),
                ("admin on http://", &mut admin),
            ] {
                if let Some(text) = line.strip_prefix(prefix) {
                    *address = Some(text.trim().parse().with_context(|| line.clone())?);
                }
            }
            said.push_back(line);
        }
    }
}
