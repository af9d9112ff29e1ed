//! Without the server's own account, a client that forgets requests would still look consistent.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

/// The admin listener answers in milliseconds, even under load.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The last response is counted when its connection has written it, shortly after the client has read it.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// The server's counters since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that ended, whatever the status.
    pub requests: u64,
    /// Bytes of request bodies read.
    pub request_body_bytes: u64,
    /// Bytes of response bodies written.
    pub response_body_bytes: u64,
    in_flight: u64,
}

impl Counters {
    /// Asks the admin listener at `admin` until no request is in flight.
    ///
    /// # Errors
    /// If it does not answer, or requests stay in flight although no client is there.
    pub fn settled(admin: SocketAddr) -> anyhow::Result<Self> {
        let deadline = Instant::now() + SETTLE_MAX;
        loop {
            let counters = Self::parse(&fetch(admin)?)?;
            if counters.in_flight == 0 {
                return Ok(counters);
            }
            if Instant::now() >= deadline {
                bail!("{} requests are in flight on the server and no client is there", counters.in_flight);
            }
            std::thread::yield_now();
        }
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            requests: self.requests - earlier.requests,
            request_body_bytes: self.request_body_bytes - earlier.request_body_bytes,
            response_body_bytes: self.response_body_bytes - earlier.response_body_bytes,
            in_flight: self.in_flight,
        }
    }

    /// Reads the samples of an OpenMetrics text, summed over their labels.
    fn parse(metrics: &str) -> anyhow::Result<Self> {
        let sum = |name: &str| -> anyhow::Result<u64> {
            let mut sum = 0;
            for (sample, value) in metrics.lines().filter_map(|line| line.rsplit_once(' ')) {
                if sample.split('{').next() == Some(name) {
                    sum += value.parse::<u64>().with_context(|| format!("{name} is {value}"))?;
                }
            }
            Ok(sum)
        };
        Ok(Self {
            requests: sum("http_server_request_duration_seconds_count")?,
            request_body_bytes: sum("echo_request_body_bytes_total")?,
            response_body_bytes: sum("echo_response_body_bytes_total")?,
            in_flight: sum("http_server_active_requests")?,
        })
    }
}

fn fetch(admin: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, ANSWER_MAX).context("the admin listener is gone")?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nhost: demo\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("the admin listener did not answer")?;
    let Some((head, metrics)) = answer.split_once("\r\n\r\n") else { bail!("/metrics answered no HTTP") };
    if head.split(' ').nth(1) != Some("200") {
        bail!("/metrics answered {}", head.lines().next().unwrap_or_default());
    }
    Ok(metrics.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_their_labels() {
        let metrics = "# TYPE http_server_request_duration_seconds histogram\n\
            http_server_request_duration_seconds_count{http_request_method=\"GET\"} 3\n\
            http_server_request_duration_seconds_count{http_request_method=\"POST\"} 4\n\
            http_server_request_duration_seconds_sum{http_request_method=\"POST\"} 0.5\n\
            echo_request_body_bytes_total 10\n\
            echo_response_body_bytes_total 12\n\
            http_server_active_requests 1\n# EOF\n";
        let counters = Counters::parse(metrics).unwrap();
        let expected =
            Counters { requests: 7, request_body_bytes: 10, response_body_bytes: 12, in_flight: 1 };
        assert_eq!(counters, expected);
        assert_eq!(counters.since(counters).requests, 0);
    }
}
