//! Without it there is no command: arguments, a run, its report, an exit code.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Parser as _;
use loadgen::{
    cli::{Cli, Command, RunArgs, SHORT_HELP},
    plan::PlanError,
    report::json::JsonFile,
    report::{EXIT_FAILED, EXIT_USAGE, Report},
    run::RunError,
    {demo, fd_limit, run},
};

fn main() -> ExitCode {
    if std::env::args_os().len() < 2 {
        say(SHORT_HELP);
        return EXIT_USAGE.into();
    }
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Demo(args)) => demo::run(&args),
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
    let json = args.json.clone();
    let plan = args.plan()?;
    fd_limit::make_room(plan.connections, plan.threads.get())?;
    let json = json.as_deref().map(JsonFile::create).transpose()?;
    let report = Report::new(run::execute(plan, progress)?);
    print(&report.to_string())?;
    if let Some(json) = json {
        json.write(&report)?;
    }
    Ok(report.exit_code().into())
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
    io::stdout().write_all(text.as_bytes()).context("cannot write the report to stdout")
}

/// A closed stderr must not hide the exit code.
fn say(text: &str) {
    io::stderr().write_all(text.as_bytes()).unwrap_or_default();
}
