//! Where every task stands: of a server that hangs, metrics and traces say nothing, because nothing ends.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    time::timeout,
};

use crate::{core::Core, task};

/// A runtime whose worker is blocked cannot be dumped: the dump stops all workers first.
const DUMP_MAX: Duration = Duration::from_secs(2);

/// Tasks whose stacks are written out; a person reads no more.
const TASKS_MAX: usize = 200;

/// The await points of all tasks of the data plane, as text.
///
/// Stops the workers of each runtime and polls every task once: for a server in trouble, not for a graph.
pub(super) async fn dump(core: &Arc<Core>) -> String {
    let mut text = String::new();
    for (name, runtime) in core.sources.data_runtimes() {
        // Writing to a String cannot fail.
        let _infallible = match timeout(DUMP_MAX, dump_of(runtime)).await {
            Ok(Some(dump)) => write_out(&mut text, &name, &dump),
            Ok(None) => writeln!(text, "{name}: the runtime has ended"),
            Err(_elapsed) => writeln!(
                text,
                "{name}: no dump within {DUMP_MAX:?}: a worker is blocked; --slow-poll names its task, tokio-console shows it"
            ),
        };
    }
    text
}

/// A current-thread runtime can be dumped from within only.
async fn dump_of(runtime: Handle) -> Option<tokio::runtime::Dump> {
    if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
        let within = runtime.clone();
        task::run_on(&runtime, async move { within.dump().await }).await.ok()
    } else {
        Some(runtime.dump().await)
    }
}

fn write_out(text: &mut String, name: &str, dump: &tokio::runtime::Dump) -> std::fmt::Result {
    let count = dump.tasks().iter().count();
    writeln!(text, "{name}: {count} tasks")?;
    for task in dump.tasks().iter().take(TASKS_MAX) {
        writeln!(text, "\ntask {}\n{}", task.id(), task.trace())?;
    }
    if count > TASKS_MAX {
        writeln!(text, "\n{} more", count - TASKS_MAX)?;
    }
    Ok(())
}
