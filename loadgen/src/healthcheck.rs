//! Without a probe in the binary, an image would need a shell and curl to tell whether its load generator works.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::target::Target;

/// What is asked without a URL.
pub const URL_DEFAULT: &str = "http://127.0.0.1:9091/livez";

/// Time for the whole question; probes come every few seconds.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A status line is shorter than this.
const STATUS_LINE_MAX: usize = 256;

/// `loadgen healthcheck`: asks `url` and returns the status line of an answer with 2xx.
///
/// # Errors
/// If nobody answers in time, or with another status.
pub fn run(url: &str) -> anyhow::Result<String> {
    let target = Target::parse(url)?;
    if target.https {
        bail!("{url}: a probe asks over plain http://");
    }
    let line = ask(&target).with_context(|| format!("no answer from {url} within {TIMEOUT:?}"))?;
    let mut parts = line.split(' ');
    let (version, status) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if version.starts_with("HTTP/1.") && status.len() == 3 && status.starts_with('2') {
        return Ok(line);
    }
    bail!("{url} answered '{line}'");
}

/// The first line of the answer to a GET.
fn ask(target: &Target) -> io::Result<String> {
    let deadline = Instant::now() + TIMEOUT;
    // A timeout of zero would mean none.
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let address = (target.host.as_str(), target.port).to_socket_addrs()?.next();
    let mut stream = TcpStream::connect_timeout(&address.ok_or(io::ErrorKind::NotFound)?, left())?;
    stream.set_write_timeout(Some(left()))?;
    let (path, host) = (&target.path, &target.authority);
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = [0; STATUS_LINE_MAX];
    let mut len = 0;
    while len < answer.len() && !answer[..len].contains(&b'\n') {
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left()))?;
        match stream.read(&mut answer[len..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => len += more,
        }
    }
    Ok(String::from_utf8_lossy(&answer[..len]).lines().next().unwrap_or_default().to_owned())
}
