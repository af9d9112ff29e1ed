//! Arguments to exit code: without one place for it, the program and whoever runs it as a child would end differently.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;

use crate::{
    board::Board,
    cli::{Cli, Command, RunArgs, SHORT_HELP},
    demo, fd_limit, healthcheck,
    metrics::Metrics,
    plan::PlanError,
    report::json::JsonFile,
    report::{EXIT_FAILED, EXIT_USAGE, Report},
    run::{self, RunError},
};

/// With this, a run needs no argument.
const URL_TWIN: &str = "LOADGEN_URL";

/// Runs the `loadgen` program with `args`, of which the first is its name.
pub fn main(args: &[OsString]) -> ExitCode {
    if args.len() < 2 && std::env::var_os(URL_TWIN).is_none() {
        say(SHORT_HELP);
        return EXIT_USAGE.into();
    }
    let cli = Cli::read(args).unwrap_or_else(|error| error.exit());
    let result = match cli.command {
        Some(Command::Demo(args)) => demo::run(&args),
        Some(Command::Healthcheck(args)) => check(&args.url),
        Some(Command::Serve(args)) => demo::server::serve(args),
        None => load(cli.run),
    };
    result.unwrap_or_else(|error| {
        say(&format!("loadgen: {error:#}\n"));
        exit_code(&error).into()
    })
}

/// A run: plan, execute, report.
fn load(args: RunArgs) -> anyhow::Result<ExitCode> {
    let progress = args.progress();
    let (json, metrics) = (args.json.clone(), args.metrics);
    let plan = args.plan()?;
    fd_limit::make_room(plan.connections, plan.threads.get())?;
    let json = json.as_deref().map(JsonFile::create).transpose()?;
    let board = Arc::new(Board::new(&plan));
    // Answers until the report is out.
    let metrics = metrics.map(|addr| Metrics::start(addr, Arc::clone(&board))).transpose()?;
    if let Some(metrics) = &metrics {
        say(&format!("loadgen: metrics on http://{}/metrics\n", metrics.addr()));
    }
    let report = Report::new(run::execute_on(plan, progress, board)?);
    print(&report.to_string())?;
    if let Some(json) = json {
        json.write(&report)?;
    }
    Ok(report.exit_code().into())
}

/// A probe: says what came back.
fn check(url: &str) -> anyhow::Result<ExitCode> {
    print(&format!("{}\n", healthcheck::run(url)?))?;
    Ok(ExitCode::SUCCESS)
}

/// Usage errors and signals have exit codes of their own.
fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(RunError::Interrupted(interrupt)) => interrupt.exit_code(),
        _ if error.is::<PlanError>() => EXIT_USAGE,
        _ => EXIT_FAILED,
    }
}

/// The report belongs on stdout: if nobody takes it, the run has failed.
fn print(text: &str) -> anyhow::Result<()> {
    io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")
}

/// A closed stderr must not hide the exit code.
fn say(text: &str) {
    io::stderr().write_all(text.as_bytes()).unwrap_or_default();
}
