//! The only place that spawns: without it tasks have no owner, outlive the drain, and stand in tokio-console without
//! a name.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use crate::core::Core;

/// What a task is for: the label of `echo_tasks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskKind {
    /// One accept loop per listener.
    Accept,
    /// One client connection, from accept to close.
    Connection,
    /// One HTTP/2 stream: hyper runs each on a task of its own.
    Http2Stream,
    /// One client over the connection limit that is being told so.
    Reject,
}

impl TaskKind {
    pub(crate) const ALL: [Self; 4] = [Self::Accept, Self::Connection, Self::Http2Stream, Self::Reject];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Connection => "connection",
            Self::Http2Stream => "h2 stream",
            Self::Reject => "reject",
        }
    }
}

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
