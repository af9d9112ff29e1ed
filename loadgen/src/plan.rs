//! Without a run as one validated value, a wrong flag would show itself as a strange number and not as an error.

mod arrivals;
mod limits;
mod transport;

use std::{
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, Method};

use crate::{
    body::Body,
    clock::nanos,
    engine::{
        Job,
        http2::Http2Template,
        request::{RequestHead, RequestTemplate},
        tls::{Tls, TlsOptions},
    },
    schedule::{Arrivals, Schedule},
    stages::Stages,
    target::Target,
    verify::Check,
};

use self::limits::{
    CONNECTIONS_MAX, DURATION_MAX, REQUESTS_MAX, STREAMS_MAX, THREADS_MAX, TIMEOUT_MAX, within, within_time,
};
pub use self::{
    limits::BODY_LEN_MAX,
    transport::{Protocol, STREAMS_DEFAULT},
};

/// Duration of a run for which neither `-z` nor `-n` is given.
pub const DURATION_DEFAULT: Duration = Duration::from_secs(10);

/// Timeout of a request (`-t`), as in hey.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(20);

/// Connections (`-c`), as in hey and oha.
pub const CONNECTIONS_DEFAULT: usize = 50;

/// The field that asks for a trace (W3C Trace Context).
const TRACEPARENT: &str = "traceparent";

/// What requests carry, before the seed is known.
#[derive(Clone, Debug, Default)]
pub enum BodySource {
    /// Nothing.
    #[default]
    None,
    /// These bytes (`-d`, `-D`).
    Bytes(Arc<Vec<u8>>),
    /// Seeded random bytes in these sizes (`--body-size`).
    Sizes(Vec<u64>),
}

/// What `--check` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CheckMode {
    /// Echo if the request has a body, else status.
    #[default]
    Auto,
    /// 2xx, and the body of the request comes back byte for byte.
    Echo,
    /// 2xx.
    Status,
}

/// A run as it is asked for: each field is a flag.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// `http[s]://host[:port][/path]`.
    pub url: String,
    /// `-m`; GET without a body, POST with one.
    pub method: Option<Method>,
    /// `-H`, `-T`.
    pub headers: HeaderMap,
    /// `-d`, `-D`, `--body-size`.
    pub body: BodySource,
    /// `--check`.
    pub check: CheckMode,
    /// `-q`; closed loop without this and `stages`.
    pub rate: Option<u64>,
    /// `--stages`.
    pub stages: Option<Stages>,
    /// `--repeat`.
    pub repeat: bool,
    /// `-c`.
    pub connections: usize,
    /// `--http2`.
    pub http2: bool,
    /// `--streams`.
    pub streams: Option<usize>,
    /// `--insecure`, `--cacert`, `--cert`, `--key`.
    pub tls: TlsOptions,
    /// `--unix`.
    pub unix: Option<PathBuf>,
    /// `--threads`; one per core without.
    pub threads: Option<usize>,
    /// `-n`.
    pub requests: Option<u64>,
    /// `-z`.
    pub duration: Option<Duration>,
    /// `--warmup`.
    pub warmup: Duration,
    /// `-t`.
    pub timeout: Duration,
    /// `--seed`; drawn without.
    pub seed: Option<u64>,
    /// `--trace-one-in`; none if 0.
    pub trace_one_in: u64,
}

impl PlanOptions {
    /// The defaults for a run against `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            method: None,
            headers: HeaderMap::new(),
            body: BodySource::None,
            check: CheckMode::Auto,
            rate: None,
            stages: None,
            repeat: false,
            connections: CONNECTIONS_DEFAULT,
            http2: false,
            streams: None,
            tls: TlsOptions::default(),
            unix: None,
            threads: None,
            requests: None,
            duration: None,
            warmup: Duration::ZERO,
            timeout: TIMEOUT_DEFAULT,
            seed: None,
            trace_one_in: 0,
        }
    }
}

/// A run that can be executed, and executed again: same plan, same requests, same bodies, same instants.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to.
    pub target: Target,
    /// Method, path and header fields.
    pub head: RequestHead,
    /// What requests carry.
    pub body: Body,
    /// How responses are checked.
    pub check: Check,
    /// When requests are due.
    pub arrivals: Arrivals,
    /// What is spoken.
    pub protocol: Protocol,
    /// How TLS is spoken, for an https URL.
    pub tls: Option<Tls>,
    /// The socket to connect to, instead of the host of the URL.
    pub unix: Option<PathBuf>,
    /// Connections over all threads.
    pub connections: usize,
    /// Worker threads.
    pub threads: NonZeroUsize,
    /// Measured requests, if their number ends the run.
    pub requests: Option<u64>,
    /// Measured time, if it ends the run.
    pub duration: Option<Duration>,
    /// Time before the measurement.
    pub warmup: Duration,
    /// How long a response may take from the first byte written.
    pub timeout: Duration,
    /// Seed of bodies, request ids and trace ids.
    pub seed: u64,
    /// One request in so many asks for its trace; none if 0.
    pub trace_one_in: u64,
    http2_template: Option<Http2Template>,
}

/// A value that no run can have. The message names the value, the limit and the flag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value}: {problem}; change {flag}")]
pub struct PlanError {
    /// What was given.
    pub value: String,
    /// What is wrong with it, with the limit.
    pub problem: String,
    /// Where to change it.
    pub flag: &'static str,
}

impl PlanError {
    /// `value` does not do, because of `problem`, and is set by `flag`.
    pub fn new(value: impl Into<String>, problem: impl Into<String>, flag: &'static str) -> Self {
        Self { value: value.into(), problem: problem.into(), flag }
    }
}

impl Plan {
    /// Validates `options` and fills in what is left open.
    ///
    /// # Errors
    /// The first value that cannot be, with its limit and its flag.
    pub fn new(options: PlanOptions) -> Result<Self, PlanError> {
        arrivals::one_end(&options)?;
        let target = Target::parse(&options.url)?;
        let has_body = !matches!(options.body, BodySource::None);
        let method = options.method.clone().unwrap_or(if has_body { Method::POST } else { Method::GET });
        let check = resolve_check(options.check, has_body, &method)?;
        let connections = within(options.connections, 1, CONNECTIONS_MAX, "-c/--connections")?;
        let threads = threads(options.threads, connections)?;
        if let Some(requests) = options.requests {
            within(requests, 1, REQUESTS_MAX, "-n/--requests")?;
        }
        if let Some(duration) = options.duration {
            within_time(duration, Duration::from_millis(1), DURATION_MAX, "-z/--duration")?;
        }
        if let (1.., Some(given)) = (options.trace_one_in, options.headers.get(TRACEPARENT)) {
            let given = String::from_utf8_lossy(given.as_bytes());
            let problem = "loadgen writes this field into the requests that it traces";
            return Err(PlanError::new(format!("{TRACEPARENT}: {given}"), problem, "-H or --trace-one-in"));
        }
        within_time(options.warmup, Duration::ZERO, DURATION_MAX, "--warmup")?;
        within_time(options.timeout, Duration::from_millis(1), TIMEOUT_MAX, "-t/--timeout")?;
        // Below 2^53, so that every reader of the JSON reads the same number.
        let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1 << 53));
        let ends_otherwise = options.requests.is_some() || options.stages.is_some() || options.repeat;
        let duration = options.duration.or_else(|| (!ends_otherwise).then_some(DURATION_DEFAULT));
        let head = RequestHead::new(method, &target, options.headers.clone());
        let body = body(options.body.clone(), seed)?;
        Ok(Self {
            http2_template: transport::http2_template(&options, &head, &body.sizes(), seed)?,
            head,
            protocol: transport::protocol(options.http2, options.streams)?,
            tls: transport::tls(&options.tls, &target, options.http2)?,
            unix: transport::unix(options.unix)?,
            target,
            body,
            check,
            arrivals: arrivals::arrivals(options.rate, options.stages, options.warmup, options.repeat)?,
            connections,
            threads,
            requests: options.requests,
            duration,
            warmup: options.warmup,
            timeout: options.timeout,
            seed,
            trace_one_in: options.trace_one_in,
        })
    }

    /// When the requests of this run are due.
    pub fn schedule(&self) -> Schedule {
        Schedule::new(&self.arrivals, self.warmup_ns(), self.requests, self.duration_ns())
    }

    /// What all requests have in common.
    pub fn job(&self) -> Job {
        let template = RequestTemplate::new(&self.head, &self.body.sizes(), self.trace_one_in, self.seed);
        Job { template, http2: self.http2_template.clone(), body: self.body.clone(), check: self.check }
    }

    /// Requests per second in an open loop whose rate stays.
    pub fn rate(&self) -> Option<u64> {
        match self.arrivals {
            Arrivals::Constant { per_second } => Some(per_second.get()),
            Arrivals::Staged { .. } | Arrivals::Closed => None,
        }
    }

    /// The rates of an open loop whose rate changes.
    pub fn stages(&self) -> Option<&Stages> {
        match &self.arrivals {
            Arrivals::Staged { stages, .. } => Some(stages),
            Arrivals::Constant { .. } | Arrivals::Closed => None,
        }
    }

    /// True if only a signal ends the run.
    pub fn is_endless(&self) -> bool {
        self.schedule().is_endless()
    }

    /// The measured time in ns, if it ends the run.
    pub fn duration_ns(&self) -> Option<u64> {
        self.duration.map(nanos)
    }

    /// The warm-up in ns.
    pub fn warmup_ns(&self) -> u64 {
        nanos(self.warmup)
    }

    /// The timeout in ns.
    pub fn timeout_ns(&self) -> u64 {
        nanos(self.timeout)
    }

    /// The number of threads, as the schedule counts them.
    pub fn threads_u64(&self) -> NonZeroU64 {
        self.threads.try_into().unwrap_or(NonZeroU64::MIN)
    }
}

fn resolve_check(mode: CheckMode, has_body: bool, method: &Method) -> Result<Check, PlanError> {
    match mode {
        CheckMode::Echo if method == Method::HEAD => {
            Err(PlanError::new("echo", "a response to HEAD has no body to check", "--check or -m"))
        }
        CheckMode::Echo => Ok(Check::Echo),
        CheckMode::Auto if has_body && method != Method::HEAD => Ok(Check::Echo),
        CheckMode::Auto | CheckMode::Status => Ok(Check::Status),
    }
}

fn threads(asked: Option<usize>, connections: usize) -> Result<NonZeroUsize, PlanError> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = match asked {
        Some(threads) => within(threads, 1, THREADS_MAX.min(connections), "--threads (at most -c)")?,
        None => cores.min(connections),
    };
    Ok(NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN))
}

fn body(source: BodySource, seed: u64) -> Result<Body, PlanError> {
    match source {
        BodySource::None => Ok(Body::None),
        BodySource::Bytes(bytes) => {
            within(bytes.len() as u64, 0, BODY_LEN_MAX, "-d/-D")?;
            Ok(Body::Fixed(bytes))
        }
        BodySource::Sizes(sizes) => {
            for size in &sizes {
                within(*size, 0, BODY_LEN_MAX, "--body-size")?;
            }
            Ok(Body::generated(seed, &sizes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Why there is no plan of the default options with one change.
    pub(super) fn error(change: impl FnOnce(&mut PlanOptions)) -> String {
        let mut options = PlanOptions::new("http://localhost/");
        change(&mut options);
        Plan::new(options).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_value_is_named_with_its_limit_and_its_flag() {
        assert_eq!(
            error(|options| options.connections = 0),
            "0: it must be from 1 to 2000000; change -c/--connections"
        );
        assert_eq!(
            error(|options| options.timeout = Duration::from_hours(2)),
            "2h: it must be from 1ms to 1h; change -t/--timeout"
        );
        assert!(error(|options| options.rate = Some(0)).contains("-q/--rate"));
        assert!(error(|options| options.requests = Some(0)).contains("-n/--requests"));
        assert!(error(|options| options.threads = Some(51)).contains("--threads"));
        assert!(error(|options| options.url = "ftp://x/".to_owned()).contains("https"));
        assert!(error(|options| options.url = "http://x:0/".to_owned()).contains("port"));
        assert!(error(|options| options.body = BodySource::Sizes(vec![1 << 31])).contains("--body-size"));
    }

    #[test]
    fn a_traceparent_is_not_written_twice() {
        let traced = error(|options| {
            options.trace_one_in = 1;
            options.headers.insert(TRACEPARENT, http::HeaderValue::from_static("00-1"));
        });
        assert!(traced.starts_with("traceparent: 00-1: ") && traced.contains("--trace-one-in"), "{traced}");
    }

    #[test]
    fn a_run_that_repeats_has_no_end() {
        let endless = |rate, stages: Option<&str>| {
            let stages = stages.map(|text| text.parse().unwrap());
            let options = PlanOptions { rate, stages, repeat: true, ..PlanOptions::new("localhost") };
            Plan::new(options).unwrap().is_endless()
        };
        assert!(endless(Some(5), None) && endless(None, Some("1s@5")) && endless(None, None));
        assert!(!Plan::new(PlanOptions::new("localhost")).unwrap().is_endless());
    }

    #[test]
    fn a_body_makes_it_a_checked_post() {
        let mut options = PlanOptions::new("localhost");
        options.body = BodySource::Bytes(b"x".to_vec().into());
        let plan = Plan::new(options).unwrap();
        assert_eq!((plan.head.method, plan.check), (Method::POST, Check::Echo));
        let bare = Plan::new(PlanOptions::new("localhost")).unwrap();
        assert_eq!((bare.head.method, bare.check), (Method::GET, Check::Status));
    }

    #[test]
    fn a_run_without_an_end_gets_one() {
        let plan = Plan::new(PlanOptions::new("localhost")).unwrap();
        assert_eq!(plan.duration, Some(DURATION_DEFAULT));
        let counted = PlanOptions { requests: Some(5), ..PlanOptions::new("localhost") };
        assert_eq!(Plan::new(counted).unwrap().duration, None);
    }
}
