//! Without one program for them, nobody could run an experiment again: servers, load and attackers are children of it.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    process::ExitCode,
};

use study::{experiments, harness::child, usage};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // A child does what its parent wrote into its environment, so that a server that starts itself again does the same.
    if let Some(code) = child::play(&args) {
        return code;
    }
    let done = usage::read(&args).and_then(|order| {
        child::end_with_children()?;
        experiments::run(&order)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stderr must not hide the exit code.
            writeln!(io::stderr(), "study: {error:#}").unwrap_or_default();
            ExitCode::FAILURE
        }
    }
}
