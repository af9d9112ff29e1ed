//! Whether the data plane answers: a process whose workers all hang still has a control thread that says that all is well.

use std::time::Duration;

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    time::timeout,
};

use crate::{core::Core, task};

/// The data plane's threads, as they were when they were last looked at.
#[derive(Debug)]
pub(crate) struct Pulse {
    runtimes: Vec<(String, Handle)>,
    /// For each worker of each runtime: how often it has been parked or unparked, and how long it has been busy. While
    /// it works, one of them changes; while it waits for work the first is odd.
    workers: Vec<Vec<(u64, Duration)>>,
}

/// A thread that does not answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Silent {
    #[error("no thread of {0} answers")]
    Runtime(String),
    #[error("worker {1} of {0} has been in one poll since the last look")]
    Worker(String, usize),
}

impl Pulse {
    pub(crate) fn of(core: &Core) -> Self {
        let runtimes = core.sources.data_runtimes();
        let workers = vec![Vec::new(); runtimes.len()];
        Self { runtimes, workers }
    }

    /// Has each runtime answer within `limit`, and each of its workers have moved since the last call.
    ///
    /// # Errors
    /// The first that has not.
    pub(crate) async fn feel(&mut self, limit: Duration) -> Result<(), Silent> {
        for (place, (name, runtime)) in self.runtimes.iter().enumerate() {
            let answer = task::run_on(runtime, std::future::ready(()));
            if !matches!(timeout(limit, answer).await, Ok(Ok(()))) {
                return Err(Silent::Runtime(name.clone()));
            }
            if runtime.runtime_flavor() != RuntimeFlavor::MultiThread {
                // Its one thread has just answered.
                continue;
            }
            let metrics = runtime.metrics();
            let now: Vec<_> = (0..metrics.num_workers())
                .map(|worker| {
                    (metrics.worker_park_unpark_count(worker), metrics.worker_total_busy_duration(worker))
                })
                .collect();
            let before = std::mem::replace(&mut self.workers[place], now.clone());
            let stuck = now.iter().zip(&before).position(|(now, before)| now == before && now.0 % 2 == 0);
            if let Some(worker) = stuck {
                return Err(Silent::Worker(name.clone(), worker));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::runtime::{Builder, Runtime};

    use super::*;

    fn pulse_of(runtime: &Runtime) -> Pulse {
        Pulse { runtimes: vec![("data-0".to_owned(), runtime.handle().clone())], workers: vec![Vec::new()] }
    }

    fn feel(pulse: &mut Pulse) -> Result<(), Silent> {
        let control = Builder::new_current_thread().enable_time().build().unwrap();
        control.block_on(pulse.feel(Duration::from_secs(5)))
    }

    /// Looks are far apart; a worker that has just answered may still look for work.
    fn wait_until_parked(runtime: &Runtime) {
        let metrics = runtime.metrics();
        while (0..metrics.num_workers())
            .any(|worker| metrics.worker_park_unpark_count(worker).is_multiple_of(2))
        {
            std::thread::yield_now();
        }
    }

    /// Blocks a worker until the sender is dropped; returns once it is blocked.
    fn block(runtime: &Runtime) -> mpsc::SyncSender<()> {
        let (release, released) = mpsc::sync_channel::<()>(1);
        let (begun, has_begun) = mpsc::sync_channel(1);
        drop(task::run_on(runtime.handle(), async move {
            begun.send(()).unwrap();
            let _released = released.recv();
        }));
        has_begun.recv().unwrap();
        release
    }

    #[test]
    fn one_worker_that_hangs_is_found_though_the_others_answer() {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut pulse = pulse_of(&runtime);
        for _ in 0..20 {
            assert_eq!(feel(&mut pulse), Ok(()), "idle workers are no hung ones");
            wait_until_parked(&runtime);
        }
        let release = block(&runtime);
        let _first_look = feel(&mut pulse);
        let Err(Silent::Worker(name, _)) = feel(&mut pulse) else { panic!("not found") };
        assert_eq!(name, "data-0");
        drop(release);
        runtime.shutdown_timeout(Duration::from_secs(5));
    }

    #[test]
    fn a_runtime_that_answers_nobody_is_found() {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut pulse = pulse_of(&runtime);
        assert_eq!(feel(&mut pulse), Ok(()));
        let release = block(&runtime);
        let control = Builder::new_current_thread().enable_time().build().unwrap();
        let felt = control.block_on(pulse.feel(Duration::from_millis(20)));
        assert_eq!(felt, Err(Silent::Runtime("data-0".to_owned())));
        drop(release);
        runtime.shutdown_timeout(Duration::from_secs(5));
    }
}
