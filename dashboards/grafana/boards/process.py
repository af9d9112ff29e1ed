"""The rows of the Runtime board below tokio: the process, the kernel, and the telemetry about both."""

from .panels import lines, query, row, steps
from .queries import gauge, of_server, or_zero, pick, process, process_rate, rate, ratio

MEMORY = "process_resident_memory_bytes"


def spread(gauge_name):
    """How far a gauge of the process moved over the shown time."""
    series = of_server(f"max_over_time({pick(gauge_name)}[$__range]) - min_over_time({pick(gauge_name)}[$__range])")
    return f"sum by (instance) ({series})"


PROCESS = row(
    "Process and kernel",
    lines(
        "Memory",
        "bytes",
        "Resident and virtual memory of the process.",
        "Resident memory follows connections and their buffers. A rise with a constant number of connections is a "
        "leak; compare Tasks by kind.",
        [
            query(process(MEMORY), "{{instance}} resident"),
            query(process("process_virtual_memory_bytes"), "{{instance}} virtual"),
        ],
        log=True,
    ),
    lines(
        "Memory per connection",
        "bytes",
        "`all`: resident memory divided by connections, the fixed base included. `slope`: how far memory moved over "
        "the shown time, divided by how far connections moved: the price of one more connection, if the time shown "
        "holds a ramp.",
        "A slope above 30 KiB: clients that read slowly fill their buffers (http1_buffer_max). `all` is high at few "
        "connections: that is the base.",
        [
            query(ratio(process(MEMORY), gauge("echo_connections_open", "instance")), "{{instance}} all"),
            query(ratio(spread(MEMORY), spread("echo_connections_open")), "{{instance}} slope"),
        ],
        log=True,
    ),
    lines(
        "Descriptors",
        "short",
        "Open file descriptors and their limit.",
        "They follow connections. Above 80 % of the limit: raise nofile, or lower --connections-max.",
        [
            query(process("process_open_fds"), "{{instance}} open"),
            query(f"min({of_server(pick('process_max_fds'))})", "limit"),
        ],
        log=True,
    ),
    lines(
        "CPU",
        "percentunit",
        "CPU seconds per second of the process: 100 % is one core.",
        "At the number of workers it is full. Much above Worker busy: time in the kernel, or in threads outside the "
        "runtime (telemetry).",
        [query(process_rate("process_cpu_seconds_total"), "{{instance}}")],
    ),
    lines(
        "Context switches",
        "ops",
        "Voluntary: a thread had nothing to do. Involuntary: the kernel took the core away from it.",
        "Involuntary ones in numbers: more runnable threads than cores, or a CPU limit that throttles; latency "
        "suffers first.",
        [query(process_rate("process_context_switches_total", "instance, kind"), "{{instance}} {{kind}}")],
    ),
    lines(
        "Threads",
        "short",
        "Threads of the process.",
        "It is constant but for the blocking pool. A rise is blocking work, see Blocking pool.",
        [query(process("process_threads"), "{{instance}}")],
    ),
    lines(
        "Accept queue",
        "short",
        "Connections that the kernel completed and the server has not accepted, and the most it keeps.",
        "Above 0 for long: accept is paused (connection limit, descriptors) or the runtime is late. At the limit SYNs "
        "are dropped: see the next panel.",
        [
            query(gauge("echo_accept_queue_length", "instance"), "{{instance}} waiting"),
            query(gauge("echo_accept_queue_max", aggregate="min"), "limit"),
        ],
    ),
    lines(
        "Listen overflows and drops",
        "ops",
        "Connections per second that the kernel dropped because an accept queue was full. Counted for the whole "
        "network namespace.",
        "Clients see a second of delay or more (SYN again). Raise --backlog and net.core.somaxconn, or find out why "
        "accept is late.",
        [
            query(rate("echo_listen_overflows_total", "instance"), "{{instance}} overflows"),
            query(rate("echo_listen_drops_total", "instance"), "{{instance}} drops"),
        ],
        thresholds=steps((0.001, "red"), below="transparent"),
    ),
    lines(
        "CPU per request by instance",
        "s",
        "CPU seconds of the process per request that ended.",
        "Compare instances: one that differs has other clients (TLS, tiny bodies, no keep-alive) or a noisy neighbour.",
        [
            query(
                ratio(
                    process_rate("process_cpu_seconds_total"),
                    rate("http_server_request_duration_seconds_count", "instance"),
                ),
                "{{instance}}",
            )
        ],
    ),
)

TELEMETRY = row(
    "Telemetry of the telemetry",
    lines(
        "Spans",
        "ops",
        "Spans exported, and dropped by reason, per second.",
        "`queue_full`: the collector is slow or trace_one_in is too small. `export_failed`: it cannot be reached; "
        "requests are not held up by it.",
        [
            query(rate("echo_spans_exported_total"), "exported"),
            query(rate("echo_spans_dropped_total", "reason"), "dropped: {{reason}}"),
        ],
    ),
    lines(
        "Traces sampled",
        "ops",
        "Requests per second that got a span: by our own ratio, or because the caller's trace was sampled.",
        "`parent` near the request rate: a caller samples everything, at our expense.",
        [query(rate("echo_traces_sampled_total", "by"), "{{by}}")],
    ),
    lines(
        "Log lines dropped",
        "ops",
        "Log lines and access-log lines per second that were dropped because their reader is slow, and access-log "
        "lines written.",
        "Slow disk or pipe. Raise the filter (PUT /debug/log-filter), log one request in N, or speed up the reader; "
        "requests never wait.",
        [
            query(rate("echo_log_lines_dropped_total"), "log: dropped"),
            query(rate("echo_access_log_lines_dropped_total"), "access log: dropped"),
            query(rate("echo_access_log_lines_total"), "access log: written"),
        ],
    ),
    lines(
        "Console events dropped",
        "ops",
        "Events per second that tokio-console's buffer had no room for; always 0 without the console build "
        "(`--features console`).",
        "What the console shows is then wrong: show fewer connections (--console-one-in), switch --console-resources "
        "off.",
        [query(or_zero(rate("echo_console_events_dropped_total", "job, instance")), "{{instance}}")],
    ),
    lines(
        "Scrape duration",
        "s",
        "How long Prometheus took to fetch /metrics.",
        "It is answered by a thread of its own, so a rise under load means that the machine, not the server, has no "
        "CPU left.",
        [query(f"sum by (instance) ({of_server(pick('scrape_duration_seconds'))})", "{{instance}}")],
    ),
    lines(
        "Series per scrape",
        "short",
        "Series in one scrape.",
        "It is bounded by design, whatever clients send. A line that rises is a label that a client can choose: a bug.",
        [query(f"sum by (instance) ({of_server(pick('scrape_samples_scraped'))})", "{{instance}}")],
        thresholds=steps((5000, "red"), below="transparent"),
    ),
)
