//! Without one owner for each HTTP/2 connection, the streams on it would each open their own or send into a dead one.
//!
//! A `Group` is the place of one connection of the run: it opens a `Session` when a stream asks for one and none is
//! alive, and a session that was told to go (GOAWAY) gets no more streams while those under way end on it.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use h2::{
    Ping, Reason,
    client::{Builder, Connection, SendRequest},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Mutex,
};

use super::{body::Piece, stream::StreamLink};
use crate::{
    failure::{Failure, FailureClass},
    pulse::{Counted, Pulse},
};

/// What a stream may receive before the checker has read it; as in hyper's client.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// The same for all streams of a connection together.
const CONNECTION_WINDOW_BYTES: u32 = 5 * 1024 * 1024;

/// DATA frames up to this size: fewer reads for large echoes, and no stream holds the others up for long.
const FRAME_BYTES_MAX: u32 = 64 * 1024;

/// The place of one connection.
#[derive(Debug, Default)]
pub(crate) struct Group {
    session: RefCell<Option<Rc<Session>>>,
    /// Held while a session is being opened.
    opening: Mutex<()>,
    /// Attempts that failed, and what the last one died of: those who waited for it share it.
    failed: Cell<u64>,
    failure: RefCell<Option<Failure>>,
}

impl Group {
    /// A stream on the session of this group, which `open` opens if there is none.
    ///
    /// # Errors
    /// Why it could not be opened.
    pub(crate) async fn join(
        &self,
        open: impl AsyncFnOnce() -> Result<Rc<Session>, Failure>,
    ) -> Result<Joined, Failure> {
        let failed_before = self.failed.get();
        let _one_at_a_time = self.opening.lock().await;
        let alive = self.session.borrow().clone().filter(|session| !session.is_gone());
        if let Some(session) = alive {
            return Ok(Joined::to(&session));
        }
        if self.failed.get() != failed_before
            && let Some(failure) = self.failure.borrow().clone()
        {
            return Err(failure);
        }
        match open().await {
            Ok(session) => {
                *self.session.borrow_mut() = Some(Rc::clone(&session));
                Ok(Joined::to(&session))
            }
            Err(failure) => {
                self.failed.set(failed_before + 1);
                *self.failure.borrow_mut() = Some(failure.clone());
                Err(failure)
            }
        }
    }
}

/// What somebody who wants to join a session gets.
#[derive(Debug)]
pub(crate) enum Joined {
    Stream(StreamLink),
    /// All of the streams that the server allows, so many, are taken.
    Full {
        allowed: usize,
    },
}

impl Joined {
    fn to(session: &Rc<Session>) -> Self {
        StreamLink::on(session).map_or(Self::Full { allowed: session.allowed }, Self::Stream)
    }
}

/// One HTTP/2 connection.
pub(crate) struct Session {
    requests: SendRequest<Piece>,
    /// Streams that the server allows at a time.
    allowed: usize,
    /// Those of them that nobody has taken.
    places: Cell<usize>,
    gone: Cell<bool>,
    /// What the server said in its GOAWAY.
    farewell: Cell<Option<Reason>>,
    /// Idle streams that want to know when it is gone.
    watchers: RefCell<Vec<Waker>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("places", &self.places)
            .field("gone", &self.gone)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Opens a session over `io`: it is open when the server has answered, so that its settings are known.
    ///
    /// # Errors
    /// If what answers does not speak HTTP/2.
    pub(crate) async fn open<T>(io: T, pulse: &Rc<Pulse>) -> Result<Rc<Self>, Failure>
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (requests, mut connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .enable_push(false)
            .handshake(io)
            .await
            .map_err(|error| refused(&error))?;
        settings_known(&mut connection).await?;
        let allowed = connection.max_concurrent_send_streams();
        let session = Rc::new(Self {
            allowed,
            places: Cell::new(allowed),
            requests,
            gone: Cell::new(false),
            farewell: Cell::new(None),
            watchers: RefCell::default(),
        });
        tokio::task::spawn_local(Rc::clone(&session).drive(connection, Rc::clone(pulse), pulse.counted()));
        Ok(session)
    }

    /// True when it takes no more requests.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// What the server said in its GOAWAY, if it sent one.
    pub(super) fn farewell(&self) -> Option<Reason> {
        self.farewell.get()
    }

    pub(super) fn requests(&self) -> SendRequest<Piece> {
        self.requests.clone()
    }

    /// Takes one of the places for streams, if there is one.
    pub(super) fn take_place(&self) -> bool {
        let left = self.places.get().checked_sub(1);
        self.places.set(left.unwrap_or(0));
        left.is_some()
    }

    pub(super) fn give_place_back(&self) {
        self.places.update(|places| places + 1);
    }

    /// Wakes `watcher` when the session is gone.
    pub(super) fn watch(&self, watcher: &Waker) {
        self.watchers.borrow_mut().push(watcher.clone());
    }

    /// Marks a session whose last stream id is used up as gone.
    pub(super) fn retire(&self) {
        self.gone.set(true);
        self.watchers.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Reads and writes until the connection ends.
    async fn drive<T>(self: Rc<Self>, mut connection: Connection<T, Piece>, pulse: Rc<Pulse>, open: Counted)
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        // The probe has no request of its own, so it is ready unless the connection is told to go.
        let mut probe = self.requests();
        poll_fn(|cx| {
            pulse.beat();
            let ended = Pin::new(&mut connection).poll(cx);
            if !self.is_gone() {
                self.look(cx, &mut probe, ended.is_ready());
            }
            ended.map(drop)
        })
        .await;
        drop(open);
    }

    fn look(&self, cx: &mut Context<'_>, probe: &mut SendRequest<Piece>, ended: bool) {
        let told = match probe.poll_ready(cx) {
            Poll::Ready(Err(error)) => Some(error),
            _ => None,
        };
        if let Some(error) = told.as_ref().filter(|error| error.is_go_away() && error.is_remote()) {
            self.farewell.set(error.reason());
        }
        if told.is_some() || ended {
            self.retire();
        }
    }
}

/// Waits for the answer to a PING: the SETTINGS of the server come before it (RFC 9113 section 3.4).
async fn settings_known<T>(connection: &mut Connection<T, Piece>) -> Result<(), Failure>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let Some(mut ping) = connection.ping_pong() else {
        return Err(Failure::new(FailureClass::ConnectOther, "the connection has no PING"));
    };
    ping.send_ping(Ping::opaque()).map_err(|error| refused(&error))?;
    poll_fn(|cx| {
        if let Poll::Ready(ended) = Pin::new(&mut *connection).poll(cx) {
            let closed = || Failure::new(FailureClass::ConnectOther, "closed before the first SETTINGS");
            return Poll::Ready(Err(ended.err().map_or_else(closed, |error| refused(&error))));
        }
        ping.poll_pong(cx).map(|pong| pong.map(drop).map_err(|error| refused(&error)))
    })
    .await
}

/// Why a session could not be opened.
fn refused(error: &h2::Error) -> Failure {
    if error.is_go_away() && error.is_remote() {
        return Failure::new(FailureClass::GoAway, error.to_string());
    }
    if error.is_library() {
        let detail = format!("{error} (does the server speak HTTP/2 here?)");
        return Failure::new(FailureClass::Protocol, detail);
    }
    // With TLS 1.3 a server refuses a client's certificate after the handshake; that is all that is left of the alert.
    let by_tls = error.get_io().is_some_and(|error| error.kind() == io::ErrorKind::InvalidData);
    let class = if by_tls { FailureClass::Tls } else { FailureClass::ConnectOther };
    Failure::new(class, format!("HTTP/2 handshake: {error}"))
}
