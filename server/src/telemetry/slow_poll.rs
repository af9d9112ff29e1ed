//! Names what blocks: a poll that takes long stops its worker, and what suffers is every other task, so that the culprit
//! is in no stack trace and in no slow request of its own.

use std::{
    cell::Cell,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::runtime::Builder;

use super::throttle::Throttle;
use crate::core::Core;

/// One line per this time, however many slow polls there are; the counter has them all.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Watches every poll of the runtime that `builder` builds, if `slow_poll` is set.
pub(crate) fn watch(builder: &mut Builder, core: &Arc<Core>) {
    thread_local!(static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) });
    let limit = core.config.slow_poll;
    if limit.is_zero() {
        return;
    }
    // Not an `Arc`: the server knows its runtimes, and these would know the server for ever.
    let core = Arc::downgrade(core);
    let lines = Throttle::new(1, LOG_INTERVAL);
    builder.on_before_task_poll(|_task| BEGAN.set(Some(Instant::now())));
    builder.on_after_task_poll(move |task| {
        let Some(took) = BEGAN.take().map(|began| began.elapsed()).filter(|took| *took >= limit) else {
            return;
        };
        if let Some(core) = core.upgrade() {
            core.metrics.shard().slow_polls.fetch_add(1, Relaxed);
        }
        if let Some(others) = lines.admit() {
            tracing::warn!(
                task = %task.id(),
                spawned_at = %task.spawned_at(),
                ?took,
                others,
                "a poll took longer than --slow-poll {limit:?}: its task blocks a worker"
            );
        }
    });
}
