//! Without a command line of its own, an experiment would be run with whatever somebody remembered.

use std::{ffi::OsString, path::PathBuf};

use clap::Parser;

/// The command line of study.
#[derive(Clone, Debug, Parser)]
#[command(name = "study", version, about = "Runs the experiments whose figures are the project's evidence.")]
#[command(after_help = "Examples:\n  cargo run --release -p study -- list\n  \
    cargo run --release -p study -- slow-clients\n  cargo run --release -p study -- all --quick")]
pub struct Order {
    /// An experiment, `all` of them, or `list`
    pub experiment: String,
    /// Smaller and shorter, to see that it works; the figures are not evidence
    #[arg(long)]
    pub quick: bool,
    /// Where EXPERIMENT.json and EXPERIMENT.md go [default: study/results, with --quick target/study]
    #[arg(long, value_name = "DIR")]
    pub results: Option<PathBuf>,
    /// Only the cases whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub only: String,
    /// Slow clients or attackers of each kind, instead of the experiment's own number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=15_000))]
    pub clients: Option<u32>,
}

impl Order {
    /// Where the results go.
    pub fn results(&self) -> PathBuf {
        let default = if self.quick { "target/study" } else { "study/results" };
        self.results.clone().unwrap_or_else(|| default.into())
    }
}

/// Reads the command line.
///
/// # Errors
/// Never: clap ends the process where it is wrong or asks for help.
pub fn read(args: &[OsString]) -> anyhow::Result<Order> {
    Ok(Order::try_parse_from(args).unwrap_or_else(|error| error.exit()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Order::command().debug_assert();
    }

    #[test]
    fn a_quick_run_does_not_overwrite_evidence() {
        let order = |args: &[&str]| Order::try_parse_from([&["study", "restart"], args].concat()).unwrap();
        assert_eq!(order(&[]).results(), PathBuf::from("study/results"));
        assert_eq!(order(&["--quick"]).results(), PathBuf::from("target/study"));
        assert_eq!(order(&["--quick", "--results", "x"]).results(), PathBuf::from("x"));
    }
}
