//! The only place that spawns: without it tasks have no owner, outlive the drain, and stand in tokio-console without
//! a name.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use crate::core::Core;
#[cfg(feature = "console")]
use crate::telemetry::console;
pub(crate) use crate::telemetry::metrics::TaskKind;

/// Spawns onto the current runtime. The task belongs to `core`, whose drain waits for it.
#[track_caller]
pub(crate) fn spawn(core: &Arc<Core>, kind: TaskKind, future: impl Future<Output = ()> + Send + 'static) {
    start(core, kind, None, future);
}

/// As [`spawn`], for a task of which there is one per `detail` (an address, say) that tells it from its like.
#[track_caller]
pub(crate) fn spawn_named(
    core: &Arc<Core>,
    kind: TaskKind,
    detail: &str,
    future: impl Future<Output = ()> + Send + 'static,
) {
    start(core, kind, Some(detail), future);
}

/// The current task, of kind `from`, goes on as `to`, with `rest` for the rest of its work: the caller runs it, and keeps
/// what else is returned for as long.
///
/// A task's name is fixed at its spawn. Where tokio-console shows this one, the rest gets a task of its own, with the
/// right name, and nothing is left to the caller; everywhere else a task only counts as another kind from here on.
///
/// `rest` is made where it is awaited: a future that is made here and moved would stand in its caller's twice.
#[track_caller]
#[cfg_attr(not(feature = "console"), expect(clippy::unnecessary_wraps, reason = "see above"))]
pub(crate) fn go_on_as<R, F>(core: &Arc<Core>, (from, to): (TaskKind, TaskKind), rest: R) -> Option<(Live, R)>
where
    R: FnOnce() -> F,
    F: Future<Output = ()> + Send + 'static,
{
    #[cfg(feature = "console")]
    if console::shows_this_task() {
        let _shown_too = console::Showing::all();
        start(core, to, None, rest());
        return None;
    }
    Some((Live::change(Arc::clone(core), from, to), rest))
}

#[track_caller]
fn start(
    core: &Arc<Core>,
    kind: TaskKind,
    detail: Option<&str>,
    future: impl Future<Output = ()> + Send + 'static,
) {
    let live = Live::begin(Arc::clone(core), kind);
    let task = core.tasks.track_future(async move {
        let _live = live;
        future.await;
    });
    place(core, kind, detail, task);
}

#[cfg(not(feature = "console"))]
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
fn place(
    _core: &Core,
    _kind: TaskKind,
    _detail: Option<&str>,
    task: impl Future<Output = ()> + Send + 'static,
) {
    tokio::spawn(task);
}

#[cfg(feature = "console")]
#[track_caller]
fn place(core: &Core, kind: TaskKind, detail: Option<&str>, task: impl Future<Output = ()> + Send + 'static) {
    let name = [core.role.task_prefix(), kind.name(), detail.unwrap_or_default()];
    let name = name.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    let _shown_or_not = console::Showing::by_kind(kind, core.config.console_one_in);
    if let Err(error) = tokio::task::Builder::new().name(&name).spawn(task) {
        tracing::error!(%error, name, "no task could be had");
    }
}

/// Runs `work`, which blocks, on a thread for such work; `None` where it panicked or the runtime is gone. Who calls bounds
/// how many there are.
pub(crate) async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// Runs `future` on another runtime of the process, for an answer that only a task of that runtime can give.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that spawns; who asks waits for the answer"
)]
pub(crate) fn run_on<T: Send + 'static>(
    runtime: &tokio::runtime::Handle,
    future: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    runtime.spawn(future)
}

/// Counts a task while it lives, also when it panics or is dropped with its runtime.
pub(crate) struct Live {
    core: Arc<Core>,
    kind: TaskKind,
    /// What the task was before, and counts as again when this is dropped.
    was: Option<TaskKind>,
}

impl Live {
    fn begin(core: Arc<Core>, kind: TaskKind) -> Self {
        core.metrics.shard().tasks[kind as usize].fetch_add(1, Relaxed);
        Self { core, kind, was: None }
    }

    fn change(core: Arc<Core>, from: TaskKind, to: TaskKind) -> Self {
        let shard = core.metrics.shard();
        shard.tasks[from as usize].fetch_sub(1, Relaxed);
        shard.tasks[to as usize].fetch_add(1, Relaxed);
        Self { core, kind: to, was: Some(from) }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let shard = self.core.metrics.shard();
        shard.tasks[self.kind as usize].fetch_sub(1, Relaxed);
        if let Some(was) = self.was {
            shard.tasks[was as usize].fetch_add(1, Relaxed);
        }
    }
}
