//! Every limit and timeout, with unit, range, default and reason: without it the limits are a library's, and nobody
//! knows them.
//!
//! [`SETTINGS`] is the one table. Flags, environment twins, file keys, `--print-config`, the help text and the table
//! in LIMITS.md, which is also the documentation of [`Config`], all come from it. Precedence: flag > `ECHO_*` environment > `--config FILE` > default.

mod choices;
mod error;
mod parse;
mod settings;
mod table;
mod value;

use std::{fmt, net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use http::Uri;
use ipnet::IpNet;

pub use self::{
    choices::{CatchAll, ClientAuth, LogFormat, RequestsLimit, Runtime},
    error::ConfigError,
    settings::SETTINGS,
    table::{Kind, Setting, limits_table},
};
pub(crate) use self::{
    parse::{Invocation, invocation, unknown_env},
    table::{bytes as show_bytes, duration as show_duration},
    value::{bytes as parse_bytes, set as set_value},
};

/// Descriptors of the process itself, about 20 when idle (standard streams, listeners, epoll and event fds, signal
/// pipes, the reserve of each accept loop), and admin connections.
const FDS_FOR_THE_PROCESS: usize = 32;

/// Descriptors that each worker thread may need beside its connections (epoll, event fd).
const FDS_PER_WORKER: usize = 2;

/// Descriptors that each worker thread may need for each kind of listener (the listener, and its reserve).
const FDS_PER_LISTENER: usize = 2;

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
    pub listen_tls: Option<SocketAddr>,
    pub listen_unix: Option<PathBuf>,
    pub admin: SocketAddr,
    pub admin_token: Secret,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub tls_dev_cert: bool,
    pub tls_client_ca: Option<PathBuf>,
    pub tls_client_auth: ClientAuth,
    pub tls_handshake_timeout: Duration,
    pub tls_reload_interval: Duration,
    pub proxy_protocol: bool,
    pub trusted_proxies: Vec<IpNet>,
    pub runtime: Runtime,
    pub workers: Option<NonZeroUsize>,
    pub log: String,
    pub log_format: LogFormat,

    pub backlog: u64,
    pub connections_max: Option<NonZeroUsize>,
    pub requests_max: Option<NonZeroUsize>,
    pub connections_per_address_max: u64,
    pub evict_idle: bool,
    pub evict_idle_min: Duration,
    pub connection_age_max: Duration,
    pub connection_age_jitter: u64,
    pub connection_requests_max: u64,
    pub requests_limit: RequestsLimit,
    pub requests_min: u64,
    pub queue_max: u64,
    pub queue_timeout: Duration,
    pub busy_max: Duration,
    pub busy_pause: Duration,
    pub streams_max: Option<NonZeroUsize>,
    pub fair_share: bool,

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
    pub http2_control_frames_max: u64,
    pub http2_resets_max: u64,
    pub http2_continuations_max: u64,
    pub http2_ping_interval: Duration,
    pub http2_ping_timeout: Duration,

    pub http1: bool,
    pub http2: bool,

    pub lame_duck: Duration,
    pub drain_idle_grace: Duration,
    pub drain_grace: Duration,

    pub restart_timeout: Duration,

    pub catch_all: CatchAll,
    pub controls: bool,
    pub default_params: String,
    pub faults: bool,
    pub delay_max: Duration,
    pub size_max: u64,
    pub work_max: Duration,
    pub buffer_max: u64,
    pub websocket_message_max: u64,
    pub websocket_idle_timeout: Duration,
    pub cors: bool,
    pub server_header: bool,

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

/// A text that is never shown: not in logs, not by `--print-config`, not at `/debug/config`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text`; empty for none.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text itself, `None` where it is empty.
    pub(crate) fn reveal(&self) -> Option<&str> {
        Some(self.0.as_str()).filter(|text| !text.is_empty())
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "" } else { "(not shown)" })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// For libraries that count in 32 bits: [`SETTINGS`] bounds each value far below their end.
pub(crate) fn saturating_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
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

    /// Requests that may be in progress at once: as configured, else 16,384 per worker. A place costs no CPU while its client is
    /// slow, and 5,000 clients that do not read must leave some for the others; what bounds the CPU is `busy_max`.
    pub fn requests_max(&self) -> usize {
        self.requests_max.map_or_else(|| self.workers() * 16 * 1024, NonZeroUsize::get)
    }

    /// Shares out `fd_limit` descriptors.
    ///
    /// # Errors
    /// [`ConfigError::TooFewFds`] where they do not carry the configured connections, or not even one.
    pub(crate) fn fd_budget(&self, fd_limit: usize) -> Result<FdBudget, ConfigError> {
        let refusals = REFUSALS_MAX.min(fd_limit / 8);
        let listeners = 1 + usize::from(self.listen_tls.is_some()) + usize::from(self.listen_unix.is_some());
        let per_worker = FDS_PER_WORKER + listeners * FDS_PER_LISTENER;
        let reserved = FDS_FOR_THE_PROCESS + self.workers() * per_worker + refusals;
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
