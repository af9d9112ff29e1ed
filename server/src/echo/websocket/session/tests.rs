//! Each rule of a WebSocket, over a pipe and with time that stands still.

use futures_util::{SinkExt as _, StreamExt as _};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

use super::*;

const MESSAGE_MAX: usize = 64 * 1024;

fn limits() -> Limits {
    Limits {
        message_max: MESSAGE_MAX,
        frame_max: MESSAGE_MAX / 2,
        idle: Duration::from_mins(1),
        reader: PaceLimits { stall: Duration::from_secs(30), rate_min: 0, grace: Duration::from_secs(30) },
        farewell: LingerLimits { silent: Duration::from_secs(2), total: Duration::from_secs(10) },
    }
}

/// A server at the other end of the pipe, and what its end is.
fn start(pipe: usize) -> (DuplexStream, tokio::task::JoinHandle<(End, usize, usize)>) {
    start_until(pipe, std::future::pending())
}

fn start_until(
    pipe: usize,
    leave: impl Future<Output = ()> + Send + 'static,
) -> (DuplexStream, tokio::task::JoinHandle<(End, usize, usize)>) {
    let (client, server) = duplex(pipe);
    let task = async move {
        let (mut messages, mut bytes) = (0, 0);
        let end = echo(server, limits(), leave, |size| {
            messages += 1;
            bytes += size;
        })
        .await;
        (end, messages, bytes)
    };
    #[expect(clippy::disallowed_methods, reason = "a test owns what it spawns")]
    (client, tokio::spawn(task))
}

async fn client(io: DuplexStream) -> WebSocketStream<DuplexStream> {
    WebSocketStream::from_raw_socket(io, Role::Client, None).await
}

/// A frame as a client sends it, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        size @ 0..126 => frame.push(0x80 | u8::try_from(size).unwrap()),
        size => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(size as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// Sends raw frames; returns the code of the close that comes back, and the end.
async fn raw(frames: &[u8]) -> (Option<u16>, End) {
    let (mut client, server) = start(1 << 20);
    client.write_all(frames).await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    drop(client);
    let close = answer.iter().position(|byte| *byte == 0x88);
    let code = close.map(|at| u16::from_be_bytes([answer[at + 2], answer[at + 3]]));
    (code, server.await.unwrap().0)
}

#[tokio::test(start_paused = true)]
async fn messages_come_back_as_they_were_sent_and_a_close_with_its_code() {
    let (io, server) = start(1 << 16);
    let mut client = client(io).await;
    let messages = [
        Message::text("grüße"),
        Message::text(""),
        Message::binary(vec![0xff, 0, 0x80]),
        Message::binary(vec![7; MESSAGE_MAX / 2]),
    ];
    for message in &messages {
        client.send(message.clone()).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), *message);
    }
    client.send(Message::Ping(Bytes::from_static(b"now"))).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"now")));
    let close = CloseFrame { code: CloseCode::from(4321), reason: "enough".into() };
    client.send(Message::Close(Some(close.clone()))).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Close(Some(close)));
    assert!(client.next().await.is_none());
    assert_eq!(server.await.unwrap(), (End::Closed, 4, 7 + 3 + MESSAGE_MAX / 2));
}

#[tokio::test(start_paused = true)]
async fn a_message_in_fragments_comes_back_whole_with_a_ping_answered_between() {
    let (mut client, server) = start(1 << 16);
    let frames = [frame(0x01, b"he"), frame(0x89, b"?"), frame(0x00, b"l"), frame(0x80, b"lo")].concat();
    client.write_all(&frames).await.unwrap();
    let mut answer = vec![0; 3 + 7];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"\x8a\x01?\x81\x05hello");
    drop(client);
    assert_eq!(server.await.unwrap(), (End::Broken, 1, 5));
}

#[tokio::test(start_paused = true)]
async fn what_breaks_a_rule_is_closed_with_the_code_for_it() {
    let unmasked = b"\x81\x02hi".to_vec();
    let large = frame(0x82, &vec![0; MESSAGE_MAX / 2 + 1]);
    let fragments = [frame(0x02, &vec![0; MESSAGE_MAX / 2]), frame(0x00, &vec![0; MESSAGE_MAX / 2])].concat();
    let large_in_fragments = [fragments, frame(0x80, b"1")].concat();
    // Only the head of a frame that would be far too large: it must not be waited for.
    let announced = [&[0x82, 0xff][..], &(1_u64 << 40).to_be_bytes(), &[0; 4]].concat();
    let cases: [(&str, Vec<u8>, u16, End); 15] = [
        ("unmasked", unmasked, 1002, End::Malformed),
        ("reserved bit", frame(0xc1, b"hi"), 1002, End::Malformed),
        ("reserved data opcode", frame(0x83, b"hi"), 1002, End::Malformed),
        ("reserved control opcode", frame(0x8b, b"hi"), 1002, End::Malformed),
        ("ping in fragments", frame(0x09, b"hi"), 1002, End::Malformed),
        ("long ping", frame(0x89, &[0; 126]), 1002, End::Malformed),
        ("continuation of nothing", frame(0x80, b"hi"), 1002, End::Malformed),
        ("a message within a message", [frame(0x01, b"a"), frame(0x81, b"b")].concat(), 1002, End::Malformed),
        ("close with half a code", frame(0x88, b"\x03"), 1002, End::Malformed),
        ("close with a reserved code", frame(0x88, &1005_u16.to_be_bytes()), 1002, End::Closed),
        ("text that is not UTF-8", frame(0x81, b"\xc3\x28"), 1007, End::InvalidText),
        ("reason that is not UTF-8", frame(0x88, b"\x03\xe8\xff"), 1007, End::InvalidText),
        ("large frame", large, 1009, End::TooLarge),
        ("large message", large_in_fragments, 1009, End::TooLarge),
        ("announced", announced, 1009, End::TooLarge),
    ];
    for (name, frames, code, end) in cases {
        assert_eq!(raw(&frames).await, (Some(code), end), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn text_cut_within_a_character_is_joined_before_it_is_judged() {
    let (mut client, server) = start(1 << 16);
    client.write_all(&[frame(0x01, b"\xe2\x82"), frame(0x80, b"\xac")].concat()).await.unwrap();
    let mut answer = vec![0; 5];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"\x81\x03\xe2\x82\xac");
    drop(client);
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_pinged_at_half_and_closed_at_the_end_of_the_idle_time() {
    let (mut client, server) = start(1 << 16);
    let began = Instant::now();
    let mut ping = [0; 2];
    client.read_exact(&mut ping).await.unwrap();
    assert_eq!((ping, began.elapsed().as_secs()), ([0x89, 0], 30));
    let mut close = [0; 4];
    client.read_exact(&mut close).await.unwrap();
    assert_eq!((u16::from_be_bytes([close[2], close[3]]), began.elapsed().as_secs()), (1001, 60));
    drop(client);
    assert_eq!(server.await.unwrap().0, End::Idle);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_may_stay_silent() {
    let (mut client, server) = start(1 << 16);
    let began = Instant::now();
    for _ in 0..100 {
        let mut ping = [0; 2];
        client.read_exact(&mut ping).await.unwrap();
        assert_eq!(ping, [0x89, 0]);
        client.write_all(&frame(0x8a, b"")).await.unwrap();
    }
    assert_eq!(began.elapsed().as_secs(), 3000);
    drop(client);
    assert_eq!(server.await.unwrap().0, End::Broken);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_and_is_read_from_no_further() {
    let (mut client, server) = start(1024);
    let message = frame(0x82, &[1; 1000]);
    let began = Instant::now();
    let mut sent = 0;
    while client.write_all(&message).await.is_ok() {
        sent += message.len();
    }
    assert_eq!(server.await.unwrap().0, End::SlowReader);
    assert_eq!(began.elapsed().as_secs(), 30);
    // What the pipe, the two buffers and one message hold, each way.
    assert!(sent <= 2 * 1024 + READ_BUFFER + WRITE_BUFFER + 3 * message.len(), "{sent}");
}

#[tokio::test(start_paused = true)]
async fn pings_of_a_client_that_does_not_read_do_not_pile_up() {
    let (mut client, server) = start(1024);
    let ping = frame(0x89, &[1; 125]);
    let mut sent = 0;
    while client.write_all(&ping).await.is_ok() {
        sent += ping.len();
    }
    assert_eq!(server.await.unwrap().0, End::SlowReader);
    assert!(sent <= 2 * 1024 + READ_BUFFER + WRITE_BUFFER, "{sent}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_that_reads_in_time_is_not_idle() {
    let (client, server) = start(256);
    let (mut reader, mut writer) = tokio::io::split(client);
    let message = frame(0x82, &vec![1; 30_000]);
    writer.write_all(&message).await.unwrap();
    // 25 s of nothing, each time: below the stall limit, and far above the idle time in all.
    let mut read = 0;
    while read < 30_000 {
        tokio::time::sleep(Duration::from_secs(25)).await;
        let mut part = [0; 256];
        let more = reader.read(&mut part).await.unwrap();
        assert!(more > 0, "cut after {read} bytes");
        read += more;
    }
    let close = frame(0x88, &1000_u16.to_be_bytes());
    writer.write_all(&close).await.unwrap();
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).await.unwrap();
    assert_eq!(read + rest.len(), 4 + 30_000 + 4);
    assert_eq!(server.await.unwrap().0, End::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_drain_says_goodbye_and_waits_for_the_answer() {
    let (leave, left) = tokio::sync::oneshot::channel::<()>();
    let (io, server) = start_until(1 << 16, async { drop(left.await) });
    let mut client = client(io).await;
    client.send(Message::text("before")).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::text("before"));
    drop(leave);
    let Message::Close(Some(close)) = client.next().await.unwrap().unwrap() else { panic!("no close") };
    assert_eq!(close.code, CloseCode::Away);
    assert!(client.next().await.is_none());
    assert_eq!(server.await.unwrap(), (End::Drained, 1, 6));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ignores_the_goodbye_is_not_waited_for_long() {
    let began = Instant::now();
    let (client, server) = start_until(1 << 16, std::future::ready(()));
    assert_eq!(server.await.unwrap().0, End::Drained);
    assert!(began.elapsed() <= limits().farewell.total, "{:?}", began.elapsed());
    drop(client);
}

proptest! {
    #[test]
    fn whatever_bytes_come_the_session_ends(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        crate::fuzzing::websocket_frames(&bytes);
    }
}
