//! Connections per client address: without a cap of its own, one client takes every place that there is.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Core;
use crate::{socket::peer::Peer, telemetry::metrics::Shed};

/// So that accepts of several threads rarely meet at one lock.
const SHARDS: usize = 16;

/// How many connections each client address has. An address without one takes no memory, so the table is bounded by the
/// connection limit, whatever clients do.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    shards: [Mutex<HashMap<Block, u64>>; SHARDS],
    hasher: RandomState,
}

/// What counts as one client: an IPv4 address, or the /64 that an IPv6 subscriber has at least (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Block {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Block {
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => Self::V6(ip.octets().first_chunk().copied().unwrap_or_default()),
        }
    }
}

impl Addresses {
    /// Addresses that have a connection; 0 where none are counted.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// The most connections that one address has.
    pub(crate) fn most(&self) -> u64 {
        self.shards.iter().filter_map(|shard| lock(shard).values().max().copied()).max().unwrap_or(0)
    }

    fn shard(&self, block: Block) -> MutexGuard<'_, HashMap<Block, u64>> {
        let hash = self.hasher.hash_one(block);
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is below SHARDS")]
        lock(&self.shards[(hash % SHARDS as u64) as usize])
    }
}

/// What is behind these locks is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection of a client address, released on drop.
#[derive(Debug)]
pub(crate) struct AddressPlace {
    core: Arc<Core>,
    block: Block,
}

impl AddressPlace {
    /// A place for a connection of `peer`; `None` where its connections are not counted: no limit is set, it is on this
    /// machine's Unix socket, or it is a trusted proxy, which carries many clients.
    ///
    /// # Errors
    /// [`Shed::Address`] at `connections_per_address_max`.
    pub(crate) fn take(core: &Arc<Core>, peer: Peer) -> Result<Option<Self>, Shed> {
        let max = core.config.connections_per_address_max;
        let Some(ip) = peer.ip().filter(|_| max > 0) else { return Ok(None) };
        if core.config.trusted_proxies.iter().any(|network| network.contains(&ip)) {
            return Ok(None);
        }
        let block = Block::of(ip);
        let mut counts = core.addresses.shard(block);
        let count = counts.entry(block).or_insert(0);
        if *count >= max {
            return Err(Shed::Address);
        }
        *count += 1;
        drop(counts);
        Ok(Some(Self { core: Arc::clone(core), block }))
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.core.addresses.shard(self.block).entry(self.block) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::{
        config::{Config, FdBudget},
        core::{Reporting, Role},
    };

    fn core(config: Config) -> Arc<Core> {
        let fds = FdBudget { connections: 1, refusals: 1 };
        Core::new(Role::Data, config, fds, Reporting::default())
    }

    fn peer(ip: &str) -> Peer {
        Peer::Ip(SocketAddr::new(ip.parse().unwrap(), 4000))
    }

    #[test]
    fn an_address_has_so_many_places_and_leaves_no_memory_behind() {
        let core = core(Config { connections_per_address_max: 2, ..Config::default() });
        let take = |ip| AddressPlace::take(&core, peer(ip));
        let places = [take("192.0.2.1").unwrap(), take("::ffff:192.0.2.1").unwrap()];
        assert_eq!(take("192.0.2.1").unwrap_err(), Shed::Address);
        let other = take("192.0.2.2").unwrap();
        assert_eq!((core.addresses.len(), core.addresses.most()), (2, 2));
        drop(places);
        assert!(take("192.0.2.1").is_ok());
        drop(other);
        assert_eq!(core.addresses.len(), 0);
    }

    #[test]
    fn an_ipv6_client_is_its_whole_network() {
        let core = core(Config { connections_per_address_max: 1, ..Config::default() });
        let _place = AddressPlace::take(&core, peer("2001:db8:1:2::1")).unwrap().unwrap();
        assert!(AddressPlace::take(&core, peer("2001:db8:1:2:ffff::9")).is_err());
        assert!(AddressPlace::take(&core, peer("2001:db8:1:3::1")).is_ok());
    }

    #[test]
    fn proxies_and_unix_sockets_and_a_server_without_the_limit_count_nobody() {
        let trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()];
        let limited = core(Config { connections_per_address_max: 1, trusted_proxies, ..Config::default() });
        for counted_not in [Peer::Unix, peer("192.0.2.7")] {
            assert!(AddressPlace::take(&limited, counted_not).unwrap().is_none());
        }
        let unlimited = core(Config { connections_per_address_max: 0, ..Config::default() });
        assert!(AddressPlace::take(&unlimited, peer("198.51.100.1")).unwrap().is_none());
    }
}
