//! Without exact figures under stable keys, no script could compare two runs or check the report.
//!
//! Integers of nanoseconds with the unit in the key. What is in here suffices to run it again; paths, host
//! names and users of the machine are not.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write as _},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};
use serde::Serialize;

use crate::{
    body::Body,
    failure::FailureClass,
    latency::Series,
    plan::{Plan, PlanError, Protocol},
    record::Counts,
    report::{Report, ServerAccount},
    verdict::Judgement,
    verify::Check,
};

/// Grows when a key changes its meaning or goes away, not when one is added.
const SCHEMA_VERSION: u32 = 1;

/// The file of `--json`, opened before the run so that a wrong path costs no run.
#[derive(Debug)]
pub struct JsonFile {
    file: File,
    path: String,
}

impl JsonFile {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// A usage error that names the path and the flag.
    pub fn create(path: &Path) -> Result<Self, PlanError> {
        let name = path.display().to_string();
        match File::create(path) {
            Ok(file) => Ok(Self { file, path: name }),
            Err(error) => Err(PlanError::new(name, error.to_string(), "--json")),
        }
    }

    /// Writes `report`.
    ///
    /// # Errors
    /// If the file does not take it.
    pub fn write(mut self, report: &Report) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(&JsonReport::new(report))?;
        text.push('\n');
        self.file
            .write_all(text.as_bytes())
            .map_err(|error| io::Error::new(error.kind(), format!("--json {}: {error}", self.path)))
    }
}

/// The JSON form of a [`Report`].
#[derive(Debug, Serialize)]
pub struct JsonReport<'a> {
    schema_version: u32,
    loadgen_version: &'static str,
    /// True if a signal cut the run short; an endless run is whole.
    partial: bool,
    exit_code: u8,
    config: Config<'a>,
    counts: JsonCounts<'a>,
    warmup: JsonCounts<'a>,
    /// Streams that were asked for and that the server does not allow.
    streams_unavailable: u64,
    censored: Censored,
    checks: Checks,
    offered_rate_per_second: Option<f64>,
    achieved_rate_per_second: f64,
    elapsed_ns: u64,
    latency_ns: BTreeMap<&'static str, Latency>,
    /// The first failure of each class.
    error_samples: &'a BTreeMap<FailureClass, String>,
    cpu: Cpu,
    /// The server's own counters, if they were read (`demo`).
    server: Option<&'a ServerAccount>,
    verdict: &'a Judgement,
    environment: Environment,
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
struct Config<'a> {
    url: &'a str,
    method: &'a str,
    headers: Vec<(&'a str, String)>,
    body: JsonBody,
    check: &'static str,
    rate_per_second: Option<u64>,
    /// As `--stages` takes it.
    stages: Option<String>,
    repeat: bool,
    /// "1.1" or "2".
    http_version: &'static str,
    tls: bool,
    insecure: bool,
    client_certificate: bool,
    unix_socket: bool,
    connections: usize,
    /// Requests at a time on each connection.
    streams: usize,
    threads: usize,
    requests: Option<u64>,
    duration_ns: Option<u64>,
    warmup_ns: u64,
    timeout_ns: u64,
    seed: u64,
    trace_one_in: u64,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum JsonBody {
    None,
    Fixed { len_bytes: u64 },
    Generated { sizes_bytes: Vec<u64> },
}

#[derive(Debug, Serialize)]
struct JsonCounts<'a> {
    scheduled: u64,
    sent: u64,
    ok: u64,
    unsent: u64,
    in_flight_at_end: u64,
    /// Times that a request was sent again, because the server had provably not processed it.
    retried: u64,
    errors: &'a BTreeMap<FailureClass, u64>,
    statuses: &'a BTreeMap<u16, u64>,
    body_bytes_sent: u64,
    body_bytes_received: u64,
}

/// How many latencies are lower bounds, and why.
#[derive(Debug, Serialize)]
struct Censored {
    timeout: u64,
    in_flight_at_end: u64,
    unsent: u64,
}

#[derive(Debug, Serialize)]
struct Checks {
    conservation: bool,
    latency_identity: bool,
}

#[derive(Debug, Serialize)]
struct Latency {
    count: u64,
    mean: u64,
    p50: Option<u64>,
    p90: Option<u64>,
    p99: Option<u64>,
    p999: Option<u64>,
    max: u64,
    /// The whole histogram, as HdrHistogram's tools read it.
    hdr_v2_base64: String,
}

#[derive(Debug, Serialize)]
struct Cpu {
    client_us_per_request: f64,
    /// Spent on waiting for the next instant, not part of the above.
    client_spin_us_per_request: f64,
    /// Known only of a server that is a child of this process (`demo`).
    server_us_per_request: Option<f64>,
    busiest_thread_fraction: f64,
    starved_fraction: f64,
    stalled_fraction: f64,
}

#[derive(Debug, Serialize)]
struct Environment {
    os: &'static str,
    arch: &'static str,
    kernel: Option<String>,
    cores_available: Option<usize>,
}

impl<'a> JsonReport<'a> {
    /// The JSON form of `report`.
    pub fn new(report: &'a Report) -> Self {
        let outcome = &report.outcome;
        let record = &outcome.record;
        Self {
            schema_version: SCHEMA_VERSION,
            loadgen_version: env!("CARGO_PKG_VERSION"),
            partial: outcome.cut_short_by().is_some(),
            exit_code: report.exit_code(),
            config: Config::new(&outcome.plan),
            counts: JsonCounts::new(&record.measured),
            warmup: JsonCounts::new(&record.warmup),
            streams_unavailable: record.places_unavailable,
            censored: Censored {
                timeout: record.censored.timeout,
                in_flight_at_end: record.censored.in_flight_at_end,
                unsent: record.censored.unsent,
            },
            checks: Checks {
                conservation: record.measured.is_conserved() && record.warmup.is_conserved(),
                latency_identity: record.latencies.identity_holds(),
            },
            offered_rate_per_second: outcome.offered_rate,
            achieved_rate_per_second: outcome.achieved_rate(),
            elapsed_ns: outcome.elapsed_ns,
            latency_ns: record
                .latencies
                .named()
                .into_iter()
                .map(|(name, series)| (name, Latency::new(series)))
                .collect(),
            error_samples: &record.samples,
            cpu: Cpu {
                client_us_per_request: outcome.client_us_per_request(),
                client_spin_us_per_request: outcome.spin_us_per_request(),
                server_us_per_request: report.server.as_ref().and_then(|server| server.us_per_request),
                busiest_thread_fraction: outcome.busiest_cpu,
                starved_fraction: outcome.starved,
                stalled_fraction: outcome.stalled,
            },
            server: report.server.as_ref(),
            verdict: &report.judgement,
            environment: Environment::here(),
        }
    }
}

impl<'a> Config<'a> {
    fn new(plan: &'a Plan) -> Self {
        let value = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Self {
            url: &plan.target.url,
            method: plan.head.method.as_str(),
            headers: plan.head.headers.iter().map(|(name, text)| (name.as_str(), value(text))).collect(),
            body: JsonBody::new(&plan.body),
            check: match plan.check {
                Check::Echo => "echo",
                Check::Status => "status",
            },
            rate_per_second: plan.rate(),
            stages: plan.stages().map(ToString::to_string),
            repeat: plan.is_endless(),
            http_version: match plan.protocol {
                Protocol::Http1 => "1.1",
                Protocol::Http2 { .. } => "2",
            },
            tls: plan.tls.is_some(),
            insecure: plan.tls.as_ref().is_some_and(|tls| tls.insecure),
            client_certificate: plan.tls.as_ref().is_some_and(|tls| tls.client_certificate),
            unix_socket: plan.unix.is_some(),
            connections: plan.connections,
            streams: plan.protocol.streams(),
            threads: plan.threads.get(),
            requests: plan.requests,
            duration_ns: plan.duration_ns(),
            warmup_ns: plan.warmup_ns(),
            timeout_ns: plan.timeout_ns(),
            seed: plan.seed,
            trace_one_in: plan.trace_one_in,
        }
    }
}

impl JsonBody {
    fn new(body: &Body) -> Self {
        match body {
            Body::None => Self::None,
            Body::Fixed(bytes) => Self::Fixed { len_bytes: bytes.len() as u64 },
            Body::Generated(_) => Self::Generated { sizes_bytes: body.sizes() },
        }
    }
}

impl<'a> JsonCounts<'a> {
    fn new(counts: &'a Counts) -> Self {
        Self {
            scheduled: counts.scheduled.scheduled,
            sent: counts.sent,
            ok: counts.ok,
            unsent: counts.scheduled.unsent,
            in_flight_at_end: counts.in_flight_at_end,
            retried: counts.retried,
            errors: &counts.errors,
            statuses: &counts.statuses,
            body_bytes_sent: counts.body_bytes_sent,
            body_bytes_received: counts.body_bytes_received,
        }
    }
}

impl Latency {
    fn new(series: &Series) -> Self {
        let mut bytes = Vec::new();
        // A Vec takes every byte and the histogram has fixed bounds, so only a bug can fail here.
        V2DeflateSerializer::new()
            .serialize(&series.histogram, &mut bytes)
            .unwrap_or_else(|error| unreachable!("histogram into memory: {error}"));
        Self {
            count: series.count(),
            mean: series.mean_ns(),
            p50: series.quantile_ns(0.5),
            p90: series.quantile_ns(0.9),
            p99: series.quantile_ns(0.99),
            p999: series.quantile_ns(0.999),
            max: series.histogram.max(),
            hdr_v2_base64: BASE64.encode(bytes),
        }
    }
}

impl Environment {
    fn here() -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
        Self {
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            kernel: kernel.map(|text| text.trim().to_owned()),
            cores_available: std::thread::available_parallelism().ok().map(usize::from),
        }
    }
}
