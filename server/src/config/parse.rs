//! Turns flags, environment and file into a [`Config`]: without one place for it, each source has rules and errors of
//! its own.

use std::{
    ffi::OsString,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use http::Uri;
use tracing_subscriber::filter::Targets;

use super::{Config, Kind, LogFormat, Runtime, SETTINGS, Setting, table};
use crate::healthcheck;

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum Invocation {
    /// Run the server.
    Serve(Box<Config>),
    /// Print the effective configuration as TOML and exit (`--print-config`).
    PrintConfig(Box<Config>),
    /// Print the table of settings as Markdown and exit (`--print-limits`).
    PrintLimits,
    /// Ask the server at this URL, or the one that this configuration would start, whether it is ready (`healthcheck`).
    Healthcheck(String),
}

/// Why there is no configuration. Each message names the value, what it may be, and where to change it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value that its setting does not allow.
    #[error(
        "{origin} = {value:?}: must be {limit} (flag {flag}, environment {env}, file key {key})",
        flag = setting.flag(), env = setting.env(), key = setting.key
    )]
    Value {
        /// The flag, environment variable or file line that the value came from.
        origin: String,
        /// The value as given.
        value: String,
        /// What the setting allows.
        limit: String,
        /// The setting.
        setting: &'static Setting,
    },
    /// Two settings that contradict each other.
    #[error("{left} = {left_value} must not be above {right} = {right_value}: {why}")]
    Contradiction {
        /// Flag of the smaller one.
        left: String,
        /// Its value.
        left_value: String,
        /// Flag of the larger one.
        right: String,
        /// Its value.
        right_value: String,
        /// Why they depend on each other.
        why: &'static str,
    },
    /// A setting that this build has no part for.
    #[error("{flag} = {value} needs a build with {needs}")]
    NotBuilt {
        /// The setting's flag.
        flag: String,
        /// Its value.
        value: String,
        /// What to build with.
        needs: &'static str,
    },
    /// The file-descriptor limit does not carry the connections.
    #[error(
        "--connections-max {wanted} needs {} file descriptors ({reserved} are kept for the process itself), but the \
         limit is {fd_limit}: raise it (ulimit -n, LimitNOFILE=, docker --ulimit nofile=), or lower --connections-max",
        wanted + reserved
    )]
    TooFewFds {
        /// Connections asked for; 1 where none fits.
        wanted: usize,
        /// `RLIMIT_NOFILE`, after raising the soft limit to the hard one.
        fd_limit: usize,
        /// Descriptors that are not for connections.
        reserved: usize,
    },
    /// The file cannot be read.
    #[error("--config {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("--config {}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The reason, with the line.
        source: Box<toml::de::Error>,
    },
    /// The file sets a key that is no setting.
    #[error("--config {}: unknown key {key:?}{hint}; --print-config lists all", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// `, did you mean ...?` where a key is close.
        hint: String,
    },
    /// The command line does not parse, or asks for help or the version.
    #[error(transparent)]
    Usage(Box<clap::Error>),
}

/// Parses the command line, with the environment and the file it names.
pub(crate) fn invocation(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, ConfigError> {
    let matches = command().try_get_matches_from(args).map_err(|e| ConfigError::Usage(Box::new(e)))?;
    if matches.get_flag("print_limits") {
        return Ok(Invocation::PrintLimits);
    }
    let healthcheck = matches.subcommand_matches("healthcheck");
    if let Some(url) = healthcheck.and_then(|asked| asked.get_one::<String>("url")) {
        return Ok(Invocation::Healthcheck(url.clone()));
    }
    let mut config = Config::default();
    if let Some(path) = matches.get_one::<PathBuf>("config") {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::File { path: path.clone(), source })?;
        apply_file(&mut config, path, &text)?;
    }
    apply_matches(&mut config, &matches)?;
    check_consistency(&config)?;
    check_build(&config)?;
    let config = Box::new(config);
    Ok(if healthcheck.is_some() {
        Invocation::Healthcheck(healthcheck::url_of(config.admin))
    } else if matches.get_flag("print_config") {
        Invocation::PrintConfig(config)
    } else {
        Invocation::Serve(config)
    })
}

/// `ECHO_*` variables that set nothing: most likely a slip of the pen.
pub(crate) fn unknown_env() -> Vec<String> {
    std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("ECHO_") && name != "ECHO_CONFIG")
        .filter(|name| SETTINGS.iter().all(|setting| setting.env() != *name))
        .collect()
}

/// The command line, made from [`SETTINGS`].
fn command() -> Command {
    let command = Command::new("echo-server")
        .version(env!("CARGO_PKG_VERSION"))
        .about("HTTP echo server that stays correct and fast under overload, hostile clients and restarts")
        .after_help(
            "Precedence: flag > ECHO_* environment > --config FILE > default.\n\
             Exit codes: 0 drained, 1 failed, 2 usage or configuration, 3 drain deadline passed with work lost.",
        )
        .subcommand(
            Command::new("healthcheck")
                .about("Ask a running server whether it is ready; exits 0 or 1, within 2 s")
                .arg(Arg::new("url").value_name("URL").help("What to ask [default: /readyz of the admin address]")),
        )
        .arg(
            Arg::new("config")
                .long("config")
                .env("ECHO_CONFIG")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("TOML file with the keys that --print-config prints"),
        )
        .arg(
            Arg::new("print_config")
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help("Print the effective configuration as TOML and exit"),
        )
        .arg(
            Arg::new("print_limits")
                .long("print-limits")
                .action(ArgAction::SetTrue)
                .help("Print every setting with default, range and reason as Markdown and exit"),
        );
    SETTINGS.iter().fold(command, |command, setting| {
        let argument = Arg::new(setting.key)
            .long(setting.key.replace('_', "-"))
            .env(setting.env())
            .value_name(setting.unit())
            .help(format!("{} [default: {}; {}]", setting.why, setting.default, setting.limit()));
        command.arg(match setting.kind {
            // `--lab` alone is `--lab on`.
            Kind::Switch(_) => argument.num_args(0..=1).default_missing_value("on"),
            _ => argument,
        })
    })
}

/// Flags win over the environment; clap has already decided which of the two each value is.
fn apply_matches(config: &mut Config, matches: &ArgMatches) -> Result<(), ConfigError> {
    for setting in SETTINGS {
        let Some(value) = matches.get_one::<String>(setting.key) else { continue };
        let from_env = matches.value_source(setting.key) == Some(ValueSource::EnvVariable);
        let origin = if from_env { setting.env() } else { setting.flag() };
        set_from(config, setting, value, origin)?;
    }
    Ok(())
}

/// Applies the text of a file.
fn apply_file(config: &mut Config, path: &Path, text: &str) -> Result<(), ConfigError> {
    let table: toml::Table = text
        .parse()
        .map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
    for (key, value) in table {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            return Err(ConfigError::UnknownKey { path: path.to_owned(), hint: nearest(&key), key });
        };
        let value = match value {
            toml::Value::String(text) => text,
            other => other.to_string(),
        };
        set_from(config, setting, &value, format!("{}: {key}", path.display()))?;
    }
    Ok(())
}

fn set_from(
    config: &mut Config,
    setting: &'static Setting,
    value: &str,
    origin: String,
) -> Result<(), ConfigError> {
    set(config, setting, value).map_err(|limit| ConfigError::Value {
        origin,
        value: value.to_owned(),
        limit,
        setting,
    })
}

/// Sets one value from text.
///
/// # Errors
/// What the value must be, where it is not.
pub(super) fn set(config: &mut Config, setting: &Setting, text: &str) -> Result<(), String> {
    let limit = || setting.limit();
    match setting.kind {
        Kind::Address(field) => *field(config) = text.parse().ok().ok_or_else(limit)?,
        Kind::Duration(field, min, max) => {
            *field(config) = duration(text).filter(|d| (min..=max).contains(d)).ok_or_else(limit)?;
        }
        Kind::Bytes(field, min, max) => {
            *field(config) = bytes(text).filter(|n| (min..=max).contains(n)).ok_or_else(limit)?;
        }
        Kind::Count(field, min, max) => {
            *field(config) = text.parse().ok().filter(|n| (min..=max).contains(n)).ok_or_else(limit)?;
        }
        Kind::AutoCount(field, max) => {
            *field(config) = if text == "auto" {
                None
            } else {
                let number = text.parse().ok().filter(|n: &NonZeroUsize| n.get() <= max);
                Some(number.ok_or_else(limit)?)
            };
        }
        Kind::Endpoint(field) => {
            *field(config) = if text.is_empty() { None } else { Some(endpoint(text).ok_or_else(limit)?) };
        }
        Kind::Output(field) => {
            *field(config) = match text {
                "" => return Err(limit()),
                "-" => None,
                path => Some(path.into()),
            };
        }
        Kind::Switch(field) => {
            *field(config) = match text {
                "on" => true,
                "off" => false,
                _ => return Err(limit()),
            };
        }
        Kind::Runtime(field) => {
            *field(config) = match text {
                "work-stealing" => Runtime::WorkStealing,
                "per-core" => Runtime::PerCore,
                _ => return Err(limit()),
            };
        }
        Kind::LogFormat(field) => {
            *field(config) = match text {
                "pretty" => LogFormat::Pretty,
                "json" => LogFormat::Json,
                _ => return Err(limit()),
            };
        }
        Kind::LogFilter(field) => {
            text.parse::<Targets>().map_err(|e| format!("{} ({e})", limit()))?;
            text.clone_into(field(config));
        }
    }
    Ok(())
}

/// Rules that involve two settings: the first must not be above the second.
fn check_consistency(config: &Config) -> Result<(), ConfigError> {
    let rules = [
        (
            ("header_max", config.header_max),
            ("http1_buffer_max", config.http1_buffer_max),
            "a request head must fit into the buffer it is read into",
        ),
        (
            ("http2_stream_window", config.http2_stream_window),
            ("http2_connection_window", config.http2_connection_window),
            "one stream cannot have more credit than its connection",
        ),
    ];
    let contradiction = rules.into_iter().find(|((_, left), (_, right), _)| left > right);
    contradiction.map_or(Ok(()), |((left, left_value), (right, right_value), why)| {
        Err(ConfigError::Contradiction {
            left: table::flag(left),
            left_value: table::bytes(left_value),
            right: table::flag(right),
            right_value: table::bytes(right_value),
            why,
        })
    })
}

/// A setting that would do nothing in this build is refused, and not ignored.
fn check_build(config: &Config) -> Result<(), ConfigError> {
    const UNSTABLE: &str = "RUSTFLAGS=\"--cfg tokio_unstable\"";
    let without_unstable = !cfg!(tokio_unstable);
    let unmet = [
        ("task_histograms", config.task_histograms && without_unstable, UNSTABLE),
        ("slow_poll", !config.slow_poll.is_zero() && without_unstable, UNSTABLE),
        ("otlp_endpoint", config.otlp_endpoint.is_some() && cfg!(not(feature = "otel")), "--features otel"),
        ("lab", config.lab && cfg!(not(feature = "console")), "--features console"),
    ];
    for setting in SETTINGS {
        if let Some((_, _, needs)) = unmet.iter().find(|(key, unmet, _)| *key == setting.key && *unmet) {
            return Err(ConfigError::NotBuilt { flag: setting.flag(), value: setting.get(config), needs });
        }
    }
    Ok(())
}

/// `http://HOST:PORT`: no other scheme, for there is no TLS to it, and no path, for gRPC has its own.
fn endpoint(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let fits = uri.scheme_str() == Some("http")
        && uri.port_u16().is_some()
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri.path_and_query().is_none_or(|path| path == "/");
    fits.then_some(uri)
}

/// `5s`, `250ms`, `1m30s`; a bare `0` is zero, any other bare number lacks its unit.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" { Some(Duration::ZERO) } else { humantime::parse_duration(text).ok() }
}

/// `65536`, `64KiB`, `64 KiB`, `64k` (binary) and `64kB` (decimal).
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// `, did you mean ...?` for the setting that shares the longest beginning with `key`.
fn nearest(key: &str) -> String {
    let shared = |setting: &Setting| setting.key.bytes().zip(key.bytes()).take_while(|(a, b)| a == b).count();
    SETTINGS
        .iter()
        .max_by_key(|setting| shared(setting))
        .filter(|setting| shared(setting) >= 3)
        .map_or_else(String::new, |setting| format!(", did you mean {:?}?", setting.key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(args: &[&str]) -> Result<Config, ConfigError> {
        let args = std::iter::once("echo-server").chain(args.iter().copied()).map(OsString::from);
        match invocation(args)? {
            Invocation::Serve(config) => Ok(*config),
            other => panic!("not serving: {other:?}"),
        }
    }

    #[test]
    fn a_bad_value_names_itself_its_limit_and_its_flag() {
        for (flag, value, limit) in [
            ("--first-byte-timeout", "0s", "10ms to 1h"),
            ("--first-byte-timeout", "5", "10ms to 1h"),
            ("--body-max", "2TiB", "0 to 1024GiB"),
            ("--body-max", "-1", "0 to 1024GiB"),
            ("--connections-max", "0", "auto, or 1 to 100000000"),
            ("--backlog", "99999999999999999999", "1 to 65535"),
            ("--listen", "localhost", "IP:PORT"),
            ("--runtime", "threads", "work-stealing or per-core"),
            ("--task-histograms", "yes", "on or off"),
            ("--log", "foo=bar", "a level"),
            ("--otlp-endpoint", "collector:4317", "http://HOST:PORT"),
            ("--otlp-endpoint", "https://collector:4317", "http://HOST:PORT"),
            ("--otlp-endpoint", "http://collector:4317/v1/traces", "http://HOST:PORT"),
            ("--access-log-file", "", "a file, or -"),
        ] {
            let error = parse(&[&format!("{flag}={value}")]).unwrap_err().to_string();
            for part in [flag, value, limit] {
                assert!(error.contains(part), "{error:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn contradicting_settings_are_refused_with_both_named() {
        let error = parse(&["--header-max=128KiB"]).unwrap_err().to_string();
        assert!(
            error.contains("--header-max = 128KiB") && error.contains("--http1-buffer-max = 32KiB"),
            "{error}"
        );
    }

    #[test]
    fn a_switch_alone_is_on() {
        let parsed = |args: &[&str]| parse(args).unwrap().console_resources;
        assert!(parsed(&["--console-resources"]) && parsed(&["--console-resources", "--backlog=7"]));
        assert!(!parsed(&["--console-resources", "off"]) && !parsed(&[]));
    }

    #[test]
    fn a_setting_that_the_build_has_no_part_for_is_refused() {
        let parsed = parse(&["--task-histograms=on"]);
        if cfg!(tokio_unstable) {
            assert!(parsed.unwrap().task_histograms);
        } else {
            let error = parsed.unwrap_err().to_string();
            assert!(error.contains("--task-histograms = on") && error.contains("tokio_unstable"), "{error}");
        }
        let parsed = parse(&["--lab=on"]);
        if cfg!(feature = "console") {
            assert!(parsed.unwrap().lab);
        } else {
            let error = parsed.unwrap_err().to_string();
            assert!(error.contains("--lab = on") && error.contains("--features console"), "{error}");
        }
    }

    #[test]
    fn a_file_is_read_and_its_unknown_keys_are_refused() {
        let path = PathBuf::from("x.toml");
        let mut config = Config::default();
        apply_file(&mut config, &path, "body_max = \"2MiB\"\nbacklog = 7\n").unwrap();
        assert_eq!((config.body_max, config.backlog), (2 << 20, 7));
        let error = apply_file(&mut config, &path, "body_maximum = 1").unwrap_err().to_string();
        assert!(error.contains("body_maximum") && error.contains("did you mean \"body_max\""), "{error}");
        let error = apply_file(&mut config, &path, "body_max = ").unwrap_err().to_string();
        assert!(error.contains("x.toml"), "{error}");
        let error = apply_file(&mut config, &path, "[body_max]\na = 1").unwrap_err().to_string();
        assert!(error.contains("x.toml: body_max"), "{error}");
    }

    #[test]
    fn the_fd_limit_decides_the_connection_limit() {
        let config = Config { workers: NonZeroUsize::new(2), ..Config::default() };
        let budget = |config: &Config, limit| config.fd_budget(limit).map(|b| (b.connections, b.refusals));
        assert_eq!(budget(&config, 20_000).unwrap(), (20_000 - 32 - 8 - 32, 32));
        assert_eq!(
            budget(&config, 64).unwrap(),
            (64 - 32 - 8 - 8, 8),
            "few descriptors still serve some clients"
        );
        let error = budget(&config, 40).unwrap_err().to_string();
        assert!(error.contains("limit is 40") && error.contains("--connections-max"), "{error}");
        let config = Config { connections_max: NonZeroUsize::new(1_000_000), ..config };
        let error = budget(&config, 20_000).unwrap_err().to_string();
        assert!(error.contains("1000000") && error.contains("20000"), "{error}");
    }

    #[test]
    fn printed_configuration_reads_back_as_the_same_configuration() {
        let mut config = Config { body_max: 12_345, rate_min: 0, ..Config::default() };
        config.workers = NonZeroUsize::new(3);
        let mut read = Config::default();
        apply_file(&mut read, &PathBuf::from("x.toml"), &config.to_toml()).unwrap();
        assert_eq!(read, config);
    }

    proptest! {
        #[test]
        fn any_value_for_any_setting_is_taken_or_refused_without_panic(index in 0..SETTINGS.len(), text in "\\PC{0,24}") {
            let mut config = Config::default();
            let _taken_or_refused = set(&mut config, &SETTINGS[index], &text).is_ok();
        }

        #[test]
        fn what_is_printed_is_read_back(n in 0..(1_u64 << 40)) {
            let setting = SETTINGS.iter().find(|s| s.key == "body_max").unwrap();
            let mut config = Config { body_max: n, ..Config::default() };
            let printed = setting.get(&config);
            set(&mut config, setting, &printed).unwrap();
            prop_assert_eq!(config.body_max, n);
        }
    }
}
