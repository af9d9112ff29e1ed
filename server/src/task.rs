//! The only place that spawns: without it tasks have no owner, outlive the drain, and stand in tokio-console without
//! a name.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use crate::core::Core;
pub(crate) use crate::telemetry::metrics::TaskKind;

/// Spawns onto the current runtime. The task belongs to `core`, whose drain waits for it.
#[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
pub(crate) fn spawn(core: &Arc<Core>, kind: TaskKind, future: impl Future<Output = ()> + Send + 'static) {
    let live = Live::new(Arc::clone(core), kind);
    tokio::spawn(core.tasks.track_future(async move {
        let _live = live;
        future.await;
    }));
}

/// Counts a task while it lives, also when it panics or is dropped with its runtime.
struct Live {
    core: Arc<Core>,
    kind: TaskKind,
}

impl Live {
    fn new(core: Arc<Core>, kind: TaskKind) -> Self {
        core.metrics.shard().tasks[kind as usize].fetch_add(1, Relaxed);
        Self { core, kind }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.core.metrics.shard().tasks[self.kind as usize].fetch_sub(1, Relaxed);
    }
}
