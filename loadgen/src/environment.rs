//! Without environment twins, a container needs a shell to get its flags from a compose file.
//!
//! Every flag of a run has a twin `LOADGEN_*`. A flag beats its twin, and also the twins of what it excludes: `-q 100`
//! on the command line means that rate, whatever `LOADGEN_STAGES` says. An empty variable counts as unset, because
//! compose files pass `${RATE:-}` on as an empty one.

use std::{env, ffi::OsString};

use clap::{
    ArgMatches, Command, CommandFactory as _, FromArgMatches as _, error::Error, parser::ValueSource,
};

use crate::cli::Cli;

/// Flags that exclude each other, by the names of their fields.
const RIVALS: [&[&str]; 3] =
    [&["rate", "stages"], &["requests", "duration", "repeat"], &["data", "data_file", "body_size"]];

impl Cli {
    /// Reads the command line and the environment.
    ///
    /// # Errors
    /// What clap says: help and version, too.
    pub fn read(args: &[OsString]) -> Result<Self, Error> {
        let typed =
            without_twins(Self::command(), |_| true).ignore_errors(true).try_get_matches_from(args).ok();
        let command = without_twins(Self::command(), |arg| {
            twin_is_empty(arg)
                || typed.as_ref().is_some_and(|typed| rival_is_typed(arg.get_id().as_str(), typed))
        });
        Self::from_arg_matches(&command.try_get_matches_from(args)?)
    }
}

/// The command without the environment twins of those arguments for which `drop` says so.
fn without_twins(command: Command, drop: impl Fn(&clap::Arg) -> bool) -> Command {
    // A header in the environment may be a secret.
    command.mut_args(|arg| if drop(&arg) { arg.env(None::<&str>) } else { arg.hide_env_values(true) })
}

fn twin_is_empty(arg: &clap::Arg) -> bool {
    arg.get_env().and_then(env::var_os).is_some_and(|value| value.is_empty())
}

fn rival_is_typed(id: &str, typed: &ArgMatches) -> bool {
    let is_typed = |id: &str| typed.value_source(id) == Some(ValueSource::CommandLine);
    RIVALS
        .iter()
        .filter(|rivals| rivals.contains(&id))
        .flat_map(|rivals| rivals.iter())
        .any(|rival| *rival != id && is_typed(rival))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_of_a_run_has_a_twin_of_its_name() {
        for arg in
            Cli::command().get_arguments().filter(|arg| arg.get_id() != "help" && arg.get_id() != "version")
        {
            let flag = arg.get_long().unwrap_or(arg.get_id().as_str());
            let name = format!("LOADGEN_{}", flag.replace('-', "_").to_ascii_uppercase());
            assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(name.as_str()));
        }
    }

    #[test]
    fn rivals_are_flags() {
        let command = Cli::command();
        for id in RIVALS.iter().flat_map(|rivals| rivals.iter()) {
            assert!(command.get_arguments().any(|arg| arg.get_id() == id), "{id}");
        }
    }
}
