//! A backend that fails its first attempts: what a gateway's retries are tested with. Attempts are remembered by id, in a
//! table that neither a crowd of ids nor time can fill.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use tokio::time::Instant;

use super::{
    answer::{self, Refusal},
    ask::Ask,
    body::EchoBody,
    controls::Caps,
    faults, inspect,
    settings::Settings,
};
use crate::{
    activity::Break,
    config::Config,
    request::{BoxError, RequestBody},
};

/// Ids that are remembered; a new one above that takes the place of the oldest.
const IDS_MAX: usize = 4096;

/// How long an id is remembered from its first attempt on.
const REMEMBERED: Duration = Duration::from_mins(10);

/// Longest id: a UUID has 36 characters.
const ID_LENGTH_MAX: usize = 128;

/// What becomes of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Attempt {
    /// The answer is that of `/anything`.
    Succeeds,
    /// With this status, or by a reset where there is none, after `delay`.
    Fails { status: Option<StatusCode>, delay: Duration },
}

/// `/retry/{id}?succeedAfter&responseCode&delayRetry`, with `?uuid` in the place of the id, as in the Gateway API's
/// echo-basic.
fn attempt<B>(
    request: &Request<B>,
    id: &str,
    attempts: &Attempts,
    config: &Config,
) -> Result<Attempt, Refusal> {
    let ask = Ask::of(request)?;
    let id = ask.get("uuid").unwrap_or(id);
    if id.is_empty() || id.len() > ID_LENGTH_MAX {
        return Err(Refusal::bad_request(format!(
            "a retry needs an id of 1 to {ID_LENGTH_MAX} bytes: /retry/{{id}}, or ?uuid="
        )));
    }
    let caps = Caps::of(config);
    let succeed_after = ask.number("succeedAfter", 1, 0..=u32::MAX, None)?;
    let status = match ask.get("responseCode") {
        Some(_) => Some(ask.status("responseCode", StatusCode::SERVICE_UNAVAILABLE)?),
        None => None,
    };
    let delay = ask.duration("delayRetry", Duration::ZERO, caps.delay_max, caps.delay_flag)?;
    Ok(if attempts.may_succeed(id, succeed_after, Instant::now()) {
        Attempt::Succeeds
    } else {
        Attempt::Fails { status, delay }
    })
}

/// Answers one attempt.
pub(super) async fn answer(
    request: Request<RequestBody>,
    settings: Arc<Settings>,
) -> Result<Response<EchoBody>, BoxError> {
    faults::check(&request)?;
    let id = request.uri().path().strip_prefix("/retry/").unwrap_or_default();
    match attempt(&request, id, &settings.attempts, &settings.config)? {
        Attempt::Succeeds => inspect::anything(request, settings).await,
        Attempt::Fails { status, delay } => {
            tokio::time::sleep(delay).await;
            if status.is_none() {
                // What is written next is stopped, so this answer is.
                request.body().activity().break_off(Break::Reset);
            }
            Ok(answer::intended(status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE)))
        }
    }
}

/// The attempts that have failed, by id.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    failed: HashMap<Arc<str>, u32>,
    /// All ids, each with when it came first, the oldest in front.
    order: VecDeque<(Instant, Arc<str>)>,
}

impl Attempts {
    /// Whether the id has failed `succeed_after` times already; if not, it has failed once more.
    fn may_succeed(&self, id: &str, succeed_after: u32, now: Instant) -> bool {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.forget(now);
        if let Some(failed) = table.failed.get_mut(id) {
            let may_succeed = *failed >= succeed_after;
            *failed += u32::from(!may_succeed);
            return may_succeed;
        }
        if succeed_after > 0 {
            table.remember(id, now);
        }
        succeed_after == 0
    }
}

impl Table {
    /// Drops what is too old.
    fn forget(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(since, _)| now.duration_since(*since) >= REMEMBERED) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, id)) = self.order.pop_front() {
            self.failed.remove(&id);
        }
    }

    fn remember(&mut self, id: &str, now: Instant) {
        if self.order.len() >= IDS_MAX {
            self.drop_oldest();
        }
        let id: Arc<str> = id.into();
        self.order.push_back((now, Arc::clone(&id)));
        self.failed.insert(id, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(attempts: &Attempts, id: &str, query: &str) -> Result<Attempt, Refusal> {
        let request = Request::builder().uri(format!("/retry/{id}?{query}")).body(()).unwrap();
        attempt(&request, id, attempts, &Config::default())
    }

    #[tokio::test]
    async fn an_id_fails_as_often_as_was_asked_and_succeeds_from_then_on() {
        let attempts = Attempts::default();
        let reset = Attempt::Fails { status: None, delay: Duration::ZERO };
        for _ in 0..3 {
            assert_eq!(ask(&attempts, "a", "succeedAfter=3").unwrap(), reset.clone());
        }
        for _ in 0..3 {
            assert_eq!(ask(&attempts, "a", "succeedAfter=3").unwrap(), Attempt::Succeeds);
        }
        assert_eq!(ask(&attempts, "b", "").unwrap(), reset);
        assert_eq!(ask(&attempts, "b", "").unwrap(), Attempt::Succeeds);
        assert_eq!(ask(&attempts, "c", "succeedAfter=0").unwrap(), Attempt::Succeeds);
    }

    #[tokio::test]
    async fn a_uuid_goes_before_the_path_and_a_failure_has_its_status_and_delay() {
        let attempts = Attempts::default();
        let failed =
            Attempt::Fails { status: Some(StatusCode::BAD_GATEWAY), delay: Duration::from_millis(20) };
        let query = "uuid=u&responseCode=502&delayRetry=20ms";
        assert_eq!(ask(&attempts, "x", query).unwrap(), failed);
        assert_eq!(ask(&attempts, "y", query).unwrap(), Attempt::Succeeds);
    }

    #[tokio::test]
    async fn what_is_out_of_range_is_refused() {
        let attempts = Attempts::default();
        for query in
            ["succeedAfter=x", "succeedAfter=-1", "responseCode=100", "responseCode=600", "delayRetry=31s"]
        {
            assert!(ask(&attempts, "a", query).unwrap_err().to_string().contains(query), "{query}");
        }
        assert!(ask(&attempts, "", "").is_err());
        assert!(ask(&attempts, &"i".repeat(ID_LENGTH_MAX), "").is_ok());
        assert!(ask(&attempts, &"i".repeat(ID_LENGTH_MAX + 1), "").is_err());
    }

    #[tokio::test]
    async fn ids_are_forgotten_with_time_and_the_oldest_gives_way_to_a_crowd() {
        let attempts = Attempts::default();
        let now = Instant::now();
        assert!(!attempts.may_succeed("first", 1, now));
        assert!(attempts.may_succeed("first", 1, now + REMEMBERED - Duration::from_millis(1)));
        assert!(!attempts.may_succeed("first", 1, now + REMEMBERED), "forgotten, so it fails again");

        let later = now + REMEMBERED;
        for id in 0..IDS_MAX {
            assert!(!attempts.may_succeed(&id.to_string(), 1, later));
        }
        let table = attempts.0.lock().unwrap();
        assert_eq!((table.order.len(), table.failed.len()), (IDS_MAX, IDS_MAX));
        assert!(!table.failed.contains_key("first") && table.failed.contains_key("0"));
    }
}
