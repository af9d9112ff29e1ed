//! The table of settings: one row each, so that a limit cannot exist without unit, range, default and reason.

use std::{fmt::Write as _, net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use http::Uri;

use super::{Config, LogFormat, Runtime, parse};

/// One row: a configuration value that can be set by flag, environment or file.
#[derive(Debug)]
pub struct Setting {
    /// Key in the file; the flag is the same with dashes, the environment twin is `ECHO_` and upper case.
    pub key: &'static str,
    /// Type, unit, range and place of the value.
    pub kind: Kind,
    /// The default, in the form a user would type.
    pub default: &'static str,
    /// What fails without it, or what it is for.
    pub why: &'static str,
}

/// The type of a setting, its range, and where in [`Config`] it lives.
#[derive(Debug)]
pub enum Kind {
    /// `IP:PORT`; port 0 lets the kernel choose.
    Address(fn(&mut Config) -> &mut SocketAddr),
    /// A duration such as `5s`, `250ms` or `1m30s`, between the two bounds.
    Duration(fn(&mut Config) -> &mut Duration, Duration, Duration),
    /// A number of bytes such as `65536`, `64KiB` or `1GiB`, between the two bounds.
    Bytes(fn(&mut Config) -> &mut u64, u64, u64),
    /// A whole number between the two bounds.
    Count(fn(&mut Config) -> &mut u64, u64, u64),
    /// A whole number from 1 to the bound, or `auto`.
    AutoCount(fn(&mut Config) -> &mut Option<NonZeroUsize>, usize),
    /// `http://HOST:PORT`, or empty for none.
    Endpoint(fn(&mut Config) -> &mut Option<Uri>),
    /// A file to write to, or `-` for standard output.
    Output(fn(&mut Config) -> &mut Option<PathBuf>),
    /// `on` or `off`.
    Switch(fn(&mut Config) -> &mut bool),
    /// The name of a runtime.
    Runtime(fn(&mut Config) -> &mut Runtime),
    /// The name of a log format.
    LogFormat(fn(&mut Config) -> &mut LogFormat),
    /// A log filter in the syntax of `tracing_subscriber::filter::Targets`.
    LogFilter(fn(&mut Config) -> &mut String),
}

const MS: Duration = Duration::from_millis(1);
const TEN_MS: Duration = Duration::from_millis(10);
const HOUR: Duration = Duration::from_hours(1);
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

const fn row(key: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Setting {
    Setting { key, kind, default, why }
}

/// Every setting, in the order in which a connection meets it.
pub const SETTINGS: &[Setting] = &[
    row("listen", Kind::Address(|c| &mut c.listen), "0.0.0.0:8080", "data listener"),
    row(
        "admin",
        Kind::Address(|c| &mut c.admin),
        "127.0.0.1:9090",
        "health, metrics and debug listener, on a thread of its own so that it answers while the data plane is \
         saturated",
    ),
    row(
        "runtime",
        Kind::Runtime(|c| &mut c.runtime),
        "work-stealing",
        "`work-stealing`: one multi-thread runtime; `per-core`: one current-thread runtime and SO_REUSEPORT listener \
         per worker",
    ),
    row(
        "workers",
        Kind::AutoCount(|c| &mut c.workers, 1024),
        "auto",
        "data-plane threads; auto: one per core",
    ),
    row(
        "log",
        Kind::LogFilter(|c| &mut c.log),
        "info",
        "log filter, `level` or `target=level,...`; a bad one is refused at start",
    ),
    row(
        "log_format",
        Kind::LogFormat(|c| &mut c.log_format),
        "pretty",
        "`pretty` for people, `json` for collectors",
    ),
    row(
        "backlog",
        Kind::Count(|c| &mut c.backlog, 1, 65_535),
        "4096",
        "connections the kernel completes before we accept them; capped by net.core.somaxconn, overflow drops SYNs",
    ),
    row(
        "connections_max",
        Kind::AutoCount(|c| &mut c.connections_max, 100_000_000),
        "auto",
        "open client connections; auto: the fd limit less a reserve; more get 503 and are closed",
    ),
    row(
        "requests_max",
        Kind::AutoCount(|c| &mut c.requests_max, 100_000_000),
        "auto",
        "requests in progress, each to the end of its response body; auto: 1024 per worker; more get 503",
    ),
    row(
        "first_byte_timeout",
        Kind::Duration(|c| &mut c.first_byte_timeout, TEN_MS, HOUR),
        "5s",
        "from accept to a known protocol; else a client that connects and says nothing holds a task and an fd",
    ),
    row(
        "header_read_timeout",
        Kind::Duration(|c| &mut c.header_read_timeout, TEN_MS, HOUR),
        "10s",
        "from the first byte of a request head to its last (slowloris); answered 408",
    ),
    row(
        "keep_alive_timeout",
        Kind::Duration(|c| &mut c.keep_alive_timeout, TEN_MS, HOUR),
        "75s",
        "idle time between requests; longer than the usual 60 s of a load balancer, which avoids its reuse race",
    ),
    row(
        "body_stall_timeout",
        Kind::Duration(|c| &mut c.body_stall_timeout, TEN_MS, HOUR),
        "30s",
        "a request body that we wait for and that does not move; 408, or a reset once the response has begun",
    ),
    row(
        "write_stall_timeout",
        Kind::Duration(|c| &mut c.write_stall_timeout, TEN_MS, HOUR),
        "30s",
        "a client that stops reading; a body timeout cannot see it, because a blocked writer polls no body",
    ),
    row(
        "rate_min",
        Kind::Bytes(|c| &mut c.rate_min, 0, GIB),
        "1KiB",
        "bytes per second that a peer we wait for must move, in either direction: one byte per interval evades a \
         stall timeout; 0 switches the rule off",
    ),
    row(
        "rate_grace",
        Kind::Duration(|c| &mut c.rate_grace, TEN_MS, HOUR),
        "30s",
        "waiting time over which rate_min is measured",
    ),
    row(
        "request_timeout",
        Kind::Duration(|c| &mut c.request_timeout, TEN_MS, HOUR),
        "60s",
        "from a request to the head of its response; answered 503",
    ),
    row(
        "linger_timeout",
        Kind::Duration(|c| &mut c.linger_timeout, Duration::ZERO, HOUR),
        "2s",
        "after an early answer, how long a client that falls silent is waited for, so that it sees the answer and not a \
         reset",
    ),
    row(
        "linger_max",
        Kind::Duration(|c| &mut c.linger_max, Duration::ZERO, HOUR),
        "30s",
        "after an early answer, how long a client that goes on sending is read from",
    ),
    row(
        "body_max",
        Kind::Bytes(|c| &mut c.body_max, 0, 1024 * GIB),
        "1GiB",
        "request body; 413 before 100-continue where Content-Length says so, a reset once the response has begun",
    ),
    row(
        "header_max",
        Kind::Bytes(|c| &mut c.header_max, KIB, MIB),
        "32KiB",
        "request head (HTTP/1.1: 431) or header list (HTTP/2: stream error)",
    ),
    row(
        "http1_buffer_max",
        Kind::Bytes(|c| &mut c.http1_buffer_max, 8 * KIB, 16 * MIB),
        "32KiB",
        "read and write buffer per HTTP/1.1 connection; 100 slow readers cost 27 MB at 64 KiB, at no gain in speed, and over 1 MiB each at hyper's own 408 KiB",
    ),
    row(
        "http2_streams_max",
        Kind::Count(|c| &mut c.http2_streams_max, 1, 65_535),
        "128",
        "concurrent streams per HTTP/2 connection",
    ),
    row(
        "http2_stream_window",
        Kind::Bytes(|c| &mut c.http2_stream_window, KIB, GIB),
        "64KiB",
        "flow-control window per stream; connection window / this = stalled uploads that stop nobody else",
    ),
    row(
        "http2_connection_window",
        Kind::Bytes(|c| &mut c.http2_connection_window, 64 * KIB, GIB),
        "1MiB",
        "flow-control window per connection",
    ),
    row(
        "http2_send_buffer_max",
        Kind::Bytes(|c| &mut c.http2_send_buffer_max, KIB, 16 * MIB),
        "64KiB",
        "unsent response bytes per stream; hyper's own is 400 KiB",
    ),
    row(
        "http2_resets_pending_max",
        Kind::Count(|c| &mut c.http2_resets_pending_max, 1, 65_535),
        "20",
        "streams reset by the client before we saw them (rapid reset); then GOAWAY",
    ),
    row(
        "http2_resets_local_max",
        Kind::Count(|c| &mut c.http2_resets_local_max, 1, 65_535),
        "1024",
        "streams that we reset because of the client's errors; then GOAWAY",
    ),
    row(
        "http2_ping_interval",
        Kind::Duration(|c| &mut c.http2_ping_interval, TEN_MS, HOUR),
        "30s",
        "time between pings that find a dead peer",
    ),
    row(
        "http2_ping_timeout",
        Kind::Duration(|c| &mut c.http2_ping_timeout, TEN_MS, HOUR),
        "20s",
        "time for the answer to a ping",
    ),
    row(
        "lame_duck",
        Kind::Duration(|c| &mut c.lame_duck, Duration::ZERO, HOUR),
        "5s",
        "drain, first phase: not ready but still serving, responses carry `connection: close`, while load balancers \
         look away",
    ),
    row(
        "drain_idle_grace",
        Kind::Duration(|c| &mut c.drain_idle_grace, MS, HOUR),
        "250ms",
        "drain: handshakes in progress are accepted, and then idle connections stay, this long each, for requests that \
         are already on their way",
    ),
    row(
        "drain_grace",
        Kind::Duration(|c| &mut c.drain_grace, Duration::ZERO, HOUR),
        "20s",
        "drain, second phase: time for requests in progress; what is left then is cut and counted. With lame_duck \
         below Kubernetes' 30 s",
    ),
    row(
        "trace_one_in",
        Kind::Count(|c| &mut c.trace_one_in, 0, 1_000_000_000),
        "1024",
        "admitted requests per span, where the caller's `traceparent` does not decide; 1 traces all, 0 none, whatever \
         callers say; the others pay one look at the headers and one counter",
    ),
    row(
        "otlp_endpoint",
        Kind::Endpoint(|c| &mut c.otlp_endpoint),
        "",
        "collector that gets the spans (OTLP over gRPC), as `http://collector:4317`; empty: nobody does",
    ),
    row(
        "otlp_queue_max",
        Kind::Count(|c| &mut c.otlp_queue_max, 1, 1_000_000),
        "16384",
        "spans that wait for the collector, at about 1.5 KB each; more are dropped and counted",
    ),
    row(
        "access_log_one_in",
        Kind::Count(|c| &mut c.access_log_one_in, 0, 1_000_000_000),
        "0",
        "requests per line of the access log; 1 logs all, 0 none",
    ),
    row(
        "access_log_file",
        Kind::Output(|c| &mut c.access_log_file),
        "-",
        "file that the access log is appended to; `-` is standard output, which then carries it between the \
         announcements and the drain report",
    ),
    row(
        "request_metrics",
        Kind::Switch(|c| &mut c.request_metrics),
        "on",
        "whether requests are timed and counted by method, status and version; off only to measure what that costs",
    ),
    row(
        "task_histograms",
        Kind::Switch(|c| &mut c.task_histograms),
        "off",
        "histograms of the runtime's poll times and schedule latencies in /metrics; costs two readings of the clock per \
         poll, so it is switched on where the runtime is looked at. Needs a build with --cfg tokio_unstable",
    ),
    row(
        "slow_poll",
        Kind::Duration(|c| &mut c.slow_poll, Duration::ZERO, HOUR),
        "0s",
        "a poll that takes at least this long is counted, and named in a warning with the place that spawned the task; \
         0 switches it off. Two readings of the clock per poll; needs a build with --cfg tokio_unstable",
    ),
    row(
        "console",
        Kind::Address(|c| &mut c.console),
        "127.0.0.1:6669",
        "listener for tokio-console, in a build with --features console; it has no authentication and can pause what is \
         shown",
    ),
    row(
        "console_one_in",
        Kind::Count(|c| &mut c.console_one_in, 1, 1_000_000),
        "64",
        "tasks of clients (connections, streams) per one that tokio-console is shown; 1 shows all, at 51 KB each where \
         stock, and more than 17,000 are more than its 4 MiB messages hold",
    ),
    row(
        "console_resources",
        Kind::Switch(|c| &mut c.console_resources),
        "off",
        "whether tokio-console is also shown the timers, locks and channels of its tasks: three spans per wait",
    ),
    row(
        "console_retention",
        Kind::Duration(|c| &mut c.console_retention, Duration::from_secs(1), HOUR),
        "10s",
        "how long tokio-console is shown a task that has ended; each keeps its histograms until then",
    ),
    row(
        "lab",
        Kind::Switch(|c| &mut c.lab),
        "off",
        "serves /lab/: seeded faults (a poll that blocks, a task that leaks, ...) to be found with tokio-console, in a build \
         with --features console. Never in production: each is a way to stop the server",
    ),
];

impl Setting {
    /// `--first-byte-timeout`
    pub fn flag(&self) -> String {
        flag(self.key)
    }

    /// `ECHO_FIRST_BYTE_TIMEOUT`
    pub fn env(&self) -> String {
        format!("ECHO_{}", self.key.to_uppercase())
    }

    /// What a value may be, in words.
    pub fn limit(&self) -> String {
        match self.kind {
            Kind::Address(_) => "IP:PORT".to_owned(),
            Kind::Duration(_, min, max) => format!("{} to {}", duration(min), duration(max)),
            Kind::Bytes(_, min, max) => format!("{} to {}", bytes(min), bytes(max)),
            Kind::Count(_, min, max) => format!("{min} to {max}"),
            Kind::AutoCount(_, max) => format!("auto, or 1 to {max}"),
            Kind::Endpoint(_) => "http://HOST:PORT, or empty".to_owned(),
            Kind::Output(_) => "a file, or -".to_owned(),
            Kind::Switch(_) => "on or off".to_owned(),
            Kind::Runtime(_) => "work-stealing or per-core".to_owned(),
            Kind::LogFormat(_) => "pretty or json".to_owned(),
            Kind::LogFilter(_) => "a level, or target=level pairs".to_owned(),
        }
    }

    /// The unit, as help texts name the value.
    pub fn unit(&self) -> &'static str {
        match self.kind {
            Kind::Address(_) => "ADDR",
            Kind::Duration(..) => "DURATION",
            Kind::Bytes(..) => "BYTES",
            Kind::Count(..) | Kind::AutoCount(..) => "COUNT",
            Kind::Endpoint(_) => "URL",
            Kind::Output(_) => "FILE",
            Kind::Switch(_) => "SWITCH",
            Kind::Runtime(_) | Kind::LogFormat(_) => "NAME",
            Kind::LogFilter(_) => "FILTER",
        }
    }

    /// The current value, in a form that flag, environment and file take.
    pub fn get(&self, config: &Config) -> String {
        let config = &mut config.clone();
        match self.kind {
            Kind::Address(field) => field(config).to_string(),
            Kind::Duration(field, ..) => duration(*field(config)),
            Kind::Bytes(field, ..) => bytes(*field(config)),
            Kind::Count(field, ..) => field(config).to_string(),
            Kind::AutoCount(field, _) => field(config).map_or_else(|| "auto".to_owned(), |n| n.to_string()),
            Kind::Endpoint(field) => field(config)
                .as_ref()
                .map_or_else(String::new, |uri| uri.to_string().trim_end_matches('/').to_owned()),
            Kind::Output(field) => {
                field(config).as_ref().map_or_else(|| "-".to_owned(), |path| path.display().to_string())
            }
            Kind::Switch(field) => if *field(config) { "on" } else { "off" }.to_owned(),
            Kind::Runtime(field) => field(config).to_string(),
            Kind::LogFormat(field) => field(config).to_string(),
            Kind::LogFilter(field) => field(config).clone(),
        }
    }
}

/// The configuration in which every setting has its default.
pub(super) fn defaults() -> Config {
    let mut config = blank();
    for setting in SETTINGS {
        let set = parse::set(&mut config, setting, setting.default);
        debug_assert!(set.is_ok(), "{}: the default breaks its own rule", setting.key);
    }
    config
}

/// Something for [`defaults`] to write over; the test below proves that no field keeps these values.
fn blank() -> Config {
    let unset = SocketAddr::from(([0, 0, 0, 0], 1));
    Config {
        listen: unset,
        admin: unset,
        runtime: Runtime::PerCore,
        workers: NonZeroUsize::new(1),
        log: String::new(),
        log_format: LogFormat::Json,
        backlog: 0,
        connections_max: NonZeroUsize::new(1),
        requests_max: NonZeroUsize::new(1),
        first_byte_timeout: Duration::MAX,
        header_read_timeout: Duration::MAX,
        keep_alive_timeout: Duration::MAX,
        body_stall_timeout: Duration::MAX,
        write_stall_timeout: Duration::MAX,
        rate_min: 0,
        rate_grace: Duration::MAX,
        request_timeout: Duration::MAX,
        linger_timeout: Duration::MAX,
        linger_max: Duration::MAX,
        body_max: 0,
        header_max: 0,
        http1_buffer_max: 0,
        http2_streams_max: 0,
        http2_stream_window: 0,
        http2_connection_window: 0,
        http2_send_buffer_max: 0,
        http2_resets_pending_max: 0,
        http2_resets_local_max: 0,
        http2_ping_interval: Duration::MAX,
        http2_ping_timeout: Duration::MAX,
        lame_duck: Duration::MAX,
        drain_idle_grace: Duration::MAX,
        drain_grace: Duration::MAX,
        trace_one_in: 0,
        otlp_endpoint: Some(Uri::from_static("/")),
        otlp_queue_max: 0,
        access_log_one_in: u64::MAX,
        access_log_file: Some(PathBuf::new()),
        request_metrics: false,
        // The table's is `off`.
        task_histograms: true,
        slow_poll: Duration::MAX,
        console: unset,
        console_one_in: 0,
        console_resources: true,
        console_retention: Duration::MAX,
        lab: true,
    }
}

pub(super) fn to_toml(config: &Config) -> String {
    let mut text = String::new();
    for setting in SETTINGS {
        let value = toml::Value::String(setting.get(config));
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{} = {value}", setting.key);
    }
    text
}

/// The table of settings as Markdown (`echo-server --print-limits`; LIMITS.md holds the same text).
pub fn limits_table() -> String {
    let mut text = String::from("| setting | default | allowed | why |\n|---|---|---|---|\n");
    for setting in SETTINGS {
        let _infallible = writeln!(
            text,
            "| `{}` | `{}` | {} | {} |",
            setting.key,
            if setting.default.is_empty() { "(empty)" } else { setting.default },
            setting.limit(),
            setting.why
        );
    }
    text
}

pub(super) fn flag(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

/// Below two minutes in seconds, as people write timeouts; else as humantime does.
fn duration(value: Duration) -> String {
    match (value.as_secs(), value.subsec_nanos()) {
        (seconds @ 0..=119, 0) => format!("{seconds}s"),
        _ => humantime::format_duration(value).to_string().replace(' ', ""),
    }
}

/// The largest unit that divides the value, so that what is printed is exactly what is set.
pub(super) fn bytes(value: u64) -> String {
    match value {
        0 => "0".to_owned(),
        v if v % GIB == 0 => format!("{}GiB", v / GIB),
        v if v % MIB == 0 => format!("{}MiB", v / MIB),
        v if v % KIB == 0 => format!("{}KiB", v / KIB),
        v => v.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_config_has_a_row() {
        let blank = format!("{:#?}", blank());
        let defaults = format!("{:#?}", defaults());
        let kept: Vec<_> =
            blank.lines().zip(defaults.lines()).filter(|(a, b)| a == b && a.contains(": ")).collect();
        assert!(kept.is_empty(), "no row in SETTINGS sets {kept:?}");
        assert_eq!(
            defaults.lines().filter(|l| l.starts_with("    ") && l.contains(": ")).count(),
            SETTINGS.len()
        );
    }

    #[test]
    fn every_default_obeys_its_own_rule() {
        for setting in SETTINGS {
            let mut config = Config::default();
            parse::set(&mut config, setting, setting.default).unwrap();
            assert_eq!(setting.get(&config), setting.default, "{} prints as it is typed", setting.key);
        }
    }
}
