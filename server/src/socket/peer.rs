//! Who is at the other end: a Unix socket has no IP address, and code that invents one sooner or later believes it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use ipnet::IpNet;

/// Where a client connected from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Over TCP.
    Ip(SocketAddr),
    /// Over a Unix socket: a process of this machine.
    Unix,
}

impl Peer {
    /// The address in its canonical form (an IPv4 address that came mapped into IPv6 is IPv4); `None` for a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }

    /// The port; `None` for a Unix socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(address) => Some(address.port()),
            Self::Unix => None,
        }
    }

    /// Whether the client is on this machine.
    pub fn is_local(&self) -> bool {
        self.ip().is_none_or(|ip| ip.is_loopback())
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

/// `127.0.0.1:4000`, or `unix`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// Whether what `peer` says of its clients is believed. A process that may open our Unix socket is believed where
/// loopback addresses are.
pub(crate) fn is_trusted(peer: &Peer, networks: &[IpNet]) -> bool {
    let address = peer.ip().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    networks.iter().any(|network| network.contains(&address))
}
