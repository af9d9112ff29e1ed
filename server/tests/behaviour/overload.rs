//! More is asked of the server than it can do: who is refused, with which answer, and what goes on as before.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use echo_server::{Config, LongLived, RequestBody};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};

use crate::harness::{Client, Echo, PATIENCE, Served, config, connect_http2, pattern};

/// One place, and nobody waits for it unless the test says so.
fn one_place() -> Config {
    Config { requests_max: NonZeroUsize::new(1), queue_max: 0, ..config() }
}

/// Holds a place: the other half of its body is to come.
fn hold_place(server: &Echo) -> Client {
    let held = server.metric("echo_requests_admitted", "");
    let mut client = Client::connect(server.addr);
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhello");
    server.await_metric("echo_requests_admitted", "", held + 1);
    client
}

fn release_place(mut holder: Client) {
    holder.send(b"world");
    assert_eq!(holder.response().body, b"helloworld");
}

#[test]
fn a_request_without_a_place_waits_for_one() {
    let server = Echo::start(Config { queue_max: 10, queue_timeout: PATIENCE, ..one_place() });
    let holder = hold_place(&server);
    let mut waiting = Client::connect(server.addr);
    waiting.send_echo(b"patient");
    server.await_metric("echo_requests_waiting", "", 1);
    release_place(holder);
    assert_eq!(waiting.response().body, b"patient");
    server.await_metric("echo_requests_waiting", "", 0);
    server.await_metric("echo_requests_admitted", "", 0);
    assert_eq!(server.metric("echo_sheds_total", ""), 0);
    server.stop();
}

#[test]
fn who_finds_the_queue_full_is_refused_at_once_and_who_waits_too_long_in_the_end() {
    let short = Duration::from_millis(50);
    let server = Echo::start(Config { queue_max: 1, queue_timeout: PATIENCE, ..one_place() });
    let holder = hold_place(&server);
    let mut waiting = Client::connect(server.addr);
    waiting.send_echo(b"patient");
    server.await_metric("echo_requests_waiting", "", 1);
    let shed = Client::connect(server.addr).echo(b"one too many");
    assert_eq!((shed.status, shed.header("x-echo-overloaded")), (503, "queue-full"));
    release_place(holder);
    assert_eq!(waiting.response().body, b"patient");
    assert_eq!(server.metric("echo_sheds_total", "queue-full"), 1);
    server.stop();

    let server = Echo::start(Config { queue_max: 1, queue_timeout: short, ..one_place() });
    let holder = hold_place(&server);
    let (mut client, began) = (Client::connect(server.addr), Instant::now());
    let shed = client.echo(b"waits in vain");
    assert_eq!((shed.status, shed.header("x-echo-overloaded")), (503, "queue-timeout"));
    assert!(began.elapsed() >= short);
    assert!((1..=3).contains(&shed.header("retry-after").parse::<u32>().unwrap()));
    release_place(holder);
    assert_eq!(client.echo(b"again").body, b"again", "its connection lives");
    server.await_metric("echo_requests_admitted", "", 0);
    server.stop();
}

#[test]
fn a_refused_client_that_is_still_sending_sees_the_503() {
    let server = Echo::start(one_place());
    let holder = hold_place(&server);
    let mut client = Client::connect(server.addr);
    // All of it, before the first look at the answer: a plain close would reset the answer away.
    client.send_echo(&pattern(4 << 20));
    let shed = client.response();
    assert_eq!((shed.status, shed.header("x-echo-overloaded")), (503, "concurrency"));
    assert!(shed.text().contains("concurrency"), "{}", shed.text());
    client.expect_close();
    release_place(holder);
    server.stop();
}

#[test]
fn a_refused_http2_stream_gets_its_503_and_its_connection_lives() {
    let server = Echo::start(one_place());
    let holder = hold_place(&server);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async {
        let (mut sender, connection) = connect_http2(server.addr).await;
        let client = async {
            let mut post = async |body: Vec<u8>| {
                let request = Request::post("http://a/echo").body(Full::new(Bytes::from(body))).unwrap();
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            };
            for size in [5, 4 << 20] {
                let shed = post(pattern(size)).await;
                assert_eq!(
                    (shed.status().as_u16(), &shed.headers()["x-echo-overloaded"]),
                    (503, &"concurrency".parse().unwrap())
                );
            }
            release_place(holder);
            server.await_metric("echo_requests_admitted", "", 0);
            let echo = post(pattern(1 << 20)).await.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(echo, pattern(1 << 20));
        };
        tokio::select! {
            () = client => {}
            ended = connection => panic!("the connection has ended: {ended:?}"),
        }
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.unwrap() });
    server.stop();
}

#[test]
fn health_is_answered_while_everything_else_is_refused() {
    let server = Echo::start(one_place());
    let holder = hold_place(&server);
    let mut client = Client::connect(server.addr);
    assert_eq!(client.echo(b"no").status, 503);
    for path in ["/livez", "/readyz", "/healthz", "/health"] {
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
        assert_ne!(client.response().status, 503, "{path}");
    }
    release_place(holder);
    server.stop();
}

/// A client at another address of this machine.
fn client_at(ip: [u8; 4], addr: SocketAddr) -> Client {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((IpAddr::from(ip), 0)).into()).unwrap();
    socket.connect(&addr.into()).unwrap();
    Client::from_stream(socket.into())
}

#[test]
fn when_places_are_few_the_client_that_asks_most_is_refused_and_the_others_are_not() {
    let limits = Config {
        requests_max: NonZeroUsize::new(4),
        workers: NonZeroUsize::new(1),
        queue_max: 0,
        ..config()
    };
    let greedy_is_refused = |fair_share| {
        let server = Echo::start(Config { fair_share, ..limits.clone() });
        let holders: Vec<Client> = (0..3).map(|_| hold_place(&server)).collect();
        let mut polite = client_at([127, 0, 0, 2], server.addr);
        let mut greedy = client_at([127, 0, 0, 3], server.addr);
        let began = Instant::now();
        let refused = (0..100_000).find_map(|n| {
            assert!(began.elapsed() < PATIENCE);
            if n % 10 == 0 {
                assert_eq!(polite.echo(b"please").status, 200);
            }
            let answer = greedy.echo(b"more");
            let done = answer.status != 200 || (!fair_share && n > 1000);
            done.then(|| (answer.status, answer.header("x-echo-overloaded").to_owned()))
        });
        assert_eq!(polite.echo(b"please").status, 200);
        holders.into_iter().for_each(release_place);
        server.stop();
        refused.unwrap()
    };
    assert_eq!(greedy_is_refused(true), (503, "fair-share".to_owned()));
    assert_eq!(greedy_is_refused(false), (200, String::new()));
}

/// A body that never ends, and says something now and then, or nobody could know that its reader is gone.
struct Endless(tokio::time::Interval);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_tick(cx).map(|_| Some(Ok(Frame::data(Bytes::from_static(b"tick")))))
    }
}

#[test]
fn responses_without_an_end_have_a_limit_of_their_own() {
    let limits = Config { streams_max: NonZeroUsize::new(2), ..one_place() };
    let service = tower::service_fn(async |request: Request<RequestBody>| {
        let mut response = Response::new(match request.uri().path() {
            "/events" => {
                http_body_util::Either::Left(Endless(tokio::time::interval(Duration::from_millis(5))))
            }
            _ => http_body_util::Either::Right(Full::new(Bytes::from_static(b"short"))),
        });
        if request.uri().path() == "/events" {
            response.extensions_mut().insert(LongLived);
        }
        Ok::<_, Infallible>(response)
    });
    let server = Served::start(service, limits);
    let subscribe = || {
        let mut client = Client::connect(server.addr);
        client.send(b"GET /events HTTP/1.1\r\nhost: a\r\n\r\n");
        let head = client.head_of_large_response();
        (client, head)
    };
    let (first, second) = (subscribe(), subscribe());
    assert!(first.1.starts_with("HTTP/1.1 200") && second.1.starts_with("HTTP/1.1 200"));
    let (third, head) = subscribe();
    assert!(head.starts_with("HTTP/1.1 503") && head.contains("x-echo-overloaded: streams"), "{head}");

    // With one place for requests, and two that never give theirs back.
    let mut short = Client::connect(server.addr);
    short.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(short.response().body, b"short");

    first.0.reset();
    drop((second, third));
    let began = Instant::now();
    while !subscribe().1.starts_with("HTTP/1.1 200") {
        assert!(began.elapsed() < PATIENCE, "the place of a stream that is gone is never free");
    }
    server.stop();
}

/// What [`busy_service`] waits for.
struct Gate {
    reached: SyncSender<()>,
    go_on: Receiver<()>,
}

/// Keeps its worker: until told at `/gate`, and for 3 ms at `/work`.
fn busy_service(gate: Gate) -> impl echo_server::HttpService {
    let gate = Arc::new(Mutex::new(gate));
    tower::service_fn(move |request: Request<RequestBody>| {
        let gate = Arc::clone(&gate);
        async move {
            match request.uri().path() {
                "/gate" => {
                    let gate = gate.lock().unwrap();
                    gate.reached.send(()).unwrap();
                    gate.go_on.recv_timeout(PATIENCE).unwrap();
                }
                "/work" => std::thread::sleep(Duration::from_millis(3)),
                _ => {}
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
        }
    })
}

/// Has 64 requests wait for one worker at the same moment; returns those refused for that, and those answered.
fn crowd(limits: Config) -> (usize, usize) {
    let ((reached, is_reached), (go, go_on)) = (sync_channel(1), sync_channel(1));
    let server = Served::start(busy_service(Gate { reached, go_on }), limits);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").into_bytes();
    // This machine may be too busy for any of them at first.
    let ask = |client: &mut Client, path: &str| {
        let began = Instant::now();
        loop {
            client.send(&get(path));
            if client.response().status == 200 {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "a client alone is always refused");
        }
    };
    let mut clients: Vec<Client> = (0..64).map(|_| Client::connect(server.addr)).collect();
    for client in &mut clients {
        ask(client, "/");
    }
    let mut keeper = Client::connect(server.addr);
    keeper.send(&get("/gate"));
    is_reached.recv_timeout(PATIENCE).unwrap();
    for client in &mut clients {
        client.send(&get("/work"));
    }
    go.send(()).unwrap();
    assert_eq!(keeper.response().status, 200);
    let mut counts = (0, 0);
    for client in &mut clients {
        let answer = client.response();
        match (answer.status, answer.header("x-echo-overloaded")) {
            (503, "busy") => counts.0 += 1,
            (200, "") => counts.1 += 1,
            other => panic!("{other:?}"),
        }
    }
    // One after the other they are no crowd.
    for client in &mut clients {
        ask(client, "/work");
    }
    server.stop();
    counts
}

#[test]
fn a_worker_that_is_behind_refuses_and_then_goes_on_also_in_a_runtime_that_is_not_ours() {
    let (refused, answered) = crowd(Config { busy_max: Duration::from_millis(10), ..config() });
    assert!(refused > 10 && answered >= 4, "{refused} refused, {answered} answered");
    assert_eq!(crowd(config()), (0, 64), "switched off");
}

#[test]
fn a_worker_that_only_refuses_stops_reading_and_then_goes_on() {
    let ms = Duration::from_millis;
    let (refused, answered) = crowd(Config { busy_max: ms(5), busy_pause: ms(6), ..config() });
    // Those that it does not read wait in the kernel, and have their turn.
    assert!(refused > 0 && answered >= 4, "{refused} refused, {answered} answered");
}
