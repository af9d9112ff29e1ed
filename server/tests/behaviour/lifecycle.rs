//! How long a connection lives, and which one goes when there are too many.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    time::Duration,
};

use bytes::Bytes;
use echo_server::Config;
use http::Request;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Frame, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{sync::mpsc, task::JoinSet};

use crate::harness::{Client, Echo, PATIENCE, config};

/// Connections end at once when they are asked to.
fn aging(age: Duration) -> Config {
    Config {
        connection_age_max: age,
        connection_age_jitter: 0,
        drain_idle_grace: Duration::from_millis(1),
        ..config()
    }
}

fn at_most(connections: usize) -> Config {
    Config { connections_max: NonZeroUsize::new(connections), evict_idle_min: Duration::ZERO, ..config() }
}

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// The one task of an HTTP/2 client, which ends with its connection.
type Connection = JoinSet<hyper::Result<()>>;

async fn connect_http2(addr: SocketAddr) -> (http2::SendRequest<Body>, Connection) {
    let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut task = JoinSet::new();
    task.spawn(connection);
    (sender, task)
}

async fn echo_http2(sender: &mut http2::SendRequest<Body>, text: &'static str) {
    sender.ready().await.unwrap();
    let body = Full::new(Bytes::from_static(text.as_bytes())).boxed();
    let response = sender.send_request(Request::post("http://a/echo").body(body).unwrap()).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), text);
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.unwrap() })
}

#[test]
fn an_old_connection_says_close_with_its_next_response() {
    let server = Echo::start(aging(Duration::from_millis(200)));
    let mut client = Client::connect(server.addr);
    while client.echo(b"hi").header("connection") != "close" {}
    client.expect_close();
    server.await_metric("echo_connections_closed_total", "aged", 1);
    server.stop();
}

#[test]
fn an_old_connection_on_which_nothing_happens_is_closed() {
    let server = Echo::start(aging(Duration::from_millis(50)));
    let mut client = Client::connect(server.addr);
    assert_eq!(client.echo(b"hi").body, b"hi");
    client.expect_close();
    server.await_metric("echo_connections_closed_total", "aged", 1);
    server.stop();
}

#[test]
fn an_old_http2_connection_takes_no_new_stream_and_finishes_those_it_has() {
    let server = Echo::start(aging(Duration::from_millis(100)));
    block_on(async {
        let (mut sender, mut connection) = connect_http2(server.addr).await;
        let (frames, body) = mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(4);
        let body = StreamBody::new(futures_util::stream::unfold(body, |mut body| async move {
            body.recv().await.map(|frame| (frame, body))
        }));
        frames.send(Ok(Frame::data(Bytes::from_static(b"hello")))).await.unwrap();
        let request = Request::post("http://a/echo").body(body.boxed()).unwrap();
        let mut response = sender.send_request(request).await.unwrap();
        assert_eq!(response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
        // Until the client sees GOAWAY.
        loop {
            let empty = Request::get("http://a/echo").body(Full::default().boxed()).unwrap();
            let Ok(other) = sender.send_request(empty).await else { break };
            other.into_body().collect().await.unwrap();
        }
        frames.send(Ok(Frame::data(Bytes::from_static(b"world")))).await.unwrap();
        drop(frames);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "world");
        connection.join_next().await.unwrap().unwrap().unwrap();
    });
    server.await_metric("echo_connections_closed_total", "aged", 1);
    server.stop();
}

#[test]
fn the_last_request_of_a_connection_says_close() {
    let server = Echo::start(Config { connection_requests_max: 3, ..config() });
    let mut client = Client::connect(server.addr);
    let said: Vec<String> = (0..3).map(|_| client.echo(b"hi").header("connection").to_owned()).collect();
    assert_eq!(said, ["", "", "close"]);
    client.expect_close();
    server.await_metric("echo_connections_closed_total", "requests_done", 1);
    server.stop();
}

#[test]
fn after_the_last_stream_of_a_connection_comes_goaway() {
    let server = Echo::start(Config { connection_requests_max: 3, ..config() });
    block_on(async {
        let (mut sender, mut connection) = connect_http2(server.addr).await;
        for _ in 0..3 {
            echo_http2(&mut sender, "hi").await;
        }
        connection.join_next().await.unwrap().unwrap().unwrap();
        assert!(sender.ready().await.is_err());
    });
    server.await_metric("echo_connections_closed_total", "requests_done", 1);
    server.stop();
}

#[test]
fn a_full_server_closes_the_connection_that_was_idle_longest_and_serves_the_new_one() {
    let server = Echo::start(at_most(2));
    let (mut first, mut second) = (Client::connect(server.addr), Client::connect(server.addr));
    for client in [&mut first, &mut second] {
        assert_eq!(client.echo(b"hi").body, b"hi");
    }
    assert_eq!(first.echo(b"again").body, b"again");
    assert_eq!(Client::connect(server.addr).echo(b"new").body, b"new");
    second.expect_close();
    assert_eq!(first.echo(b"still here").body, b"still here");
    assert_eq!(server.metric("echo_sheds_total", "connections"), 0);
    server.await_metric("echo_connections_closed_total", "evicted", 1);
    server.stop();
}

#[test]
fn a_silent_client_makes_room_too() {
    let server = Echo::start(at_most(1));
    let mut silent = Client::connect(server.addr);
    server.await_metric("echo_connections_open", "", 1);
    assert_eq!(Client::connect(server.addr).echo(b"new").body, b"new");
    silent.expect_close();
    server.stop();
}

#[test]
fn an_idle_http2_connection_makes_room_with_a_goaway() {
    let server = Echo::start(at_most(1));
    block_on(async {
        let (mut sender, mut connection) = connect_http2(server.addr).await;
        echo_http2(&mut sender, "hi").await;
        let addr = server.addr;
        let newcomer = tokio::task::spawn_blocking(move || Client::connect(addr).echo(b"new").body);
        connection.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!(newcomer.await.unwrap(), b"new");
    });
    server.await_metric("echo_connections_closed_total", "evicted", 1);
    server.stop();
}

#[test]
fn connections_with_work_in_progress_are_kept_and_the_new_one_is_refused() {
    let server = Echo::start(at_most(2));
    let (mut in_body, mut in_head) = (Client::connect(server.addr), Client::connect(server.addr));
    in_body.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nh");
    server.await_metric("http_server_active_requests", "", 1);
    assert_eq!(in_head.echo(b"one").body, b"one");
    in_head.send(b"POST /echo HTTP/1.1\r\nhost");
    // Idle to us until its bytes have been read; then the answer is always the same.
    let refused = loop {
        let mut client = Client::connect(server.addr);
        client.send_echo(b"x");
        let response = client.response();
        if server.metric("echo_connections_closed_total", "evicted") == 0 {
            break response;
        }
        in_head = Client::connect(server.addr);
        in_head.send(b"POST /echo HTTP/1.1\r\nhost");
    };
    assert_eq!((refused.status, refused.header("x-echo-overloaded")), (503, "connections"));
    in_body.send(b"i");
    assert_eq!(in_body.response().body, b"hi");
    in_head.send(b": a\r\ncontent-length: 2\r\n\r\nhi");
    assert_eq!(in_head.response().body, b"hi");
    server.stop();
}

#[test]
fn eviction_can_be_switched_off_and_has_a_minimum_age() {
    for config in [
        Config { evict_idle: false, ..at_most(1) },
        Config { evict_idle_min: Duration::from_hours(1), ..at_most(1) },
    ] {
        let server = Echo::start(config);
        let mut kept = Client::connect(server.addr);
        assert_eq!(kept.echo(b"hi").body, b"hi");
        assert_eq!(Client::connect(server.addr).response().status, 503);
        assert_eq!(kept.echo(b"hi").body, b"hi");
        server.stop();
    }
}

#[test]
fn a_flood_of_new_clients_is_served_at_the_expense_of_idle_ones() {
    let server = Echo::start(at_most(8));
    let mut idle: Vec<Client> = Vec::new();
    for _ in 0..300 {
        let mut client = Client::connect(server.addr);
        assert_eq!(client.echo(b"hi").body, b"hi");
        idle.push(client);
    }
    server.await_metric("echo_connections_closed_total", "evicted", 300 - 8);
    assert_eq!(server.metric("echo_connections_open", ""), 8);
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
fn an_address_has_so_many_connections_and_others_are_not_in_its_way() {
    let server = Echo::start(Config { connections_per_address_max: 2, ..config() });
    let mut clients = [Client::connect(server.addr), Client::connect(server.addr)];
    for client in &mut clients {
        assert_eq!(client.echo(b"hi").body, b"hi");
    }
    let refused = Client::connect(server.addr).response();
    assert_eq!((refused.status, refused.header("x-echo-overloaded")), (503, "address"));
    assert_eq!(server.metric("echo_sheds_total", "address"), 1);
    assert_eq!(client_at([127, 0, 0, 2], server.addr).echo(b"other").body, b"other");
    drop(clients);
    server.await_metric("echo_connections_closed_total", "complete", 3);
    assert_eq!(Client::connect(server.addr).echo(b"again").body, b"again");
    server.stop();
}

#[test]
fn an_address_over_its_limit_evicts_nobody() {
    let server = Echo::start(Config { connections_per_address_max: 1, ..at_most(2) });
    let mut other = client_at([127, 0, 0, 2], server.addr);
    assert_eq!(other.echo(b"hi").body, b"hi");
    let mut greedy = Client::connect(server.addr);
    assert_eq!(greedy.echo(b"hi").body, b"hi");
    for _ in 0..100 {
        assert_eq!(Client::connect(server.addr).response().header("x-echo-overloaded"), "address");
    }
    assert_eq!(other.echo(b"hi").body, b"hi");
    assert_eq!(greedy.echo(b"hi").body, b"hi");
    server.stop();
}

#[test]
fn behind_a_proxy_the_limit_is_the_clients_and_not_the_proxys() {
    let server = Echo::start(Config {
        connections_per_address_max: 1,
        proxy_protocol: true,
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..config()
    });
    let connect = |client: &str| {
        let mut connection = Client::connect(server.addr);
        connection.send(format!("PROXY TCP4 {client} 192.0.2.9 4000 80\r\n").as_bytes());
        connection
    };
    let mut first = connect("198.51.100.1");
    assert_eq!(first.echo(b"hi").body, b"hi");
    assert_eq!(connect("198.51.100.1").response().header("x-echo-overloaded"), "address");
    assert_eq!(connect("198.51.100.2").echo(b"other").body, b"other");
    assert_eq!(first.echo(b"hi").body, b"hi");
    drop(first);
    server.await_metric("echo_connections_closed_total", "complete", 3);
    assert_eq!(connect("198.51.100.1").echo(b"again").body, b"again");
    server.stop();
}
