//! Stands between the client's plaintext and hyper: what hyper answers by itself has no request id and no reason, what it
//! closes in a hurry takes the answer away, and what it holds cannot be answered in its place.

pub(crate) mod http1;
pub(crate) mod http2;
mod violation;
mod watch;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) use self::violation::Violation;
use self::watch::Watch;
use super::detect::Protocol;
use crate::{
    activity::{Activity, Break},
    socket::linger::{Linger, LingerLimits},
    telemetry::metrics::ConnectionEnd,
};

/// How hyper's own answers begin; none of ours has its headers in this order.
const ENGINE_REFUSALS: [(Violation, &str); 3] = [
    (Violation::Engine, "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: "),
    (
        Violation::EngineTarget,
        "HTTP/1.1 414 URI Too Long\r\nconnection: close\r\ncontent-length: 0\r\ndate: ",
    ),
    (
        Violation::EngineHead,
        "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: ",
    ),
];

/// What is written in place of a response that is to be garbage: neither HTTP/1 nor a frame of HTTP/2.
const GARBAGE: &[u8] = b"\x00\xff\x13garbage\r\n\r\n\xfe\x01\x00";

/// The client's plaintext: begins with what was read to tell the protocol, then the socket (or TLS over it).
#[derive(Debug)]
pub(super) struct Guard<Io> {
    /// Taken out only in `drop`.
    io: Option<Io>,
    seen: Bytes,
    activity: Activity,
    watch: Watch,
    salvage: Arc<Shared<Io>>,
    linger: Option<Linger>,
    write_closed: bool,
    write_is_blocked: bool,
}

/// Where a [`Guard`] leaves its socket when it is dropped before it was closed.
#[derive(Debug)]
pub(super) struct Salvage<Io>(Arc<Shared<Io>>);

/// Boxed: only few connections ever leave theirs.
type Shared<Io> = Mutex<Option<Box<Salvaged<Io>>>>;

/// The socket of a connection that has ended, for last words of ours.
#[derive(Debug)]
pub(super) struct Salvaged<Io> {
    pub(super) io: Io,
    /// On HTTP/2, the last stream of the client, where a frame of ours may be said.
    pub(super) last_stream: Option<u32>,
}

impl<Io> Salvage<Io> {
    /// Drops hyper's `connection`, which holds the guard, and returns its socket for an answer of ours: `None` if it is
    /// closed already.
    pub(super) fn take_from<C>(&self, connection: C) -> Option<Box<Salvaged<Io>>> {
        drop(connection);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<Io> Guard<Io> {
    pub(super) fn new(io: Io, seen: Bytes, protocol: Protocol, activity: Activity) -> (Self, Salvage<Io>) {
        let salvage = Arc::new(Mutex::new(None));
        let guard = Self {
            io: Some(io),
            seen,
            watch: Watch::new(protocol, &activity),
            activity,
            salvage: Arc::clone(&salvage),
            linger: None,
            write_closed: false,
            write_is_blocked: false,
        };
        (guard, Salvage(salvage))
    }

    /// hyper answers a head that it cannot parse by itself, past all layers: no request id, no reason. Such an answer
    /// is stopped here, and given in our form when the connection has ended (connection/serve.rs).
    fn stop_engine_refusal(&self, head: &[u8]) -> io::Result<()> {
        if !self.activity.head_has_begun() || self.activity.is_upgraded() {
            return Ok(());
        }
        let refusal = ENGINE_REFUSALS.iter().find(|(_, answer)| head.starts_with(answer.as_bytes()));
        let Some((violation, _)) = refusal else { return Ok(()) };
        self.activity.violated(*violation);
        Err(io::ErrorKind::InvalidData.into())
    }

    fn after_write(&mut self, bufs: &[IoSlice<'_>], written: &Poll<io::Result<usize>>) {
        self.write_is_blocked = written.is_pending();
        if let Poll::Ready(Ok(written)) = written {
            self.watch.wrote(bufs, *written);
        }
    }
}

impl<Io: Unpin> Guard<Io> {
    fn io(&mut self) -> Pin<&mut Io> {
        #[expect(clippy::expect_used, reason = "taken out only in drop")]
        Pin::new(self.io.as_mut().expect("a guard has its socket"))
    }
}

impl<Io: AsyncWrite + Unpin> Guard<Io> {
    /// Ends the connection in the way that the service has asked for, if it has.
    fn break_off(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(how) = self.activity.broken_off() else { return Ok(()) };
        if how == Break::Garbage && !self.write_closed {
            self.write_closed = true;
            let _written_or_full = self.io().poll_write(cx, GARBAGE)?;
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(stopped) = this.watch.poll_stopped(cx, this.write_is_blocked, &this.activity) {
            return stopped;
        }
        let before = buf.filled().len();
        if this.seen.is_empty() {
            let result = ready!(this.io().poll_read(cx, buf));
            if result.is_err() {
                this.activity.read(0);
                return Poll::Ready(result);
            }
        } else {
            let n = this.seen.len().min(buf.remaining());
            buf.put_slice(&this.seen[..n]);
            this.seen.advance(n);
            if this.seen.is_empty() {
                // An empty `Bytes` still pins its block.
                this.seen = Bytes::new();
            }
        }
        let read = buf.filled().len() - before;
        this.activity.read(read);
        let valid = this.watch.read(&buf.filled()[before..], &this.activity);
        buf.set_filled(before + valid);
        let nothing_is_left = read > 0 && valid == 0;
        let stopped = nothing_is_left
            .then(|| this.watch.poll_stopped(cx, this.write_is_blocked, &this.activity))
            .flatten();
        stopped.unwrap_or(Poll::Ready(Ok(())))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.break_off(cx)?;
        self.stop_engine_refusal(buf)?;
        let buf = &buf[..buf.len().min(self.watch.may_write()?)];
        let written = self.io().poll_write(cx, buf);
        self.after_write(&[IoSlice::new(buf)], &written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.break_off(cx)?;
        if let Some(first) = bufs.first() {
            self.stop_engine_refusal(first)?;
        }
        let limit = self.watch.may_write()?;
        if limit < usize::MAX {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            let buf = first.map_or(&[][..], |buf| &buf[..buf.len().min(limit)]);
            let written = self.io().poll_write(cx, buf);
            self.after_write(&[IoSlice::new(buf)], &written);
            return written;
        }
        let written = self.io().poll_write_vectored(cx, bufs);
        self.after_write(bufs, &written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    /// Closes the write side; where input is unread, lingers before the socket may be closed. See [`Linger`].
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.activity.violation().is_some_and(|violation| !violation.is_in_body()) {
            // Left open for the answer that this client is to get (connection/serve.rs).
            return this.io().poll_flush(cx);
        }
        if !this.write_closed {
            ready!(this.io().poll_shutdown(cx))?;
            this.write_closed = true;
        }
        // On HTTP/2 a GOAWAY of h2's may be what a reset would take away, whatever the streams are doing.
        let is_unread =
            this.activity.input_is_unread() || this.watch.is_http2() && !this.activity.input_has_ended();
        if this.activity.broken_off().is_none() && is_unread {
            let limits = LingerLimits::of(this.activity.config());
            let mut linger = this.linger.take().unwrap_or_else(|| Linger::begin(limits));
            if linger.poll(this.io(), cx).is_pending() {
                this.linger = Some(linger);
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io> Drop for Guard<Io> {
    fn drop(&mut self) {
        if self.activity.is_upgraded() {
            // What it was upgraded to has ended: the connection's own task was over long ago.
            self.activity.core().metrics.shard().connection_closed(ConnectionEnd::Upgraded);
        } else if !self.write_closed {
            let mut place = self.salvage.lock().unwrap_or_else(PoisonError::into_inner);
            let last_stream = self.watch.last_stream();
            *place = self.io.take().map(|io| Box::new(Salvaged { io, last_stream }));
        }
    }
}
