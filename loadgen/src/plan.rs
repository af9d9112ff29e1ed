//! Without a run as one validated value, a wrong flag would show itself as a strange number and not as an error.

use std::{
    fmt::Display,
    num::{NonZeroU64, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, Method};

use crate::{
    body::Body,
    clock::{NANOS_PER_SECOND, nanos},
    engine::request::RequestHead,
    schedule::{Arrivals, Schedule},
    stages::{Curve, Stages},
    target::Target,
    verify::Check,
};

/// Duration of a run for which neither `-z` nor `-n` is given.
pub const DURATION_DEFAULT: Duration = Duration::from_secs(10);

/// Timeout of a request (`-t`), as in hey.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(20);

/// Connections (`-c`), as in hey and oha.
pub const CONNECTIONS_DEFAULT: usize = 50;

/// More than one machine can hold open.
const CONNECTIONS_MAX: usize = 2_000_000;

/// More threads than cores only disturb the measurement.
const THREADS_MAX: usize = 1_024;

/// Above this the gap between requests is below what any clock here resolves.
const RATE_MAX: u64 = 100_000_000;

/// More stages than anybody types.
const STAGES_MAX: usize = 1_000;

/// A number of requests that no run reaches, small enough that no sum overflows.
const REQUESTS_MAX: u64 = 1 << 48;

/// The longest time that latencies are told apart for.
const TIMEOUT_MAX: Duration = Duration::from_hours(1);

/// Keeps every instant of a run within 64 bits of ns. A year as messages write it: 365.25 days.
const DURATION_MAX: Duration = Duration::from_hours(24 * 365 + 6);

/// Bodies larger than this are not kept in memory.
pub const BODY_LEN_MAX: u64 = 1 << 30;

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
    /// `http://host[:port][/path]`.
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
            threads: None,
            requests: None,
            duration: None,
            warmup: Duration::ZERO,
            timeout: TIMEOUT_DEFAULT,
            seed: None,
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
    /// Seed of bodies and request ids.
    pub seed: u64,
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
        one_end(&options)?;
        let target = Target::parse(&options.url)?;
        let has_body = !matches!(options.body, BodySource::None);
        let method = options.method.unwrap_or(if has_body { Method::POST } else { Method::GET });
        let check = resolve_check(options.check, has_body, &method)?;
        let connections = within(options.connections, 1, CONNECTIONS_MAX, "-c/--connections")?;
        let threads = threads(options.threads, connections)?;
        if let Some(requests) = options.requests {
            within(requests, 1, REQUESTS_MAX, "-n/--requests")?;
        }
        if let Some(duration) = options.duration {
            within_time(duration, Duration::from_millis(1), DURATION_MAX, "-z/--duration")?;
        }
        within_time(options.warmup, Duration::ZERO, DURATION_MAX, "--warmup")?;
        within_time(options.timeout, Duration::from_millis(1), TIMEOUT_MAX, "-t/--timeout")?;
        // Below 2^53, so that every reader of the JSON reads the same number.
        let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1 << 53));
        let ends_otherwise = options.requests.is_some() || options.stages.is_some() || options.repeat;
        let duration = options.duration.or_else(|| (!ends_otherwise).then_some(DURATION_DEFAULT));
        Ok(Self {
            head: RequestHead::new(method, &target, options.headers),
            target,
            body: body(options.body, seed)?,
            check,
            arrivals: arrivals(options.rate, options.stages, options.warmup, options.repeat)?,
            connections,
            threads,
            requests: options.requests,
            duration,
            warmup: options.warmup,
            timeout: options.timeout,
            seed,
        })
    }

    /// When the requests of this run are due.
    pub fn schedule(&self) -> Schedule {
        Schedule::new(&self.arrivals, self.warmup_ns(), self.requests, self.duration_ns())
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

/// What ends a run must not be said twice.
fn one_end(options: &PlanOptions) -> Result<(), PlanError> {
    let requests = options.requests.map(|requests| (requests.to_string(), "-n/--requests or --repeat"));
    let duration = options.duration.map(humantime::format_duration);
    let duration = duration.map(|duration| (duration.to_string(), "-z/--duration or --repeat"));
    if let (true, Some((value, flag))) = (options.repeat, requests.or(duration)) {
        return Err(PlanError::new(value, "a run that repeats has no end but a signal", flag));
    }
    let Some(stages) = &options.stages else { return Ok(()) };
    let flag = match (options.rate, options.requests, options.duration) {
        (Some(_), ..) => "-q/--rate or --stages",
        (_, Some(_), _) => "-n/--requests or --stages",
        (.., Some(_)) => "-z/--duration or --stages",
        _ => return Ok(()),
    };
    Err(PlanError::new(
        stages.to_string(),
        "the stages alone say how fast and how long requests are sent",
        flag,
    ))
}

fn arrivals(
    rate: Option<u64>,
    stages: Option<Stages>,
    warmup: Duration,
    repeat: bool,
) -> Result<Arrivals, PlanError> {
    if let Some(stages) = stages {
        let stages = valid_stages(stages, warmup)?;
        return Ok(Arrivals::Staged { stages, repeat });
    }
    let Some(rate) = rate else { return Ok(Arrivals::Closed) };
    let rate = within(rate, 1, RATE_MAX, "-q/--rate")?;
    let per_second = NonZeroU64::new(rate).unwrap_or(NonZeroU64::MIN);
    Ok(Arrivals::Constant { per_second })
}

fn valid_stages(stages: Stages, warmup: Duration) -> Result<Stages, PlanError> {
    const FLAG: &str = "--stages";
    within(stages.0.len(), 1, STAGES_MAX, "the number of --stages")?;
    for stage in &stages.0 {
        within_time(stage.duration, Duration::from_millis(1), DURATION_MAX, FLAG)?;
        within(stage.from.max(stage.to), 0, RATE_MAX, FLAG)?;
        if !Curve::piece_holds(stage) {
            let most = u64::MAX / NANOS_PER_SECOND;
            let problem = format!("its higher rate times its length is more than {most} requests");
            return Err(PlanError::new(stage.to_string(), problem, FLAG));
        }
    }
    let total: Duration = stages.0.iter().map(|stage| stage.duration).sum();
    within_time(total, Duration::from_millis(1), DURATION_MAX, "the sum of --stages")?;
    let requests = Curve::new(&stages, 0, false).total();
    if requests == 0 {
        return Err(PlanError::new(stages.to_string(), "there is no request in them", FLAG));
    }
    within(requests, 1, REQUESTS_MAX, "the requests in --stages")?;
    if warmup > Duration::ZERO && stages.0.first().is_some_and(|first| first.from == 0) {
        let problem = "it runs at the rate that the stages begin with, and that is 0";
        let warmup = humantime::format_duration(warmup).to_string();
        return Err(PlanError::new(warmup, problem, "--warmup or --stages"));
    }
    Ok(stages)
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

fn within<T: PartialOrd + Display + Copy>(
    value: T,
    min: T,
    max: T,
    flag: &'static str,
) -> Result<T, PlanError> {
    if value >= min && value <= max {
        return Ok(value);
    }
    Err(PlanError::new(value.to_string(), format!("it must be from {min} to {max}"), flag))
}

fn within_time(value: Duration, min: Duration, max: Duration, flag: &'static str) -> Result<(), PlanError> {
    if value >= min && value <= max {
        return Ok(());
    }
    let [value, min, max] = [value, min, max].map(humantime::format_duration);
    Err(PlanError::new(value.to_string(), format!("it must be from {min} to {max}"), flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(change: impl FnOnce(&mut PlanOptions)) -> String {
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
        assert!(error(|options| options.url = "https://x/".to_owned()).contains("https"));
        assert!(error(|options| options.url = "http://x:0/".to_owned()).contains("port"));
        assert!(error(|options| options.body = BodySource::Sizes(vec![1 << 31])).contains("--body-size"));
    }

    #[test]
    fn stages_that_cannot_be_are_named_with_their_limit_and_flag() {
        let stages = |text: &str, change: fn(&mut PlanOptions)| {
            error(|options| {
                options.stages = Some(text.parse().unwrap());
                change(options);
            })
        };
        for (text, expected) in [
            ("0s@5", "0s: it must be from 1ms to 1year; change --stages"),
            ("1s@200m", "200000000: it must be from 0 to 100000000; change --stages"),
            (
                "1h@0->100m",
                "1h@0->100000000: its higher rate times its length is more than 18446744073 requests",
            ),
            ("10s@0,1m@0", "10s@0,1m@0: there is no request in them; change --stages"),
        ] {
            let error = stages(text, |_| ());
            assert!(error.contains(expected), "{error}");
        }
        let warm = stages("1s@0->5", |options| options.warmup = Duration::from_secs(5));
        assert!(warm.starts_with("5s: ") && warm.contains("--warmup"), "{warm}");
        let rated = stages("1s@5", |options| options.rate = Some(7));
        assert!(rated.starts_with("1s@5: ") && rated.contains("-q/--rate or --stages"), "{rated}");
        assert!(stages("1s@5", |options| options.requests = Some(7)).contains("-n/--requests or --stages"));
        let timed = stages("1s@5", |options| options.duration = Some(Duration::from_secs(1)));
        assert!(timed.contains("-z/--duration or --stages"), "{timed}");
        let repeated = error(|options| (options.repeat, options.requests) = (true, Some(7)));
        assert!(repeated.starts_with("7: ") && repeated.contains("-n/--requests or --repeat"), "{repeated}");
        let timed =
            error(|options| (options.repeat, options.duration) = (true, Some(Duration::from_secs(7))));
        assert!(timed.starts_with("7s: ") && timed.contains("-z/--duration or --repeat"), "{timed}");
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
