//! Each metric moves when its cause happens, and no client can make more of them.

use std::{
    net::{SocketAddr, TcpStream},
    num::NonZeroUsize,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use echo_server::{Config, Runtime};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::{Domain, Socket, Type};

use crate::harness::{Client, Echo, PATIENCE, Program, config, metric, pattern, samples, scrape};

#[test]
fn a_request_counts_by_method_status_and_version() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    for (method, path, status) in [("POST", "/echo", 200), ("ODD", "/", 405), ("GET", "/status/404", 404)] {
        client.send(format!("{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").as_bytes());
        assert_eq!(client.response().status, status, "{method} {path}");
    }
    let mut old = Client::connect(server.addr);
    old.send(b"GET /echo HTTP/1.0\r\n\r\n");
    assert_eq!(old.response().status, 200);
    echo_over_http2(server.addr, || ());

    server.await_metric("http_server_active_requests", "", 0);
    for (method, version, class) in [
        ("POST", "1.1", "2xx"),
        ("_OTHER", "1.1", "4xx"),
        ("GET", "1.1", "4xx"),
        ("GET", "1.0", "2xx"),
        ("POST", "2", "2xx"),
    ] {
        let labels = format!(
            "http_request_method=\"{method}\",network_protocol_version=\"{version}\",status_class=\"{class}\""
        );
        assert_eq!(server.metric("http_server_request_duration_seconds_count", &labels), 1, "{labels}");
    }
    assert_eq!(server.metric("http_server_request_duration_seconds_count", ""), 5, "and nothing else");
    server.stop();
}

#[test]
fn every_response_counts_by_its_code() {
    let server = Echo::start(Config { body_max: 10, ..config() });
    let mut client = Client::connect(server.addr);
    for request in ["GET /echo", "GET /echo", "GET /echo", "GET /status/404", "GET /status/404", "DELETE /"] {
        client.send(format!("{request} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
        client.response();
    }
    assert_eq!(client.echo(&pattern(11)).status, 413);
    server.await_metric("http_server_active_requests", "", 0);
    for (code, count) in [("200", 3), ("404", 2), ("405", 1), ("413", 1), ("", 7)] {
        let label = format!("http_response_status_code=\"{code}");
        assert_eq!(server.metric("echo_responses_total", &label), count, "{code:?}");
    }
    server.stop();
}

#[test]
fn every_request_has_a_queue_delay_also_one_whose_client_leaves() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    for _ in 0..10 {
        assert_eq!(client.echo(b"hello").status, 200);
    }
    let mut gone = Client::connect(server.addr);
    gone.send(b"POST /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(gone.response().status, 100);
    server.await_metric("http_server_active_requests", "", 1);
    gone.reset();
    server.await_metric("http_server_active_requests", "", 0);
    assert_eq!(server.metric("echo_queue_delay_seconds_count", ""), 11);
    assert_eq!(server.metric("echo_queue_delay_seconds_bucket", "+Inf"), 11);
    server.stop();
}

#[test]
fn a_sampled_request_is_the_exemplar_of_its_bucket_and_another_is_none() {
    let server = Echo::start(Config { trace_one_in: 1_000_000, ..config() });
    let mut client = Client::connect(server.addr);
    let exemplars = || -> Vec<String> {
        server.await_metric("http_server_active_requests", "", 0);
        let text = scrape(server.admin);
        text.lines().filter(|line| line.contains(" # ")).map(str::to_owned).collect()
    };
    let mut send = |trace_id: &str, flags: &str| {
        let traceparent = format!("traceparent: 00-{trace_id}-00f067aa0ba902b7-{flags}");
        client.send(format!("GET /echo HTTP/1.1\r\nhost: a\r\n{traceparent}\r\n\r\n").as_bytes());
        assert_eq!(client.response().status, 200);
    };
    send("11112222333344445555666677778888", "00");
    assert_eq!(exemplars(), [""; 0]);
    let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
    send(trace_id, "01");
    let lines = exemplars();
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let (sample, exemplar) = line.split_once(" # ").unwrap();
    assert!(sample.starts_with("http_server_request_duration_seconds_bucket{"), "{line}");
    let rest = exemplar.strip_prefix(&format!("{{trace_id=\"{trace_id}\"}} ")).unwrap();
    let numbers: Vec<f64> = rest.split(' ').map(|number| number.parse().unwrap()).collect();
    let [seconds, at] = numbers[..] else { panic!("{line}") };
    let bound: f64 = sample.split("le=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
    assert!(seconds > 0.0 && seconds <= bound, "{line}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - at).abs() < 60.0, "{line}");
    server.stop();
}

#[test]
fn connections_are_active_by_protocol_from_their_first_bytes_to_their_end() {
    let server = Echo::start(config());
    let silent = Client::connect(server.addr);
    let mut client = Client::connect(server.addr);
    assert_eq!(client.echo(b"hello").status, 200);
    server.await_metric("echo_connections_open", "", 2);
    server.await_metric("echo_connections_active", "http1", 1);
    echo_over_http2(server.addr, || {
        assert_eq!(server.metric("echo_connections_active", "http2"), 1);
        assert_eq!(server.metric("echo_connections_active", "http1"), 1);
    });
    server.await_metric("echo_connections_active", "http2", 0);
    drop((client, silent));
    server.await_metric("echo_connections_active", "", 0);
    server.stop();
}

/// The accept loop stops where every place is taken, and as many clients as it may refuse at once are being refused.
#[test]
fn clients_that_wait_to_be_accepted_are_seen_and_those_that_find_no_room_are_counted() {
    const REFUSED: u64 = 32;
    const BACKLOG: u64 = 4;
    let server = Echo::start(Config {
        connections_max: NonZeroUsize::new(1),
        evict_idle: false,
        backlog: BACKLOG,
        linger_timeout: Duration::from_mins(1),
        linger_max: Duration::from_mins(1),
        drain_grace: Duration::ZERO,
        ..config()
    });
    assert_eq!(server.metric("echo_accept_queue_max", ""), BACKLOG);
    let mut first = Client::connect(server.addr);
    assert_eq!(first.echo(b"hello").status, 200);
    let refused: Vec<TcpStream> = (0..REFUSED).map(|_| TcpStream::connect(server.addr).unwrap()).collect();
    server.await_metric("echo_tasks", "reject", REFUSED);
    // One in the hands of the accept loop, and a full queue: it holds one more than the backlog.
    let waiting: Vec<TcpStream> =
        (0..BACKLOG + 2).map(|_| TcpStream::connect(server.addr).unwrap()).collect();
    server.await_metric("echo_accept_queue_length", "", BACKLOG + 1);

    let lost = |name| server.metric(name, "");
    let (overflows, drops) = (lost("echo_listen_overflows_total"), lost("echo_listen_drops_total"));
    let too_many = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    too_many.set_nonblocking(true).unwrap();
    let begun = too_many.connect(&server.addr.into()).unwrap_err();
    assert_eq!(begun.raw_os_error(), Some(rustix::io::Errno::INPROGRESS.raw_os_error()));
    assert!(lost("echo_listen_overflows_total") > overflows && lost("echo_listen_drops_total") > drops);

    drop((too_many, waiting, refused, first));
    server.await_metric("echo_accept_queue_length", "", 0);
    server.stop();
}

#[test]
fn the_accept_queue_is_that_of_all_listeners_together() {
    let workers = NonZeroUsize::new(3);
    let server = Echo::start(Config { runtime: Runtime::PerCore, workers, backlog: 10, ..config() });
    assert_eq!(server.metric("echo_accept_queue_max", ""), 30);
    assert_eq!(samples(&scrape(server.admin), "echo_accept_queue_length", "").count(), 1);
    server.stop();
}

#[test]
fn the_process_is_seen_as_the_kernel_sees_it() {
    let program = Program::start(&[]);
    let value = |name: &str| sum(&scrape(program.admin), name, "");
    let fds = value("process_open_fds");
    let (cpu, switches) = (value("process_cpu_seconds_total"), value("process_context_switches_total"));
    let started = value("process_start_time_seconds");
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(program.addr)).collect();
    for client in &mut clients {
        assert_eq!(client.echo(b"hello").status, 200);
    }
    // Half of them: scrapes before this one may not be closed yet.
    until("the clients are seen", || value("process_open_fds") > fds + 10.0);
    drop(clients);
    until("the clients have gone", || value("process_open_fds") < fds + 10.0);

    assert!(value("process_cpu_seconds_total") > cpu);
    assert!(value("process_context_switches_total") > switches);
    let hard_limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    assert_eq!(Some(metric(program.admin, "process_max_fds", "")), hard_limit, "raised at start");
    let (resident, all) = (value("process_resident_memory_bytes"), value("process_virtual_memory_bytes"));
    assert!(resident > 1e6 && all > resident, "{resident} {all}");
    assert!(value("process_threads") >= 2.0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((0.0..600.0).contains(&(now - started)), "{started}");
    assert!((value("process_start_time_seconds") - started).abs() < 1e-9, "it was started once");
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_phase_is_one_of_all() {
    let mut server = Echo::start(Config { lame_duck: Duration::from_mins(1), ..config() });
    // Answered, so it serves.
    assert_eq!(Client::connect(server.addr).echo(b"hello").status, 200);
    server.await_metric("echo_phase", "\"serving\"", 1);
    server.begin_drain();
    server.await_metric("echo_phase", "\"lame_duck\"", 1);
    assert_eq!(server.metric("echo_phase", ""), 1);
    assert_eq!(samples(&scrape(server.admin), "echo_phase", "").count(), 7);
}

#[test]
fn each_runtime_has_its_label_and_counts_what_it_runs() {
    for (runtime, data) in
        [(Runtime::WorkStealing, &["data-0"][..]), (Runtime::PerCore, &["data-0", "data-1"])]
    {
        let server = Echo::start(Config { runtime, workers: NonZeroUsize::new(2), ..config() });
        for _ in 0..8 {
            assert_eq!(Client::connect(server.addr).echo(b"hello").status, 200);
        }
        let text = scrape(server.admin);
        let workers = 2 / data.len() as u64;
        for name in data.iter().chain(&["control"]) {
            let label = format!("runtime=\"{name}\"");
            let workers = if *name == "control" { 1 } else { workers };
            assert_eq!(
                samples(&text, "tokio_workers", &label).collect::<Vec<_>>(),
                [workers.to_string()],
                "{label}"
            );
            for per_worker in ["tokio_worker_busy_seconds_total", "tokio_worker_parks_total"] {
                assert_eq!(
                    samples(&text, per_worker, &label).count() as u64,
                    workers,
                    "{per_worker} {label}"
                );
            }
        }
        assert_eq!(samples(&text, "tokio_workers", "").count(), data.len() + 1);
        assert!(server.metric("tokio_worker_parks_total", "data-0") > 0);
        if cfg!(tokio_unstable) {
            assert!(server.metric("tokio_spawned_tasks_total", "data-") >= 8);
            assert!(server.metric("tokio_io_driver_fds_registered_total", "data-") >= 8);
        }
        server.stop();
    }
}

#[cfg(tokio_unstable)]
#[test]
fn poll_times_and_schedule_latencies_are_there_where_they_are_asked_for() {
    const HISTOGRAMS: [&str; 2] = ["tokio_poll_time_seconds", "tokio_schedule_latency_seconds"];
    let server = Echo::start(config());
    let text = scrape(server.admin);
    assert!(HISTOGRAMS.iter().all(|name| !text.contains(name)), "two readings of the clock per poll");
    server.stop();

    for runtime in [Runtime::WorkStealing, Runtime::PerCore] {
        let server = Echo::start(Config { runtime, task_histograms: true, ..config() });
        for _ in 0..8 {
            assert_eq!(Client::connect(server.addr).echo(b"hello").status, 200);
        }
        let text = scrape(server.admin);
        for name in HISTOGRAMS {
            let of = |suffix: &str, label: &str| sum(&text, &format!("{name}_{suffix}"), label);
            assert!(of("count", "") >= 8.0 && of("sum", "") > 0.0, "{name}");
            assert!((of("bucket", "+Inf") - of("count", "")).abs() < 0.5, "{name}");
            assert_eq!(samples(&text, &format!("{name}_bucket"), "data-0").count(), 26, "{name}");
        }
        server.stop();
    }
}

#[test]
fn every_metric_has_a_help_text_and_is_there_before_the_first_request() {
    let server = Echo::start(config());
    let text = scrape(server.admin);
    assert!(text.ends_with("# EOF\n"), "OpenMetrics ends with its mark");
    let unstable: &[&str] = if cfg!(tokio_unstable) { &UNSTABLE } else { &[] };
    for name in STABLE.iter().chain(unstable) {
        let help = format!("# HELP {} ", name.strip_suffix("_total").unwrap_or(name));
        assert!(text.contains(&help), "{help}");
        let sample =
            |line: &str| line.split(['{', ' ']).next().is_some_and(|sample| sample.starts_with(name));
        assert!(text.lines().any(sample) || name.contains("request_duration"), "{name} has no sample");
    }
    let label = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert_eq!(server.metric("echo_build_info", &label), 1);
    server.stop();
}

const STABLE: &[&str] = &[
    "http_server_request_duration_seconds",
    "http_server_active_requests",
    "echo_responses_total",
    "echo_queue_delay_seconds",
    "echo_requests_aborted_total",
    "echo_request_body_bytes_total",
    "echo_response_body_bytes_total",
    "echo_panics_total",
    "echo_sheds_total",
    "echo_requests_admitted",
    "echo_requests_max",
    "echo_requests_waiting",
    "echo_streams_open",
    "echo_streams_max",
    "echo_worker_delay_seconds",
    "echo_reads_paused_total",
    "echo_connections_paused",
    "echo_connections_open",
    "echo_connections_max",
    "echo_connections_opened_total",
    "echo_connections_closed_total",
    "echo_connections_active",
    "echo_websockets_open",
    "echo_websocket_messages_total",
    "echo_websocket_bytes_total",
    "echo_websockets_closed_total",
    "echo_accept_errors_total",
    "echo_accept_queue_length",
    "echo_accept_queue_max",
    "echo_listen_overflows_total",
    "echo_listen_drops_total",
    "echo_phase",
    "echo_ready",
    "echo_restarts_total",
    "echo_tasks",
    "echo_build_info",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_threads",
    "process_start_time_seconds",
    "process_context_switches_total",
    "tokio_workers",
    "tokio_alive_tasks",
    "tokio_global_queue_depth",
    "tokio_worker_busy_seconds_total",
    "tokio_worker_parks_total",
    "tokio_slow_polls_total",
];

const UNSTABLE: [&str; 17] = [
    "tokio_spawned_tasks_total",
    "tokio_remote_schedules_total",
    "tokio_budget_forced_yields_total",
    "tokio_blocking_queue_depth",
    "tokio_blocking_threads",
    "tokio_idle_blocking_threads",
    "tokio_io_driver_fds_registered_total",
    "tokio_io_driver_fds_deregistered_total",
    "tokio_io_driver_ready_total",
    "tokio_worker_local_queue_depth",
    "tokio_worker_noops_total",
    "tokio_worker_steals_total",
    "tokio_worker_steal_operations_total",
    "tokio_worker_polls_total",
    "tokio_worker_local_schedules_total",
    "tokio_worker_overflows_total",
    "tokio_worker_mean_poll_time_seconds",
];

#[test]
fn the_number_of_series_stays_under_100_000_random_methods_paths_and_headers() {
    const CLIENTS: u64 = 4;
    let server = Echo::start(config());
    let series = || scrape(server.admin).lines().filter(|line| !line.starts_with('#')).count();
    let send = |requests: usize, seed: u64| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut client = Client::connect(server.addr);
        for _ in 0..requests / PIPELINED {
            let heads: String = (0..PIPELINED).map(|_| head(&mut random)).collect();
            client.send(heads.as_bytes());
            for _ in 0..PIPELINED {
                assert!(client.response().complete);
            }
        }
    };
    send(1_000, 0);
    server.await_metric("http_server_active_requests", "", 0);
    let before = series();
    std::thread::scope(|scope| {
        for seed in 1..=CLIENTS {
            scope.spawn(move || send(99_000 / 4, seed));
        }
    });
    server.await_metric("http_server_active_requests", "", 0);
    assert_eq!(series(), before);
    assert_eq!(server.metric("http_server_request_duration_seconds_count", ""), 100_000);
    server.stop();
}

/// Requests that are sent before the first of their answers is read.
const PIPELINED: usize = 50;

/// The head of a request that asks for as many series as a client can.
fn head(random: &mut fastrand::Rng) -> String {
    // HEAD is left out, because its answer has no body for the client to skip.
    const METHODS: [&str; 8] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"];
    let word = |random: &mut fastrand::Rng| -> String {
        (0..random.usize(8..20)).map(|_| random.alphabetic()).collect()
    };
    let method = if random.bool() { (*random.choice(&METHODS).unwrap()).to_owned() } else { word(random) };
    let folder = if random.bool() { "/echo" } else { "" };
    let (path, name, value) = (word(random), word(random), word(random));
    format!(
        "{method} {folder}/{path} HTTP/1.1\r\nhost: {value}\r\nx-request-id: {value}\r\nx-{name}: {value}\r\n\r\n"
    )
}

fn sum(text: &str, name: &str, label: &str) -> f64 {
    samples(text, name, label).map(|value| value.parse::<f64>().unwrap()).sum()
}

/// One echo on an HTTP/2 connection, and then `meanwhile`, while the connection lives.
fn echo_over_http2(addr: SocketAddr, meanwhile: impl FnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(connection);
        let request = Request::post("http://a/echo").body(Full::new(Bytes::from_static(b"one"))).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "one");
        meanwhile();
    });
}
