//! Without a list, an experiment that exists is one that nobody runs.

use std::io::{self, Write as _};

use anyhow::{Context as _, bail};

use crate::{attacks, harness::report::Report, overload, restart, slow_clients, usage::Order};

/// One experiment.
struct Experiment {
    name: &'static str,
    /// What it shows, in one line.
    about: &'static str,
    run: fn(&Order) -> anyhow::Result<Report>,
}

/// All of them, in the order in which `all` runs them.
const EXPERIMENTS: [Experiment; 4] = [
    Experiment { name: "overload", about: overload::ABOUT, run: overload::run },
    Experiment { name: "slow-clients", about: slow_clients::ABOUT, run: slow_clients::run },
    Experiment { name: "attacks", about: attacks::ABOUT, run: attacks::run },
    Experiment { name: "restart", about: restart::ABOUT, run: restart::run },
];

/// Does what the command line asks for.
///
/// # Errors
/// If there is no such experiment, or one could not be run.
pub fn run(order: &Order) -> anyhow::Result<()> {
    if order.experiment == "list" {
        return list();
    }
    let all = order.experiment == "all";
    let chosen: Vec<_> = EXPERIMENTS.iter().filter(|each| all || each.name == order.experiment).collect();
    if chosen.is_empty() {
        bail!("there is no experiment '{}'; `study list` shows all", order.experiment);
    }
    for experiment in chosen {
        say(&format!("{}: {}\n", experiment.name, experiment.about))?;
        let report = (experiment.run)(order).with_context(|| format!("experiment {}", experiment.name))?;
        let files = report.write(&order.results(), experiment.name, experiment.about, order.quick)?;
        say(&format!("\n{}\nwritten to {}\n", report.markdown_tables(), files.display()))?;
    }
    Ok(())
}

fn list() -> anyhow::Result<()> {
    EXPERIMENTS.iter().try_for_each(|each| say(&format!("{:<14}{}\n", each.name, each.about)))
}

/// Prints at once: an experiment takes minutes, and whoever waits wants to see that it goes on.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to stdout")
}
