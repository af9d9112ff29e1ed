//! Without room for all sockets, a run would fail half-way with `EMFILE` and look like the server's fault.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::plan::PlanError;

/// Descriptors besides the connections: standard streams, files, and epoll, timer and wake-up of each thread.
const RESERVE: u64 = 64;

/// Descriptors that each worker thread needs for itself.
const PER_THREAD: u64 = 8;

/// Raises the soft limit to the hard one if it has to be, and checks that `connections` fit.
///
/// # Errors
/// If they do not fit even then.
pub fn make_room(connections: usize, threads: usize) -> Result<(), PlanError> {
    let needed = connections as u64 + threads as u64 * PER_THREAD + RESERVE;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|soft| soft >= needed) {
        return Ok(());
    }
    // Only the attempt tells whether a sandbox allows it; what counts is the limit afterwards.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let allowed = if raised.is_ok() { limit.maximum } else { limit.current };
    match allowed {
        Some(allowed) if allowed < needed => Err(PlanError::new(
            format!("{connections} connections"),
            format!("they need {needed} file descriptors and the limit is {allowed} (see `ulimit -n`)"),
            "-c/--connections",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_connections_are_refused_with_the_limit_and_the_flag() {
        assert_eq!(make_room(1, 1), Ok(()));
        let error = make_room(usize::MAX / 2, 1).unwrap_err().to_string();
        assert!(error.contains("file descriptors") && error.contains("-c/--connections"), "{error}");
    }
}
