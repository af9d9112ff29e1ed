//! WebSockets: the handshake, the echo, and every way in which one ends.

use std::{net::TcpStream, num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use echo_server::Config;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Method, Request, Version};
use http_body_util::Empty;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, WebSocket, client,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use crate::harness::{Client, Echo, PATIENCE, config, connect_http2, pattern};

const HANDSHAKE: &str = "host: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn open(server: &Echo, path: &str) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(server.addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    client(format!("ws://{}{path}", server.addr), stream).unwrap().0
}

/// Reads to the end of the WebSocket; returns the code that it was closed with.
fn close_code(socket: &mut WebSocket<TcpStream>) -> Option<u16> {
    let mut code = None;
    loop {
        match socket.read() {
            Ok(Message::Close(frame)) => code = frame.map(|frame| frame.code.into()),
            Ok(_) => {}
            Err(Error::ConnectionClosed) => return code,
            Err(error) => panic!("{error}, after close {code:?}"),
        }
    }
}

/// A frame that is not masked with anything.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 126);
    [&[first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0], payload].concat()
}

/// A connection that has become a WebSocket, byte by byte.
fn raw(server: &Echo) -> Client {
    let mut client = Client::connect(server.addr);
    client.send(format!("GET /ws HTTP/1.1\r\n{HANDSHAKE}\r\n").as_bytes());
    let head = client.head_of_large_response();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    client
}

#[test]
fn messages_come_back_as_they_were_sent_on_every_path_that_has_a_websocket() {
    let server = Echo::start(config());
    for path in ["/echo", "/echo/below", "/ws", "/ws/echo", "/websocket/echo"] {
        let mut socket = open(&server, path);
        for message in [
            Message::text("grüße"),
            Message::binary(pattern(1 << 20)),
            Message::text(""),
            Message::binary(vec![0xff]),
        ] {
            socket.send(message.clone()).unwrap();
            assert!(socket.read().unwrap() == message, "{path}");
        }
        socket.send(Message::Ping(Bytes::from_static(b"x"))).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong(Bytes::from_static(b"x")));
        server.await_metric("echo_websockets_open", "", 1);
        assert_eq!(server.metric("echo_streams_open", ""), 1);
        let frame = CloseFrame { code: CloseCode::from(4000), reason: "done".into() };
        socket.close(Some(frame)).unwrap();
        assert_eq!(close_code(&mut socket), Some(4000));
        server.await_metric("echo_websockets_open", "", 0);
        server.await_metric("echo_streams_open", "", 0);
    }
    server.await_metric("echo_websockets_closed_total", "closed", 5);
    server.await_metric("echo_connections_closed_total", "upgraded", 5);
    assert_eq!(server.metric("echo_websocket_messages_total", ""), 20);
    assert_eq!(server.metric("echo_websocket_bytes_total", ""), 5 * (7 + (1 << 20) + 1));
    assert!(server.stop().is_clean());
}

#[test]
fn a_handshake_that_is_not_as_it_must_be_is_refused_and_the_connection_goes_on() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    let without = |field: &str| {
        let lines = HANDSHAKE.split_inclusive("\r\n").filter(|line| !line.starts_with(field));
        lines.collect::<String>()
    };
    for (head, status) in [
        (format!("GET /ws HTTP/1.1\r\n{}", without("upgrade")), 426),
        (format!("GET /ws HTTP/1.1\r\n{}", without("sec-websocket-version")), 426),
        (format!("GET /echo HTTP/1.1\r\n{}", without("sec-websocket-key")), 400),
        (format!("GET /echo HTTP/1.1\r\n{}", without("connection")), 400),
        (format!("POST /echo HTTP/1.1\r\ncontent-length: 0\r\n{HANDSHAKE}"), 400),
        (format!("GET /ws?max_message_size=2MiB HTTP/1.1\r\n{HANDSHAKE}"), 400),
        (format!("GET /ws?max_fragment_size=9&max_message_size=8 HTTP/1.1\r\n{HANDSHAKE}"), 400),
    ] {
        client.send(format!("{head}\r\n").as_bytes());
        let refusal = client.response();
        assert_eq!(refusal.status, status, "{head}: {}", refusal.text());
        if status == 426 {
            let fields = ["upgrade", "sec-websocket-version"].map(|name| refusal.header(name));
            assert_eq!(fields, ["websocket", "13"]);
        }
        assert_eq!(client.echo(b"still here").body, b"still here", "{head}");
    }
    assert_eq!(server.metric("echo_websockets_open", ""), 0);
    server.stop();
}

#[test]
fn the_answer_to_a_handshake_proves_that_it_was_read_and_chooses_a_subprotocol() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    client.send(
        format!("GET /ws HTTP/1.1\r\n{HANDSHAKE}sec-websocket-protocol: chat, other\r\n\r\n").as_bytes(),
    );
    let head = client.head_of_large_response().to_lowercase();
    for field in [
        "http/1.1 101 switching protocols",
        "\r\nconnection: upgrade\r\n",
        "\r\nupgrade: websocket\r\n",
        "\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n",
        "\r\nsec-websocket-protocol: chat\r\n",
        "\r\nx-request-id: ",
    ] {
        assert!(head.contains(field), "{field:?} is not in {head}");
    }
    client.reset();
    server.await_metric("echo_websockets_closed_total", "broken", 1);
    server.stop();
}

#[test]
fn a_message_that_is_too_large_is_closed_with_1009_also_while_more_of_it_is_on_its_way() {
    let server = Echo::start(Config { websocket_message_max: 1000, ..config() });
    let mut fits = open(&server, "/ws");
    fits.send(Message::binary(pattern(1000))).unwrap();
    assert!(fits.read().unwrap() == Message::binary(pattern(1000)));
    fits.send(Message::binary(pattern(1001))).unwrap();
    assert_eq!(close_code(&mut fits), Some(1009));

    let mut socket = open(&server, "/ws");
    socket.send(Message::binary(pattern(8 << 20))).unwrap();
    assert_eq!(close_code(&mut socket), Some(1009));

    let mut asks_less = open(&server, "/ws?max_message_size=10&max_fragment_size=5");
    asks_less.send(Message::text("123456")).unwrap();
    assert_eq!(close_code(&mut asks_less), Some(1009));
    server.await_metric("echo_websockets_closed_total", "too_large", 3);
    server.stop();
}

#[test]
fn a_text_that_is_not_utf8_and_frames_that_are_none_are_closed_with_their_codes() {
    let server = Echo::start(config());
    for (bytes, code, reason) in [
        (frame(0x81, b"\xc3\x28"), 1007_u16, "invalid_text"),
        (frame(0x83, b"?"), 1002, "malformed"),
        (b"\x81\x01x".to_vec(), 1002, "malformed"),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(), 1002, "malformed"),
    ] {
        let before = server.metric("echo_websockets_closed_total", reason);
        let mut client = raw(&server);
        client.send(&bytes);
        let mut close = [0; 4];
        std::io::Read::read_exact(&mut client.stream, &mut close).unwrap();
        assert_eq!((close[0], u16::from_be_bytes([close[2], close[3]])), (0x88, code), "{bytes:?}");
        drop(client);
        server.await_metric("echo_websockets_closed_total", reason, before + 1);
    }
    server.stop();
}

#[test]
fn a_client_that_says_nothing_and_answers_no_ping_is_closed() {
    let server = Echo::start(Config { websocket_idle_timeout: Duration::from_millis(200), ..config() });
    let mut client = raw(&server);
    let mut frames = [0; 6];
    std::io::Read::read_exact(&mut client.stream, &mut frames).unwrap();
    assert_eq!((&frames[..3], u16::from_be_bytes([frames[4], frames[5]])), (&[0x89, 0, 0x88][..], 1001));
    drop(client);
    server.await_metric("echo_websockets_closed_total", "idle", 1);
    server.stop();
}

#[test]
fn a_client_that_does_not_read_is_cut_and_costs_no_more_than_its_buffers() {
    let stall = Duration::from_millis(300);
    let server = Echo::start(Config { write_stall_timeout: stall, rate_min: 0, ..config() });
    let mut socket = open(&server, "/ws");
    let message = Message::binary(pattern(64 * 1024));
    let mut sent = 0_u64;
    while socket.send(message.clone()).is_ok() {
        sent += 64 * 1024;
    }
    server.await_metric("echo_websockets_closed_total", "slow_reader", 1);
    // What the kernel buffers on both sides, each way, and a few messages.
    assert!(sent < 64 << 20, "{sent}");
    server.await_metric("echo_connections_open", "", 0);
    server.stop();
}

#[test]
fn a_drain_says_goodbye_with_1001_and_loses_nothing() {
    let linger_timeout = Duration::from_millis(100);
    let mut server = Echo::start(Config { linger_timeout, ..config() });
    let mut polite = open(&server, "/ws");
    polite.send(Message::text("before")).unwrap();
    assert_eq!(polite.read().unwrap(), Message::text("before"));
    // This one never answers.
    let silent = raw(&server);
    server.await_metric("echo_websockets_open", "", 2);
    server.begin_drain();
    assert_eq!(close_code(&mut polite), Some(1001));
    let report = server.stop();
    assert!(report.is_clean() && report.connections == 2 && report.connections_cut == 0, "{report}");
    drop(silent);
}

#[test]
fn websockets_have_a_limit_of_their_own_and_hold_their_place_to_their_end() {
    let server = Echo::start(Config {
        streams_max: NonZeroUsize::new(1),
        requests_max: NonZeroUsize::new(1),
        ..config()
    });
    let mut first = open(&server, "/ws");
    let mut client = Client::connect(server.addr);
    client.send(format!("GET /ws HTTP/1.1\r\n{HANDSHAKE}\r\n").as_bytes());
    let refusal = client.response();
    assert_eq!((refusal.status, refusal.header("x-echo-overloaded")), (503, "streams"));
    // It holds no place of the requests.
    assert_eq!(client.echo(b"still here").status, 200);
    first.close(None).unwrap();
    close_code(&mut first);
    server.await_metric("echo_streams_open", "", 0);
    let mut next = open(&server, "/ws");
    next.send(Message::text("x")).unwrap();
    assert_eq!(next.read().unwrap(), Message::text("x"));
    drop((first, next, client));
    server.await_metric("echo_websockets_open", "", 0);
    server.stop();
}

#[test]
fn a_websocket_in_a_stream_of_http2_echoes_holds_its_place_and_is_closed_by_a_drain() {
    let mut server = Echo::start(Config { keep_alive_timeout: Duration::from_millis(200), ..config() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut sender, connection) = connect_http2(server.addr).await;
        let mut driven = tokio::task::JoinSet::new();
        driven.spawn(connection);
        // The server's settings come with its first frames.
        let get = Request::get(format!("http://{}/bench", server.addr)).body(Empty::<Bytes>::new()).unwrap();
        assert_eq!(sender.send_request(get).await.unwrap().status(), 200);
        let connect = |protocol| {
            Request::builder()
                .method(Method::CONNECT)
                .version(Version::HTTP_2)
                .uri(format!("http://{}/ws", server.addr))
                .header("sec-websocket-version", "13")
                .extension(Protocol::from_static(protocol))
                .body(Empty::<Bytes>::new())
                .unwrap()
        };
        let other = sender.send_request(connect("something-else")).await.unwrap();
        assert!(other.status().is_client_error() || other.status() == 501, "{}", other.status());
        let response = sender.send_request(connect("websocket")).await.unwrap();
        assert_eq!(response.status(), 200);
        let io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
        for message in [Message::text("grüße"), Message::binary(pattern(300_000))] {
            socket.send(message.clone()).await.unwrap();
            assert!(socket.next().await.unwrap().unwrap() == message);
        }
        server.await_metric("echo_streams_open", "", 1);
        // The connection is in use, so the keep-alive timeout is not for it.
        tokio::time::sleep(Duration::from_millis(600)).await;
        socket.send(Message::text("still")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still"));
        server.begin_drain();
        let Message::Close(Some(close)) = socket.next().await.unwrap().unwrap() else { panic!("no close") };
        assert_eq!(close.code, CloseCode::Away);
        assert!(socket.next().await.is_none_or(|read| read.is_err()));
    });
    let report = server.stop();
    assert!(report.is_clean() && report.connections_cut == 0, "{report}");
}
