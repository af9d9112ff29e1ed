//! Listening sockets by what they are for: numbers of descriptors, or addresses, would be mistaken for each other
//! (pingora#990: two listeners on port 0 have the same key).

use std::{
    fmt, io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketType, sockopt};

/// What a listening socket is for. Its name is that of `LISTEN_FDNAMES` (`FileDescriptorName=` of a socket unit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketKind {
    /// `--listen`
    Http,
    /// `--listen-tls`
    Https,
    /// `--listen-unix`
    Unix,
    /// `--admin`
    Admin,
}

impl SocketKind {
    pub(crate) const ALL: [Self; 4] = [Self::Http, Self::Https, Self::Unix, Self::Admin];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Unix => "unix",
            Self::Admin => "admin",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for SocketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A listening socket that another process has made.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(crate) fd: OwnedFd,
    /// The service manager keeps it, too, so that its queue outlives every process of the service.
    pub(crate) is_held: bool,
}

/// Listening sockets that were there before this process, or shall be there after it.
#[derive(Debug, Default)]
pub(crate) struct Sockets(Vec<(SocketKind, Inherited)>);

impl Sockets {
    /// Adds one that listens, of the family that its kind has.
    ///
    /// # Errors
    /// What else it is.
    pub(super) fn add(&mut self, kind: SocketKind, fd: OwnedFd, is_held: bool) -> io::Result<()> {
        check(kind, &fd).map_err(|what| invalid(format!("the socket passed to us as {kind} is {what}")))?;
        self.0.push((kind, Inherited { fd, is_held }));
        Ok(())
    }

    /// Keeps another descriptor of a socket of ours, for a successor.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn keep(&mut self, kind: SocketKind, socket: impl AsFd, is_held: bool) -> io::Result<()> {
        self.0.push((kind, Inherited { fd: socket.as_fd().try_clone_to_owned()?, is_held }));
        Ok(())
    }

    /// Takes out the sockets of `kind`, in the order in which they were added.
    pub(crate) fn take(&mut self, kind: SocketKind) -> Vec<Inherited> {
        self.0.extract_if(.., |(of, _)| *of == kind).map(|(_, socket)| socket).collect()
    }

    /// As [`Self::take`], where there may be one.
    ///
    /// # Errors
    /// There are more.
    pub(crate) fn take_one(&mut self, kind: SocketKind) -> io::Result<Option<Inherited>> {
        let mut sockets = self.take(kind);
        if sockets.len() > 1 {
            return Err(invalid(format!(
                "{} sockets were passed to us as {kind}, of which there is one",
                sockets.len()
            )));
        }
        Ok(sockets.pop())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SocketKind, &Inherited)> {
        self.0.iter().map(|(kind, socket)| (*kind, socket))
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn check(kind: SocketKind, socket: &OwnedFd) -> Result<(), String> {
    let family = sockopt::socket_domain(socket).map_err(|error| format!("no socket ({error})"))?;
    if sockopt::socket_type(socket) != Ok(SocketType::STREAM)
        || sockopt::socket_acceptconn(socket) != Ok(true)
    {
        return Err("not a listening stream socket".to_owned());
    }
    match (kind, family) {
        (SocketKind::Unix, AddressFamily::UNIX) => Ok(()),
        (SocketKind::Unix, _) => Err("not a Unix socket".to_owned()),
        (_, AddressFamily::INET | AddressFamily::INET6) => Ok(()),
        _ => Err("not a TCP socket".to_owned()),
    }
}
