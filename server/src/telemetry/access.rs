//! The access log: a general-purpose logger that writes a line per request halves the throughput. Here a line is rendered
//! by hand into memory that is used again, and another thread writes it.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use http::{HeaderValue, Request, StatusCode, Version};

use super::{
    clock, json,
    lossy::{self, Buffering, Lossy},
    throttle::Throttle,
    trace_context::TraceContext,
};
use crate::{config::Config, socket::peer::Peer};

/// Bytes of the path, with its query, that go into a line. What is beyond is cut, and the line says so.
const PATH_MAX: usize = 2048;

/// Per thread: at 100,000 requests per second about 200 ms, four times the delay.
const BUFFER_MAX: usize = 4 * 1024 * 1024;

/// How long a line may wait for others.
const DELAY: Duration = Duration::from_millis(50);

/// Lines per thread that are kept to be used again: as many as requests are in progress there at most times.
const POOL_MAX: usize = 1024;

/// Between two looks whether a flush is done: a writer's thread can wake no task without a runtime.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Between two lines of the log that say that the access log cannot be written.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// A line of JSON for each request, or for one in N.
#[derive(Debug)]
pub(crate) struct AccessLog {
    lossy: Lossy,
    one_in: u64,
}

impl AccessLog {
    /// The access log that `config` asks for, if it does.
    ///
    /// # Errors
    /// When its file cannot be opened, or a thread is not to be had.
    pub(crate) fn open(config: &Config) -> anyhow::Result<Option<Self>> {
        if config.access_log_one_in == 0 {
            return Ok(None);
        }
        let path = config.access_log_file.as_deref();
        let name = path.map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
        let file = match path {
            Some(path) => lossy::append_to(path),
            None => lossy::own(io::stdout()),
        }
        .with_context(|| format!("cannot write the access log to {name} (--access-log-file)"))?;
        let warnings = Throttle::new(1, WARN_EVERY);
        let on_error = move |error: &io::Error| {
            if warnings.admit().is_some() {
                tracing::error!(%error, file = name, "the access log cannot be written; its lines are lost");
            }
        };
        let buffering = Buffering { threads: config.workers() + 1, bytes_max: BUFFER_MAX, delay: DELAY };
        let lossy = Lossy::start("echo-access", file, buffering, on_error)?;
        Ok(Some(Self { lossy, one_in: config.access_log_one_in }))
    }

    /// Begins the line of a request, if it is one of those that have one. `id` is what the client will see.
    pub(crate) fn begin<B>(&self, request: &Request<B>, client: Peer, id: &HeaderValue) -> Option<Box<Line>> {
        thread_local!(static SEEN: Cell<u64> = const { Cell::new(0) });
        let seen = SEEN.replace(SEEN.get() + 1);
        seen.is_multiple_of(self.one_in).then(|| {
            let mut line = Line::from_pool();
            line.begin(request, client, id);
            line
        })
    }

    /// Ends a line that this log has begun.
    pub(crate) fn end(&self, mut line: Box<Line>, outcome: &Outcome) {
        line.end(outcome);
        self.lossy.push(&line.text);
        line.into_pool();
    }

    /// Waits until all lines are written, up to `timeout`.
    pub(crate) async fn flush(&self, timeout: Duration) {
        let asked = self.lossy.ask_for_flush();
        let written = async {
            while !self.lossy.is_flushed(asked) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(timeout, written).await.is_err() {
            tracing::warn!(?timeout, "the end of the access log is lost: nobody takes it");
        }
    }

    pub(crate) fn lines_written(&self) -> u64 {
        self.lossy.written()
    }

    pub(crate) fn lines_dropped(&self) -> u64 {
        self.lossy.dropped()
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// `None` if the client left before there was a response.
    pub(crate) status: Option<StatusCode>,
    /// Whether the response went to its end.
    pub(crate) is_complete: bool,
    pub(crate) response_bytes: u64,
    /// From the bytes of the request's head to the end of its response body.
    pub(crate) duration: Duration,
    /// From the bytes of the request's head to the first poll of its layers.
    pub(crate) queue: Duration,
    pub(crate) trace: Option<TraceContext>,
}

impl Outcome {
    /// `complete` or `aborted`.
    fn name(&self) -> &'static str {
        if self.status.is_some() && self.is_complete { "complete" } else { "aborted" }
    }
}

/// A line in the making: what is known at the beginning is rendered at the beginning, so that nothing has to be kept.
#[derive(Debug, Default)]
pub(crate) struct Line {
    text: Vec<u8>,
    /// Bytes of the request's body, as its reader counts them.
    received: Arc<AtomicU64>,
}

thread_local! {
    #[expect(clippy::vec_box, reason = "the boxes are what is used again")]
    static POOL: RefCell<Vec<Box<Line>>> = const { RefCell::new(Vec::new()) };
}

impl Line {
    /// Where to count the bytes of the request's body.
    pub(crate) fn received(&self) -> &Arc<AtomicU64> {
        &self.received
    }

    #[expect(clippy::unnecessary_box_returns, reason = "the box is what is used again")]
    fn from_pool() -> Box<Self> {
        let mut line = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        line.text.clear();
        // A service may keep the body of a request for longer than the request lives: then it keeps its counter, too.
        match Arc::get_mut(&mut line.received) {
            Some(received) => *received.get_mut() = 0,
            None => line.received = Arc::default(),
        }
        line
    }

    fn into_pool(self: Box<Self>) {
        // A runtime may be dropped so late that its thread has no pool any more.
        let _kept_or_dropped = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < POOL_MAX {
                pool.push(self);
            }
        });
    }

    fn begin<B>(&mut self, request: &Request<B>, client: Peer, id: &HeaderValue) {
        let text = &mut self.text;
        text.extend_from_slice(b"{\"time\":\"");
        clock::append(text, SystemTime::now());
        text.extend_from_slice(b"\",\"client\":\"");
        address(text, client);
        text.extend_from_slice(b"\",\"method\":\"");
        json::escape(text, request.method().as_str());
        text.extend_from_slice(b"\",\"path\":\"");
        let path = request.uri().path_and_query().map_or("", |path| path.as_str());
        let end = path.floor_char_boundary(PATH_MAX);
        json::escape(text, &path[..end]);
        text.extend_from_slice(b"\",\"protocol\":\"");
        text.extend_from_slice(protocol(request.version()).as_bytes());
        text.extend_from_slice(b"\",\"request_id\":\"");
        json::escape(text, id.to_str().unwrap_or(""));
        text.push(b'"');
        if end < path.len() {
            text.extend_from_slice(b",\"path_bytes\":");
            number(text, path.len() as u64);
        }
    }

    fn end(&mut self, outcome: &Outcome) {
        let text = &mut self.text;
        let mut field = |key: &[u8], value: u64| {
            text.extend_from_slice(key);
            number(text, value);
        };
        if let Some(status) = outcome.status {
            field(b",\"status\":", u64::from(status.as_u16()));
        }
        field(b",\"request_bytes\":", self.received.load(Relaxed));
        field(b",\"response_bytes\":", outcome.response_bytes);
        field(b",\"duration_us\":", micros(outcome.duration));
        field(b",\"queue_us\":", micros(outcome.queue));
        if let Some(trace) = outcome.trace {
            text.extend_from_slice(format!(",\"trace_id\":\"{:032x}\"", trace.trace_id).as_bytes());
        }
        text.extend_from_slice(b",\"outcome\":\"");
        text.extend_from_slice(outcome.name().as_bytes());
        text.extend_from_slice(b"\"}\n");
    }
}

/// The version as OpenTelemetry writes it.
pub(crate) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_11 => "1.1",
        Version::HTTP_2 => "2",
        _ => "other",
    }
}

fn number(text: &mut Vec<u8>, value: u64) {
    text.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// As `Display` has it, without what that costs for the usual kind.
fn address(text: &mut Vec<u8>, address: Peer) {
    match address {
        Peer::Ip(SocketAddr::V4(v4)) => {
            for (at, octet) in v4.ip().octets().into_iter().enumerate() {
                if at > 0 {
                    text.push(b'.');
                }
                number(text, u64::from(octet));
            }
            text.push(b':');
            number(text, u64::from(v4.port()));
        }
        other => text.extend_from_slice(other.to_string().as_bytes()),
    }
}

/// 584,000 years fit.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use http::Method;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const OUTCOME: Outcome = Outcome {
        status: Some(StatusCode::OK),
        is_complete: true,
        response_bytes: 3,
        duration: Duration::from_micros(1234),
        queue: Duration::from_micros(5),
        trace: None,
    };

    fn rendered(method: Method, uri: http::Uri, id: &HeaderValue, outcome: &Outcome) -> Value {
        let client = Peer::Ip("192.0.2.1:5678".parse().unwrap());
        let mut request = Request::new(());
        (*request.method_mut(), *request.uri_mut()) = (method, uri);
        let mut line = Line::from_pool();
        line.begin(&request, client, id);
        line.received().fetch_add(7, Relaxed);
        line.end(outcome);
        let text = String::from_utf8(line.text.clone()).unwrap();
        assert!(text.ends_with("}\n") && text.lines().count() == 1, "{text}");
        line.into_pool();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_line_says_who_asked_for_what_and_what_became_of_it() {
        let trace = TraceContext::new_span(None);
        let outcome = Outcome { trace: Some(trace), ..OUTCOME };
        let id = HeaderValue::from_static("abc-1");
        let mut line = rendered(Method::POST, "/echo/a?b=c".parse().unwrap(), &id, &outcome);
        let time = line.as_object_mut().unwrap().remove("time").unwrap();
        assert!(humantime::parse_rfc3339(time.as_str().unwrap()).is_ok(), "{time}");
        let expected = serde_json::json!({
            "client": "192.0.2.1:5678", "method": "POST", "path": "/echo/a?b=c", "protocol": "1.1",
            "request_id": "abc-1", "status": 200, "request_bytes": 7, "response_bytes": 3, "duration_us": 1234,
            "queue_us": 5, "trace_id": format!("{:032x}", trace.trace_id), "outcome": "complete",
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn a_client_that_left_before_a_response_has_no_status() {
        let id = HeaderValue::from_static("x");
        for (outcome, status) in [
            (Outcome { status: None, is_complete: false, ..OUTCOME }, Value::Null),
            (Outcome { is_complete: false, ..OUTCOME }, 200.into()),
        ] {
            let line = rendered(Method::GET, "/".parse().unwrap(), &id, &outcome);
            assert_eq!((&line["status"], &line["outcome"]), (&status, &"aborted".into()), "{line}");
        }
    }

    #[test]
    fn a_long_path_is_cut_and_its_length_said() {
        let path = format!("/{}", "a".repeat(PATH_MAX));
        let line = rendered(Method::GET, path.parse().unwrap(), &HeaderValue::from_static("x"), &OUTCOME);
        assert_eq!(line["path"].as_str().unwrap(), &path[..PATH_MAX]);
        assert_eq!(line["path_bytes"], PATH_MAX + 1);
    }

    #[test]
    fn a_line_is_used_again_and_a_counter_that_is_held_is_not() {
        let line = Line::from_pool();
        let (at, held) = (std::ptr::from_ref(&*line), Arc::clone(line.received()));
        line.into_pool();
        let line = Line::from_pool();
        assert_eq!(std::ptr::from_ref(&*line), at);
        held.fetch_add(1, Relaxed);
        assert_eq!(line.received().load(Relaxed), 0);
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_is_read_back_as_it_was(
            method in "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,30}",
            path in "/[\\PC]{0,60}",
            id in proptest::collection::vec(0x21..=0x7e_u8, 1..100),
        ) {
            let (Ok(uri), id) = (path.parse::<http::Uri>(), HeaderValue::from_bytes(&id).unwrap()) else {
                return Ok(());
            };
            let line = rendered(method.parse().unwrap(), uri.clone(), &id, &OUTCOME);
            prop_assert_eq!(line["method"].as_str().unwrap(), method);
            prop_assert_eq!(line["path"].as_str().unwrap(), uri.path_and_query().unwrap().as_str());
            prop_assert_eq!(line["request_id"].as_str().unwrap(), id.to_str().unwrap());
        }

        #[test]
        fn addresses_are_written_as_everywhere(bits: u32, port: u16, v6: bool) {
            let address_of = |bits| if v6 { std::net::Ipv6Addr::from(u128::from(bits) << 70).into() } else {
                std::net::IpAddr::from(std::net::Ipv4Addr::from(bits))
            };
            let expected = SocketAddr::new(address_of(bits), port);
            let mut text = Vec::new();
            address(&mut text, expected.into());
            prop_assert_eq!(String::from_utf8(text).unwrap(), expected.to_string());
        }
    }
}
