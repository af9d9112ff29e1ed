//! Slow clients of HTTP/1.1 and of TLS: without them a deadline that is never armed would go unnoticed.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::fleet::{Kind, describe};

/// Between two bytes of a client that is slow and not silent.
const DRIP: Duration = Duration::from_secs(1);

/// Between two looks at a connection that is not read.
const LOOK: Duration = Duration::from_millis(200);

/// What those who do not read ask for: more than all buffers on the way hold at this window.
const ECHO_BYTES: usize = 1024 * 1024;

/// Bytes of it that go out in one write.
const PIECE_BYTES: usize = 16 * 1024;

static PIECE: [u8; PIECE_BYTES] = [b'x'; PIECE_BYTES];

/// An answer is told by its beginning.
const ANSWER_HEAD_MAX: usize = 64;

/// The first record of a TLS handshake, of which the second half never comes: type, version, length 512, ClientHello.
const CLIENT_HELLO_BEGINNING: [u8; 11] = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];

/// Brings a client to the point from which on it only annoys.
pub(super) async fn begin(kind: Kind, mut stream: TcpStream) -> io::Result<TcpStream> {
    match kind {
        Kind::SlowHead => stream.write_all(b"GET /echo HTTP/1.1\r\nhost: slow\r\nx-slow: ").await?,
        Kind::SlowBody => {
            stream.write_all(b"POST /echo HTTP/1.1\r\nhost: slow\r\ncontent-length: 100000\r\n\r\n").await?;
        }
        Kind::MuteReader | Kind::SlowReader => fill(&mut stream).await?,
        Kind::HalfClosed => {
            stream.write_all(b"GET /echo HTTP/1.1\r\nhost: ").await?;
            stream.shutdown().await?;
        }
        Kind::HalfHandshake => stream.write_all(&CLIENT_HELLO_BEGINNING).await?,
        Kind::Idle => ask(&mut stream, "GET /echo HTTP/1.1\r\nhost: idle\r\n\r\n", "HTTP/1.1 200").await?,
        Kind::WebSocket => {
            let request = "GET /ws HTTP/1.1\r\nhost: silent\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            ask(&mut stream, request, "HTTP/1.1 101").await?;
        }
        _ => {}
    }
    Ok(stream)
}

/// Annoys until the server ends it, and says how it did.
pub(super) async fn hold_on(kind: Kind, mut stream: TcpStream) -> String {
    let drip = match kind {
        Kind::SlowHead | Kind::SlowBody => b"a",
        Kind::MuteReader => return without_reading(&stream).await,
        Kind::SlowReader => return byte_by_byte(&mut stream).await,
        _ => return read_to_end(&mut stream).await,
    };
    let (mut reader, mut writer) = stream.split();
    let write = async {
        loop {
            sleep(DRIP).await;
            if let Err(error) = writer.write_all(drip).await {
                // What the server said before is what counts: the reader knows.
                sleep(LOOK).await;
                return describe(&error);
            }
        }
    };
    tokio::select! {
        end = read_to_end(&mut reader) => end,
        end = write => end,
    }
}

/// Sends a body until the server takes no more of it, which it does because nobody reads its answer.
async fn fill(stream: &mut TcpStream) -> io::Result<()> {
    let head = format!("POST /echo HTTP/1.1\r\nhost: mute\r\ncontent-length: {ECHO_BYTES}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut left = ECHO_BYTES;
    while left > 0 {
        let full = sleep(LOOK);
        tokio::select! {
            written = stream.write(&PIECE[..left.min(PIECE_BYTES)]) => left -= written?,
            () = full => break,
        }
    }
    // Not taken out of the socket: it is what the client does not read.
    let mut answer = [0; 12];
    if let Ok(len) = timeout(LOOK, stream.peek(&mut answer)).await {
        let len = len?;
        if !answer[..len].starts_with(b"HTTP/1.1 200") {
            return Err(io::Error::other("refused"));
        }
    }
    Ok(())
}

async fn ask(stream: &mut TcpStream, request: &str, answer: &str) -> io::Result<()> {
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 1024];
    let len = stream.read(&mut head).await?;
    if head[..len].starts_with(answer.as_bytes()) {
        return Ok(());
    }
    let line = String::from_utf8_lossy(&head[..len]).lines().next().unwrap_or_default().to_owned();
    Err(io::Error::other(format!("answered '{line}'")))
}

async fn without_reading(stream: &TcpStream) -> String {
    loop {
        sleep(LOOK).await;
        if let Ok(Some(error)) = stream.take_error() {
            return describe(&error);
        }
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if ready.is_read_closed() => return "closed".to_owned(),
            Ok(_) => {}
            Err(error) => return describe(&error),
        }
    }
}

async fn byte_by_byte(stream: &mut TcpStream) -> String {
    loop {
        sleep(DRIP).await;
        match stream.read(&mut [0]).await {
            Ok(0) => return "closed".to_owned(),
            Ok(_) => {}
            Err(error) => return describe(&error),
        }
    }
}

/// Reads until the server closes; names the status if it said one.
async fn read_to_end(reader: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    let mut buffer = [0; ANSWER_HEAD_MAX];
    let end = loop {
        match reader.read(&mut buffer).await {
            Ok(0) => break "closed".to_owned(),
            Ok(len) => {
                let room = ANSWER_HEAD_MAX - head.len();
                head.extend_from_slice(&buffer[..len.min(room)]);
            }
            Err(error) => break describe(&error),
        }
    };
    let text = String::from_utf8_lossy(&head);
    match text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.split(' ').next()) {
        Some(status) => format!("{status}, {end}"),
        None => end,
    }
}
