//! Who asks for more than its share: without it one client at twenty times the rate of the others gets twenty times as
//! much of what is left, and refusals hit those who have done nothing.
//!
//! Only asked under pressure. Memory is fixed, whatever clients there are: counts stand in two rows of buckets (a count-min
//! sketch), and are halved as time passes.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
    time::Duration,
};

use crate::socket::peer::Peer;

const BUCKETS: usize = 1024;

/// Counts are halved once per this time.
const HALF_LIFE: Duration = Duration::from_millis(100);

/// A client is greedy above so many times the mean of the others.
const SHARES: u32 = 2;

/// Counts below which nobody is greedy: few requests say nothing about a rate.
const COUNT_MIN: u32 = 4;

/// What a client has asked for, beside the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// About as much as they, or less, and nobody asks for much more.
    Even,
    /// More than its share.
    Greedy,
    /// As [`Self::Even`], but somebody is greedy.
    Polite,
}

/// How many requests the clients have made lately. Pure: time, since any beginning, is handed in.
#[derive(Debug)]
pub(super) struct Sketch {
    rows: [[u32; BUCKETS]; 2],
    halved_at: Duration,
    greedy_at: Option<Duration>,
    /// Of the first row: the sum, and the buckets that are not 0.
    sum: u32,
    used: u32,
}

impl Default for Sketch {
    fn default() -> Self {
        Self { rows: [[0; BUCKETS]; 2], halved_at: Duration::ZERO, greedy_at: None, sum: 0, used: 0 }
    }
}

impl Sketch {
    /// Counts a request of `client`, and tells what part that client has in the requests of all.
    ///
    /// The mean is over buckets and not over clients: where there are more clients than buckets, each bucket counts many,
    /// and only one that stands out from the others has a greedy one in it.
    pub(super) fn ask(&mut self, client: &Peer, now: Duration) -> Share {
        self.pass_time(now);
        let hash = hash(client);
        let places = [place(hash), place(hash >> 32)];
        let mut least = u32::MAX;
        for (row, place) in self.rows.iter_mut().zip(places) {
            row[place] = row[place].saturating_add(1);
            least = least.min(row[place]);
        }
        self.sum = self.sum.saturating_add(1);
        self.used += u32::from(self.rows[0][places[0]] == 1);
        let others = self.used.saturating_sub(1);
        if others > 0 && least > SHARES * (self.sum.saturating_sub(least) / others) + COUNT_MIN {
            self.greedy_at = Some(now);
            return Share::Greedy;
        }
        let is_recent = |at| now.saturating_sub(at) < HALF_LIFE;
        if self.greedy_at.is_some_and(is_recent) { Share::Polite } else { Share::Even }
    }

    fn pass_time(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.halved_at).as_millis() / HALF_LIFE.as_millis();
        if passed == 0 {
            return;
        }
        let halvings = u32::try_from(passed).unwrap_or(u32::MAX).min(u32::BITS - 1);
        self.rows.iter_mut().flatten().for_each(|count| *count >>= halvings);
        self.sum = self.rows[0].iter().sum();
        self.used = self.rows[0].iter().map(|count| u32::from(*count > 0)).sum();
        self.halved_at = now;
    }
}

fn place(hash: u64) -> usize {
    usize::try_from(hash % BUCKETS as u64).unwrap_or(0)
}

/// Differs from process to process, so that nobody can choose an address to share buckets with a victim.
fn hash(client: &Peer) -> u64 {
    static SEED: LazyLock<u64> = LazyLock::new(|| fastrand::u64(..));
    // splitmix64's finalizer: every bit of the key reaches every bit of the hash.
    let mut hash = key(client) ^ *SEED;
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// One client: an IPv4 address, the /64 of an IPv6 address (what one subscriber has), or whoever uses the Unix socket.
fn key(client: &Peer) -> u64 {
    match client.ip() {
        Some(IpAddr::V4(ip)) => u64::from(Ipv4Addr::to_bits(ip)) | 1 << 63,
        Some(IpAddr::V6(ip)) => u64::try_from(Ipv6Addr::to_bits(ip) >> 64).unwrap_or(0),
        None => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::overload::signal::Flight;

    const MS: Duration = Duration::from_millis(1);

    fn client(n: u32) -> Peer {
        Peer::Ip((Ipv4Addr::from_bits(0x0a00_0000 + n), 4000).into())
    }

    #[test]
    fn a_client_is_an_address_and_in_ipv6_a_network() {
        let peer = |address: &str| Peer::Ip(address.parse().unwrap());
        assert_eq!(key(&peer("10.0.0.1:1")), key(&peer("10.0.0.1:2")));
        assert_eq!(key(&peer("10.0.0.1:1")), key(&peer("[::ffff:10.0.0.1]:1")));
        assert_eq!(key(&peer("[2001:db8:0:1::1]:1")), key(&peer("[2001:db8:0:1:ffff::2]:2")));
        assert_ne!(key(&peer("[2001:db8:0:1::1]:1")), key(&peer("[2001:db8:0:2::1]:1")));
        assert_ne!(key(&peer("10.0.0.1:1")), key(&Peer::Unix));
    }

    #[test]
    fn a_client_alone_is_never_greedy_and_neither_are_equals() {
        let mut sketch = Sketch::default();
        assert!((0..100_000).all(|n| sketch.ask(&client(0), MS * n / 100) == Share::Even));
        for clients in [2, 20, 300, 10_000] {
            let mut sketch = Sketch::default();
            let greedy = (0..100_000)
                .filter(|n| sketch.ask(&client(n % clients), MS * *n / 100) == Share::Greedy)
                .count();
            // Where some buckets are several clients' in both rows, which of them is chance.
            assert!(greedy < 2000, "{greedy} of 100,000 with {clients} clients");
        }
    }

    #[test]
    fn one_that_stops_is_forgotten() {
        let mut sketch = Sketch::default();
        for n in 0..1000 {
            sketch.ask(&client(n % 10), MS);
            sketch.ask(&client(99), MS);
        }
        assert_eq!(sketch.ask(&client(99), MS), Share::Greedy);
        assert_eq!(sketch.ask(&client(0), MS), Share::Polite);
        assert_eq!(sketch.ask(&client(99), MS + HALF_LIFE * 32), Share::Even);
    }

    /// One worker, 1 ms per request, that goes through its queue as the server's does: those who come while it works make
    /// the next round. Twenty polite clients ask for `polite` times its capacity together, and one for as much as
    /// `greedy` of those twenty. Returns the shares that the polite and the greedy got of what they asked for.
    fn play(polite: f64, greedy: f64, fair_share: bool) -> (f64, f64) {
        const REFUSAL: Duration = Duration::from_micros(10);
        const POLITE: u32 = 20;
        let (mut now, end) = (Duration::ZERO, Duration::from_secs(10));
        let mut sketch = Sketch::default();
        let mut asked = [0_u32; 2];
        let mut served = [0_u32; 2];
        let (mut next_polite, mut next_greedy) = (Duration::ZERO, Duration::ZERO);
        let step = |per_ms: f64| Duration::from_secs_f64(0.001 / per_ms);
        let mut round: VecDeque<Peer> = VecDeque::new();
        while now < end {
            let (began, mut admitted) = (now, 0);
            while let Some(peer) = round.pop_front() {
                let class = usize::from(peer == client(99));
                asked[class] += 1;
                let flight = Flight { age: now.saturating_sub(began), admitted };
                let share = || if fair_share { sketch.ask(&peer, now) } else { Share::Even };
                if flight.pressure(10 * MS, || Duration::ZERO).refusal(share).is_some() {
                    now += REFUSAL;
                } else {
                    now += MS;
                    admitted += 1;
                    served[class] += 1;
                }
            }
            while next_polite <= now || next_greedy <= now {
                if next_polite <= next_greedy {
                    round.push_back(client(fastrand::u32(..POLITE)));
                    next_polite += step(polite);
                } else {
                    round.push_back(client(99));
                    next_greedy += step(polite * greedy / f64::from(POLITE));
                }
            }
            now = now.max(next_polite.min(next_greedy).min(now + MS / 10));
        }
        let share = |class: usize| f64::from(served[class]) / f64::from(asked[class]);
        (share(0), share(1))
    }

    #[test]
    fn one_client_at_twenty_times_the_rate_takes_nothing_from_the_polite() {
        // 0.5 from the polite, 0.5 * 20 from the greedy, in units of capacity.
        for (polite, greedy) in [(0.5, 20.0), (0.5, 400.0), (0.8, 20.0)] {
            let (polite_share, greedy_share) = play(polite, greedy, true);
            assert!(
                polite_share > 0.95,
                "{polite}, {greedy}: {polite_share:.3} of the polite, {greedy_share:.3} of the greedy"
            );
        }
        let (unprotected, _) = play(0.5, 400.0, false);
        assert!(unprotected < 0.5, "{unprotected:.3}");
    }
}
