//! Every limit and timeout, with unit, range, default and reason: without it the limits are a library's, and nobody
//! knows them.
//!
//! [`SETTINGS`] is the one table. Flags, environment twins, file keys, `--print-config`, the help text and the table
//! in LIMITS.md, which is also the documentation of [`Config`], all come from it. Precedence: flag > `ECHO_*` environment > `--config FILE` > default.

mod parse;
mod table;

use std::{fmt, net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use http::Uri;

pub(crate) use self::parse::{Invocation, invocation, unknown_env};
pub use self::{
    parse::ConfigError,
    table::{Kind, SETTINGS, Setting, limits_table},
};

/// Descriptors of the process itself, about 20 when idle (standard streams, listeners, epoll and event fds, signal
/// pipes, the reserve of each accept loop), and admin connections.
const FDS_FOR_THE_PROCESS: usize = 32;

/// Descriptors that each worker thread may need beside its connections (epoll, event fd, listener, reserve).
const FDS_PER_WORKER: usize = 4;

/// Clients over the connection limit that are told so at any one moment, where descriptors are not scarce.
const REFUSALS_MAX: usize = 32;

/// How the process's file descriptors are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FdBudget {
    /// Client connections.
    pub(crate) connections: usize,
    /// Clients over the limit that are being told so; more wait in the kernel's backlog.
    pub(crate) refusals: usize,
}

/// The effective configuration: every value is set, in range, and consistent with the others.
///
/// Flags, environment and file are checked against the ranges below; whoever fills the struct in by hand is trusted.
///
#[doc = include_str!("../LIMITS.md")]
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the table above documents each field, with unit, range and default")]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own, in any combination")]
pub struct Config {
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    pub runtime: Runtime,
    pub workers: Option<NonZeroUsize>,
    pub log: String,
    pub log_format: LogFormat,

    pub backlog: u64,
    pub connections_max: Option<NonZeroUsize>,
    pub requests_max: Option<NonZeroUsize>,

    pub first_byte_timeout: Duration,
    pub header_read_timeout: Duration,
    pub keep_alive_timeout: Duration,
    pub body_stall_timeout: Duration,
    pub write_stall_timeout: Duration,
    pub rate_min: u64,
    pub rate_grace: Duration,
    pub request_timeout: Duration,
    pub linger_timeout: Duration,
    pub linger_max: Duration,

    pub body_max: u64,
    pub header_max: u64,
    pub http1_buffer_max: u64,

    pub http2_streams_max: u64,
    pub http2_stream_window: u64,
    pub http2_connection_window: u64,
    pub http2_send_buffer_max: u64,
    pub http2_resets_pending_max: u64,
    pub http2_resets_local_max: u64,
    pub http2_ping_interval: Duration,
    pub http2_ping_timeout: Duration,

    pub lame_duck: Duration,
    pub drain_idle_grace: Duration,
    pub drain_grace: Duration,

    pub trace_one_in: u64,
    pub otlp_endpoint: Option<Uri>,
    pub otlp_queue_max: u64,
    pub access_log_one_in: u64,
    pub access_log_file: Option<PathBuf>,
    pub request_metrics: bool,
    pub task_histograms: bool,
    pub slow_poll: Duration,
    pub console: SocketAddr,
    pub console_one_in: u64,
    pub console_resources: bool,
    pub console_retention: Duration,
    pub lab: bool,
}

/// Which tokio runtime carries the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// One multi-thread runtime whose workers steal from each other; one listener.
    WorkStealing,
    /// One current-thread runtime and one `SO_REUSEPORT` listener per core; nothing moves between cores.
    PerCore,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line for people.
    Pretty,
    /// One JSON object per line, for collectors.
    Json,
}

impl Default for Config {
    /// The defaults of [`SETTINGS`].
    fn default() -> Self {
        table::defaults()
    }
}

impl Config {
    /// Worker threads: as configured, else one per core this process may run on.
    pub fn workers(&self) -> usize {
        self.workers.map_or_else(
            || std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            NonZeroUsize::get,
        )
    }

    /// Requests that may be in progress at once: as configured, else 1024 per worker.
    pub fn requests_max(&self) -> usize {
        self.requests_max.map_or_else(|| self.workers() * 1024, NonZeroUsize::get)
    }

    /// Shares out `fd_limit` descriptors.
    ///
    /// # Errors
    /// [`ConfigError::TooFewFds`] where they do not carry the configured connections, or not even one.
    pub(crate) fn fd_budget(&self, fd_limit: usize) -> Result<FdBudget, ConfigError> {
        let refusals = REFUSALS_MAX.min(fd_limit / 8);
        let reserved = FDS_FOR_THE_PROCESS + self.workers() * FDS_PER_WORKER + refusals;
        let room = fd_limit.saturating_sub(reserved);
        let wanted = self.connections_max.map_or(room.max(1), NonZeroUsize::get);
        if wanted > room {
            return Err(ConfigError::TooFewFds { wanted, fd_limit, reserved });
        }
        Ok(FdBudget { connections: wanted, refusals })
    }

    /// The same values as a TOML file that [`Config`] reads back (`--print-config`).
    pub fn to_toml(&self) -> String {
        table::to_toml(self)
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WorkStealing => "work-stealing",
            Self::PerCore => "per-core",
        })
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pretty => "pretty",
            Self::Json => "json",
        })
    }
}
