//! The tokio runtimes, each under its label: how busy their workers are, and what waits for them.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;
use tokio::runtime::RuntimeMetrics;

use super::families::{counter, counters, gauges};
use crate::core::Core;

pub(super) fn encode(core: &Core, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let runtimes = Runtimes(core.sources.runtimes());
    stable(&runtimes, out)?;
    #[cfg(tokio_unstable)]
    {
        unstable::runtimes(&runtimes, out)?;
        unstable::workers(&runtimes, out)?;
        unstable::histograms(&runtimes, out)?;
    }
    counter(
        out,
        "tokio_slow_polls_total",
        "Polls of tasks that took longer than slow_poll; 0 where it is off",
        core.metrics.sum(|shard| &shard.slow_polls),
    )
}

fn stable(runtimes: &Runtimes, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    gauges(out, "tokio_workers", "Worker threads", runtimes.each(|runtime| runtime.num_workers() as u64))?;
    gauges(
        out,
        "tokio_alive_tasks",
        "Tasks that have not ended",
        runtimes.each(|runtime| runtime.num_alive_tasks() as u64),
    )?;
    gauges(
        out,
        "tokio_global_queue_depth",
        "Tasks that wait for any worker: those woken from outside, or that found a full local queue",
        runtimes.each(|runtime| runtime.global_queue_depth() as u64),
    )?;
    counters(
        out,
        "tokio_worker_busy_seconds_total",
        "Time that a worker was not parked: rate 1 is a worker without a rest",
        runtimes.each_worker(|runtime, worker| runtime.worker_total_busy_duration(worker).as_secs_f64()),
    )?;
    counters(
        out,
        "tokio_worker_parks_total",
        "Times that a worker had nothing to do and slept",
        runtimes.each_worker(RuntimeMetrics::worker_park_count),
    )
}

/// What exists only in a build with `--cfg tokio_unstable`.
#[cfg(tokio_unstable)]
mod unstable {
    use std::{fmt, ops::Range, time::Duration};

    use prometheus_client::{
        encoding::{DescriptorEncoder, NoLabelSet},
        metrics::MetricType,
    };
    use tokio::runtime::RuntimeMetrics;

    use super::{RuntimeLabel, Runtimes};
    use crate::telemetry::exposition::families::{counters, describe, gauges};

    pub(super) fn runtimes(runtimes: &Runtimes, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        counters(
            out,
            "tokio_spawned_tasks_total",
            "Tasks spawned",
            runtimes.each(RuntimeMetrics::spawned_tasks_count),
        )?;
        counters(
            out,
            "tokio_remote_schedules_total",
            "Tasks woken from outside the runtime, through the global queue",
            runtimes.each(RuntimeMetrics::remote_schedule_count),
        )?;
        counters(
            out,
            "tokio_budget_forced_yields_total",
            "Tasks that had more to do and were made to let others go first",
            runtimes.each(RuntimeMetrics::budget_forced_yield_count),
        )?;
        gauges(
            out,
            "tokio_blocking_queue_depth",
            "Blocking calls that wait for a thread",
            runtimes.each(|runtime| runtime.blocking_queue_depth() as u64),
        )?;
        gauges(
            out,
            "tokio_blocking_threads",
            "Threads for blocking calls",
            runtimes.each(|runtime| runtime.num_blocking_threads() as u64),
        )?;
        gauges(
            out,
            "tokio_idle_blocking_threads",
            "Threads for blocking calls that have none to make",
            runtimes.each(|runtime| runtime.num_idle_blocking_threads() as u64),
        )?;
        counters(
            out,
            "tokio_io_driver_fds_registered_total",
            "File descriptors that the IO driver has begun to watch",
            runtimes.each(RuntimeMetrics::io_driver_fd_registered_count),
        )?;
        counters(
            out,
            "tokio_io_driver_fds_deregistered_total",
            "File descriptors that the IO driver watches no more",
            runtimes.each(RuntimeMetrics::io_driver_fd_deregistered_count),
        )?;
        counters(
            out,
            "tokio_io_driver_ready_total",
            "Events that the IO driver had from the kernel",
            runtimes.each(RuntimeMetrics::io_driver_ready_count),
        )
    }

    pub(super) fn workers(runtimes: &Runtimes, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        gauges(
            out,
            "tokio_worker_local_queue_depth",
            "Tasks that wait for this worker",
            runtimes.each_worker(|runtime, worker| runtime.worker_local_queue_depth(worker) as u64),
        )?;
        counters(
            out,
            "tokio_worker_noops_total",
            "Times that a worker woke up and found nothing to do",
            runtimes.each_worker(RuntimeMetrics::worker_noop_count),
        )?;
        counters(
            out,
            "tokio_worker_steals_total",
            "Tasks that a worker took from another's queue",
            runtimes.each_worker(RuntimeMetrics::worker_steal_count),
        )?;
        counters(
            out,
            "tokio_worker_steal_operations_total",
            "Times that a worker took tasks from another's queue",
            runtimes.each_worker(RuntimeMetrics::worker_steal_operations),
        )?;
        counters(
            out,
            "tokio_worker_polls_total",
            "Polls of tasks",
            runtimes.each_worker(RuntimeMetrics::worker_poll_count),
        )?;
        counters(
            out,
            "tokio_worker_local_schedules_total",
            "Tasks woken by this worker itself, through its own queue",
            runtimes.each_worker(RuntimeMetrics::worker_local_schedule_count),
        )?;
        counters(
            out,
            "tokio_worker_overflows_total",
            "Times that a worker's queue was full and half of it went to the global one",
            runtimes.each_worker(RuntimeMetrics::worker_overflow_count),
        )?;
        gauges(
            out,
            "tokio_worker_mean_poll_time_seconds",
            "Moving average of the time of one poll",
            runtimes.each_worker(|runtime, worker| runtime.worker_mean_poll_time(worker).as_secs_f64()),
        )
    }

    /// Of runtimes that were built to time their polls (`task_histograms`); the others have no buckets.
    pub(super) fn histograms(runtimes: &Runtimes, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let poll_times = runtimes.each(|runtime| {
            buckets(
                runtime,
                if runtime.poll_time_histogram_enabled() {
                    runtime.poll_time_histogram_num_buckets()
                } else {
                    0
                },
                RuntimeMetrics::poll_time_histogram_bucket_range,
                RuntimeMetrics::poll_time_histogram_bucket_count,
            )
        });
        histogram(
            out,
            "tokio_poll_time_seconds",
            "Time of one poll of a task, in which its worker does nothing else. The sum is estimated from the middles of the buckets",
            poll_times,
        )?;
        let latencies = runtimes.each(|runtime| {
            let enabled = runtime.schedule_latency_histogram_enabled();
            buckets(
                runtime,
                if enabled { runtime.schedule_latency_histogram_num_buckets() } else { 0 },
                RuntimeMetrics::schedule_latency_histogram_bucket_range,
                RuntimeMetrics::schedule_latency_histogram_bucket_count,
            )
        });
        histogram(
            out,
            "tokio_schedule_latency_seconds",
            "From the wake-up of a task to its poll: how late the runtime is. The sum is estimated from the middles of the buckets",
            latencies,
        )
    }

    /// Range and count of each bucket, over all workers.
    type Buckets = Vec<(Range<Duration>, u64)>;

    fn buckets(
        runtime: &RuntimeMetrics,
        length: usize,
        range: impl Fn(&RuntimeMetrics, usize) -> Range<Duration>,
        count: impl Fn(&RuntimeMetrics, usize, usize) -> u64,
    ) -> Buckets {
        let over_workers =
            |bucket| (0..runtime.num_workers()).map(|worker| count(runtime, worker, bucket)).sum();
        (0..length).map(|bucket| (range(runtime, bucket), over_workers(bucket))).collect()
    }

    fn histogram<'a>(
        out: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        runtimes: impl Iterator<Item = (RuntimeLabel<'a>, Buckets)>,
    ) -> fmt::Result {
        let mut timed = runtimes.filter(|(_, buckets)| !buckets.is_empty()).peekable();
        if timed.peek().is_none() {
            return Ok(());
        }
        describe(out, name, help, MetricType::Histogram, |mut family| {
            timed.try_for_each(|(labels, buckets)| {
                let counts: Vec<(f64, u64)> =
                    buckets.iter().map(|(range, count)| (bound(range), *count)).collect();
                let count = buckets.iter().map(|(_, count)| count).sum();
                let sum = buckets.iter().map(|(range, count)| middle(range) * *count as f64).sum();
                family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &counts, None)
            })
        })
    }

    /// The last bucket ends where tokio's numbers do, and has no bound.
    fn is_last(range: &Range<Duration>) -> bool {
        range.end.as_nanos() >= u128::from(u64::MAX)
    }

    fn bound(range: &Range<Duration>) -> f64 {
        if is_last(range) { f64::INFINITY } else { range.end.as_secs_f64() }
    }

    fn middle(range: &Range<Duration>) -> f64 {
        let end = if is_last(range) { range.start } else { range.end };
        f64::midpoint(range.start.as_secs_f64(), end.as_secs_f64())
    }
}

type RuntimeLabel<'a> = [(&'static str, &'a str); 1];
type WorkerLabel = [(&'static str, usize); 1];

/// Runtimes with their names.
struct Runtimes(Vec<(String, RuntimeMetrics)>);

impl Runtimes {
    /// A value of each runtime, with its label.
    fn each<V>(&self, value: impl Fn(&RuntimeMetrics) -> V) -> impl Iterator<Item = (RuntimeLabel<'_>, V)> {
        self.0.iter().map(move |(name, runtime)| ([("runtime", name.as_str())], value(runtime)))
    }

    /// A value of each worker of each runtime, with its labels.
    fn each_worker<V>(
        &self,
        value: impl Fn(&RuntimeMetrics, usize) -> V,
    ) -> impl Iterator<Item = ((RuntimeLabel<'_>, WorkerLabel), V)> {
        let workers = self.0.iter().flat_map(|(name, runtime)| {
            (0..runtime.num_workers()).map(move |worker| (name.as_str(), runtime, worker))
        });
        workers.map(move |(name, runtime, worker)| {
            (([("runtime", name)], [("worker", worker)]), value(runtime, worker))
        })
    }
}
