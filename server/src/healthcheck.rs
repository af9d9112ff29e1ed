//! `echo-server healthcheck`: an image without a shell has no curl, and an orchestrator that cannot ask keeps a dead server.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use http::Uri;

/// For the whole answer, so that a check is over before the next one begins.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What is read of an answer: its first line.
const ANSWER_MAX: usize = 1024;

/// The readiness of a server on this host whose admin listener is at `admin`.
pub(crate) fn url_of(admin: SocketAddr) -> String {
    let mut admin = admin;
    if admin.ip().is_unspecified() {
        admin.set_ip(match admin {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{admin}/readyz")
}

/// Asks `url`; returns its status line if that is a success.
///
/// # Errors
/// Why it is not.
pub(crate) fn check(url: &str) -> anyhow::Result<String> {
    let deadline = Instant::now() + TIMEOUT;
    let status = status_line(url, deadline).with_context(|| format!("{url} is not healthy"))?;
    let code = status.split(' ').nth(1).unwrap_or_default();
    if !status.starts_with("HTTP/1.") || !code.starts_with('2') {
        bail!("{url} is not healthy: it says {status:?}");
    }
    Ok(format!("{url}: {status}"))
}

fn status_line(url: &str, deadline: Instant) -> anyhow::Result<String> {
    let uri: Uri = url.parse().context("not a URL")?;
    let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else {
        bail!("must be http://HOST[:PORT][/PATH]");
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let addresses = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80)).to_socket_addrs()?;
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        // Zero would mean for ever.
        if left.is_zero() { Err(std::io::Error::from(std::io::ErrorKind::TimedOut)) } else { Ok(left) }
    };
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, left()?) {
            Ok(mut stream) => {
                stream.set_write_timeout(Some(left()?))?;
                write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
                let mut answer = Vec::new();
                while !answer.contains(&b'\n') && answer.len() < ANSWER_MAX {
                    let mut chunk = [0; 256];
                    stream.set_read_timeout(Some(left()?))?;
                    let length = stream.read(&mut chunk).context("no answer in time")?;
                    if length == 0 {
                        break;
                    }
                    answer.extend_from_slice(&chunk[..length]);
                }
                let text = String::from_utf8_lossy(&answer);
                return Ok(text.lines().next().unwrap_or_default().to_owned());
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| anyhow::anyhow!("no address"), Into::into))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_the_loopback() {
        for (admin, url) in [
            ("127.0.0.1:9090", "http://127.0.0.1:9090/readyz"),
            ("0.0.0.0:9091", "http://127.0.0.1:9091/readyz"),
            ("[::]:9092", "http://[::1]:9092/readyz"),
            ("192.0.2.1:80", "http://192.0.2.1:80/readyz"),
        ] {
            assert_eq!(url_of(admin.parse().unwrap()), url);
        }
    }
}
