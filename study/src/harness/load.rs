//! Without a healthy client beside an experiment, nobody would know what it does to those who behave.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use super::{
    child::{Process, Role},
    latency::Latency,
};

/// How long a run may take to end after it was told to: loadgen waits a second for what is in flight.
const END_MAX: Duration = Duration::from_secs(30);

/// A run of loadgen as a child.
#[derive(Clone, Debug)]
pub struct Load {
    url: String,
    flags: Vec<String>,
    cores: Vec<usize>,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The whole report, as loadgen wrote it.
    pub json: Value,
    /// Latency from the instant at which a request was due.
    pub response: Latency,
}

/// A run that lasts until it is told to end.
#[derive(Debug)]
pub struct Running {
    process: Process,
    file: PathBuf,
}

impl Load {
    /// Load on `url` from `cores`.
    pub fn new(url: impl Into<String>, cores: &[usize]) -> Self {
        let flags = ["--no-progress", "--threads", "1", "--insecure"];
        let url = url.into();
        let flags = flags[..if url.starts_with("https") { 4 } else { 3 }].iter().map(ToString::to_string);
        Self { flags: flags.collect(), url, cores: cores.to_vec() }
    }

    /// Adds flags of loadgen.
    #[must_use]
    pub fn with(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(ToString::to_string));
        self
    }

    /// Open loop at `per_second` for `duration`.
    ///
    /// # Errors
    /// If loadgen could not run; what went wrong with requests is in the outcome.
    pub fn at(&self, per_second: u64, duration: Duration) -> anyhow::Result<Outcome> {
        let (rate, time) = (per_second.to_string(), format!("{}ms", duration.as_millis()));
        self.clone().with(&["-q", &rate, "-z", &time]).begin()?.finish(duration + END_MAX)
    }

    /// Closed loop for `duration`: as fast as the answers come.
    ///
    /// # Errors
    /// If loadgen could not run.
    pub fn as_fast_as_possible(&self, duration: Duration) -> anyhow::Result<Outcome> {
        let time = format!("{}ms", duration.as_millis());
        self.clone().with(&["-z", &time]).begin()?.finish(duration + END_MAX)
    }

    /// Open loop at `per_second` until [`Running::stop`].
    ///
    /// # Errors
    /// If loadgen cannot be started.
    pub fn start(&self, per_second: u64) -> anyhow::Result<Running> {
        self.clone().with(&["-q", &per_second.to_string(), "--repeat"]).begin()
    }

    fn begin(mut self) -> anyhow::Result<Running> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let (process, number) = (std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let file = std::env::temp_dir().join(format!("study-{process}-{number}.json"));
        self.flags.extend(["--json".to_owned(), file.display().to_string(), self.url]);
        Ok(Running { process: Process::start(Role::Load, &self.flags, &self.cores)?, file })
    }
}

impl Running {
    /// Ends the run and returns what it found.
    ///
    /// # Errors
    /// If loadgen does not end, or leaves no report.
    pub fn stop(self) -> anyhow::Result<Outcome> {
        kill_process(self.process.pid(), Signal::TERM).context("the load is gone before its end")?;
        self.finish(END_MAX)
    }

    fn finish(mut self, limit: Duration) -> anyhow::Result<Outcome> {
        let pid = self.process.pid();
        let code = self.process.wait(pid, limit).context("the load")?;
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        ensure!(!text.is_empty(), "loadgen ended with {code} and left no report");
        Outcome::read(&text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not there if the run never began.
        fs::remove_file(&self.file).unwrap_or_default();
    }
}

impl Outcome {
    fn read(text: &str) -> anyhow::Result<Self> {
        let json: Value = serde_json::from_str(text).context("the report is not JSON")?;
        let histogram = json["latency_ns"]["response"]["hdr_v2_base64"].as_str().unwrap_or_default();
        let response = Latency::from_base64(histogram)?;
        Ok(Self { json, response })
    }

    /// A count of the measured phase: `scheduled`, `sent`, `ok`, `unsent`, `retried`, `in_flight_at_end`.
    pub fn count(&self, name: &str) -> u64 {
        self.json["counts"][name].as_u64().unwrap_or(0)
    }

    /// Requests that failed, whatever the class, and those that nobody was there to send.
    pub fn failed(&self) -> u64 {
        let errors = self.json["counts"]["errors"].as_object();
        errors.map_or(0, |errors| errors.values().filter_map(Value::as_u64).sum())
    }

    /// The failures by class, with the first of each.
    pub fn failures(&self) -> String {
        let errors = self.json["counts"]["errors"].as_object();
        let of = |(class, count): (&String, &Value)| {
            let sample = self.json["error_samples"][class].as_str().unwrap_or_default();
            format!("{class} {count} ({sample})")
        };
        errors.map(|errors| errors.iter().map(of).collect::<Vec<_>>().join(", ")).unwrap_or_default()
    }

    /// Requests per second that ended.
    pub fn rate(&self) -> f64 {
        self.json["achieved_rate_per_second"].as_f64().unwrap_or(0.0)
    }

    /// Requests that were sent and got no right answer.
    pub fn lost(&self) -> u64 {
        self.failed() + self.count("in_flight_at_end")
    }

    /// Requests of several runs that no connection was free for: a server that stands still, or the last instant of a run
    /// that was told to end.
    pub fn unsent(runs: &[&Self]) -> u64 {
        runs.iter().map(|run| run.count("unsent")).sum()
    }

    /// The failures of several runs by class, with the first of each.
    pub fn all_failures(runs: &[&Self]) -> String {
        let classes = runs.iter().map(|run| run.failures()).filter(|classes| !classes.is_empty());
        classes.collect::<Vec<_>>().join("; ")
    }

    /// The latencies of several runs.
    ///
    /// # Errors
    /// If there is no run.
    pub fn merged(runs: &[&Self]) -> anyhow::Result<Latency> {
        let (first, others) = runs.split_first().context("there is no run")?;
        let mut all = first.response.clone();
        for run in others {
            all.add(&run.response)?;
        }
        Ok(all)
    }

    /// Length of the measured time in ms.
    pub fn elapsed_ms(&self) -> u64 {
        self.json["elapsed_ns"].as_u64().unwrap_or(0) / 1_000_000
    }

    /// The verdict's name.
    pub fn verdict(&self) -> &str {
        self.json["verdict"]["name"].as_str().unwrap_or("?")
    }
}
