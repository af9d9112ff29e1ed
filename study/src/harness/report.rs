//! Without versions, kernel, commit and cores beside them, figures cannot be compared with any others.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use serde::Serialize;

use super::cores::Cores;

/// What an experiment found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How it was done, in sentences.
    pub method: Vec<String>,
    /// The figures.
    pub tables: Vec<Table>,
    /// What was asked for, and whether it was met.
    pub criteria: Vec<Criterion>,
    environment: Environment,
}

/// Figures with headings.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Headings, with units.
    pub columns: Vec<String>,
    /// Cells as text, in the order of the headings.
    pub rows: Vec<Vec<String>>,
}

/// One thing that an experiment has to show.
#[derive(Clone, Debug, Serialize)]
pub struct Criterion {
    /// What was asked for.
    pub asked: String,
    /// What was found.
    pub found: String,
    /// Whether that is enough.
    pub met: bool,
}

#[derive(Clone, Debug, Serialize)]
struct Environment {
    version: &'static str,
    commit: String,
    kernel: String,
    processor: String,
    cores: String,
    build: &'static str,
}

impl Report {
    /// An empty report of a run on `cores`.
    pub fn new(cores: &Cores) -> Self {
        Self {
            method: Vec::new(),
            tables: Vec::new(),
            criteria: Vec::new(),
            environment: Environment::here(cores),
        }
    }

    /// Adds a sentence about the method.
    pub fn method(&mut self, sentence: impl Into<String>) {
        self.method.push(sentence.into());
    }

    /// Adds a thing that was asked for.
    pub fn criterion(&mut self, asked: impl Into<String>, found: impl Into<String>, met: bool) {
        self.criteria.push(Criterion { asked: asked.into(), found: found.into(), met });
    }

    /// The tables and criteria alone, for the terminal.
    pub fn markdown_tables(&self) -> String {
        let criterion = |Criterion { asked, found, met }: &Criterion| {
            format!("- {}: {asked}: {found}\n", if *met { "met" } else { "**NOT met**" })
        };
        let tables = self.tables.iter().map(Table::markdown);
        tables.chain(self.criteria.iter().map(criterion)).collect()
    }

    /// Writes `NAME.json` and `NAME.md` into `dir`; returns the latter.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, dir: &Path, name: &str, about: &str, quick: bool) -> anyhow::Result<PathBuf> {
        let context = || format!("cannot write to {}", dir.display());
        fs::create_dir_all(dir).with_context(context)?;
        let json = serde_json::json!({ "experiment": name, "about": about, "quick": quick, "report": self });
        fs::write(dir.join(format!("{name}.json")), format!("{json:#}\n")).with_context(context)?;
        let file = dir.join(format!("{name}.md"));
        fs::write(&file, self.markdown(name, about, quick)).with_context(context)?;
        Ok(file)
    }

    fn markdown(&self, name: &str, about: &str, quick: bool) -> String {
        let (flag, warning) = if quick {
            (" --quick", "A quick run: it shows that the experiment works; its figures are not evidence.\n\n")
        } else {
            ("", "")
        };
        let method: Vec<_> = self.method.iter().map(|sentence| format!("- {sentence}")).collect();
        let (method, tables) = (method.join("\n"), self.markdown_tables());
        let Environment { version, commit, kernel, processor, cores, build } = &self.environment;
        format!(
            "# {name}\n\n{about}\n\nReproduce: `cargo run --release -p study -- {name}{flag}`\n\n{warning}{method}\n\n\
             {tables}\n{processor}; {cores}; Linux {kernel}; version {version}, commit {commit}, {build}\n"
        )
    }
}

impl Table {
    /// An empty table.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        let columns = columns.iter().map(ToString::to_string).collect();
        Self { title: title.into(), columns, rows: Vec::new() }
    }

    /// The same with all headings in one text, bars between them.
    pub fn with_columns(title: impl Into<String>, columns: &str) -> Self {
        Self::new(title, &columns.split(" | ").collect::<Vec<_>>())
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = format!("|{}\n", "---|".repeat(self.columns.len()));
        let rows: String = self.rows.iter().map(|cells| line(cells)).collect();
        format!("**{}**\n\n{}{rule}{rows}\n", self.title, line(&self.columns))
    }
}

impl Environment {
    fn here(cores: &Cores) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let name = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: commit().unwrap_or_else(|| "unknown".to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: name.map_or_else(|| "unknown processor".to_owned(), |(_, name)| name.to_owned()),
            cores: cores.describe(),
            build: if cfg!(debug_assertions) { "debug build" } else { "release build" },
        }
    }
}

/// The commit that is checked out, and whether files differ from it.
fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let id = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|text| !text.is_empty());
    Some(if changed { format!("{id} with changes") } else { id })
}

/// A number of bytes as KiB with one decimal.
pub fn kib(bytes: f64) -> String {
    format!("{:.2}", bytes / 1024.0)
}

/// A time in us as ms with three decimals.
pub fn ms(us: f64) -> String {
    format!("{:.3}", us / 1e3)
}
