//! What a setting is, and the forms in which all of them are shown.

use std::{fmt::Write as _, net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use http::Uri;
use ipnet::IpNet;

use super::{CatchAll, ClientAuth, Config, LogFormat, RequestsLimit, Runtime, SETTINGS, Secret, value};

pub(super) const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;
pub(super) const GIB: u64 = 1024 * MIB;

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
    /// One of these names; the place of the current one, and how to set another.
    Choice(&'static [&'static str], fn(&Config) -> usize, fn(&mut Config, usize)),
    /// `IP:PORT`, or empty for none.
    OptionalAddress(fn(&mut Config) -> &mut Option<SocketAddr>),
    /// A path, or empty for none.
    Input(fn(&mut Config) -> &mut Option<PathBuf>),
    /// Networks and addresses, with commas between them.
    Networks(fn(&mut Config) -> &mut Vec<IpNet>),
    /// Any text.
    Text(fn(&mut Config) -> &mut String),
    /// Any text, which is never shown.
    Secret(fn(&mut Config) -> &mut Secret),
    /// A log filter in the syntax of `tracing_subscriber::filter::Targets`.
    LogFilter(fn(&mut Config) -> &mut String),
}

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
            Kind::Choice(names, ..) => match names {
                [others @ .., last] => format!("{} or {last}", others.join(", ")),
                [] => String::new(),
            },
            Kind::OptionalAddress(_) => "IP:PORT, or empty".to_owned(),
            Kind::Input(_) => "a path, or empty".to_owned(),
            Kind::Networks(_) => "networks and addresses with commas between them, or empty".to_owned(),
            Kind::Text(_) | Kind::Secret(_) => "any text".to_owned(),
            Kind::LogFilter(_) => "a level, or target=level pairs".to_owned(),
        }
    }

    /// The unit, as help texts name the value.
    pub fn unit(&self) -> &'static str {
        match self.kind {
            Kind::Address(_) | Kind::OptionalAddress(_) => "ADDR",
            Kind::Duration(..) => "DURATION",
            Kind::Bytes(..) => "BYTES",
            Kind::Count(..) | Kind::AutoCount(..) => "COUNT",
            Kind::Endpoint(_) => "URL",
            Kind::Output(_) => "FILE",
            Kind::Input(_) => "PATH",
            Kind::Networks(_) => "NETWORKS",
            Kind::Text(_) | Kind::Secret(_) => "TEXT",
            Kind::Switch(_) => "SWITCH",
            Kind::Choice(..) => "NAME",
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
            Kind::Choice(names, get, _) => names[get(config)].to_owned(),
            Kind::OptionalAddress(field) => field(config).map_or_else(String::new, |a| a.to_string()),
            Kind::Input(field) => {
                field(config).as_ref().map_or_else(String::new, |path| path.display().to_string())
            }
            Kind::Networks(field) => {
                field(config).iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            }
            Kind::Text(field) => field(config).clone(),
            Kind::Secret(field) => field(config).to_string(),
            Kind::LogFilter(field) => field(config).clone(),
        }
    }
}

/// The configuration in which every setting has its default.
pub(super) fn defaults() -> Config {
    let mut config = blank();
    for setting in SETTINGS {
        let set = value::set(&mut config, setting, setting.default);
        debug_assert!(set.is_ok(), "{}: the default breaks its own rule", setting.key);
    }
    config
}

/// Something for [`defaults`] to write over; the test below proves that no field keeps these values.
fn blank() -> Config {
    let unset = SocketAddr::from(([0, 0, 0, 0], 1));
    Config {
        listen: unset,
        listen_tls: Some(unset),
        listen_unix: Some(PathBuf::new()),
        admin: unset,
        admin_token: Secret::new("unset"),
        tls_cert: Some(PathBuf::new()),
        tls_key: Some(PathBuf::new()),
        tls_dev_cert: true,
        tls_client_ca: Some(PathBuf::new()),
        tls_client_auth: ClientAuth::Require,
        tls_handshake_timeout: Duration::MAX,
        tls_reload_interval: Duration::MAX,
        proxy_protocol: true,
        trusted_proxies: vec![IpNet::default()],
        runtime: Runtime::PerCore,
        workers: NonZeroUsize::new(1),
        log: String::new(),
        log_format: LogFormat::Json,
        backlog: 0,
        connections_max: NonZeroUsize::new(1),
        requests_max: NonZeroUsize::new(1),
        connections_per_address_max: u64::MAX,
        evict_idle: false,
        evict_idle_min: Duration::MAX,
        connection_age_max: Duration::MAX,
        connection_age_jitter: u64::MAX,
        connection_requests_max: u64::MAX,
        requests_limit: RequestsLimit::Adaptive,
        requests_min: 0,
        queue_max: u64::MAX,
        queue_timeout: Duration::MAX,
        busy_max: Duration::MAX,
        busy_pause: Duration::MAX,
        streams_max: NonZeroUsize::new(1),
        fair_share: false,
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
        http2_control_frames_max: 0,
        http2_resets_max: 0,
        http2_continuations_max: 0,
        http2_ping_interval: Duration::MAX,
        http2_ping_timeout: Duration::MAX,
        http1: false,
        http2: false,
        lame_duck: Duration::MAX,
        drain_idle_grace: Duration::MAX,
        drain_grace: Duration::MAX,
        restart_timeout: Duration::MAX,
        catch_all: CatchAll::NotFound,
        controls: false,
        default_params: "unset".to_owned(),
        faults: false,
        delay_max: Duration::MAX,
        size_max: 0,
        work_max: Duration::MAX,
        buffer_max: 0,
        websocket_message_max: 0,
        websocket_idle_timeout: Duration::MAX,
        cors: true,
        server_header: true,
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
        if matches!(setting.kind, Kind::Secret(_)) && value.as_str() != Some("") {
            let _infallible = writeln!(text, "# {} is set, and not shown", setting.key);
            continue;
        }
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
pub(crate) fn duration(value: Duration) -> String {
    match (value.as_secs(), value.subsec_nanos()) {
        (seconds @ 0..=119, 0) => format!("{seconds}s"),
        _ => humantime::format_duration(value).to_string().replace(' ', ""),
    }
}

/// The largest unit that divides the value, so that what is printed is exactly what is set.
pub(crate) fn bytes(value: u64) -> String {
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
            value::set(&mut config, setting, setting.default).unwrap();
            assert_eq!(setting.get(&config), setting.default, "{} prints as it is typed", setting.key);
        }
    }
}
