//! Without one list of their kinds, an attack that the server once took would be forgotten.

use std::{io, net::SocketAddr, rc::Rc, time::Duration};

use anyhow::Context as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::sleep,
};

use super::{flood, http1, http2, tally::Tally};

/// Clients that connect at the same time: fewer than a listen backlog holds.
const TOGETHER_MAX: usize = 256;

/// How often a client tries to get to where it wants to be.
const ATTEMPTS_MAX: u32 = 5;

/// Between two of these attempts.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(200);

/// The receive buffer of those who do not read, so that it is the server's memory that fills and not the kernel's.
const NARROW_BUFFER_BYTES: u32 = 4 * 1024;

/// The largest segment they take: the kernel sizes the server's send buffer by it, and on the loopback it would be MiB.
const NARROW_SEGMENT_BYTES: u32 = 536;

/// What a hostile client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Connects and says nothing.
    Silent,
    /// Sends one byte of a request head per second.
    SlowHead,
    /// Sends one byte of a request body per second.
    SlowBody,
    /// Asks for a large echo and reads nothing of it.
    MuteReader,
    /// Asks for a large echo and reads one byte of it per second.
    SlowReader,
    /// HTTP/2: allows no byte of the response (window 0).
    StalledResponse,
    /// HTTP/2: begins a body and goes silent.
    StalledUpload,
    /// Sends half a head and FIN, and keeps its own side open.
    HalfClosed,
    /// Sends half of a TLS ClientHello.
    HalfHandshake,
    /// Sends one request, takes the answer and keeps the connection.
    Idle,
    /// Opens a WebSocket and says nothing, not even pong.
    WebSocket,
    /// HTTP/2: opens streams and resets them at once (CVE-2023-44487).
    RapidReset,
    /// HTTP/2: a head that never ends (CVE-2024-27316).
    ContinuationFlood,
    /// HTTP/2: empty DATA frames without end (CVE-2019-9518).
    EmptyDataFlood,
    /// HTTP/2: SETTINGS without end (CVE-2019-9515).
    SettingsFlood,
    /// HTTP/2: PING without end (CVE-2019-9512).
    PingFlood,
    /// HTTP/2: as many streams as allowed, and no window for any of them (CVE-2019-9517).
    WindowStall,
    /// HTTP/2: a head of a few KiB that unpacks to megabytes (CVE-2016-6581).
    HeaderBomb,
    /// Connects and resets, again and again.
    ResetStorm,
    /// Connects, holds on, and connects again whenever it is refused.
    ConnectionFlood,
}

impl Kind {
    /// Clients that are slow, or do nothing at all.
    pub const SLOW: [Self; 11] = [
        Self::Silent,
        Self::SlowHead,
        Self::SlowBody,
        Self::MuteReader,
        Self::SlowReader,
        Self::StalledResponse,
        Self::StalledUpload,
        Self::HalfClosed,
        Self::HalfHandshake,
        Self::Idle,
        Self::WebSocket,
    ];

    /// Attackers that do as much as they can.
    pub const FLOODS: [Self; 9] = [
        Self::RapidReset,
        Self::ContinuationFlood,
        Self::EmptyDataFlood,
        Self::SettingsFlood,
        Self::PingFlood,
        Self::WindowStall,
        Self::HeaderBomb,
        Self::ResetStorm,
        Self::ConnectionFlood,
    ];

    /// The name in results and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::SlowHead => "slow-head",
            Self::SlowBody => "slow-body",
            Self::MuteReader => "mute-reader",
            Self::SlowReader => "slow-reader",
            Self::StalledResponse => "h2-stalled-response",
            Self::StalledUpload => "h2-stalled-upload",
            Self::HalfClosed => "half-closed",
            Self::HalfHandshake => "tls-half-handshake",
            Self::Idle => "idle-keep-alive",
            Self::WebSocket => "websocket-silent",
            Self::RapidReset => "h2-rapid-reset",
            Self::ContinuationFlood => "h2-continuation-flood",
            Self::EmptyDataFlood => "h2-empty-data-flood",
            Self::SettingsFlood => "h2-settings-flood",
            Self::PingFlood => "h2-ping-flood",
            Self::WindowStall => "h2-window-stall",
            Self::HeaderBomb => "h2-header-bomb",
            Self::ResetStorm => "reset-storm",
            Self::ConnectionFlood => "connection-flood",
        }
    }

    /// The kind with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::SLOW.into_iter().chain(Self::FLOODS).find(|kind| kind.name() == name)
    }

    fn reads_nothing(self) -> bool {
        matches!(self, Self::MuteReader | Self::SlowReader)
    }

    /// True if it attacks the TLS listener.
    pub fn needs_tls(self) -> bool {
        self == Self::HalfHandshake
    }
}

/// Runs `count` clients until standard input ends; answers each line of it with the tally so far.
pub(super) async fn run(kind: Kind, target: SocketAddr, count: u32) -> anyhow::Result<()> {
    let tally = Rc::new(Tally::default());
    let permits = Rc::new(Semaphore::new(TOGETHER_MAX));
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let (tally, permits) = (Rc::clone(&tally), Rc::clone(&permits));
        clients.spawn_local(async move {
            if Kind::FLOODS.contains(&kind) {
                flood::go_on(kind, target, &tally).await;
            } else {
                live(kind, target, &tally, &permits).await;
            }
        });
    }
    let mut orders = BufReader::new(tokio_stdin()?).lines();
    let mut answers = tokio_stdout()?;
    loop {
        let order = orders.next_line().await.context("standard input")?;
        let text = serde_json::to_string(&tally.count())?;
        answers.write_all(format!("{text}\n").as_bytes()).await.context("standard output")?;
        if order.is_none() {
            return Ok(());
        }
    }
}

/// The life of one slow client.
async fn live(kind: Kind, target: SocketAddr, tally: &Tally, permits: &Semaphore) {
    // The semaphore is never closed.
    let permit = permits.acquire().await.ok();
    let mut attempts = 0;
    let stream = loop {
        let begun = async {
            let stream =
                if kind.reads_nothing() { connect_narrow(target).await } else { connect(target).await };
            begin(kind, stream?).await
        };
        attempts += 1;
        match begun.await {
            Ok(stream) => break stream,
            Err(error) if attempts == ATTEMPTS_MAX => return tally.failed(describe(&error)),
            // All at once are an overload for a moment, and the server says so.
            Err(_) => sleep(ATTEMPT_PAUSE).await,
        }
    };
    drop(permit);
    tally.attached();
    tally.cut(hold_on(kind, stream).await);
}

/// Brings a client to the point from which on it only annoys.
async fn begin(kind: Kind, stream: TcpStream) -> io::Result<TcpStream> {
    match kind {
        Kind::StalledResponse | Kind::StalledUpload => http2::begin(kind, stream).await,
        _ => http1::begin(kind, stream).await,
    }
}

/// Annoys until the server ends it, and says how it did.
async fn hold_on(kind: Kind, stream: TcpStream) -> String {
    match kind {
        Kind::StalledResponse | Kind::StalledUpload => http2::hold_on(stream).await,
        _ => http1::hold_on(kind, stream).await,
    }
}

pub(super) async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection on which little is under way at a time.
async fn connect_narrow(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(NARROW_BUFFER_BYTES)?;
    socket2::SockRef::from(&socket).set_tcp_mss(NARROW_SEGMENT_BYTES)?;
    socket.connect(target).await
}

/// An error as a tally names it.
pub(super) fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset".to_owned(),
        io::ErrorKind::UnexpectedEof => "closed".to_owned(),
        _ => error.to_string(),
    }
}

/// Standard input as a pipe that is waited for and not read by a thread.
fn tokio_stdin() -> io::Result<tokio::net::unix::pipe::Receiver> {
    use std::os::fd::AsFd as _;
    tokio::net::unix::pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)
}

fn tokio_stdout() -> io::Result<tokio::net::unix::pipe::Sender> {
    use std::os::fd::AsFd as _;
    tokio::net::unix::pipe::Sender::from_owned_fd(io::stdout().as_fd().try_clone_to_owned()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name() {
        for kind in Kind::SLOW.into_iter().chain(Kind::FLOODS) {
            assert_eq!(Kind::named(kind.name()), Some(kind));
        }
        assert_eq!(Kind::named("nice"), None);
    }
}
