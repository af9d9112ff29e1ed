//! Where clients connect: what must listen on an address in several ways (once per core, from this process or from the
//! one before it) goes wrong where each way has code of its own.

mod tcp;
mod unix;

use std::{
    future::Future,
    io::{self, IoSlice},
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

#[cfg(feature = "console")]
pub(crate) use self::tcp::bind;
pub(crate) use self::{tcp::TcpSocket, unix::UnixSocket};
use super::peer::Peer;
use crate::{
    config::Config,
    connection::tls::Tls,
    restart::{SocketKind, Sockets},
};

/// A source of client connections. [`serve`](crate::serve) runs any; tokio's for TCP and Unix sockets are the
/// usual ones.
pub trait Listener: Send + 'static {
    /// One connection.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Waits for the next connection. Must be cancel safe.
    ///
    /// # Errors
    /// As the kernel gives them: the accept loop, not the listener, decides what each means.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, Peer)>> + Send;

    /// Where clients connect, as the name of the accepting task shows it.
    fn address(&self) -> String {
        String::new()
    }

    /// Makes the close of `io` a reset, where it is more than bytes in memory.
    fn reset_on_close(_io: &Self::Io) {}

    /// Whether clients in the queue will be accepted when this is closed, because somebody else holds the socket, too.
    fn outlives_us(&self) -> bool {
        false
    }

    /// Asks the kernel to complete no further handshake, while those it has completed can still be accepted. Not called
    /// where the socket outlives us.
    fn refuse_new(&mut self) {}

    /// Another process goes on with the socket, and with all that belongs to it.
    fn hand_over(&mut self) {}
}

/// The data listeners of a process, before a runtime carries them: bound by it, or inherited.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// Plain HTTP: one, or one for each accepting thread, which then share the address by `SO_REUSEPORT`.
    pub(crate) http: Vec<TcpSocket>,
    /// The same with TLS; none without.
    pub(crate) https: Vec<TcpSocket>,
    pub(crate) unix: Option<UnixSocket>,
}

impl Listeners {
    /// Takes from `inherited` what there is of each kind, and else binds what `config` names, for `threads` that accept.
    ///
    /// # Errors
    /// The address or path and the flag that sets it, with what the kernel said of it; inherited sockets that the
    /// configuration has no use for.
    pub(crate) fn bind(config: &Config, threads: usize, inherited: &mut Sockets) -> io::Result<Self> {
        let mut tcp = |kind, flag, address| {
            let sockets = tcp::take_all(kind, flag, address, config, inherited)?;
            if sockets.is_empty() { tcp::bind_all(flag, address, config, threads) } else { Ok(sockets) }
        };
        let https = config.listen_tls.map(|address| tcp(SocketKind::Https, "--listen-tls", address));
        let listeners = Self {
            https: https.transpose()?.unwrap_or_default(),
            http: tcp(SocketKind::Http, "--listen", config.listen)?,
            unix: match inherited.take_one(SocketKind::Unix)? {
                Some(socket) => Some(UnixSocket::inherited(socket)?),
                None => {
                    config.listen_unix.as_deref().map(|path| UnixSocket::bind(path, config)).transpose()?
                }
            },
        };
        if !inherited.take(SocketKind::Https).is_empty() {
            let text =
                "a socket for TLS was passed to us, but --listen-tls, which switches TLS on, is not set";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(listeners)
    }

    /// Keeps descriptors of all in `heirs`, for a process that is to replace this one.
    ///
    /// # Errors
    /// If a descriptor cannot be had.
    pub(crate) fn keep_in(&self, heirs: &mut Sockets) -> io::Result<()> {
        for socket in &self.http {
            heirs.keep(SocketKind::Http, socket.listener(), socket.is_held())?;
        }
        for socket in &self.https {
            heirs.keep(SocketKind::Https, socket.listener(), socket.is_held())?;
        }
        match &self.unix {
            Some(socket) => heirs.keep(SocketKind::Unix, socket.listener(), socket.is_held()),
            None => Ok(()),
        }
    }

    /// Address of the plain HTTP listener.
    ///
    /// # Errors
    /// As the kernel gives them.
    pub(crate) fn http_address(&self) -> io::Result<SocketAddr> {
        self.http.first().ok_or(io::ErrorKind::NotConnected)?.local_addr()
    }

    /// Address of the TLS listener, if there is one.
    ///
    /// # Errors
    /// As the kernel gives them.
    pub(crate) fn https_address(&self) -> io::Result<Option<SocketAddr>> {
        self.https.first().map(TcpSocket::local_addr).transpose()
    }

    /// All TCP listeners.
    pub(crate) fn tcp(&self) -> impl Iterator<Item = &TcpSocket> {
        self.http.iter().chain(&self.https)
    }

    pub(crate) fn unix_path(&self) -> Option<&Path> {
        self.unix.as_ref().map(UnixSocket::path)
    }

    /// Deals the listeners out to `threads`: each thread gets one of each kind, and every listener gets a thread, or
    /// clients would wait in its queue for ever. Where there are fewer than threads (inherited ones), threads share.
    ///
    /// # Errors
    /// If a descriptor cannot be had.
    pub(crate) fn deal(self, threads: usize) -> io::Result<Vec<Vec<Bound>>> {
        let mut hands: Vec<Vec<Bound>> = (0..threads).map(|_| Vec::new()).collect();
        deal(&mut hands, self.http, Bound::Http)?;
        deal(&mut hands, self.https, Bound::Https)?;
        if let Some(unix) = self.unix {
            let (first, others) = hands.split_first_mut().ok_or(io::ErrorKind::InvalidInput)?;
            for hand in others {
                hand.push(Bound::Unix(unix.try_clone()?));
            }
            first.push(Bound::Unix(unix));
        }
        Ok(hands)
    }
}

fn deal(
    hands: &mut [Vec<Bound>],
    mut listeners: Vec<TcpSocket>,
    bound: fn(TcpSocket) -> Bound,
) -> io::Result<()> {
    let given = listeners.len();
    for place in given..if given == 0 { 0 } else { hands.len() } {
        listeners.push(listeners[place % given].try_clone()?);
    }
    let threads = hands.len();
    for (place, listener) in listeners.into_iter().enumerate() {
        hands[place % threads].push(bound(listener));
    }
    Ok(())
}

/// One data listener that no runtime carries yet.
#[derive(Debug)]
pub(crate) enum Bound {
    Http(TcpSocket),
    Https(TcpSocket),
    Unix(UnixSocket),
}

impl Bound {
    /// Gives the listener to the runtime in whose context this is called.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    pub(crate) fn open(self, tls: Option<&Arc<Tls>>) -> io::Result<(DataListener, Option<Arc<Tls>>)> {
        Ok(match self {
            Self::Http(socket) => (socket.open()?, None),
            Self::Https(socket) => (socket.open()?, tls.cloned()),
            Self::Unix(socket) => (DataListener::Unix(socket.open()?), None),
        })
    }
}

/// A data listener of any kind: one type, so that the layers above its connections are compiled once.
#[derive(Debug)]
pub(crate) enum DataListener {
    Tcp { listener: TcpListener, is_held: bool },
    Unix(unix::Shared),
}

/// A connection of a [`DataListener`].
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener for DataListener {
    type Io = Stream;

    async fn accept(&mut self) -> io::Result<(Stream, Peer)> {
        Ok(match self {
            Self::Tcp { listener, .. } => {
                let (stream, peer) = Listener::accept(listener).await?;
                (Stream::Tcp(stream), peer)
            }
            Self::Unix(socket) => (Stream::Unix(socket.accept().await?), Peer::Unix),
        })
    }

    fn address(&self) -> String {
        match self {
            Self::Tcp { listener, .. } => listener.address(),
            Self::Unix(socket) => socket.address(),
        }
    }

    fn reset_on_close(stream: &Stream) {
        if let Stream::Tcp(stream) = stream {
            TcpListener::reset_on_close(stream);
        }
    }

    fn outlives_us(&self) -> bool {
        match self {
            Self::Tcp { is_held, .. } => *is_held,
            Self::Unix(socket) => socket.is_held(),
        }
    }

    fn refuse_new(&mut self) {
        match self {
            Self::Tcp { listener, .. } => listener.refuse_new(),
            Self::Unix(socket) => socket.refuse_new(),
        }
    }

    fn hand_over(&mut self) {
        if let Self::Unix(socket) = self {
            socket.hand_over();
        }
    }
}

impl Listener for UnixListener {
    type Io = UnixStream;

    async fn accept(&mut self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _unnamed) = Self::accept(self).await?;
        Ok((stream, Peer::Unix))
    }

    fn address(&self) -> String {
        let address = self.local_addr().ok();
        let path = address.as_ref().and_then(|address| address.as_pathname());
        path.map_or_else(|| "unix".to_owned(), |path| format!("unix:{}", path.display()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
