//! Arguments to exit code: without one place for it, every failure ends the process in its own way.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    config::{self, Config, ConfigError, Invocation},
    core::Core,
    healthcheck,
    restart::{self, Inheritance, Program, Sockets, systemd},
    server::{Server, ServerError, Shutdown},
    telemetry::{self, Telemetry},
};

/// Usage or configuration is wrong.
const EXIT_USAGE: u8 = 2;

/// The drain deadline passed with work lost.
const EXIT_WORK_LOST: u8 = 3;

/// Runs the `echo-server` program: parses `args` (the first is the program's name), serves until SIGTERM or SIGINT,
/// or until a process that SIGUSR2 starts in its place serves, drains, and returns the exit code: 0 drained, 1 failed, 2 usage or configuration, 3 work lost.
///
/// Standard output carries `listening on http://ADDR`, `listening on https://ADDR` and `listening on unix:PATH` where there
/// are those, `admin on http://ADDR`, and at the end the drain report.
pub fn cli(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match run(args) {
        Ok(code) => code,
        Err(error) => {
            let is_usage = error.downcast_ref::<ConfigError>().is_some()
                || matches!(error.downcast_ref(), Some(ServerError::Config(_) | ServerError::Tls(_)));
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
    let args: Vec<OsString> = args.into_iter().collect();
    match config::invocation(&args)? {
        Invocation::PrintConfig(config) => say(&config.to_toml())?,
        Invocation::PrintLimits => say(&config::limits_table())?,
        Invocation::Healthcheck(url) => say(&format!("{}\n", healthcheck::check(&url)?))?,
        Invocation::Serve(config) => return serve(*config, &Program::of_this_process(&args)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The life of the process.
fn serve(config: Config, program: &Program) -> anyhow::Result<ExitCode> {
    // First, while there is one thread.
    let mut inheritance = Inheritance::take().context("cannot take the sockets that were passed to us")?;
    let telemetry = Telemetry::init(&config).context("cannot start log and traces")?;
    for name in config::unknown_env() {
        tracing::warn!(name, "no such setting; --help lists the environment variables");
    }
    let server = Server::bind_or_take(config, inheritance.take_sockets())?;
    let mut announcement = announcement(&server)?;
    if let Some(address) = telemetry.console() {
        announcement.push_str(&format_console(address));
    }
    let (core, heirs) = (Arc::clone(server.core()), server.sockets()?);
    let shutdown = async move {
        // Whoever reads the announcement may send a signal.
        let signals = Signals::watch();
        print(&announcement);
        until_told(&core, inheritance, program, heirs, signals).await
    };
    // The first signal drains; a second ends the drain's waiting.
    let hurry = async { Signals::watch().nth(2).await };
    let report = server.run_until(shutdown, hurry)?;
    print(&format!("{report}\n"));
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_WORK_LOST) })
}

/// Serves, until it is to end, or a successor serves in its place: then `heirs` are that one's.
async fn until_told(
    core: &Arc<Core>,
    inheritance: Inheritance,
    program: &Program,
    heirs: Sockets,
    mut signals: Signals,
) -> Shutdown {
    let (restarts, hangups) = (signals.restarts.take(), signals.hangups.take());
    let replaced = async {
        inheritance.serving(core).await;
        restart::replaced(core, program, &heirs, restarts).await
    };
    tokio::select! {
        biased;
        () = signals.nth(1) => systemd::stopping(),
        () = core.lifecycle.stop_requested() => systemd::stopping(),
        successor = replaced => {
            print(&format!("process {successor} goes on\n"));
            return Shutdown::HandedOver;
        }
        never = systemd::watchdog(core) => match never {},
        never = systemd::hangups(core, hangups) => match never {},
    }
    Shutdown::Stop
}

/// For those who started us, and may have gone.
fn print(text: &str) {
    if !telemetry::print(text) {
        tracing::warn!(text, "standard output does not take it");
    }
}

/// Where to find the server, a line for each listener: plain HTTP first, admin last.
fn announcement(server: &Server) -> io::Result<String> {
    let tls = server.tls_addr()?.map(|address| format!("listening on https://{address}"));
    let unix = server.unix_path().map(|path| format!("listening on unix:{}", path.display()));
    let http = format!("listening on http://{}", server.addr()?);
    let admin = format!("admin on http://{}\n", server.admin_addr()?);
    let lines: Vec<String> = [Some(http), tls, unix, Some(admin)].into_iter().flatten().collect();
    Ok(lines.join("\n"))
}

/// What to type where tokio-console is to be looked at.
fn format_console(address: SocketAddr) -> String {
    format!(
        "console on http://{address}\nin another terminal: tokio-console http://{address}   (cargo install --locked tokio-console)\n"
    )
}

/// Signals, from now on. `None` where one cannot be watched: then it ends the process at once.
struct Signals {
    /// SIGTERM and SIGINT.
    ends: Option<(Signal, Signal)>,
    /// SIGUSR2
    restarts: Option<Signal>,
    /// SIGHUP
    hangups: Option<Signal>,
}

impl Signals {
    fn watch() -> Self {
        let watch = |kind| {
            signal(kind).inspect_err(|error| tracing::error!(%error, "a signal cannot be watched")).ok()
        };
        Self {
            ends: watch(SignalKind::terminate()).zip(watch(SignalKind::interrupt())),
            restarts: watch(SignalKind::user_defined2()),
            hangups: watch(SignalKind::hangup()),
        }
    }

    /// Resolves at the `count`-th signal.
    async fn nth(self, count: usize) {
        let Some((mut terminate, mut interrupt)) = self.ends else { return std::future::pending().await };
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
