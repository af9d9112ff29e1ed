//! What stops a client's bytes on their way to hyper, and how hyper then learns that no more come: cut at the wrong place,
//! an earlier answer is lost, or a frame of ours stands in the middle of another.

use std::{
    io::{self, IoSlice},
    task::{Context, Poll, Waker},
};

use super::{
    http1::{Http1, Malformed},
    http2::{Frames, Http2, Limits, TooMuch},
    violation::Violation,
};
use crate::{activity::Activity, connection::detect::Protocol};

/// What the client's bytes are held against.
#[derive(Debug)]
pub(super) enum Watch {
    Http1(Http1),
    /// With what [`Http2::awaits`] was when the connection was last told of it.
    Http2(Http2, Option<u32>),
    /// Upgraded: it is not HTTP any more.
    Nothing,
    /// Nothing is read any more; who waits for more is woken when the write side moves.
    Malformed(Violation, Option<Waker>),
    Flooded(Http2, Option<Waker>),
}

impl Watch {
    pub(super) fn new(protocol: Protocol, activity: &Activity) -> Self {
        match protocol {
            Protocol::Http1 => Self::Http1(Http1::default()),
            Protocol::Http2 => {
                activity.awaits_head(true);
                let http2 = Http2::new(Limits::of(activity.config()));
                let awaits = http2.awaits();
                Self::Http2(http2, awaits)
            }
        }
    }

    /// The client has sent this: how much of it hyper may have.
    pub(super) fn read(&mut self, bytes: &[u8], activity: &Activity) -> usize {
        match self {
            Self::Http1(_) if activity.is_upgraded() => *self = Self::Nothing,
            Self::Http1(http1) => {
                if let Err(Malformed { violation, valid }) = http1.feed(bytes) {
                    *self = Self::Malformed(violation, None);
                    return valid;
                }
            }
            Self::Http2(http2, awaited) => {
                let result = http2.read(bytes, activity.last_read());
                let awaits = http2.awaits();
                if awaits != *awaited {
                    *awaited = awaits;
                    activity.awaits_head(awaits.is_some());
                }
                if let Err(TooMuch { flood, valid }) = result {
                    tracing::debug!(?flood, peer = %activity.peer(), "too many frames");
                    activity.flooded();
                    if let Self::Http2(http2, _) = std::mem::replace(self, Self::Nothing) {
                        *self = Self::Flooded(http2, None);
                    }
                    return valid;
                }
            }
            Self::Nothing | Self::Malformed(..) | Self::Flooded(..) => {}
        }
        bytes.len()
    }

    /// What a read gives once the client was stopped, and hyper has read all that came before; `None` where it was not.
    pub(super) fn poll_stopped(
        &mut self,
        cx: &Context<'_>,
        write_is_blocked: bool,
        activity: &Activity,
    ) -> Option<Poll<io::Result<()>>> {
        let (reader, waits) = match self {
            Self::Http1(_) | Self::Http2(..) | Self::Nothing => return None,
            // Else the rest of an earlier answer would be lost with the connection.
            Self::Malformed(violation, reader) => (reader, write_is_blocked && !violation.is_in_body()),
            Self::Flooded(http2, reader) => (reader, !http2.outgoing().is_between()),
        };
        if waits {
            *reader = Some(cx.waker().clone());
            return Some(Poll::Pending);
        }
        Some(Poll::Ready(match self {
            Self::Malformed(violation, _) => {
                activity.violated(*violation);
                // The end of the input where a head should be, so that hyper finishes what it has to say and no more;
                // an error in a body, which is then known to be broken.
                if violation.is_in_body() {
                    Err(io::Error::new(io::ErrorKind::InvalidData, violation.detail()))
                } else {
                    Ok(())
                }
            }
            _ => Err(io::ErrorKind::ConnectionAborted.into()),
        }))
    }

    /// How many bytes may be written: after a flood the frame that is being written is finished, and no other begun.
    pub(super) fn may_write(&self) -> io::Result<usize> {
        match self {
            Self::Flooded(http2, _) if http2.outgoing().is_between() => {
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Self::Flooded(http2, _) => Ok(http2.outgoing().certain()),
            _ => Ok(usize::MAX),
        }
    }

    /// The first `written` bytes of `bufs` have been written.
    pub(super) fn wrote(&mut self, bufs: &[IoSlice<'_>], written: usize) {
        let (http2, reader) = match self {
            Self::Http1(_) | Self::Nothing => return,
            Self::Malformed(_, reader) => (None, reader.take()),
            Self::Http2(http2, _) => (Some(http2), None),
            Self::Flooded(http2, reader) => (Some(http2), reader.take()),
        };
        if let Some(http2) = http2 {
            let mut left = written;
            for buf in bufs {
                let part = left.min(buf.len());
                http2.wrote(&buf[..part]);
                left -= part;
            }
        }
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// The last stream of an HTTP/2 client to whom a frame of ours can be said now.
    pub(super) fn last_stream(&self) -> Option<u32> {
        match self {
            Self::Http2(http2, _) | Self::Flooded(http2, _) if Frames::is_between(http2.outgoing()) => {
                Some(http2.last_stream())
            }
            _ => None,
        }
    }

    pub(super) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(..) | Self::Flooded(..))
    }
}
