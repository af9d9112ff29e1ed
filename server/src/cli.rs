//! Arguments to exit code: without one place for it, every failure ends the process in its own way.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    config::{self, Config, ConfigError, Invocation},
    healthcheck,
    server::{Server, ServerError},
    telemetry::{self, Telemetry},
};

/// Usage or configuration is wrong.
const EXIT_USAGE: u8 = 2;

/// The drain deadline passed with work lost.
const EXIT_WORK_LOST: u8 = 3;

/// Runs the `echo-server` program: parses `args` (the first is the program's name), serves until SIGTERM or SIGINT,
/// drains, and returns the exit code: 0 drained, 1 failed, 2 usage or configuration, 3 work lost.
///
/// Standard output carries `listening on http://ADDR`, `admin on http://ADDR`, and at the end the drain report.
pub fn cli(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match run(args) {
        Ok(code) => code,
        Err(error) => {
            let is_usage = error.downcast_ref::<ConfigError>().is_some()
                || matches!(error.downcast_ref(), Some(ServerError::Config(_)));
            if let Some(ConfigError::Usage(usage)) = error.downcast_ref() {
                // `--help` and `--version` are no failure, and clap knows where each goes.
                let _printed_or_closed = usage.print();
                return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(EXIT_USAGE));
            }
            let _printed_or_closed = writeln!(io::stderr(), "echo-server: {error:#}");
            if is_usage { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn run(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    match config::invocation(args)? {
        Invocation::PrintConfig(config) => say(&config.to_toml())?,
        Invocation::PrintLimits => say(&config::limits_table())?,
        Invocation::Healthcheck(url) => say(&format!("{}\n", healthcheck::check(&url)?))?,
        Invocation::Serve(config) => return serve(*config),
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let telemetry = Telemetry::init(&config).context("cannot start log and traces")?;
    for name in config::unknown_env() {
        tracing::warn!(name, "no such setting; --help lists the environment variables");
    }
    let server = Server::bind(config)?;
    let mut announcement =
        format!("listening on http://{}\nadmin on http://{}\n", server.addr()?, server.admin_addr()?);
    if let Some(address) = telemetry.console() {
        announcement.push_str(&format_console(address));
    }
    // The first signal drains; a second ends the drain's waiting. Whoever reads the announcement may send one.
    let shutdown = async {
        let signals = Signals::watch();
        if !telemetry::print(&announcement) {
            tracing::warn!("going on without the announcement: standard output does not take it");
        }
        signals.nth(1).await;
    };
    let hurry = async { Signals::watch().nth(2).await };
    let report = server.run(shutdown, hurry)?;
    if !telemetry::print(&format!("{report}\n")) {
        tracing::warn!(%report, "standard output does not take the report");
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_WORK_LOST) })
}

/// What to type where tokio-console is to be looked at.
fn format_console(address: SocketAddr) -> String {
    format!(
        "console on http://{address}\nin another terminal: tokio-console http://{address}   (cargo install --locked tokio-console)\n"
    )
}

/// SIGTERM and SIGINT, from now on. `None` where they cannot be watched: then they end the process at once.
struct Signals(Option<(Signal, Signal)>);

impl Signals {
    fn watch() -> Self {
        let streams =
            || Ok::<_, io::Error>((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?));
        Self(streams().inspect_err(|error| tracing::error!(%error, "signals cannot be watched")).ok())
    }

    /// Resolves at the `count`-th signal.
    async fn nth(self, count: usize) {
        let Some((mut terminate, mut interrupt)) = self.0 else { return std::future::pending().await };
        for _ in 0..count {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}
