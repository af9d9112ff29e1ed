//! Work that costs what it says: an overload test needs requests whose price in CPU time is known, and that share their
//! worker as well-behaved handlers do.

use std::{
    future::Future,
    hint::black_box,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Semaphore;

use super::{
    answer::{self, Refusal},
    ask::Ask,
    body::EchoBody,
    settings::Settings,
};
use crate::{
    config::Config,
    request::{BoxError, RequestBody},
    task,
};

/// Longest time that a worker is kept from its other tasks.
const SLICE: Duration = Duration::from_millis(1);

/// Rounds of [`spin`] between two looks at the clock: some microseconds.
const ROUNDS: u32 = 1024;

/// Memory that is touched in one go, well below [`SLICE`].
const TOUCHED_AT_ONCE: usize = 256 * 1024;

/// Where work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// On the worker that carries the connection.
    Worker,
    /// On a thread for blocking work.
    Blocking,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Job {
    cpu: Duration,
    /// Bytes that are kept, and touched, to the end of the response.
    hold: usize,
    place: Where,
}

/// What was done.
#[derive(Debug)]
struct Done {
    /// CPU time that it took.
    cpu: Duration,
    held: Vec<u8>,
}

/// Answers with what the work has cost.
pub(super) async fn answer(
    mut request: Request<RequestBody>,
    settings: Arc<Settings>,
) -> Result<Response<EchoBody>, BoxError> {
    let job = job(&request, &settings.config)?;
    request.body_mut().discard().await?;
    let Done { cpu, held } = run(job, &settings.blocking).await?;
    let cpu_us = u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX);
    let text = format!("{{\"cpu_us\":{cpu_us},\"hold_bytes\":{}}}\n", held.len());
    let body = Holding { text: Full::from(text), _held: held };
    Ok(answer::of_type(StatusCode::OK, "application/json", EchoBody::boxed(body)))
}

pin_project! {
    /// A text, and memory that is given back after it.
    struct Holding {
        #[pin]
        text: Full<Bytes>,
        _held: Vec<u8>,
    }
}

impl Body for Holding {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().text.poll_frame(cx).map_err(|never| match never {})
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.text.size_hint()
    }
}

/// Reads `/work?cpu=5ms&hold=1MiB&where=worker|blocking`.
fn job<B>(request: &Request<B>, config: &Config) -> Result<Job, Refusal> {
    let ask = Ask::of(request)?;
    let place = match ask.get("where") {
        None | Some("worker") => Where::Worker,
        Some("blocking") => Where::Blocking,
        Some(other) => {
            return Err(Refusal::bad_request(format!("where={other} is neither `worker` nor `blocking`")));
        }
    };
    let hold = ask.bytes("hold", 0, config.size_max, "--size-max")?;
    Ok(Job {
        cpu: ask.duration("cpu", Duration::ZERO, config.work_max, "--work-max")?,
        hold: usize::try_from(hold).unwrap_or(usize::MAX),
        place,
    })
}

/// Does the job. `blocking` bounds the threads that do such jobs at the same time.
async fn run(job: Job, blocking: &Arc<Semaphore>) -> Result<Done, Refusal> {
    let held = hold(job.hold).await?;
    let cpu = match job.place {
        Where::Worker => InSlices { left: job.cpu, spent: Duration::ZERO }.await,
        Where::Blocking => on_blocking_thread(job.cpu, blocking).await?,
    };
    Ok(Done { cpu, held })
}

/// Memory that is really there, not only promised by the kernel.
async fn hold(bytes: usize) -> Result<Vec<u8>, Refusal> {
    let mut held = Vec::new();
    held.try_reserve_exact(bytes).ok().ok_or_else(|| {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("hold={bytes} is more memory than there is"))
    })?;
    while held.len() < bytes {
        held.resize(bytes.min(held.len() + TOUCHED_AT_ONCE), 1);
        tokio::task::yield_now().await;
    }
    Ok(held)
}

/// Burns CPU time on the calling thread, other tasks between the slices.
struct InSlices {
    left: Duration,
    spent: Duration,
}

impl Future for InSlices {
    type Output = Duration;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Duration> {
        let spent = burn(self.left.min(SLICE));
        self.spent += spent;
        self.left = self.left.saturating_sub(spent);
        if self.left.is_zero() {
            return Poll::Ready(self.spent);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Waits for a place, then burns on a blocking thread; stops when nobody waits for it any more.
async fn on_blocking_thread(cpu: Duration, blocking: &Arc<Semaphore>) -> Result<Duration, Refusal> {
    let failed =
        || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the server has no thread for blocking work");
    let place = Arc::clone(blocking).acquire_owned().await.ok().ok_or_else(failed)?;
    let wanted = Arc::new(());
    let is_wanted = Arc::downgrade(&wanted);
    let burned = task::run_blocking(move || {
        // Held by the thread, not by who waits for it: a client that leaves does not free a busy thread.
        let _place = place;
        burn_while_wanted(cpu, &is_wanted)
    });
    burned.await.ok_or_else(failed)
}

fn burn_while_wanted(cpu: Duration, is_wanted: &Weak<()>) -> Duration {
    let mut spent = Duration::ZERO;
    while spent < cpu && is_wanted.strong_count() > 0 {
        spent += burn(cpu.saturating_sub(spent).min(SLICE));
    }
    spent
}

/// Uses `time` of this thread's CPU time, and returns how much it was.
fn burn(time: Duration) -> Duration {
    let began = thread_cpu_time();
    let mut state = 1;
    loop {
        let spent = thread_cpu_time().saturating_sub(began);
        if spent >= time {
            return spent;
        }
        state = black_box(spin(state));
    }
}

/// Something that the compiler cannot leave out.
fn spin(mut state: u64) -> u64 {
    for _ in 0..ROUNDS {
        state = black_box(state.wrapping_mul(6_364_136_223_846_793_005).rotate_left(7) ^ 0x5851);
    }
    state
}

/// CPU time of the calling thread: what others take from the machine does not count as our work.
fn thread_cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(query: &str) -> Result<Job, Refusal> {
        let request = Request::builder().uri(format!("/work?{query}")).body(()).unwrap();
        job(&request, &Config::default())
    }

    /// Polls until it is ready; returns the output, the number of polls, and the CPU time of the longest.
    fn poll_all<T>(future: impl Future<Output = T>) -> (T, u32, Duration) {
        let mut future = std::pin::pin!(future);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let (mut polls, mut longest) = (0, Duration::ZERO);
        loop {
            let began = thread_cpu_time();
            let polled = future.as_mut().poll(&mut cx);
            polls += 1;
            longest = longest.max(thread_cpu_time().saturating_sub(began));
            if let Poll::Ready(output) = polled {
                return (output, polls, longest);
            }
        }
    }

    #[test]
    fn work_costs_the_cpu_time_that_was_asked_for_and_a_millisecond_is_one_poll() {
        let began = thread_cpu_time();
        let (spent, polls, longest) =
            poll_all(InSlices { left: Duration::from_millis(1), spent: Duration::ZERO });
        let cost = thread_cpu_time().saturating_sub(began);
        assert_eq!(polls, 1);
        assert!(spent >= Duration::from_millis(1) && spent <= longest && longest <= cost);
        assert!(cost <= Duration::from_micros(1050), "{cost:?}");

        let began = thread_cpu_time();
        let (_, polls, longest) =
            poll_all(InSlices { left: Duration::from_millis(20), spent: Duration::ZERO });
        let cost = thread_cpu_time().saturating_sub(began);
        assert!((19..=20).contains(&polls), "{polls}");
        assert!(longest <= Duration::from_micros(1200), "{longest:?}");
        assert!(cost >= Duration::from_millis(20) && cost <= Duration::from_millis(21), "{cost:?}");
    }

    #[tokio::test]
    async fn blocking_work_waits_for_its_place_and_ends_early_when_nobody_wants_it() {
        let places = Arc::new(Semaphore::new(1));
        let job = Job { cpu: Duration::from_millis(5), hold: 3 << 20, place: Where::Blocking };
        let done = run(job, &places).await.unwrap();
        assert!(
            done.cpu >= job.cpu && done.held.len() == job.hold && done.held.iter().all(|byte| *byte == 1)
        );

        let taken = Arc::clone(&places).acquire_owned().await.unwrap();
        let mut waiting = std::pin::pin!(run(job, &places));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(taken);
        waiting.await.unwrap();

        let unwanted = Weak::new();
        assert_eq!(burn_while_wanted(Duration::from_hours(1), &unwanted), Duration::ZERO);
    }

    #[test]
    fn what_is_above_a_cap_is_refused_with_the_flag() {
        let job = Job { cpu: Duration::from_millis(5), hold: 1 << 20, place: Where::Worker };
        assert_eq!(ask("cpu=5ms&hold=1MiB").unwrap(), job);
        assert_eq!(ask("cpu=1&where=blocking").unwrap().place, Where::Blocking);
        for (query, what) in [
            ("cpu=1001ms", "--work-max"),
            ("hold=65MiB", "--size-max"),
            ("where=there", "neither"),
            ("cpu=x", "not a duration"),
        ] {
            assert!(ask(query).unwrap_err().to_string().contains(what), "{query}");
        }
    }
}
