"""Load test: can this run be believed, what did clients see, and how much of it was the server."""

from .board import annotation, board, drains, restarts
from .panels import heat, lines, query, row, stat, states, steps, table, timeline
from .queries import buckets, gauge, of_loadgen, pick, process, process_rate, quantile, rate, ratio, state

RESPONSE, SERVICE, LAG = "loadgen_response_time_seconds", "loadgen_service_time_seconds", "loadgen_lag_seconds"
SERVER_ERROR = 'status_class="5xx"'
SERVER = "http_server_request_duration_seconds"
OK, SENT, FAILED = "loadgen_requests_ok_total", "loadgen_requests_sent_total", "loadgen_requests_failed_total"

VERDICTS = (("VALID", "green"), ("CLIENT-LIMITED", "orange"), ("SERVER-OVERLOADED", "red"), ("TOO-FEW-SAMPLES", "blue"))
RUN_PHASES = (("connecting", "blue"), ("warmup", "yellow"), ("measuring", "green"), ("finishing", "text"))
VERDICT = state("loadgen_verdict", "verdict", [name for name, _ in VERDICTS])
RUN_PHASE = state("loadgen_phase", "phase", [name for name, _ in RUN_PHASES])
QUANTILES = ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"))


def quantiles(histogram, prefix="", where=""):
    return [query(quantile(q, histogram, where=where), f"{prefix}{legend}") for q, legend in QUANTILES]


def lag(q, by):
    return quantile(q, LAG, where=f'by="{by}"')


GLANCE = row(
    "At a glance",
    stat(
        "Verdict",
        "none",
        "What the run is worth so far; the worst of all load generators.",
        "Anything but VALID: do not quote these latencies. CLIENT-LIMITED: more threads or machines, or a lower rate. "
        "SERVER-OVERLOADED: the rate is above the server's capacity. TOO-FEW-SAMPLES: run longer.",
        f"max({VERDICT})",
        width=4,
        mappings=states(*VERDICTS),
    ),
    stat(
        "Offered",
        "reqps",
        "Requests per second that the schedule asks for now, all load generators.",
        "Other than you set: the stages are in force (see Stage), or not all load generators are scraped. 0: closed "
        "loop.",
        gauge("loadgen_offered_rate"),
        width=4,
    ),
    stat(
        "Answered",
        "percentunit",
        "Right answers as a share of the requests that were due.",
        "Below 100 %: see Failures by class, and Backlog for requests that were not sent in time.",
        ratio(rate(OK), rate("loadgen_requests_scheduled_total")),
        width=4,
        thresholds=steps((0.9, "orange"), (0.99, "green"), below="red"),
    ),
    stat(
        "Failures",
        "percentunit",
        "Failed requests as a share of those sent; every echo is checked byte for byte.",
        "`wrong_body`, `wrong_length` or `foreign` are bugs of the server, report them; the others see Failures by "
        "class.",
        ratio(rate(FAILED), rate(SENT)),
        width=4,
        decimals=2,
        thresholds=steps((0.0001, "orange"), (0.001, "red")),
    ),
    stat(
        "Response p99",
        "s",
        "99 % of answers came within this time after the instant at which the request was due.",
        "Compare with the server's own p99 below: the difference is queueing before the server, the network, or the "
        "generator.",
        quantile(0.99, RESPONSE),
        width=4,
        thresholds=steps((0.025, "orange"), (0.05, "red")),
    ),
    stat(
        "Backlog",
        "short",
        "Requests that are due and not sent.",
        "It grows: all connections wait for answers. More --connections, or the server is at its capacity.",
        gauge("loadgen_requests_backlog"),
        width=4,
        thresholds=steps((100, "orange"), (1000, "red")),
    ),
)

COURSE = row(
    "Course of the run",
    timeline(
        "Verdict over time",
        "The verdict of each load generator for its last interval.",
        "Read the figures of a run only where this is green.",
        [query(VERDICT, "{{instance}}")],
        states(*VERDICTS),
        width=8,
    ),
    timeline(
        "Phase of the run",
        "What each load generator is doing.",
        "`connecting` for long: the target refuses or drops connections (Failures by class). Only `measuring` counts "
        "for the report.",
        [query(RUN_PHASE, "{{instance}}")],
        states(*RUN_PHASES),
        width=8,
    ),
    timeline(
        "Stage",
        "Index of the stage of --stages that is in force, from 0.",
        "Generators that differ were started apart: their rates do not add up to the plan.",
        [query(f"sum by (instance) ({pick('loadgen_stage')})", "{{instance}}")],
        [],
        width=8,
        thresholds=steps((1, "blue"), (2, "purple"), (3, "orange"), (4, "yellow"), (5, "red"), below="green"),
    ),
)

RATES = row(
    "Offered against achieved",
    lines(
        "Rate",
        "reqps",
        "Requests per second: asked for by the schedule, due, sent, answered rightly.",
        "`sent` below `due`: the generator or its connections are behind (Lag). `ok` below `sent`: failures, or the "
        "server is behind (In flight grows).",
        [
            query(gauge("loadgen_offered_rate"), "offered"),
            query(rate("loadgen_requests_scheduled_total"), "due"),
            query(rate(SENT), "sent"),
            query(rate(OK), "ok"),
        ],
        width=12,
    ),
    lines(
        "In flight and backlog",
        "short",
        "Requests sent and not answered, and requests due and not sent.",
        "In flight at the number of connections and a backlog that grows: every connection waits for an answer; add "
        "connections, or lower the rate.",
        [
            query(gauge("loadgen_requests_in_flight"), "in flight"),
            query(gauge("loadgen_requests_backlog"), "backlog"),
            query(gauge("loadgen_connections_open"), "connections"),
        ],
        width=12,
    ),
    lines(
        "Failures by class",
        "reqps",
        "Failed requests per second by class.",
        "`status_5xx`: refused or failed, see Overview. `connect_*`, `emfile`, `addr_not_avail`: this machine. "
        "`timeout`, `reset_*`, `truncated`: the server or the way there.",
        [query(rate(FAILED, "class"), "{{class}}")],
        width=12,
        stacked=True,
        quiet_zeros=True,
    ),
    lines(
        "Failures against server errors",
        "reqps",
        "Failures that clients saw, 5xx that the server counted, and what it refused.",
        "More failures than server errors: lost on the way, or refused before a request was read.",
        [
            query(rate(FAILED), "failed"),
            query(f"{rate(f'{SERVER}_count', where=SERVER_ERROR)} or vector(0)", "5xx"),
            query(rate("echo_sheds_total"), "refused"),
        ],
        width=12,
    ),
)

LATENCY = row(
    "Latency: what clients see against what the server sees",
    lines(
        "Response time against server duration",
        "s",
        "Solid: from the instant a request was due to its answer, as clients see it. Dotted: from head to end of "
        "body, as the server sees it.",
        "A gap that grows is waiting outside the server's sight: accept queue, connection lag, network, or a "
        "generator without CPU (Verdict).",
        quantiles(RESPONSE) + quantiles(SERVER, "server "),
        width=12,
        log=True,
    ),
    lines(
        "Lag",
        "s",
        "How late requests were sent: because their connection was busy (the server's doing), or because the "
        "generator was late (ours).",
        "Generator lag near the response time: the run measures the generator. Connection lag: more connections, or "
        "the server is too slow for the rate.",
        [
            query(lag(0.5, "connection"), "connection p50"),
            query(lag(0.99, "connection"), "connection p99"),
            query(lag(0.5, "generator"), "generator p50"),
            query(lag(0.99, "generator"), "generator p99"),
        ],
        width=12,
        log=True,
    ),
    heat(
        "Response time heat map",
        "s",
        "How response times are spread, from the instant a request was due.",
        "Diagonal stripes are a backlog that is worked off: a stall of the server or the generator, every request due "
        "in it waited.",
        buckets(RESPONSE),
        width=12,
    ),
    lines(
        "Service time",
        "s",
        "From the first byte sent to the last byte of the answer: what closed-loop tools report as latency.",
        "Flat while Response time climbs: coordinated omission at work, quote Response time.",
        quantiles(SERVICE),
        width=12,
        log=True,
    ),
)

COST = row(
    "Cost",
    lines(
        "CPU per request",
        "s",
        "CPU seconds per answered request, of the load generators and of the servers.",
        "The client's near the server's: give the generator cores of its own, or the two measure each other.",
        [
            query(ratio(rate("loadgen_cpu_seconds_total"), rate(OK)), "client"),
            query(ratio(process_rate("process_cpu_seconds_total", by=""), rate(f"{SERVER}_count")), "server"),
        ],
    ),
    lines(
        "CPU",
        "percentunit",
        "CPU seconds per second: 100 % is one core.",
        "A generator at the number of its threads is CLIENT-LIMITED. Client and server together at the number of "
        "cores: neither figure is worth much.",
        [
            query(process_rate("process_cpu_seconds_total", by="", of=of_loadgen), "client"),
            query(process_rate("process_cpu_seconds_total", by=""), "server"),
        ],
    ),
    lines(
        "Connections, client and server",
        "short",
        "Connections that the generators hold, and that the servers hold.",
        "The server has more: other clients are there. The client has more: the difference waits in the accept queue "
        "(Runtime).",
        [query(gauge("loadgen_connections_open"), "client"), query(gauge("echo_connections_open"), "server")],
    ),
    lines(
        "Body bytes",
        "Bps",
        "Bytes per second of request bodies sent and of response bodies received by the generators.",
        "They are equal when all is echoed. Both flat while the rate rises: the network is full.",
        [
            query(rate("loadgen_request_body_bytes_total"), "out"),
            query(rate("loadgen_response_body_bytes_total"), "in"),
        ],
    ),
    lines(
        "Generator: memory",
        "bytes",
        "Resident memory of each load generator.",
        "A rise with the backlog is planned; without it, report a bug.",
        [query(process("process_resident_memory_bytes", of_loadgen), "{{instance}}")],
    ),
    lines(
        "Generator: descriptors",
        "short",
        "Open file descriptors of each load generator.",
        "Far above its connections: it reopens them all the time, see Failures by class.",
        [query(process("process_open_fds", of_loadgen), "{{instance}}")],
    ),
    table(
        "Load generators",
        "Version of each load generator.",
        "Generators of different versions do not belong into one figure.",
        pick("loadgen_build_info"),
        ["instance", "version", "job"],
        width=24,
        height=5,
    ),
)


def stage_changes():
    """A line where the rate's stage changes."""
    return annotation(
        "Stage", "purple", f"changes({pick('loadgen_stage')}[$__rate_interval]) > 0", "{{instance}}: next stage"
    )


def measuring():
    """A line where measuring begins or ends."""
    selected = pick("loadgen_phase", 'phase="measuring"')
    return annotation(
        "Measuring", "green", f"changes({selected}[$__rate_interval]) > 0", "{{instance}}: measuring begins or ends"
    )


BOARD = board(
    "echo-load-test",
    "Echo: load test",
    "Can this run be believed, what did clients see, and how much of it was the server.",
    '__name__=~"echo_build_info|loadgen_build_info"',
    [GLANCE, COURSE, RATES, LATENCY, COST],
    [restarts(), drains(), stage_changes(), measuring()],
)
