//! Turns flags, environment and file into a [`Config`]: without one place for it, each source has rules and errors of
//! its own.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};

use super::{ClientAuth, Config, ConfigError, Kind, SETTINGS, Setting, table, value};
use crate::{echo, healthcheck, restart::PREDECESSOR};

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

/// Parses the command line, with the environment and the file it names.
pub(crate) fn invocation(args: &[OsString]) -> Result<Invocation, ConfigError> {
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
    check_default_params(&config)?;
    check_completeness(&config)?;
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
        .filter(|name| name.starts_with("ECHO_") && name != "ECHO_CONFIG" && name != PREDECESSOR)
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
    value::set(config, setting, value).map_err(|limit| ConfigError::Value {
        origin,
        value: value.to_owned(),
        limit,
        setting,
    })
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

/// Only now are the caps known that the default controls must keep to.
fn check_default_params(config: &Config) -> Result<(), ConfigError> {
    let Err(why) = echo::check_default_params(config) else { return Ok(()) };
    let setting = SETTINGS.iter().find(|setting| setting.key == "default_params");
    setting.map_or(Ok(()), |setting| {
        Err(ConfigError::Value {
            origin: setting.flag(),
            value: config.default_params.clone(),
            limit: format!("controls as a query, such as delay=10ms&status=503:1: {why}"),
            setting,
        })
    })
}

/// Settings that do nothing alone, or would be overruled: who sets them means something else than what happens.
fn check_completeness(config: &Config) -> Result<(), ConfigError> {
    let Config { tls_cert, tls_key, tls_client_ca, tls_dev_cert, .. } = config;
    let (has_cert, has_key) = (tls_cert.is_some(), tls_key.is_some());
    let asks_clients = config.tls_client_auth != ClientAuth::Off;
    let has_tls = config.listen_tls.is_some();
    let unmet = [
        (
            "listen_tls",
            has_tls && !has_cert && !tls_dev_cert,
            "a certificate: --tls-cert and --tls-key, or --tls-dev-cert",
        ),
        ("tls_cert", has_cert && !has_key, "--tls-key"),
        ("tls_key", has_key && !has_cert, "--tls-cert"),
        ("tls_cert", has_cert && !has_tls, "--listen-tls"),
        ("tls_dev_cert", *tls_dev_cert && !has_tls, "--listen-tls"),
        ("tls_dev_cert", *tls_dev_cert && has_cert, "no --tls-cert beside it"),
        ("tls_client_auth", asks_clients && tls_client_ca.is_none(), "--tls-client-ca"),
        ("tls_client_auth", asks_clients && !has_cert, "--tls-cert and --tls-key"),
        ("tls_client_ca", tls_client_ca.is_some() && !asks_clients, "--tls-client-auth request, or require"),
        (
            "proxy_protocol",
            config.proxy_protocol && config.trusted_proxies.is_empty(),
            "--trusted-proxies: nobody else's header is believed",
        ),
    ];
    let Some((key, _, needs)) = unmet.into_iter().find(|(_, unmet, _)| *unmet) else { return Ok(()) };
    let value = SETTINGS.iter().find(|setting| setting.key == key).map(|setting| setting.get(config));
    Err(ConfigError::Incomplete { flag: table::flag(key), value: value.unwrap_or_default(), needs })
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
    use std::num::NonZeroUsize;

    use super::*;
    use proptest::prelude::*;

    fn parse(args: &[&str]) -> Result<Config, ConfigError> {
        let args = std::iter::once("echo-server").chain(args.iter().copied()).map(OsString::from);
        match invocation(&args.collect::<Vec<_>>())? {
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
            ("--default-params", "delay=2m", "above 30s (--delay-max)"),
            ("--default-params", "stats=503", "\"stats\" is no control: delay, status"),
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
    fn a_setting_that_does_nothing_alone_is_refused() {
        for (args, needs) in [
            (&["--listen-tls=127.0.0.1:0"][..], "--tls-cert and --tls-key, or --tls-dev-cert"),
            (&["--listen-tls=127.0.0.1:0", "--tls-cert=c"], "--tls-cert = c needs --tls-key"),
            (
                &["--listen-tls=127.0.0.1:0", "--tls-dev-cert", "--tls-key=k"],
                "--tls-key = k needs --tls-cert",
            ),
            (&["--tls-cert=c", "--tls-key=k"], "--listen-tls"),
            (&["--tls-dev-cert"], "--listen-tls"),
            (&["--listen-tls=127.0.0.1:0", "--tls-cert=c", "--tls-key=k", "--tls-dev-cert"], "no --tls-cert"),
            (&["--tls-client-auth=require"], "--tls-client-ca"),
            (&["--tls-client-ca=a"], "--tls-client-auth"),
            (&["--proxy-protocol"], "--trusted-proxies"),
        ] {
            let error = parse(args).unwrap_err().to_string();
            assert!(error.contains(needs), "{args:?}: {error}");
        }
        parse(&[
            "--listen-tls=127.0.0.1:0",
            "--tls-cert=c",
            "--tls-key=k",
            "--tls-client-ca=a",
            "--tls-client-auth=request",
        ])
        .unwrap();
        parse(&["--proxy-protocol", "--trusted-proxies=10.0.0.0/8, ::1"]).unwrap();
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
            let _taken_or_refused = value::set(&mut config, &SETTINGS[index], &text).is_ok();
        }

        #[test]
        fn what_is_printed_is_read_back(n in 0..(1_u64 << 40)) {
            let setting = SETTINGS.iter().find(|s| s.key == "body_max").unwrap();
            let mut config = Config { body_max: n, ..Config::default() };
            let printed = setting.get(&config);
            value::set(&mut config, setting, &printed).unwrap();
            prop_assert_eq!(config.body_max, n);
        }
    }
}
