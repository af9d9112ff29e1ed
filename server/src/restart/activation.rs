//! systemd's socket activation (sd_listen_fds(3)): sockets that the service manager holds outlive every process of the
//! service, and a client that comes while none runs waits.
//!
//! `FileDescriptorName=` says what a socket is for: `http`, `https`, `unix` or `admin`, and there may be several of each.
//! Sockets without such a name are, in their order: a Unix socket is `unix`; the first TCP socket is `http`, the second
//! `https`, the third `admin`. A listener that is given a socket does not bind the address of its flag; one that is not,
//! does.

use std::{
    io,
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixListener},
};

use listenfd::ListenFd;

use super::sockets::{SocketKind, Sockets};

/// What systemd passed to this process; none where it was not started by it.
///
/// # Errors
/// A socket that cannot be what its name says, or is one too many.
pub(super) fn sockets() -> io::Result<Sockets> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    // Takes LISTEN_PID and LISTEN_FDS out of the environment, so that no child believes that they are for it.
    let mut passed = ListenFd::from_env();
    let mut names = names.split(':').map(SocketKind::from_name);
    let mut sockets = Sockets::default();
    let mut unnamed_tcp = [SocketKind::Http, SocketKind::Https, SocketKind::Admin].into_iter();
    for index in 0..passed.len() {
        let name = names.next().flatten();
        let (is_unix, socket) = take(&mut passed, index)?;
        let kind = match name {
            Some(kind) => kind,
            None if is_unix => SocketKind::Unix,
            None => unnamed_tcp.next().ok_or_else(|| {
                let text =
                    "more than three TCP sockets without FileDescriptorName= (http, https, unix or admin)";
                io::Error::new(io::ErrorKind::InvalidInput, text)
            })?,
        };
        sockets.add(kind, socket, true)?;
    }
    Ok(sockets)
}

fn take(passed: &mut ListenFd, index: usize) -> io::Result<(bool, OwnedFd)> {
    if let Ok(Some(socket)) = passed.take_unix_listener(index) {
        return Ok((true, UnixListener::into(socket)));
    }
    let socket = passed.take_tcp_listener(index)?;
    let socket =
        socket.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "a socket was passed twice"))?;
    Ok((false, TcpListener::into(socket)))
}
