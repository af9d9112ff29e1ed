//! Bodies that take their time: proxies that buffer, count an idle response as dead, or break an event in two are found
//! with them, and a server that keeps a buffer or a thread for each is found by them.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::{answer::Refusal, ask::Ask, status};
use crate::{
    config::Config,
    request::{BoxError, LongLived},
};

/// The most bytes that one event has, so that `--size-max` also bounds their number.
const EVENT_BYTES: u64 = 128;

/// What a drip consists of, as much of it as is due at once.
const DRIPS: &[u8; 16 * 1024] = &[b'*'; 16 * 1024];

/// What the parts of a body are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `id`, `event` and `data` of server-sent events (HTML Living Standard, section 9.2).
    Events,
    /// One JSON object per line.
    JsonLines,
    /// Single bytes.
    Drips,
}

/// A body whose parts come at set times: the first at once, the last after `duration`. Ends when it is dropped, so when
/// the client leaves; parts that a slow client was not there for come together once it is.
#[derive(Debug)]
pub(super) struct Timed {
    form: Form,
    count: u64,
    duration: Duration,
    /// Each part comes up to so much later than its time.
    jitter: Duration,
    sent: u64,
    /// When the first part was asked for.
    began: Option<Instant>,
    /// When the next part comes.
    due: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// `/sse?count&duration&delay&jitter`: go-httpbin's defaults, 10 events in 5 s.
pub(super) fn events<B>(request: &Request<B>, config: &Config) -> Result<Response<Timed>, Refusal> {
    let mut response = Response::new(Timed::asked(Form::Events, &Ask::of(request)?, config)?);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.extensions_mut().insert(LongLived);
    Ok(response)
}

/// `/jsonl?count&duration&delay&jitter`: the same as lines.
pub(super) fn json_lines<B>(request: &Request<B>, config: &Config) -> Result<Response<Timed>, Refusal> {
    let mut response = Response::new(Timed::asked(Form::JsonLines, &Ask::of(request)?, config)?);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jsonl"));
    response.extensions_mut().insert(LongLived);
    Ok(response)
}

/// `/drip?duration&numbytes&code&delay`: 10 bytes in 2 s, with their length said before.
pub(super) fn drip<B>(request: &Request<B>, config: &Config) -> Result<Response<Timed>, Refusal> {
    let ask = Ask::of(request)?;
    let mut response = Response::new(Timed {
        count: ask.number("numbytes", 10, 1..=config.size_max, Some("--size-max"))?,
        duration: ask.duration("duration", Duration::from_secs(2), config.delay_max, "--delay-max")?,
        ..Timed::new(Form::Drips)
    });
    *response.status_mut() = ask.status("code", StatusCode::OK)?;
    if status::has_no_body(response.status()) {
        response.body_mut().count = 0;
    }
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.extensions_mut().insert(LongLived);
    Ok(response)
}

impl Timed {
    fn new(form: Form) -> Self {
        Self {
            form,
            count: 1,
            duration: Duration::ZERO,
            jitter: Duration::ZERO,
            sent: 0,
            began: None,
            due: None,
            timer: None,
        }
    }

    fn asked(form: Form, ask: &Ask<'_>, config: &Config) -> Result<Self, Refusal> {
        let max = config.delay_max;
        Ok(Self {
            count: ask.number("count", 10, 1..=(config.size_max / EVENT_BYTES).max(1), Some("--size-max"))?,
            duration: ask.duration("duration", Duration::from_secs(5), max, "--delay-max")?,
            jitter: ask.duration("jitter", Duration::ZERO, max, "--delay-max")?,
            ..Self::new(form)
        })
    }

    /// When part `place` comes, from the first on, without jitter. The last comes at the end, so a single one at once.
    fn offset(&self, place: u64) -> Duration {
        let gaps = u128::from(self.count - 1).max(1);
        let nanos = self.duration.as_nanos() * u128::from(place) / gaps;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The next part's time, drawn once.
    fn due(&mut self, now: Instant) -> Instant {
        if let Some(due) = self.due {
            return due;
        }
        let began = *self.began.get_or_insert(now);
        let jitter = u64::try_from(self.jitter.as_nanos()).unwrap_or(u64::MAX);
        let due = began + self.offset(self.sent) + Duration::from_nanos(fastrand::u64(0..=jitter));
        *self.due.insert(due)
    }

    /// The next part, which is due at `now`.
    fn part(&mut self, now: Instant) -> Bytes {
        let id = self.sent;
        self.due = None;
        self.sent += 1;
        match self.form {
            Form::Events => {
                let data = format!("{{\"id\":{id},\"timestamp\":{}}}", unix_millis());
                format!("id: {id}\nevent: ping\ndata: {data}\n\n").into()
            }
            Form::JsonLines => format!("{{\"id\":{id},\"timestamp\":{}}}\n", unix_millis()).into(),
            Form::Drips => {
                let began = self.began.unwrap_or(now);
                let most = self.count.min(id + DRIPS.len() as u64);
                while self.sent < most && began + self.offset(self.sent) <= now {
                    self.sent += 1;
                }
                let length = usize::try_from(self.sent - id).unwrap_or(DRIPS.len());
                Bytes::from_static(&DRIPS[..length])
            }
        }
    }

    /// Ready at `due`.
    fn poll_until(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(cx)
    }
}

impl Body for Timed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let mut now = Instant::now();
        let due = self.due(now);
        if due > now {
            ready!(self.poll_until(due, cx));
            now = Instant::now();
        }
        Poll::Ready(Some(Ok(Frame::data(self.part(now)))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.count
    }

    /// Of a drip the length is known before.
    fn size_hint(&self) -> SizeHint {
        match self.form {
            Form::Drips => SizeHint::with_exact(self.count - self.sent),
            Form::Events | Form::JsonLines => SizeHint::default(),
        }
    }
}

fn unix_millis() -> u128 {
    std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    /// The parts of a body, each with when it came, in milliseconds.
    async fn parts(mut body: Timed) -> Vec<(u128, Bytes)> {
        let began = Instant::now();
        let mut parts = Vec::new();
        while let Some(frame) = body.frame().await {
            parts.push((began.elapsed().as_millis(), frame.unwrap().into_data().unwrap()));
        }
        parts
    }

    fn ask(query: &str) -> Request<()> {
        Request::builder().uri(format!("/x?{query}")).body(()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn ten_events_come_in_five_seconds_each_whole_and_in_its_own_frame() {
        let response = events(&ask(""), &Config::default()).unwrap();
        assert!(response.extensions().get::<LongLived>().is_some());
        let parts = parts(response.into_body()).await;
        assert_eq!(parts.len(), 10);
        for (id, (millis, event)) in parts.iter().enumerate() {
            let due = 5000 * id as u128 / 9;
            assert!((due..=due + 1).contains(millis), "{id} at {millis} ms");
            let text = std::str::from_utf8(event).unwrap();
            let data = text.strip_prefix(&format!("id: {id}\nevent: ping\ndata: ")).unwrap();
            let json: serde_json::Value = serde_json::from_str(data.strip_suffix("\n\n").unwrap()).unwrap();
            assert_eq!(json["id"], id);
            assert!(json["timestamp"].is_u64());
            assert!(event.len() as u64 <= EVENT_BYTES);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn jitter_delays_a_part_and_never_hurries_it_or_changes_the_order() {
        let response = json_lines(&ask("count=50&duration=5&jitter=300ms"), &Config::default()).unwrap();
        let parts = parts(response.into_body()).await;
        assert_eq!(parts.len(), 50);
        let mut last = 0;
        for (id, (millis, line)) in parts.iter().enumerate() {
            let due = 5000 * id as u128 / 49;
            assert!((due..=due + 302).contains(millis), "{id} at {millis} ms");
            assert!(*millis >= last && line.ends_with(b"\n"));
            last = *millis;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drip_has_its_length_and_its_bytes_come_one_by_one() {
        let response = drip(&ask("numbytes=5&duration=2&code=202"), &Config::default()).unwrap();
        assert_eq!((response.status(), response.body().size_hint().exact()), (StatusCode::ACCEPTED, Some(5)));
        let parts = parts(response.into_body()).await;
        assert_eq!(parts.len(), 5);
        assert!(parts.iter().all(|(_, part)| part == "*"));
        assert!((2000..=2001).contains(&parts[4].0), "{parts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_drip_of_many_bytes_comes_in_few_frames() {
        let response = drip(&ask("numbytes=10MiB&duration=0"), &Config::default());
        assert!(response.is_err(), "numbytes is a number, as in httpbin");
        let response = drip(&ask("numbytes=10000000&duration=1"), &Config::default()).unwrap();
        let parts = parts(response.into_body()).await;
        let bytes: usize = parts.iter().map(|(_, part)| part.len()).sum();
        assert_eq!(bytes, 10_000_000);
        assert!(parts.len() <= 10_000_000 / DRIPS.len() + 1002, "{}", parts.len());
        let late = parts.last().unwrap().0;
        assert!((1000..=1001).contains(&late), "{late}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_was_away_gets_what_it_missed_at_once() {
        let mut body = events(&ask("count=5&duration=4"), &Config::default()).unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(parts(body).await.iter().all(|(millis, _)| *millis == 0));
    }

    #[test]
    fn what_is_above_a_cap_is_refused_with_the_flag() {
        let config = Config { delay_max: Duration::from_secs(3), size_max: 1000, ..Config::default() };
        for (query, flag) in [
            ("duration=4", "--delay-max"),
            ("jitter=4", "--delay-max"),
            ("count=8", "--size-max"),
            ("count=0", "--size-max"),
        ] {
            let detail = events(&ask(query), &config).unwrap_err().to_string();
            assert!(detail.starts_with("400") && detail.contains(flag) && detail.contains(query), "{detail}");
        }
        assert!(
            drip(&ask("numbytes=1001&duration=0"), &config).unwrap_err().to_string().contains("--size-max")
        );
        assert!(
            drip(&ask("numbytes=1000&duration=4"), &config).unwrap_err().to_string().contains("--delay-max")
        );
        assert!(drip(&ask("code=199"), &config).is_err());
        assert!(drip(&ask("code=204&duration=0"), &config).unwrap().body().is_end_stream());
        // A default is cut to the cap, a wish is not.
        assert_eq!(events(&ask("count=7"), &config).unwrap().body().duration, config.delay_max);
    }
}
