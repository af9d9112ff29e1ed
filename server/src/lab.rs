//! Seeded faults, to be found with tokio-console and the runtime's metrics: whoever has never seen a blocked worker or a
//! lost waker there does not know what to look for. `dashboards/console.md` walks through each.
//!
//! | path | fault |
//! |---|---|
//! | `/lab/block` | each poll of a task blocks its worker for 20 ms |
//! | `/lab/self-wake` | a task wakes itself in every poll |
//! | `/lab/lock` | a lock is held across an await: all who want it wait in a row |
//! | `/lab/never-yield` | a task computes in one poll, and does not yield |
//! | `/lab/leak` | a future does not keep the waker, so its task never ends |
//! | `/lab/huge-future` | a buffer of 24 KiB stands in a future across an await |
//! | `/lab/crowd?tasks=100000` | no fault: idle tasks without sockets, as many as there may be connections |
//!
//! `for=` says how long (1ms to 10s); the answer comes when the tasks have ended, for a leak at once. Each is a way to stop
//! the server, so they exist only in a build with the feature `console`, and there only with `--lab on`.

use std::{
    future::{Future, poll_fn},
    hint,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{Either, Full};
use tokio::sync::{Mutex, oneshot, watch};
use tower::Service;

use crate::{
    core::Core,
    request::{HttpService, RequestBody},
    task::{TaskKind, spawn, spawn_named},
};

/// How long a blocked poll blocks.
const BLOCK: Duration = Duration::from_millis(20);

/// What `for` may be, and what it is by default.
const FOR_MIN: Duration = Duration::from_millis(1);
const FOR_MAX: Duration = Duration::from_secs(10);
const FOR_DEFAULT: Duration = Duration::from_secs(1);

/// Leaked tasks; more would teach nothing more.
const LEAKS_MAX: usize = 10_000;

/// Tasks of one crowd.
const CROWD_MAX: usize = 1_000_000;

/// How often each task of a crowd is woken.
const CROWD_TICK: Duration = Duration::from_secs(1);

/// What stands in a huge future: more than tokio leaves where it is (16 KiB), and less than overflows the stack where it
/// is moved from function to function unoptimised (64 KiB does).
const HUGE: usize = 24 * 1024;

/// Serves `/lab/`, and leaves everything else to `inner`.
#[derive(Clone)]
pub(crate) struct Lab<S> {
    inner: S,
    state: Arc<State>,
}

struct State {
    core: Arc<Core>,
    lock: Arc<Mutex<()>>,
    leaks: AtomicUsize,
}

impl<S> Lab<S> {
    pub(crate) fn around(inner: S, core: &Arc<Core>) -> Self {
        let state = State { core: Arc::clone(core), lock: Arc::default(), leaks: AtomicUsize::new(0) };
        Self { inner, state: Arc::new(state) }
    }
}

impl<S: HttpService> Service<Request<RequestBody>> for Lab<S> {
    type Response = Response<Either<S::ResponseBody, Full<Bytes>>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let Some(name) = request.uri().path().strip_prefix("/lab/") else {
            let answer = self.inner.call(request);
            return Box::pin(async move { Ok(answer.await?.map(Either::Left)) });
        };
        let seeded = Fault::named(name)
            .ok_or_else(|| (StatusCode::NOT_FOUND, Fault::list()))
            .and_then(|fault| self.state.seed(fault, &Query::of(request.uri())?));
        Box::pin(async move {
            let (status, text) = match seeded {
                Ok((said, ended)) => {
                    // A task that is cut with its runtime says nothing.
                    let _ended_or_cut = ended.await;
                    (StatusCode::OK, said)
                }
                Err(refused) => refused,
            };
            let mut response = Response::new(Either::Right(Full::from(text)));
            *response.status_mut() = status;
            Ok(response)
        })
    }
}

/// `?for=250ms&tasks=1000`
struct Query {
    lasts: Duration,
    tasks: usize,
}

impl Query {
    fn of(uri: &Uri) -> Result<Self, (StatusCode, String)> {
        let value_of = |key| {
            let pairs = uri.query().unwrap_or_default().split('&');
            pairs
                .filter_map(|pair| pair.split_once('='))
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value)
        };
        let refuse = |what: String| (StatusCode::BAD_REQUEST, what);
        let lasts = match value_of("for") {
            None => FOR_DEFAULT,
            Some(value) => humantime::parse_duration(value)
                .ok()
                .filter(|given| (FOR_MIN..=FOR_MAX).contains(given))
                .ok_or_else(|| {
                    refuse(format!("for={value}: must be {FOR_MIN:?} to {FOR_MAX:?}, such as 250ms\n"))
                })?,
        };
        let tasks = match value_of("tasks") {
            None => 1,
            Some(value) => value
                .parse()
                .ok()
                .filter(|given| (1..=CROWD_MAX).contains(given))
                .ok_or_else(|| refuse(format!("tasks={value}: must be 1 to {CROWD_MAX}\n")))?,
        };
        Ok(Self { lasts, tasks })
    }
}

#[derive(Clone, Copy)]
enum Fault {
    Block,
    SelfWake,
    Lock,
    NeverYield,
    Leak,
    HugeFuture,
    Crowd,
}

impl Fault {
    const ALL: [Self; 7] = [
        Self::Block,
        Self::SelfWake,
        Self::Lock,
        Self::NeverYield,
        Self::Leak,
        Self::HugeFuture,
        Self::Crowd,
    ];

    /// The name in the path and, after `lab`, in tokio-console.
    const fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::SelfWake => "self-wake",
            Self::Lock => "lock",
            Self::NeverYield => "never-yield",
            Self::Leak => "leak",
            Self::HugeFuture => "huge-future",
            Self::Crowd => "crowd",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    fn list() -> String {
        let names: Vec<_> = Self::ALL.iter().map(|fault| format!("/lab/{}", fault.name())).collect();
        format!("no such fault; try {}\n", names.join(" "))
    }
}

impl State {
    /// Spawns the task with the fault; returns what there is to say, and what resolves when the task has ended.
    fn seed(
        &self,
        fault: Fault,
        query: &Query,
    ) -> Result<(String, oneshot::Receiver<()>), (StatusCode, String)> {
        let lasts = query.lasts;
        let (end, ended) = oneshot::channel::<()>();
        let said = format!("{} for {lasts:?}\n", fault.name());
        match fault {
            Fault::Block => self.spawn(fault, end, block(lasts)),
            Fault::SelfWake => self.spawn(fault, end, self_wake(lasts)),
            Fault::Lock => self.spawn(fault, end, hold(Arc::clone(&self.lock), lasts)),
            Fault::NeverYield => self.spawn(fault, end, never_yield(lasts)),
            Fault::HugeFuture => self.spawn(fault, end, huge(lasts)),
            Fault::Crowd => self.spawn(fault, end, crowd(Arc::clone(&self.core), query.tasks, lasts)),
            Fault::Leak => {
                let leaks = self.leaks.fetch_add(1, Relaxed) + 1;
                if leaks > LEAKS_MAX {
                    let refused = format!("{LEAKS_MAX} tasks have leaked already; restart the server\n");
                    return Err((StatusCode::CONFLICT, refused));
                }
                drop(end);
                spawn_named(&self.core, TaskKind::Lab, fault.name(), forget_the_waker());
                return Ok((format!("{leaks} tasks have leaked\n"), ended));
            }
        }
        Ok((said, ended))
    }

    fn spawn(&self, fault: Fault, end: oneshot::Sender<()>, task: impl Future<Output = ()> + Send + 'static) {
        spawn_named(&self.core, TaskKind::Lab, fault.name(), async move {
            task.await;
            drop(end);
        });
    }
}

/// A library call that blocks (a file, a name lookup, a std lock), as it stands in an async function.
async fn block(lasts: Duration) {
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        std::thread::sleep(BLOCK.min(lasts));
        tokio::task::yield_now().await;
    }
}

/// A hand-written future that polls by itself in place of waiting for a wake-up.
async fn self_wake(lasts: Duration) {
    let until = Instant::now() + lasts;
    poll_fn(|cx| {
        if Instant::now() >= until {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// An async lock, which no lint objects to, held while waiting for something slow.
async fn hold(lock: Arc<Mutex<()>>, lasts: Duration) {
    let _held = lock.lock().await;
    tokio::time::sleep(lasts).await;
}

/// A computation without an await.
#[expect(clippy::unused_async, reason = "that is the fault")]
async fn never_yield(lasts: Duration) {
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        hint::spin_loop();
    }
}

/// A hand-written future that is not ready and has not kept the waker: nothing will ever poll it again.
async fn forget_the_waker() {
    poll_fn(|_cx| Poll::<()>::Pending).await;
}

/// A buffer on the stack, as one thinks: what lives across an await stands in the future.
#[expect(clippy::large_stack_arrays, reason = "that is the fault")]
async fn huge(lasts: Duration) {
    let mut buffer = [0_u8; HUGE];
    tokio::time::sleep(lasts).await;
    hint::black_box(&mut buffer);
}

/// Tasks that do nothing but wait, and are woken now and then, as idle connections are.
async fn crowd(core: Arc<Core>, tasks: usize, lasts: Duration) {
    let (tick, ticked) = watch::channel(());
    for _ in 0..tasks {
        let mut ticked = ticked.clone();
        spawn(&core, TaskKind::Crowd, async move { while ticked.changed().await.is_ok() {} });
    }
    let until = tokio::time::Instant::now() + lasts;
    while tokio::time::Instant::now() < until {
        tick.send_replace(());
        tokio::time::sleep_until(until.min(tokio::time::Instant::now() + CROWD_TICK)).await;
    }
}
