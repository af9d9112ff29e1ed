"""Overview: are clients served well (rate, errors, duration, budgets), and what is the server about to run out of."""

from .board import board, drains, restarts
from .panels import heat, lines, query, row, stat, states, steps, table, timeline
from .queries import buckets, gauge, mean, pick, process, quantile, rate, ratio, state

DURATION = "http_server_request_duration_seconds"
REQUESTS = f"{DURATION}_count"
FAILED = 'status_class="5xx"'

PHASES = (
    ("starting", "blue"),
    ("serving", "green"),
    ("lame_duck", "yellow"),
    ("closing", "orange"),
    ("draining", "orange"),
    ("killing", "red"),
    ("drained", "text"),
)
PHASE = state("echo_phase", "phase", [name for name, _ in PHASES])


def share_used(used, limit, by=""):
    """The fullest instance, or each."""
    per_instance = ratio(gauge(used, "instance"), gauge(limit, "instance"))
    return per_instance if by else f"max({per_instance})"


def burn(kind, window, budget):
    """How many times faster than allowed the error budget is spent; the recording rules hold both sums per instance."""
    spent = gauge(f"instance:http_requests_{kind}:rate{window}")
    return f"({ratio(spent, gauge(f'instance:http_requests:rate{window}'))}) / {budget}"


def burns(kind, budget):
    return [query(burn(kind, window, budget), window) for window in ("5m", "1h", "6h")]


GLANCE = row(
    "At a glance",
    stat(
        "Requests",
        "reqps",
        "Requests per second that ended, whatever their status.",
        "A sudden drop with a healthy server means that the load stopped or cannot reach it: compare Connections and "
        "the load balancer.",
        rate(REQUESTS),
    ),
    stat(
        "Server errors",
        "percentunit",
        "Share of requests that ended with 5xx, refusals (503) included.",
        "Look at Refused by reason first: a refusal is the server protecting itself. 5xx without refusals is a fault: "
        "read the log for the trace ids.",
        ratio(rate(REQUESTS, where=FAILED), rate(REQUESTS)),
        decimals=2,
        thresholds=steps((0.001, "orange"), (0.01, "red")),
    ),
    stat(
        "Duration p99",
        "s",
        "99 % of requests were faster than this, from the first byte of the head to the end of the response body.",
        "Open the heat map: one band that moved is load, a second band is something that blocks (Runtime board, Poll "
        "time).",
        quantile(0.99, DURATION),
        thresholds=steps((0.025, "orange"), (0.05, "red")),
    ),
    stat(
        "Availability burn 1 h",
        "none",
        "1 means that the error budget of 99.9 % is used up exactly at the end of its period; 14.4 means in two days.",
        "Above 14.4 act now, above 6 today. The alerts EchoErrorBudget* say what to do.",
        burn("failed", "1h", 0.001),
        decimals=2,
        thresholds=steps((1, "yellow"), (6, "orange"), (14.4, "red")),
    ),
    stat(
        "Connections used",
        "percentunit",
        "Open connections as a share of the limit, on the fullest instance.",
        "Above 85 % add instances, or raise --connections-max together with the descriptor limit; at 100 % clients "
        "get 503 and are closed.",
        share_used("echo_connections_open", "echo_connections_max"),
        thresholds=steps((0.7, "orange"), (0.85, "red")),
    ),
    stat(
        "Requests used",
        "percentunit",
        "Requests in progress as a share of --requests-max, on the fullest instance.",
        "Near 100 % the next request is refused. If CPU is free the handlers wait for something: find it; if not, add "
        "instances.",
        share_used("echo_requests_admitted", "echo_requests_max"),
        thresholds=steps((0.7, "orange"), (0.85, "red")),
    ),
    stat(
        "Refused",
        "reqps",
        "Requests and connections per second that were refused before any work was done for them.",
        "Refusing is right under overload. If it lasts, the capacity is too small or a client retries without backing "
        "off.",
        rate("echo_sheds_total"),
        thresholds=steps((0.1, "orange"), (10, "red")),
    ),
    stat(
        "Serving",
        "none",
        "Instances that are in the phase `serving`.",
        "Fewer than deployed: look at the phases below, then at the log of the missing one.",
        gauge("echo_phase", where='phase="serving"'),
        thresholds=steps((1, "green"), below="red"),
    ),
)

REQUESTS_ROW = row(
    "Requests: rate, errors, duration",
    lines(
        "Request rate by status",
        "reqps",
        "Requests that ended per second, by class of status.",
        "4xx that rise alone are a client or a scanner; 5xx see Server errors; a fall of everything is upstream of "
        "the server.",
        [query(rate(REQUESTS, "status_class"), "{{status_class}}")],
        stacked=True,
    ),
    lines(
        "Error ratio",
        "percentunit",
        "Share of requests that ended with 4xx and with 5xx.",
        "5xx above 0.1 % spends the error budget faster than it grows: see Refused by reason, then the log.",
        [
            query(ratio(rate(REQUESTS, where='status_class="4xx"'), rate(REQUESTS)), "4xx"),
            query(ratio(rate(REQUESTS, where=FAILED), rate(REQUESTS)), "5xx"),
        ],
    ),
    lines(
        "Responses by code",
        "reqps",
        "Responses per second by status code.",
        "503: refused or timed out; 408: clients that stall; 413 and 431: clients over body_max and header_max; 500: "
        "a fault or a panic.",
        [query(rate("echo_responses_total", "http_response_status_code"), "{{http_response_status_code}}")],
        quiet_zeros=True,
    ),
    lines(
        "Duration",
        "s",
        "Quantiles of the time from a request's first byte to the end of its response body. The scale is logarithmic.",
        "p99.9 alone: single stalls (Runtime, Schedule latency). All together: overload (Requests used) or slow "
        "clients (they are part of this time).",
        [
            query(quantile(q, DURATION), legend, exemplars=True)
            for q, legend in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"))
        ],
        log=True,
        thresholds=steps((0.05, "red"), below="transparent"),
    ),
    heat(
        "Duration heat map",
        "s",
        "How request durations are spread; a dot is a sampled request and opens its trace in Jaeger.",
        "Open the trace of a dot in the slow band: it says which layer the time went to.",
        buckets(DURATION),
        exemplars=True,
    ),
    lines(
        "Request rate by method",
        "reqps",
        "Requests per second by method; methods outside HTTP's own set count as `_OTHER`.",
        "Methods that no client of yours uses are a scanner.",
        [query(rate(REQUESTS, "http_request_method"), "{{http_request_method}}")],
        quiet_zeros=True,
    ),
    lines(
        "Request rate by protocol",
        "reqps",
        "Requests per second by version of HTTP.",
        "1.0 in numbers is an old proxy or `ab`: each request costs a connection.",
        [query(rate(REQUESTS, "network_protocol_version"), "HTTP/{{network_protocol_version}}")],
    ),
    lines(
        "Requests aborted",
        "reqps",
        "Requests that did not end well: before the response head, or in the response body.",
        "`before_response`: clients give up waiting, compare Duration with their timeout. `in_body`: resets and cut "
        "bodies, compare Connections closed by reason.",
        [query(rate("echo_requests_aborted_total", "at"), "{{at}}")],
    ),
)

SLO = row(
    "Service level: 99.9 % without a server error, 99 % within 50 ms",
    lines(
        "Availability: burn rate",
        "none",
        "How many times faster than allowed the budget of 0.1 % errors is spent, over 5 minutes, 1 hour and 6 hours.",
        "Fast burn (1 h and 5 m above 14.4): stop what changed last, a deploy or a load test. Slow burn (6 h above "
        "6): plan a fix today.",
        burns("failed", 0.001),
        width=12,
        thresholds=steps((6, "orange"), (14.4, "red"), below="transparent"),
    ),
    lines(
        "Latency: burn rate",
        "none",
        "How many times faster than allowed the budget of 1 % of requests slower than 50 ms is spent.",
        "As above; then Runtime, Poll time and Schedule latency tell whether the runtime or the client is slow.",
        burns("slow", 0.01),
        width=12,
        thresholds=steps((6, "orange"), (14.4, "red"), below="transparent"),
    ),
)

SATURATION = row(
    "Saturation",
    lines(
        "Connections",
        "short",
        "Open connections per instance, and the limit.",
        "Near the limit new clients get 503. Many connections and few requests: shorten keep_alive_timeout, or look "
        "for clients that leak.",
        [
            query(gauge("echo_connections_open", "instance"), "{{instance}} open"),
            query(gauge("echo_connections_max", aggregate="min"), "limit"),
        ],
    ),
    lines(
        "Connections by protocol",
        "short",
        "Connections whose protocol is known, by protocol.",
        "The difference to Connections are clients that have not sent a byte yet; if it grows, somebody holds them "
        "open (first_byte_timeout ends it).",
        [query(gauge("echo_connections_active", "protocol"), "{{protocol}}")],
        stacked=True,
    ),
    lines(
        "Requests in progress",
        "short",
        "Requests that hold a place of --requests-max, requests that have not reached the end of their response body, "
        "and the limit.",
        "A level that grows at a constant rate means that requests get slower (Little's law): see Duration.",
        [
            query(gauge("echo_requests_admitted", "instance"), "{{instance}} admitted"),
            query(gauge("http_server_active_requests", "instance"), "{{instance}} active"),
            query(gauge("echo_requests_max", aggregate="min"), "limit"),
        ],
    ),
    lines(
        "Refused by reason",
        "reqps",
        "Requests and connections refused per second. `busy`: a worker is behind (--busy-max); `concurrency`, `queue-full`, "
        "`queue-timeout`: --requests-max and its queue; `fair-share`: one client under pressure; `streams`: --streams-max; `connections`, "
        "`address`: limits of connections; `descriptors`: the process limit.",
        "`descriptors` must never appear: raise nofile or lower --connections-max. The others are capacity: add "
        "instances.",
        [query(rate("echo_sheds_total", "reason"), "{{reason}}")],
        stacked=True,
    ),
    lines(
        "Queue delay",
        "s",
        "Time from a request's head to the first poll of the layers: how late the runtime is.",
        "This grows before Duration does. Above some ms the workers are full (Runtime, Worker busy) or something "
        "blocks in a poll (Poll time).",
        [
            query(quantile(q, "echo_queue_delay_seconds"), legend)
            for q, legend in ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"))
        ]
        + [query(mean("echo_queue_delay_seconds"), "mean")],
        log=True,
    ),
    lines(
        "Body bytes",
        "Bps",
        "Bytes per second of request bodies received, and of response bodies handed to the connection.",
        "In and out belong together in an echo server: a gap that stays is clients that do not read (Connections "
        "closed, `slow_reader`).",
        [
            query(rate("echo_request_body_bytes_total"), "in"),
            query(rate("echo_response_body_bytes_total"), "out"),
        ],
    ),
    lines(
        "Connections opened and closed",
        "cps",
        "Connections opened per second, and closed by reason.",
        "Opened near the request rate: clients do not keep connections. `malformed`, `header_timeout`, `slow_reader`: "
        "hostile or broken clients, `flood` an attack over HTTP/2. `killed`: raise drain_grace. `evicted`: connections_max is reached, and idle "
        "ones make room.",
        [
            query(rate("echo_connections_opened_total"), "opened"),
            query(rate("echo_connections_closed_total", "reason"), "closed: {{reason}}"),
        ],
        quiet_zeros=True,
    ),
    lines(
        "Accept errors",
        "ops",
        "Failures of accept per second.",
        "`exhausted`: out of descriptors or memory, see Runtime, Descriptors. `connection`: the client was gone "
        "before, harmless in small numbers.",
        [query(rate("echo_accept_errors_total", "kind"), "{{kind}}")],
    ),
    lines(
        "Panics",
        "ops",
        "Panics per second that were caught in services and response bodies; each is a 500 or a cut body.",
        "Every one is a bug: the log line `panic` has the place and the trace id.",
        [query(rate("echo_panics_total", "instance"), "{{instance}}")],
        thresholds=steps((0.001, "red"), below="transparent"),
    ),
)

OVERLOAD = row(
    "Overload control and long-lived responses",
    lines(
        "Worker delay",
        "s",
        "What a task that is ready waits for its turn, on workers that are at work without a pause. Above --busy-max requests are refused.",
        "Near busy_max: the CPU is the limit, add cores or instances. Above it for long: refusing itself is too much work, see Reads paused.",
        [
            query(quantile(q, "echo_worker_delay_seconds"), legend)
            for q, legend in ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"))
        ],
        log=True,
    ),
    lines(
        "Requests waiting",
        "short",
        "Requests that wait for a place of the limit, for at most --queue-timeout; more than --queue-max are refused at once.",
        "A queue that stands is refused latency: if CPU is free, requests wait for something else; find it, or raise requests_max.",
        [query(gauge("echo_requests_waiting", "instance"), "{{instance}}")],
    ),
    lines(
        "Reads paused",
        "ops",
        "Connections that were not read from for a while, because their worker did nothing but refuse (--busy-pause).",
        "Clients do not back off (Retry-After). Find them in /debug/connections, or add instances.",
        [
            query(rate("echo_reads_paused_total"), "pauses per second"),
            query(gauge("echo_connections_paused"), "connections paused now"),
        ],
    ),
    lines(
        "Long-lived responses",
        "short",
        "WebSockets, server-sent events and the like: they have a limit of their own, --streams-max.",
        "Near the limit new ones get 503: raise streams_max, or add instances. They leave when connections age or the server drains.",
        [
            query(gauge("echo_streams_open", "instance"), "{{instance}} open"),
            query(gauge("echo_websockets_open", "instance"), "{{instance}} WebSockets"),
            query(gauge("echo_streams_max", aggregate="min"), "limit"),
        ],
    ),
    lines(
        "WebSocket messages",
        "ops",
        "Messages that came over WebSockets per second; as many go back.",
        "Falls while sessions stay: clients are idle, and are closed after websocket_idle_timeout.",
        [query(rate("echo_websocket_messages_total", "instance"), "{{instance}}")],
    ),
    lines(
        "WebSocket bytes",
        "Bps",
        "Bytes of these messages per second.",
        "Compare with the network; a message may have websocket_message_max bytes.",
        [query(rate("echo_websocket_bytes_total", "instance"), "{{instance}}")],
    ),
    lines(
        "WebSockets closed",
        "ops",
        "WebSockets that ended per second, by reason.",
        "Protocol errors and messages that are too large are a client's bugs; idle ones were forgotten by their clients.",
        [query(rate("echo_websockets_closed_total", "reason"), "{{reason}}")],
        quiet_zeros=True,
    ),
)

TLS = row(
    "TLS",
    lines(
        "Handshakes",
        "ops",
        "TLS handshakes per second, by version and result.",
        "Many `full` ones and few `resumed`: clients open a connection per request. `failed`: versions or certificates do not fit. "
        "`timeout`: hostile or broken clients. `plain_http`: somebody forgot the s in https.",
        [query(rate("echo_tls_handshakes_total", "version, result"), "{{version}} {{result}}")],
        quiet_zeros=True,
    ),
    lines(
        "Certificate: time left",
        "s",
        "Time until the certificate in use ends.",
        "Below two weeks: renew it. The server reads the files again by itself (tls_reload_interval, SIGHUP); see Reloads.",
        [query(f"{pick('echo_tls_certificate_expiry_timestamp_seconds')} - time()", "{{instance}}")],
        thresholds=steps((14 * 86400, "green"), below="red"),
    ),
    lines(
        "Certificate: reloads",
        "ops",
        "Attempts to load certificate files that had changed, by result.",
        "`failed`: the new files are broken or do not belong together; the old certificate stays in use, and the log says why.",
        [query(rate("echo_tls_reloads_total", "result"), "{{result}}")],
    ),
)

STATE = row(
    "State",
    timeline(
        "Phase",
        "The phase of each instance.",
        "`draining` for longer than drain_grace, or `killing`: requests are being lost, see Requests in progress. "
        "Back and forth: something restarts it.",
        [query(PHASE, "{{instance}}")],
        states(*PHASES),
        width=9,
        height=6,
    ),
    lines(
        "Ready",
        "none",
        "1 while /readyz says 200.",
        "0 in the phase `serving`: somebody has disabled it (POST /readyz/disable); POST /readyz/enable brings it back.",
        [query(gauge("echo_ready", "instance"), "{{instance}}")],
        width=5,
        height=6,
    ),
    lines(
        "Restarts",
        "ops",
        "Restarts of the program by SIGUSR2, by result; counted on by the next process.",
        "`failed` and `timed_out`: the old process goes on serving; its log and that of the new one say why.",
        [query(rate("echo_restarts_total", "result"), "{{result}}")],
        width=5,
        height=6,
    ),
    lines(
        "Uptime",
        "s",
        "Time since the process started.",
        "A sawtooth is a crash loop or the memory limit: compare Memory on the Runtime board and the exit code.",
        [query(f"time() - {process('process_start_time_seconds')}", "{{instance}}")],
        width=5,
        height=6,
    ),
    table(
        "Build",
        "Version, revision and features of each instance.",
        "More than one revision for longer than a rolling update takes: the update is stuck.",
        pick("echo_build_info"),
        ["instance", "version", "revision", "features", "tokio_unstable", "job"],
        width=10,
        height=6,
    ),
)

BOARD = board(
    "echo-overview",
    "Echo: overview",
    "Are clients served well, how fast is the error budget spent, and what is the server about to run out of.",
    "echo_build_info",
    [GLANCE, REQUESTS_ROW, SLO, SATURATION, OVERLOAD, TLS, STATE],
    [restarts(), drains()],
)
