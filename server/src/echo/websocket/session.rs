//! One WebSocket from its first frame to its close: without its own rules for silence, for a reader that stalls and for
//! what must not be answered, it holds its memory and its place for ever.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Sink as _, Stream as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, Sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message, Utf8Bytes,
        error::ProtocolError,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::watched::Watched;
use crate::socket::{
    linger::{Linger, LingerLimits},
    progress::{PaceLimits, PaceTimer},
};

/// What is read at once, and kept by each WebSocket.
const READ_BUFFER: usize = 8 * 1024;

/// Replies that are gathered before they are written; more than that waits for the client.
const WRITE_BUFFER: usize = 8 * 1024;

/// The longest frame header, and a control frame with it.
const FRAME_SLACK: usize = 256;

/// Messages that are echoed before other tasks of the thread have their turn.
const TURN: usize = 64;

/// What a client may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of a message.
    pub(super) message_max: usize,
    /// Bytes of one frame of it.
    pub(super) frame_max: usize,
    /// A client from which no whole message, ping or pong has come for half of it is pinged; at its end the WebSocket
    /// is closed.
    pub(super) idle: Duration,
    /// How slowly the client may read what we have for it.
    pub(super) reader: PaceLimits,
    /// How long it is waited for once we have closed.
    pub(super) farewell: LingerLimits,
}

impl Limits {
    fn config(&self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BUFFER)
            .max_write_buffer_size(WRITE_BUFFER + self.message_max + FRAME_SLACK)
            .max_message_size(Some(self.message_max))
            .max_frame_size(Some(self.frame_max))
    }
}

/// Why a WebSocket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client closed it.
    Closed,
    /// The server drains.
    Drained,
    /// Nothing came, not even the answer to a ping.
    Idle,
    /// A text that is not UTF-8.
    InvalidText,
    /// Frames that are not as they must be.
    Malformed,
    /// A message above the limit.
    TooLarge,
    /// The client did not read what we sent.
    SlowReader,
    /// The connection broke, or was closed without a word.
    Broken,
    /// It did not end in the time that a drain has.
    Killed,
}

impl End {
    pub(crate) const ALL: [Self; 9] = [
        Self::Closed,
        Self::Drained,
        Self::Idle,
        Self::InvalidText,
        Self::Malformed,
        Self::TooLarge,
        Self::SlowReader,
        Self::Broken,
        Self::Killed,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Drained => "drained",
            Self::Idle => "idle",
            Self::InvalidText => "invalid_text",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::SlowReader => "slow_reader",
            Self::Broken => "broken",
            Self::Killed => "killed",
        }
    }

    fn of(error: &tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::ConnectionClosed => Self::Closed,
            tungstenite::Error::Utf8(_) => Self::InvalidText,
            tungstenite::Error::Capacity(_) => Self::TooLarge,
            tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Broken,
            tungstenite::Error::Protocol(_) => Self::Malformed,
            tungstenite::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => Self::SlowReader,
            _ => Self::Broken,
        }
    }

    /// What the client is told (RFC 6455 section 7.4.1); `None` where it has said so itself, or would not hear it.
    fn farewell(self) -> Option<(CloseCode, &'static str)> {
        match self {
            Self::Drained => Some((CloseCode::Away, "the server is going away")),
            Self::Idle => Some((CloseCode::Away, "nothing came for --websocket-idle-timeout")),
            Self::InvalidText => Some((CloseCode::Invalid, "a text must be UTF-8")),
            Self::Malformed => Some((CloseCode::Protocol, "the frames are not as RFC 6455 has them")),
            Self::TooLarge => Some((CloseCode::Size, "the message is larger than --websocket-message-max")),
            Self::Closed | Self::SlowReader | Self::Broken | Self::Killed => None,
        }
    }
}

/// Sends back each message as it came until the client closes, breaks a rule, or `leave` resolves.
///
/// `count` is told the bytes of each message. Holds one message at most beside the two buffers: nothing more is read
/// while the client does not take what was sent.
pub(super) async fn echo<Io>(
    io: Io,
    limits: Limits,
    leave: impl Future<Output = ()>,
    count: impl FnMut(usize),
) -> End
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let io = Watched::new(io);
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(limits.config())).await;
    let end = {
        let mut leave = pin!(leave);
        let mut conversation = Conversation::begin(&mut socket, limits, count);
        poll_fn(|cx| match leave.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(End::Drained),
            Poll::Pending => conversation.poll(cx),
        })
        .await
    };
    if !matches!(end, End::SlowReader | End::Broken) {
        let _gone_or_silent = timeout(limits.farewell.total, close(socket, end, limits.farewell)).await;
    }
    end
}

/// Ends the closing handshake and then the stream, so that the client reads our last word: closing with unread input
/// would take it away.
async fn close<Io>(mut socket: WebSocketStream<Io>, end: End, limits: LingerLimits)
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    if let Some((code, reason)) = end.farewell() {
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        if Pin::new(&mut socket).start_send(Message::Close(Some(frame))).is_err() {
            return;
        }
        if poll_fn(|cx| Pin::new(&mut socket).poll_flush(cx)).await.is_err() {
            return;
        }
        let answered = poll_fn(|cx| until_closed(&mut socket, cx));
        let _answered_or_silent = timeout(limits.silent, answered).await;
    }
    let mut io = socket.into_inner();
    if io.shutdown().await.is_ok() && end != End::Closed {
        let mut linger = Linger::begin(limits);
        poll_fn(|cx| linger.poll(Pin::new(&mut io), cx)).await;
    }
}

/// Ready once the client has answered our close, or cannot any more. What it has sent before is dropped.
fn until_closed<Io>(socket: &mut WebSocketStream<Io>, cx: &mut Context<'_>) -> Poll<()>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    while ready!(Pin::new(&mut *socket).poll_next(cx)).is_some_and(|read| read.is_ok()) {}
    Poll::Ready(())
}

/// What goes back and forth until one side closes.
struct Conversation<'a, Io, C> {
    socket: &'a mut WebSocketStream<Watched<Io>>,
    limits: Limits,
    count: C,
    /// When the last message, ping or pong came.
    heard_at: Instant,
    pinged: bool,
    /// Whether the client has yet to take what it was sent, and how it does.
    is_stalled: bool,
    reader: PaceTimer,
    /// What of [`Watched::written`] it has been told.
    written: u64,
    /// What is buffered must go out before more is read: pongs would pile up otherwise.
    must_flush: bool,
    timer: Pin<Box<Sleep>>,
}

impl<'a, Io, C> Conversation<'a, Io, C>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    C: FnMut(usize),
{
    fn begin(socket: &'a mut WebSocketStream<Watched<Io>>, limits: Limits, count: C) -> Self {
        let now = Instant::now();
        let timer = Box::pin(tokio::time::sleep_until(now + limits.idle / 2));
        Self {
            socket,
            limits,
            count,
            heard_at: now,
            pinged: false,
            is_stalled: false,
            reader: PaceTimer::default(),
            written: 0,
            must_flush: false,
            timer,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let exchanged = match self.exchange(cx) {
            Ok(exchanged) => exchanged,
            Err(end) => return Poll::Ready(end),
        };
        if exchanged == TURN {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.poll_deadlines(cx)
    }

    /// Echoes what is there, up to [`TURN`] messages; returns how many.
    fn exchange(&mut self, cx: &mut Context<'_>) -> Result<usize, End> {
        for exchanged in 0..TURN {
            if !self.is_writable(cx)? {
                return Ok(exchanged);
            }
            match Pin::new(&mut *self.socket).poll_next(cx) {
                Poll::Ready(None) => return Err(End::Closed),
                Poll::Ready(Some(Err(error))) => return Err(End::of(&error)),
                Poll::Ready(Some(Ok(message))) => self.answer(message)?,
                Poll::Pending => {
                    let flushed = Pin::new(&mut *self.socket).poll_flush(cx);
                    self.taken(&flushed)?;
                    return Ok(exchanged);
                }
            }
        }
        Ok(TURN)
    }

    /// Whether the client has taken enough of what it was sent that more may be read.
    fn is_writable(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut socket = Pin::new(&mut *self.socket);
        let taken = if self.must_flush { socket.poll_flush(cx) } else { socket.as_mut().poll_ready(cx) };
        self.must_flush &= taken.is_pending();
        self.taken(&taken)
    }

    /// Keeps account of whether the client takes what it is sent.
    fn taken(&mut self, taken: &Poll<tungstenite::Result<()>>) -> Result<bool, End> {
        let written = self.socket.get_ref().written();
        let moved = usize::try_from(written - self.written).unwrap_or(usize::MAX);
        self.written = written;
        if moved > 0 {
            self.reader.moved(moved);
        }
        match taken {
            Poll::Ready(Err(error)) => return Err(End::of(error)),
            // We did not listen meanwhile, so the silence was ours.
            Poll::Ready(Ok(())) if self.is_stalled => self.heard_at = Instant::now(),
            _ => {}
        }
        self.is_stalled = taken.is_pending();
        Ok(!self.is_stalled)
    }

    fn answer(&mut self, message: Message) -> Result<(), End> {
        self.heard_at = Instant::now();
        self.pinged = false;
        match message {
            Message::Text(_) | Message::Binary(_) => {
                (self.count)(message.len());
                Pin::new(&mut *self.socket).start_send(message).map_err(|error| End::of(&error))
            }
            // The pong, and the answer to a close, are on their way already.
            _ => {
                self.must_flush = true;
                Ok(())
            }
        }
    }

    /// Ready when the client has been silent, or has not read, for too long.
    fn poll_deadlines(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            if self.is_stalled {
                let _slow = ready!(self.reader.poll_wait(cx, &self.limits.reader));
                return Poll::Ready(End::SlowReader);
            }
            let until = self.deadline();
            // Moved back only when it fires early: a busy WebSocket does not touch the timer wheel.
            if self.timer.deadline() > until {
                self.timer.as_mut().reset(until);
            }
            ready!(self.timer.as_mut().poll(cx));
            if Instant::now() < until {
                self.timer.as_mut().reset(until);
                continue;
            }
            if self.pinged {
                return Poll::Ready(End::Idle);
            }
            self.pinged = true;
            let until = self.deadline();
            self.timer.as_mut().reset(until);
            let mut socket = Pin::new(&mut *self.socket);
            if let Err(error) = socket.as_mut().start_send(Message::Ping(Bytes::new())) {
                return Poll::Ready(End::of(&error));
            }
            let flushed = socket.poll_flush(cx);
            if let Err(end) = self.taken(&flushed) {
                return Poll::Ready(end);
            }
        }
    }

    fn deadline(&self) -> Instant {
        self.heard_at + if self.pinged { self.limits.idle } else { self.limits.idle / 2 }
    }
}

/// A session with a client that has sent `bytes` and left, for `fuzz/`.
pub(crate) fn fuzz(bytes: &[u8]) {
    const SECOND: Duration = Duration::from_secs(1);
    let limits = Limits {
        message_max: 1 << 16,
        frame_max: 1 << 15,
        idle: SECOND,
        reader: PaceLimits { stall: SECOND, rate_min: 0, grace: SECOND },
        farewell: LingerLimits { silent: SECOND, total: SECOND },
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
    let io = tokio::io::join(bytes, tokio::io::sink());
    runtime.block_on(echo(io, limits, std::future::pending(), |_| {}));
}

#[cfg(test)]
mod tests;
