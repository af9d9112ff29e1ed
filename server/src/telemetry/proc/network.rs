//! Accept queues and what overflowed from them: a full queue looks like a slow network to clients, and like nothing at
//! all to the server.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
};

/// Connections that the kernel has completed and we have not accepted, over the listeners with these inodes; 0 for one
/// that is closed.
pub(in crate::telemetry) fn accept_queue(inodes: &[u64]) -> Option<u64> {
    let table = |path| Some(BufReader::new(File::open(path).ok()?));
    let mut missing = inodes.to_vec();
    let ipv4 = waiting(table("/proc/self/net/tcp")?, &mut missing).ok()?;
    // The second table is missing where there is no IPv6.
    let ipv6 = match table("/proc/self/net/tcp6") {
        Some(table) if !missing.is_empty() => waiting(table, &mut missing).ok()?,
        _ => 0,
    };
    Some(ipv4 + ipv6)
}

/// Reads only as far as it must: sockets that listen stand first, and behind them may be a million connections. The
/// kernel renders the table piece by piece, as it is read.
fn waiting(table: impl BufRead, missing: &mut Vec<u64>) -> io::Result<u64> {
    let mut sum = 0;
    for line in table.lines().skip(1) {
        let Some((length, inode)) = listening_socket(&line?) else { break };
        if let Some(at) = missing.iter().position(|wanted| *wanted == inode) {
            missing.swap_remove(at);
            sum += length;
        }
        if missing.is_empty() {
            break;
        }
    }
    Ok(sum)
}

/// Receive queue and inode of a socket that listens; its receive queue is the accept queue.
fn listening_socket(line: &str) -> Option<(u64, u64)> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_whitespace();
    fields.nth(3).filter(|state| *state == LISTEN)?;
    let (_send, receive) = fields.next()?.split_once(':')?;
    Some((u64::from_str_radix(receive, 16).ok()?, fields.nth(4)?.parse().ok()?))
}

/// The kernel's limit of any accept queue.
pub(in crate::telemetry) fn somaxconn() -> Option<u64> {
    fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?.trim().parse().ok()
}

/// What all listeners of the network namespace have lost.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::telemetry) struct ListenLosses {
    /// Because their accept queue was full.
    pub(in crate::telemetry) overflows: u64,
    /// For any reason, overflows among them.
    pub(in crate::telemetry) drops: u64,
}

pub(in crate::telemetry) fn listen_losses() -> Option<ListenLosses> {
    losses(&fs::read_to_string("/proc/self/net/netstat").ok()?)
}

/// The file has two lines per protocol: the names, then the values in the same order.
fn losses(netstat: &str) -> Option<ListenLosses> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |wanted: &str| {
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        pairs.find(|(name, _)| *name == wanted)?.1.parse().ok()
    };
    Some(ListenLosses { overflows: value("ListenOverflows")?, drops: value("ListenDrops")? })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:07E8 00000000:0000 0A 00000000:00000003 00:00000000 00000000     0        0 1661 1 00000000 100 0 0 10 0
   1: 0100007F:1F90 00000000:0000 0A 00000000:0000001F 00:00000000 00000000  1000        0 77 2 00000000 100 0 0 10 0
   2: 0100007F:1F90 00000000:0000 0A 00000000:00000002 00:00000000 00000000  1000        0 78 2 00000000 100 0 0 10 0
   3: 0100007F:1F90 0100007F:A1B2 01 00000000:00000063 02:00000A1B 00000000  1000        0 79 2 00000000 20 4 30 10 -1
   4: 0100007F:1F91 00000000:0000 0A 00000000:00000063 00:00000000 00000000  1000        0 80 2 00000000 100 0 0 10 0
";

    #[test]
    fn the_queues_of_our_listeners_are_summed_and_connections_are_not_read() {
        let sum = |inodes: &[u64]| waiting(TABLE.as_bytes(), &mut inodes.to_vec()).unwrap();
        assert_eq!(sum(&[77, 78]), 33);
        assert_eq!(sum(&[1661]), 3);
        assert_eq!(sum(&[79]), 0, "a connection is no listener");
        assert_eq!(sum(&[80]), 0, "nothing is read behind the first connection");
        assert_eq!(sum(&[]), 0);
    }

    #[test]
    fn what_is_not_a_table_has_no_queue() {
        for table in ["", "sl\n", "sl\n\n", "sl\nx y z", "sl\n 0: a b 0A 0:x 0 0 0 0 1661"] {
            assert_eq!(waiting(table.as_bytes(), &mut vec![1661]).unwrap(), 0, "{table:?}");
        }
    }

    #[test]
    fn clients_that_nobody_accepts_are_seen_in_the_queue_on_both_families() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
            assert_eq!(accept_queue(&[inode]), Some(0));
            let at = listener.local_addr().unwrap();
            let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(at).unwrap()).collect();
            assert_eq!(accept_queue(&[inode]), Some(3), "{address}");
            drop(listener.accept().unwrap());
            assert_eq!(accept_queue(&[inode]), Some(2), "{address}");
            drop(listener);
            assert_eq!(accept_queue(&[inode]), Some(0), "closed");
            drop(clients);
        }
    }

    #[test]
    fn losses_are_found_by_their_names() {
        let netstat = "TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPHPHits\nTcpExt: 5 7 9 11\n\
                       IpExt: ListenDrops InOctets\nIpExt: 1 2\n";
        assert_eq!(losses(netstat), Some(ListenLosses { overflows: 7, drops: 9 }));
        for broken in [
            "",
            "TcpExt: ListenOverflows\n",
            "TcpExt: A B\nTcpExt: 1 2\n",
            "TcpExt: ListenDrops\nTcpExt: x\n",
        ] {
            assert_eq!(losses(broken), None, "{broken:?}");
        }
        assert!(listen_losses().is_some(), "this machine's own");
    }
}
