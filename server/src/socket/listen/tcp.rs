//! Binds with every option explicit: a default backlog drops SYNs in a burst, a missing NODELAY costs 40 ms per small
//! answer.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    time::Duration,
};

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use super::Listener;
use crate::{
    config::Config,
    restart::{Inherited, SocketKind, Sockets},
    socket::peer::Peer,
};

/// A TCP listener that no runtime carries yet.
#[derive(Debug)]
pub(crate) struct TcpSocket {
    listener: StdListener,
    /// The service manager holds it, too: it outlives us, with all that is in its queue.
    is_held: bool,
}

impl TcpSocket {
    /// The one listener of `kind`: inherited, or bound.
    ///
    /// # Errors
    /// As [`bind`]; there are several.
    pub(crate) fn bind_or_take(
        kind: SocketKind,
        flag: &str,
        address: SocketAddr,
        config: &Config,
        inherited: &mut Sockets,
    ) -> io::Result<Self> {
        let mut sockets = take_all(kind, flag, address, config, inherited)?;
        match sockets.pop() {
            Some(socket) if sockets.is_empty() => Ok(socket),
            Some(_) => {
                let text = format!("several sockets were passed to us as {kind}, of which there is one");
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
            None => bind(flag, address, config, false).map(Self::from),
        }
    }

    /// A listener that was there before us, with the options of ours.
    ///
    /// # Errors
    /// As the kernel gives them.
    fn inherited(socket: Inherited, config: &Config) -> io::Result<Self> {
        let listener = StdListener::from(socket.fd);
        tune(&SockRef::from(&listener), config)?;
        Ok(Self { listener, is_held: socket.is_held })
    }

    /// # Errors
    /// As the kernel gives them.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// # Errors
    /// If a descriptor cannot be had.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { listener: self.listener.try_clone()?, is_held: self.is_held })
    }

    pub(crate) fn listener(&self) -> &StdListener {
        &self.listener
    }

    pub(crate) fn is_held(&self) -> bool {
        self.is_held
    }

    /// Gives the listener to the runtime in whose context this is called.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    pub(crate) fn open(self) -> io::Result<super::DataListener> {
        Ok(super::DataListener::Tcp {
            listener: TcpListener::from_std(self.listener)?,
            is_held: self.is_held,
        })
    }
}

impl From<StdListener> for TcpSocket {
    fn from(listener: StdListener) -> Self {
        Self { listener, is_held: false }
    }
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, Peer)> {
        let (stream, address) = Self::accept(self).await?;
        Ok((stream, address.into()))
    }

    fn reset_on_close(stream: &TcpStream) {
        if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "the connection cannot be reset");
        }
    }

    fn address(&self) -> String {
        self.local_addr().map_or_else(|_| String::new(), |address| address.to_string())
    }

    /// Closing a listener resets what stands in its accept queue and what is in the middle of a handshake, and there is
    /// always a moment between the last accept and the close. A filter that drops SYNs ends the arrivals first; it must
    /// not drop more, or the last packet of a handshake is lost and its client reset.
    fn refuse_new(&mut self) {
        if let Err(error) = SockRef::from(&*self).attach_filter(&DROP_SYNS) {
            tracing::debug!(%error, "the listener cannot be told to refuse new connections");
        }
    }
}

/// Classic BPF (linux/bpf_common.h); a TCP socket's filter sees the packet from its TCP header on.
const DROP_SYNS: [SockFilter; 5] = [
    // Load the byte of flags.
    SockFilter::new(0x30, 0, 0, 13),
    // Keep SYN (0x02) and ACK (0x10).
    SockFilter::new(0x54, 0, 0, 0x12),
    // SYN alone: go on; else skip one.
    SockFilter::new(0x15, 0, 1, 0x02),
    // Drop the packet.
    SockFilter::new(0x06, 0, 0, 0),
    // Pass it whole.
    SockFilter::new(0x06, 0, 0, u32::MAX),
];

/// The listeners of `kind` that were there before us.
///
/// # Errors
/// As the kernel gives them.
pub(super) fn take_all(
    kind: SocketKind,
    flag: &str,
    wanted: SocketAddr,
    config: &Config,
    inherited: &mut Sockets,
) -> io::Result<Vec<TcpSocket>> {
    let sockets = inherited.take(kind).into_iter().map(|socket| TcpSocket::inherited(socket, config));
    let sockets = sockets.collect::<io::Result<Vec<_>>>()?;
    let addresses: Vec<_> = sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect();
    let is_wanted = |address: &SocketAddr| {
        address.ip() == wanted.ip() && (wanted.port() == 0 || wanted.port() == address.port())
    };
    if !addresses.is_empty() && !addresses.iter().any(is_wanted) {
        // Whoever changes an address in the configuration wants to know why nothing has changed.
        tracing::warn!(
            ?addresses,
            "going on with the {kind} sockets that were passed to us; {flag} is not used"
        );
    }
    Ok(sockets)
}

/// Binds `count` listeners that share one address, of which the kernel may choose the port.
///
/// # Errors
/// As [`bind`].
pub(super) fn bind_all(
    flag: &str,
    address: SocketAddr,
    config: &Config,
    count: usize,
) -> io::Result<Vec<TcpSocket>> {
    let first = bind(flag, address, config, count > 1)?;
    let address = first.local_addr()?;
    let mut all = vec![first.into()];
    for _ in 1..count {
        all.push(bind(flag, address, config, true)?.into());
    }
    Ok(all)
}

/// The backlog, NODELAY, keep-alive and write-stall options; accepted sockets inherit them, at no system call each.
///
/// `reuse_port` lets several listeners share the address; the kernel then spreads connections by hash.
///
/// # Errors
/// The address and the flag that sets it, with what the kernel said of it.
pub(crate) fn bind(
    flag: &str,
    address: SocketAddr,
    config: &Config,
    reuse_port: bool,
) -> io::Result<StdListener> {
    let bound = || -> io::Result<StdListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for the TIME_WAIT of the connections before it.
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(reuse_port)?;
        socket.bind(&address.into())?;
        tune(&SockRef::from(&socket), config)?;
        Ok(socket.into())
    };
    bound().map_err(|e| {
        let hint = match e.kind() {
            io::ErrorKind::AddrInUse => "; another process listens there",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
            io::ErrorKind::AddrNotAvailable => "; no interface has that address",
            _ => "",
        };
        io::Error::new(e.kind(), format!("{flag}: cannot listen on {address}: {e}{hint}"))
    })
}

/// What accepted sockets inherit, and the length of the queue. For a socket that listens already the options hold from now
/// on.
fn tune(socket: &SockRef<'_>, config: &Config) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // Dead peers: found after 60 s + 3 probes, whatever state the connection is in.
    let keep_alive = TcpKeepalive::new()
        .with_time(Duration::from_mins(1))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    socket.set_tcp_keepalive(&keep_alive)?;
    // After we close on a reader that stalls, the kernel must not keep its unsent bytes for minutes.
    socket.set_tcp_user_timeout(Some(config.write_stall_timeout))?;
    socket.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))
}
