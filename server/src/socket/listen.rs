//! Binds with every option explicit: a default backlog drops SYNs in a burst, a missing NODELAY costs 40 ms per small
//! answer.

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    time::Duration,
};

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

use crate::config::Config;

/// A source of client connections. [`serve`](crate::serve) runs any; `TcpListener` is the usual one.
pub trait Listener: Send + 'static {
    /// One connection.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Waits for the next connection. Must be cancel safe.
    ///
    /// # Errors
    /// As the kernel gives them: the accept loop, not the listener, decides what each means.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send;

    /// Where clients connect, as the name of the accepting task shows it.
    fn address(&self) -> String {
        String::new()
    }

    /// Asks the kernel to complete no further handshake, while those it has completed can still be accepted.
    fn refuse_new(&mut self) {}
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        Self::accept(self).await
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
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
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
