//! Without the server's own counters, nobody would know why it refused something.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, ensure};

/// The longest wait for the admin listener.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A page of metrics at one moment.
#[derive(Clone, Debug, Default)]
pub struct Metrics(String);

impl Metrics {
    /// What the server at `admin` counts now.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn scrape(admin: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self(get(admin, "/metrics")?))
    }

    /// The sum of all samples of `name` that carry all of `labels`, as `reason="busy"`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let samples = self.0.lines().filter(|line| !line.starts_with('#'));
        samples
            .filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                let (found, value) = match rest.strip_prefix('{') {
                    Some(rest) => rest.split_once("} ")?,
                    None => ("", rest.strip_prefix(' ')?),
                };
                let matches = labels.iter().all(|label| found.contains(label));
                // An exemplar may follow the value.
                matches.then(|| value.split(' ').next()?.parse::<f64>().ok())?
            })
            .sum()
    }
}

/// Asks the admin listener for `path`.
///
/// # Errors
/// If it does not answer with 2xx.
pub fn get(admin: SocketAddr, path: &str) -> anyhow::Result<String> {
    let unanswered = || format!("the admin listener does not answer {path}");
    let mut stream = TcpStream::connect_timeout(&admin, TIMEOUT).with_context(unanswered)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).with_context(unanswered)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(unanswered)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(unanswered)?;
    ensure!(head.starts_with("HTTP/1.1 2"), "{path}: {}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let page = Metrics(
            "# HELP a x\na 1\na_b 2\na{c=\"d\",e=\"f\"} 3\na{c=\"g\",e=\"f\"} 4 # {trace=\"x\"} 9\n"
                .to_owned(),
        );
        let sum = |labels: &[&str]| page.sum("a", labels).to_string();
        assert_eq!(
            (sum(&[]), sum(&["e=\"f\""]), sum(&["c=\"g\"", "e=\"f\""])),
            ("8".into(), "7".into(), "4".into())
        );
    }
}
