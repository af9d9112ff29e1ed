"""Runtime: what the tokio workers, the process and the kernel do: where the time goes when Overview says it is slow."""

from .board import board, drains, restarts
from .panels import heat, lines, query, row, stat, steps
from .process import PROCESS, TELEMETRY
from .queries import buckets, gauge, process, process_rate, quantile, rate, ratio

DATA = 'runtime=~"data-.*"'
BUSY = "tokio_worker_busy_seconds_total"
POLLS = "tokio_worker_polls_total"
POLL_TIME = "tokio_poll_time_seconds"
LATENESS = "tokio_schedule_latency_seconds"

WORKER = "{{instance}} {{runtime}}/{{worker}}"
RUNTIME = "{{instance}} {{runtime}}"
BY_WORKER, BY_RUNTIME = "instance, runtime, worker", "instance, runtime"
NEEDS_UNSTABLE = "Needs a build with `--cfg tokio_unstable` (all of this repository's)."
NEEDS_HISTOGRAMS = f"Needs `--task-histograms on`. {NEEDS_UNSTABLE}"


def quantiles(histogram, qs=((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"))):
    return [query(quantile(q, histogram, where=DATA), legend) for q, legend in qs]


GLANCE = row(
    "At a glance",
    stat(
        "Busiest worker",
        "percentunit",
        "Share of its time that the busiest data-plane worker spent in polls.",
        "Above 90 % it is full: everything waits for it. One alone: a hot connection or a blocking poll; all of them: "
        "add cores or instances.",
        rate(BUSY, where=DATA, aggregate="max"),
        thresholds=steps((0.7, "orange"), (0.9, "red")),
    ),
    stat(
        "Poll time p99",
        "s",
        f"99 % of polls were shorter than this. {NEEDS_HISTOGRAMS}",
        "Above 10 ms a poll blocks: --slow-poll 10ms logs where it was spawned, tokio-console shows its task.",
        quantile(0.99, POLL_TIME, where=DATA),
        thresholds=steps((0.001, "orange"), (0.01, "red")),
    ),
    stat(
        "Schedule latency p99",
        "s",
        f"99 % of woken tasks were polled within this time. {NEEDS_HISTOGRAMS}",
        "High with idle workers: a poll blocks the worker that holds the task. High with busy workers: overload.",
        quantile(0.99, LATENESS, where=DATA),
        thresholds=steps((0.001, "orange"), (0.01, "red")),
    ),
    stat(
        "Slow polls",
        "ops",
        "Polls per second that took longer than --slow-poll (off by default).",
        "The warning in the log names the spawn location; fix it there, or move the work to spawn_blocking.",
        rate("tokio_slow_polls_total"),
        thresholds=steps((0.001, "orange"), (1, "red")),
    ),
    stat(
        "Alive tasks",
        "short",
        "Tasks on all runtimes.",
        "It should follow the number of connections. A line that only rises is a leak: see Tasks by kind.",
        gauge("tokio_alive_tasks"),
    ),
    stat(
        "Workers",
        "none",
        "Worker threads of the data plane, all instances.",
        "Less than the cores given to it: set --workers, or look at the CPU limit of the container.",
        gauge("tokio_workers", where=DATA),
    ),
    stat(
        "Descriptors used",
        "percentunit",
        "Open file descriptors as a share of the limit, on the fullest instance.",
        "Above 80 % raise nofile or lower --connections-max: accept stops when none is left.",
        f"max({ratio(process('process_open_fds'), process('process_max_fds'))})",
        thresholds=steps((0.6, "orange"), (0.8, "red")),
    ),
    stat(
        "CPU per request",
        "s",
        "CPU seconds of the process per request that ended, all instances.",
        "A step after a deploy is a regression: compare profiles. A slow rise with the number of connections is "
        "wake-ups without work (Parks and no-ops).",
        ratio(process_rate("process_cpu_seconds_total", by=""), rate("http_server_request_duration_seconds_count")),
    ),
)

WORKERS = row(
    "Workers",
    lines(
        "Worker busy",
        "percentunit",
        "Share of its time that each worker spent in polls.",
        "One at 100 % and the others idle: it cannot be helped by stealing, a task blocks or one connection carries "
        "the load. All above 90 %: add cores.",
        [query(rate(BUSY, BY_WORKER), WORKER)],
        highest=1,
        thresholds=steps((0.9, "red"), below="transparent"),
    ),
    lines(
        "Local queue",
        "short",
        f"Tasks that wait in each worker's own queue. {NEEDS_UNSTABLE}",
        "Longer than some tens for long: this worker is behind; if the others are empty, look at Poll time.",
        [query(gauge("tokio_worker_local_queue_depth", BY_WORKER), WORKER)],
    ),
    lines(
        "Global queue",
        "short",
        "Tasks that wait in the queue that all workers of a runtime share.",
        "Above 0 for long: the workers do not get round to it, all tasks woken from outside wait.",
        [query(gauge("tokio_global_queue_depth", BY_RUNTIME), RUNTIME)],
    ),
    lines(
        "Polls",
        "ops",
        f"Polls per second of each worker. {NEEDS_UNSTABLE}",
        "Compare with the request rate: an echo takes two to four. Hundreds per request: a task wakes itself "
        "(tokio-console, self-wakes).",
        [query(rate(POLLS, BY_WORKER), WORKER)],
    ),
    lines(
        "Parks and no-ops",
        "ops",
        f"How often workers go to sleep, and how often they wake up and find nothing. No-ops: {NEEDS_UNSTABLE}",
        "Many no-ops per park are wasted wake-ups, the price of low load; near 0 parks the worker never sleeps and "
        "queues build up.",
        [
            query(rate("tokio_worker_parks_total", BY_RUNTIME), f"{RUNTIME} parks"),
            query(rate("tokio_worker_noops_total", BY_RUNTIME), f"{RUNTIME} no-ops"),
        ],
    ),
    lines(
        "Steals",
        "ops",
        f"Tasks that workers took from each other, and the operations that it took. {NEEDS_UNSTABLE}",
        "Some is balance. As many as polls: the load is uneven, or one task wakes all others; the per-core runtime "
        "has no steals at all.",
        [
            query(rate("tokio_worker_steals_total", BY_RUNTIME), f"{RUNTIME} tasks"),
            query(rate("tokio_worker_steal_operations_total", BY_RUNTIME), f"{RUNTIME} operations"),
        ],
    ),
    lines(
        "Schedules",
        "ops",
        f"Wake-ups per second that came from a worker itself (local) and from other threads (remote). {NEEDS_UNSTABLE}",
        "Remote ones cost a lock and a wake-up. Many: something outside the runtime (another runtime, blocking "
        "threads) drives the tasks.",
        [
            query(rate("tokio_worker_local_schedules_total", BY_RUNTIME), f"{RUNTIME} local"),
            query(rate("tokio_remote_schedules_total", BY_RUNTIME), f"{RUNTIME} remote"),
        ],
    ),
    lines(
        "Queue overflows",
        "ops",
        f"How often a local queue (256 places) was full and half of it went to the global queue. {NEEDS_UNSTABLE}",
        "It should be 0. If not, one poll wakes hundreds of tasks at once: a broadcast, a Notify, an accept burst.",
        [query(rate("tokio_worker_overflows_total", BY_WORKER), WORKER)],
    ),
    lines(
        "Forced yields",
        "ops",
        f"Tasks that used up their budget of 128 operations and were made to yield. {NEEDS_UNSTABLE}",
        "Some under load are right. Many on one runtime: a connection streams without end; it is fair to the others "
        "only because of this.",
        [query(rate("tokio_budget_forced_yields_total", BY_RUNTIME), RUNTIME)],
    ),
)

POLLS_ROW = row(
    "Polls and lateness",
    heat(
        "Poll time heat map",
        "s",
        f"How long polls of the data plane take. {NEEDS_HISTOGRAMS}",
        "A second band above 1 ms is the blocking one: --slow-poll 10ms names it. Cells above 100 ms: a synchronous "
        "call, a lock, a large computation.",
        buckets(POLL_TIME, where=DATA),
    ),
    lines(
        "Poll time",
        "s",
        f"Quantiles of the duration of polls. {NEEDS_HISTOGRAMS}",
        "p99 above 10 ms delays every other task of the worker: find it with --slow-poll and tokio-console, move it "
        "to spawn_blocking or split it.",
        quantiles(POLL_TIME),
        log=True,
        thresholds=steps((0.01, "red"), below="transparent"),
    ),
    heat(
        "Schedule latency heat map",
        "s",
        f"How long a woken task waits for its poll. {NEEDS_HISTOGRAMS}",
        "A band that rises with the load is queueing; a band at a constant height is a poll that blocks for about "
        "that long.",
        buckets(LATENESS, where=DATA),
    ),
    lines(
        "Schedule latency",
        "s",
        f"Quantiles of the time from wake-up to poll. {NEEDS_HISTOGRAMS}",
        "It is part of every request's duration, several times over. Compare with Worker busy: full workers or a "
        "blocked one.",
        quantiles(LATENESS),
        log=True,
        thresholds=steps((0.01, "red"), below="transparent"),
    ),
    lines(
        "Mean poll time",
        "s",
        f"tokio's moving average of each worker's poll time. {NEEDS_UNSTABLE}",
        "It should be microseconds. It hides single blocks (Poll time shows them) and shows a general slowdown, e.g. "
        "a busy machine.",
        [query(gauge("tokio_worker_mean_poll_time_seconds", BY_WORKER, aggregate="max"), WORKER)],
        log=True,
    ),
    lines(
        "Slow polls by instance",
        "ops",
        "Polls per second that took longer than --slow-poll.",
        "Read the warnings in the log: they name the spawn location of the task.",
        [query(rate("tokio_slow_polls_total", "instance"), "{{instance}}")],
    ),
    lines(
        "Polls per request",
        "none",
        f"Polls of the data plane for each request that ended. {NEEDS_UNSTABLE}",
        "It rises with the size of bodies. A step without that: a task wakes itself or is woken for nothing.",
        [query(ratio(rate(POLLS, where=DATA), rate("http_server_request_duration_seconds_count")), "polls")],
    ),
)

TASKS = row(
    "Tasks, blocking pool, IO driver",
    lines(
        "Tasks by kind",
        "short",
        "Live tasks of the data plane by what they are for.",
        "`connection` above Connections (Overview), or `h2 stream` without HTTP/2 requests: a leak. `reject` in "
        "numbers: the connection limit is reached.",
        [query(gauge("echo_tasks", "kind"), "{{kind}}")],
        stacked=True,
    ),
    lines(
        "Alive tasks by runtime",
        "short",
        "Tasks of each runtime.",
        "On per-core runtimes, one with many more than the others: the kernel spreads connections unevenly (few "
        "clients, many connections).",
        [query(gauge("tokio_alive_tasks", BY_RUNTIME), RUNTIME)],
    ),
    lines(
        "Tasks spawned",
        "ops",
        f"Tasks spawned per second. {NEEDS_UNSTABLE}",
        "It follows the rate of connections, and of HTTP/2 requests. Near the rate of HTTP/1.1 requests: clients do "
        "not keep connections.",
        [query(rate("tokio_spawned_tasks_total", BY_RUNTIME), RUNTIME)],
    ),
    lines(
        "Blocking pool",
        "short",
        f"Threads of the blocking pool, those of them that are idle, and the jobs that wait. {NEEDS_UNSTABLE}",
        "The echo path uses none. Jobs that wait: all 512 threads are taken, something slow was moved there without a "
        "limit.",
        [
            query(gauge("tokio_blocking_threads", BY_RUNTIME), f"{RUNTIME} threads"),
            query(gauge("tokio_idle_blocking_threads", BY_RUNTIME), f"{RUNTIME} idle"),
            query(gauge("tokio_blocking_queue_depth", BY_RUNTIME), f"{RUNTIME} waiting"),
        ],
    ),
    lines(
        "Sockets registered with epoll",
        "ops",
        f"File descriptors registered and deregistered per second. {NEEDS_UNSTABLE}",
        "Registered above deregistered for long: sockets leak, see Descriptors.",
        [
            query(rate("tokio_io_driver_fds_registered_total", BY_RUNTIME), f"{RUNTIME} registered"),
            query(rate("tokio_io_driver_fds_deregistered_total", BY_RUNTIME), f"{RUNTIME} deregistered"),
        ],
    ),
    lines(
        "Ready events",
        "ops",
        f"Readiness events that epoll reported per second. {NEEDS_UNSTABLE}",
        "Far above the request rate: clients send in tiny pieces.",
        [query(rate("tokio_io_driver_ready_total", BY_RUNTIME), RUNTIME)],
    ),
)

BOARD = board(
    "echo-runtime",
    "Echo: runtime",
    "What the tokio workers, the process and the kernel do: where the time goes when the overview says that it is "
    "slow.",
    "echo_build_info",
    [GLANCE, WORKERS, POLLS_ROW, TASKS, PROCESS, TELEMETRY],
    [restarts(), drains()],
)
