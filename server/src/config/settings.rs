//! Every setting: one row each, so that a limit cannot exist without unit, range, default and reason.

use std::time::Duration;

use super::{
    CatchAll, ClientAuth, Kind, LogFormat, RequestsLimit, Runtime, Setting,
    table::{GIB, KIB, MIB},
};

const MS: Duration = Duration::from_millis(1);
const TEN_MS: Duration = Duration::from_millis(10);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

const fn row(key: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Setting {
    Setting { key, kind, default, why }
}

/// Every setting, in the order in which a connection meets it.
pub const SETTINGS: &[Setting] = &[
    row("listen", Kind::Address(|c| &mut c.listen), "0.0.0.0:8080", "data listener"),
    row(
        "listen_tls",
        Kind::OptionalAddress(|c| &mut c.listen_tls),
        "",
        "data listener with TLS (HTTP/1.1 and HTTP/2 by ALPN), `IP:PORT`; needs tls_cert or tls_dev_cert; empty: none",
    ),
    row(
        "listen_unix",
        Kind::Input(|c| &mut c.listen_unix),
        "",
        "data listener on a Unix socket at this path, for the server's user and group (mode 660); a socket that a dead \
         server left there is replaced; empty: none",
    ),
    row(
        "admin",
        Kind::Address(|c| &mut c.admin),
        "127.0.0.1:9090",
        "health, metrics and debug listener, on a thread of its own so that it answers while the data plane is \
         saturated",
    ),
    row(
        "admin_token",
        Kind::Secret(|c| &mut c.admin_token),
        "",
        "whoever sends `authorization: Bearer TOKEN` may change things on the admin listener from anywhere; empty: only a loopback address may",
    ),
    row(
        "tls_cert",
        Kind::Input(|c| &mut c.tls_cert),
        "",
        "certificate chain in PEM, read again when it changes",
    ),
    row("tls_key", Kind::Input(|c| &mut c.tls_key), "", "private key of tls_cert in PEM"),
    row(
        "tls_dev_cert",
        Kind::Switch(|c| &mut c.tls_dev_cert),
        "off",
        "makes a self-signed certificate for localhost at start, for development: no client trusts it",
    ),
    row(
        "tls_client_ca",
        Kind::Input(|c| &mut c.tls_client_ca),
        "",
        "certificate authorities of clients in PEM",
    ),
    row(
        "tls_client_auth",
        Kind::Choice(
            ClientAuth::NAMES,
            |c| c.tls_client_auth as usize,
            |c, place| c.tls_client_auth = ClientAuth::ALL[place],
        ),
        "off",
        "whether clients show a certificate of tls_client_ca: `off`, `request` (checked if shown) or `require`",
    ),
    row(
        "tls_handshake_timeout",
        Kind::Duration(|c| &mut c.tls_handshake_timeout, TEN_MS, HOUR),
        "10s",
        "from accept (or PROXY header) to a completed TLS handshake; else a client that stops half way holds a task and \
         an fd",
    ),
    row(
        "tls_reload_interval",
        Kind::Duration(|c| &mut c.tls_reload_interval, Duration::ZERO, HOUR),
        "10s",
        "how often certificate, key and client CA files are looked at for a change; SIGHUP looks at once; 0: only SIGHUP",
    ),
    row(
        "proxy_protocol",
        Kind::Switch(|c| &mut c.proxy_protocol),
        "off",
        "whether connections from trusted_proxies begin with a PROXY protocol header (v1 or v2), whose address then is the \
         client's; one of theirs that does not is closed",
    ),
    row(
        "trusted_proxies",
        Kind::Networks(|c| &mut c.trusted_proxies),
        "",
        "networks, as `10.0.0.0/8,::1`, whose PROXY protocol and `Forwarded` (or `X-Forwarded-For`) are believed; a Unix \
         socket's clients count as 127.0.0.1; empty: nobody's",
    ),
    row(
        "runtime",
        Kind::Choice(Runtime::NAMES, |c| c.runtime as usize, |c, place| c.runtime = Runtime::ALL[place]),
        "work-stealing",
        "`work-stealing`: one multi-thread runtime; `per-core`: one current-thread runtime and SO_REUSEPORT listener \
         per worker",
    ),
    row(
        "workers",
        Kind::AutoCount(|c| &mut c.workers, 1024),
        "auto",
        "data-plane threads; auto: one per core",
    ),
    row(
        "log",
        Kind::LogFilter(|c| &mut c.log),
        "info",
        "log filter, `level` or `target=level,...`; a bad one is refused at start",
    ),
    row(
        "log_format",
        Kind::Choice(
            LogFormat::NAMES,
            |c| c.log_format as usize,
            |c, place| c.log_format = LogFormat::ALL[place],
        ),
        "pretty",
        "`pretty` for people, `json` for collectors",
    ),
    row(
        "backlog",
        Kind::Count(|c| &mut c.backlog, 1, 65_535),
        "4096",
        "connections the kernel completes before we accept them; capped by net.core.somaxconn, overflow drops SYNs",
    ),
    row(
        "connections_max",
        Kind::AutoCount(|c| &mut c.connections_max, 100_000_000),
        "auto",
        "open client connections; auto: the fd limit less a reserve; more get 503 and are closed",
    ),
    row(
        "requests_max",
        Kind::AutoCount(|c| &mut c.requests_max, 100_000_000),
        "auto",
        "requests in progress, each to the end of its response body; auto: 16,384 per worker, so that thousands of clients that do not read leave places for the others (busy_max bounds the CPU); more get 503",
    ),
    row(
        "connections_per_address_max",
        Kind::Count(|c| &mut c.connections_per_address_max, 0, 100_000_000),
        "0",
        "open connections of one client address (IPv6: of one /64); more get 503 and are closed; 0: no limit of its own",
    ),
    row(
        "evict_idle",
        Kind::Switch(|c| &mut c.evict_idle),
        "on",
        "whether at connections_max the connection that has been idle longest makes room for a new one",
    ),
    row(
        "evict_idle_min",
        Kind::Duration(|c| &mut c.evict_idle_min, Duration::ZERO, HOUR),
        "1s",
        "idle connections younger than this are not closed for a new one",
    ),
    row(
        "connection_age_max",
        Kind::Duration(|c| &mut c.connection_age_max, Duration::ZERO, DAY),
        "1h",
        "age at which a connection is asked to end (`connection: close`, GOAWAY), so that clients spread over new servers; 0: never",
    ),
    row(
        "connection_age_jitter",
        Kind::Count(|c| &mut c.connection_age_jitter, 0, 90),
        "10",
        "percent by which that age differs from connection to connection, up and down, so that they do not all come back at once",
    ),
    row(
        "connection_requests_max",
        Kind::Count(|c| &mut c.connection_requests_max, 0, 1_000_000_000),
        "0",
        "requests per connection, then it is asked to end; 0: no limit",
    ),
    row(
        "requests_limit",
        Kind::Choice(
            RequestsLimit::NAMES,
            |c| c.requests_limit as usize,
            |c, place| c.requests_limit = RequestsLimit::ALL[place],
        ),
        "fixed",
        "`fixed`: requests_max; `adaptive`: between requests_min and requests_max, by how long requests wait for their turn, never by how slow clients are",
    ),
    row(
        "requests_min",
        Kind::Count(|c| &mut c.requests_min, 1, 100_000_000),
        "16",
        "lower end of the adaptive limit",
    ),
    row(
        "queue_max",
        Kind::Count(|c| &mut c.queue_max, 0, 100_000_000),
        "1024",
        "requests that wait where the limit of requests is reached, the oldest first, or the newest where the queue stands; more get 503 at once; 0: none waits",
    ),
    row(
        "queue_timeout",
        Kind::Duration(|c| &mut c.queue_timeout, Duration::ZERO, HOUR),
        "100ms",
        "longest wait in that queue; then 503: the client has given up, or soon will",
    ),
    row(
        "busy_max",
        Kind::Duration(|c| &mut c.busy_max, Duration::ZERO, HOUR),
        "10ms",
        "where what comes would wait so long for its turn on its worker it gets 503: the queue that no limit of requests sees, because the handlers in it have not begun; 0: no such rule",
    ),
    row(
        "busy_pause",
        Kind::Duration(|c| &mut c.busy_pause, Duration::ZERO, HOUR),
        "250ms",
        "where it would still wait so long, although busy_max refuses, its worker stops reading requests, and accepts slowly, until it has caught up; 0: never",
    ),
    row(
        "streams_max",
        Kind::AutoCount(|c| &mut c.streams_max, 100_000_000),
        "auto",
        "long-lived responses at once (WebSocket, server-sent events, drip), which do not count as requests; auto: half of the connections; more get 503",
    ),
    row(
        "fair_share",
        Kind::Switch(|c| &mut c.fair_share),
        "on",
        "whether clients (by address; IPv6: by /64) that ask for more than twice what the others do get 503 before the others do",
    ),
    row(
        "first_byte_timeout",
        Kind::Duration(|c| &mut c.first_byte_timeout, TEN_MS, HOUR),
        "5s",
        "from accept to a known protocol; else a client that connects and says nothing holds a task and an fd",
    ),
    row(
        "header_read_timeout",
        Kind::Duration(|c| &mut c.header_read_timeout, TEN_MS, HOUR),
        "10s",
        "from the first byte of a request head to its last (slowloris); answered 408",
    ),
    row(
        "keep_alive_timeout",
        Kind::Duration(|c| &mut c.keep_alive_timeout, TEN_MS, HOUR),
        "75s",
        "idle time between requests; longer than the usual 60 s of a load balancer, which avoids its reuse race",
    ),
    row(
        "body_stall_timeout",
        Kind::Duration(|c| &mut c.body_stall_timeout, TEN_MS, HOUR),
        "30s",
        "a request body that we wait for and that does not move; 408, or a reset once the response has begun",
    ),
    row(
        "write_stall_timeout",
        Kind::Duration(|c| &mut c.write_stall_timeout, TEN_MS, HOUR),
        "30s",
        "a client that stops reading; a body timeout cannot see it, because a blocked writer polls no body",
    ),
    row(
        "rate_min",
        Kind::Bytes(|c| &mut c.rate_min, 0, GIB),
        "1KiB",
        "bytes per second that a peer we wait for must move, in either direction: one byte per interval evades a \
         stall timeout; 0 switches the rule off",
    ),
    row(
        "rate_grace",
        Kind::Duration(|c| &mut c.rate_grace, TEN_MS, HOUR),
        "30s",
        "waiting time over which rate_min is measured",
    ),
    row(
        "request_timeout",
        Kind::Duration(|c| &mut c.request_timeout, TEN_MS, HOUR),
        "60s",
        "from a request to the head of its response; answered 503",
    ),
    row(
        "linger_timeout",
        Kind::Duration(|c| &mut c.linger_timeout, Duration::ZERO, HOUR),
        "2s",
        "after an early answer, how long a client that falls silent is waited for, so that it sees the answer and not a \
         reset",
    ),
    row(
        "linger_max",
        Kind::Duration(|c| &mut c.linger_max, Duration::ZERO, HOUR),
        "30s",
        "after an early answer, how long a client that goes on sending is read from",
    ),
    row(
        "body_max",
        Kind::Bytes(|c| &mut c.body_max, 0, 1024 * GIB),
        "1GiB",
        "request body; 413 before 100-continue where Content-Length says so, a reset once the response has begun",
    ),
    row(
        "header_max",
        Kind::Bytes(|c| &mut c.header_max, KIB, MIB),
        "32KiB",
        "request head (HTTP/1.1: 431) or header list (HTTP/2: stream error)",
    ),
    row(
        "http1_buffer_max",
        Kind::Bytes(|c| &mut c.http1_buffer_max, 8 * KIB, 16 * MIB),
        "32KiB",
        "read and write buffer per HTTP/1.1 connection; 100 slow readers cost 27 MB at 64 KiB, at no gain in speed, and over 1 MiB each at hyper's own 408 KiB",
    ),
    row(
        "http2_streams_max",
        Kind::Count(|c| &mut c.http2_streams_max, 1, 65_535),
        "128",
        "concurrent streams per HTTP/2 connection",
    ),
    row(
        "http2_stream_window",
        Kind::Bytes(|c| &mut c.http2_stream_window, KIB, GIB),
        "64KiB",
        "flow-control window per stream; connection window / this = stalled uploads that stop nobody else",
    ),
    row(
        "http2_connection_window",
        Kind::Bytes(|c| &mut c.http2_connection_window, 64 * KIB, GIB),
        "1MiB",
        "flow-control window per connection",
    ),
    row(
        "http2_send_buffer_max",
        Kind::Bytes(|c| &mut c.http2_send_buffer_max, KIB, 16 * MIB),
        "64KiB",
        "unsent response bytes per stream; hyper's own is 400 KiB",
    ),
    row(
        "http2_resets_pending_max",
        Kind::Count(|c| &mut c.http2_resets_pending_max, 1, 65_535),
        "20",
        "streams reset by the client before we saw them (rapid reset); then GOAWAY",
    ),
    row(
        "http2_resets_local_max",
        Kind::Count(|c| &mut c.http2_resets_local_max, 1, 65_535),
        "1024",
        "streams that we reset because of the client's errors; then GOAWAY",
    ),
    row(
        "http2_control_frames_max",
        Kind::Count(|c| &mut c.http2_control_frames_max, 10, 1_000_000),
        "1000",
        "frames per second that move nothing (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA), beyond the four that each frame of ours with an answer or a piece of a body pays for; then GOAWAY",
    ),
    row(
        "http2_resets_max",
        Kind::Count(|c| &mut c.http2_resets_max, 1, 1_000_000),
        "200",
        "RST_STREAM per second, beyond one per request that we have answered (rapid reset); then GOAWAY",
    ),
    row(
        "http2_continuations_max",
        Kind::Count(|c| &mut c.http2_continuations_max, 1, 1024),
        "4",
        "CONTINUATION frames per header block, of up to 16 KiB each; then GOAWAY, as for a block of more than four times header_max",
    ),
    row(
        "http2_ping_interval",
        Kind::Duration(|c| &mut c.http2_ping_interval, TEN_MS, HOUR),
        "30s",
        "time between pings that find a dead peer",
    ),
    row(
        "http2_ping_timeout",
        Kind::Duration(|c| &mut c.http2_ping_timeout, TEN_MS, HOUR),
        "20s",
        "time for the answer to a ping",
    ),
    row("http1", Kind::Switch(|c| &mut c.http1), "on", "whether HTTP/1 is spoken"),
    row(
        "http2",
        Kind::Switch(|c| &mut c.http2),
        "on",
        "whether HTTP/2 is spoken: with prior knowledge, and over TLS by ALPN",
    ),
    row(
        "lame_duck",
        Kind::Duration(|c| &mut c.lame_duck, Duration::ZERO, HOUR),
        "5s",
        "drain, first phase: not ready but still serving, responses carry `connection: close`, while load balancers \
         look away",
    ),
    row(
        "drain_idle_grace",
        Kind::Duration(|c| &mut c.drain_idle_grace, MS, HOUR),
        "250ms",
        "drain: handshakes in progress are accepted, and then idle connections stay, this long each, for requests that \
         are already on their way",
    ),
    row(
        "drain_grace",
        Kind::Duration(|c| &mut c.drain_grace, Duration::ZERO, HOUR),
        "20s",
        "drain, second phase: time for requests in progress; what is left then is cut and counted. With lame_duck \
         below Kubernetes' 30 s",
    ),
    row(
        "restart_timeout",
        Kind::Duration(|c| &mut c.restart_timeout, TEN_MS, HOUR),
        "30s",
        "SIGUSR2: how long the new process may take to become ready; then it is killed and the old one goes on",
    ),
    row(
        "catch_all",
        Kind::Choice(
            CatchAll::NAMES,
            |c| c.catch_all as usize,
            |c, place| c.catch_all = CatchAll::ALL[place],
        ),
        "inspect",
        "what a path without an endpoint of its own answers: `inspect` (JSON about the request), `echo` (its body) or `404`",
    ),
    row(
        "controls",
        Kind::Switch(|c| &mut c.controls),
        "on",
        "whether clients may ask for a delay, status, size, header or close by query and header",
    ),
    row(
        "default_params",
        Kind::Text(|c| &mut c.default_params),
        "",
        "controls that hold where a request has none, as a query: `delay=10ms&status=503:1`",
    ),
    row(
        "faults",
        Kind::Switch(|c| &mut c.faults),
        "on",
        "whether /abort, /unstable and /retry misbehave; the admin listener switches it while the server runs",
    ),
    row(
        "delay_max",
        Kind::Duration(|c| &mut c.delay_max, Duration::ZERO, HOUR),
        "30s",
        "longest delay that a client may ask for; more is a 400 that says so",
    ),
    row(
        "size_max",
        Kind::Bytes(|c| &mut c.size_max, 0, 1024 * GIB),
        "64MiB",
        "largest generated body that a client may ask for; more is a 400 that says so",
    ),
    row(
        "work_max",
        Kind::Duration(|c| &mut c.work_max, Duration::ZERO, HOUR),
        "1s",
        "longest CPU work per request that a client may ask of /work; more is a 400 that says so",
    ),
    row(
        "buffer_max",
        Kind::Bytes(|c| &mut c.buffer_max, 0, GIB),
        "1MiB",
        "largest body of endpoints that need all of it at once (/anything, mode=buffer); 413",
    ),
    row(
        "websocket_message_max",
        Kind::Bytes(|c| &mut c.websocket_message_max, 0, GIB),
        "1MiB",
        "largest WebSocket message; the connection is closed with 1009",
    ),
    row(
        "websocket_idle_timeout",
        Kind::Duration(|c| &mut c.websocket_idle_timeout, TEN_MS, HOUR),
        "60s",
        "a WebSocket that is silent for half of it is pinged, and closed at its end",
    ),
    row(
        "cors",
        Kind::Switch(|c| &mut c.cors),
        "off",
        "whether browsers of other origins may call: permissive CORS headers",
    ),
    row(
        "server_header",
        Kind::Switch(|c| &mut c.server_header),
        "off",
        "whether every response says which instance answered (`x-echo-server`)",
    ),
    row(
        "trace_one_in",
        Kind::Count(|c| &mut c.trace_one_in, 0, 1_000_000_000),
        "1024",
        "admitted requests per span, where the caller's `traceparent` does not decide; 1 traces all, 0 none, whatever \
         callers say; the others pay one look at the headers and one counter",
    ),
    row(
        "otlp_endpoint",
        Kind::Endpoint(|c| &mut c.otlp_endpoint),
        "",
        "collector that gets the spans (OTLP over gRPC), as `http://collector:4317`; empty: nobody does",
    ),
    row(
        "otlp_queue_max",
        Kind::Count(|c| &mut c.otlp_queue_max, 1, 1_000_000),
        "16384",
        "spans that wait for the collector, at about 1.5 KB each; more are dropped and counted",
    ),
    row(
        "access_log_one_in",
        Kind::Count(|c| &mut c.access_log_one_in, 0, 1_000_000_000),
        "0",
        "requests per line of the access log; 1 logs all, 0 none",
    ),
    row(
        "access_log_file",
        Kind::Output(|c| &mut c.access_log_file),
        "-",
        "file that the access log is appended to; `-` is standard output, which then carries it between the \
         announcements and the drain report",
    ),
    row(
        "request_metrics",
        Kind::Switch(|c| &mut c.request_metrics),
        "on",
        "whether requests are timed and counted by method, status and version; off only to measure what that costs",
    ),
    row(
        "task_histograms",
        Kind::Switch(|c| &mut c.task_histograms),
        "off",
        "histograms of the runtime's poll times and schedule latencies in /metrics; costs two readings of the clock per \
         poll, so it is switched on where the runtime is looked at. Needs a build with --cfg tokio_unstable",
    ),
    row(
        "slow_poll",
        Kind::Duration(|c| &mut c.slow_poll, Duration::ZERO, HOUR),
        "0s",
        "a poll that takes at least this long is counted, and named in a warning with the place that spawned the task; \
         0 switches it off. Two readings of the clock per poll; needs a build with --cfg tokio_unstable",
    ),
    row(
        "console",
        Kind::Address(|c| &mut c.console),
        "127.0.0.1:6669",
        "listener for tokio-console, in a build with --features console; it has no authentication and can pause what is \
         shown",
    ),
    row(
        "console_one_in",
        Kind::Count(|c| &mut c.console_one_in, 1, 1_000_000),
        "64",
        "tasks of clients (connections, streams) per one that tokio-console is shown; 1 shows all, at 51 KB each where \
         stock, and more than 17,000 are more than its 4 MiB messages hold",
    ),
    row(
        "console_resources",
        Kind::Switch(|c| &mut c.console_resources),
        "off",
        "whether tokio-console is also shown the timers, locks and channels of its tasks: three spans per wait",
    ),
    row(
        "console_retention",
        Kind::Duration(|c| &mut c.console_retention, Duration::from_secs(1), HOUR),
        "10s",
        "how long tokio-console is shown a task that has ended; each keeps its histograms until then",
    ),
    row(
        "lab",
        Kind::Switch(|c| &mut c.lab),
        "off",
        "serves /lab/: seeded faults (a poll that blocks, a task that leaks, ...) to be found with tokio-console, in a build \
         with --features console. Never in production: each is a way to stop the server",
    ),
];
