//! One value from text and back: flags, environment and file share its rules and its errors.

use std::{net::IpAddr, num::NonZeroUsize, time::Duration};

use http::Uri;
use ipnet::IpNet;
use tracing_subscriber::filter::Targets;

use super::{Config, Kind, Secret, Setting};

/// Sets one value from text.
///
/// # Errors
/// What the value must be, where it is not.
pub(crate) fn set(config: &mut Config, setting: &Setting, text: &str) -> Result<(), String> {
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
        Kind::Choice(names, _, set) => {
            let place = names.iter().position(|name| *name == text).ok_or_else(limit)?;
            set(config, place);
        }
        Kind::OptionalAddress(field) => {
            *field(config) = if text.is_empty() { None } else { Some(text.parse().ok().ok_or_else(limit)?) };
        }
        Kind::Input(field) => *field(config) = if text.is_empty() { None } else { Some(text.into()) },
        Kind::Networks(field) => *field(config) = networks(text).ok_or_else(limit)?,
        Kind::Text(field) => text.clone_into(field(config)),
        Kind::Secret(field) => *field(config) = Secret::new(text),
        Kind::LogFilter(field) => {
            text.parse::<Targets>().map_err(|e| format!("{} ({e})", limit()))?;
            text.clone_into(field(config));
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
pub(crate) fn bytes(text: &str) -> Option<u64> {
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

/// `10.0.0.0/8,::1`; a bare address is a network of one.
fn networks(text: &str) -> Option<Vec<IpNet>> {
    let network = |text: &str| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(network).collect()
}
