//! Which connections there are: without a list of them nobody can say who is connected, and a full server cannot tell
//! which connection it would miss least.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    activity::{Activity, Listed},
    config::Config,
    telemetry::metrics::thread_index,
};

/// Connections that one look through the list picks for eviction: so many newcomers share its cost.
const BATCH: usize = 64;

/// After a look that found nobody to evict, how long a flood is refused without another.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Entries that are looked at under one lock.
const CHUNK: usize = 256;

/// Every open connection of one server. Touched when a connection begins and ends, never by a request.
#[derive(Debug)]
pub(crate) struct Registry {
    /// One per thread that accepts, so that they rarely meet at one lock.
    shards: Box<[Mutex<Shard>]>,
    eviction: Mutex<Eviction>,
}

/// Where a connection is listed.
#[derive(Debug)]
pub(crate) struct Entry {
    shard: usize,
    place: usize,
}

#[derive(Debug, Default)]
struct Shard {
    places: Vec<Option<Listed>>,
    free: Vec<usize>,
}

#[derive(Debug, Default)]
struct Eviction {
    /// Those that have been idle longest, longest first, each with the instant since when.
    candidates: VecDeque<(Instant, Listed)>,
    /// The last look that found nobody.
    fruitless: Option<Instant>,
}

impl Registry {
    pub(super) fn new(threads: usize) -> Self {
        let shards = (0..threads.next_power_of_two()).map(|_| Mutex::default()).collect();
        Self { shards, eviction: Mutex::default() }
    }

    pub(super) fn insert(&self, activity: &Activity) -> Entry {
        let shard = thread_index() & (self.shards.len() - 1);
        let mut list = lock(&self.shards[shard]);
        let place = list.free.pop().unwrap_or_else(|| {
            list.places.push(None);
            list.places.len() - 1
        });
        list.places[place] = Some(activity.listed());
        Entry { shard, place }
    }

    pub(super) fn remove(&self, Entry { shard, place }: Entry) {
        let mut list = lock(&self.shards[shard]);
        list.places[place] = None;
        list.free.push(place);
    }

    /// Asks the connection that has been idle longest to end, if `config` allows that and one has been idle for long
    /// enough. Returns whether one was asked; its place is free a moment later.
    pub(crate) fn evict_one(&self, config: &Config) -> bool {
        if !config.evict_idle {
            return false;
        }
        let mut eviction = lock(&self.eviction);
        if eviction.ask_one() {
            return true;
        }
        let now = Instant::now();
        if eviction.fruitless.is_some_and(|look| now < look + LOOK_PAUSE) {
            return false;
        }
        eviction.candidates = self.idle_longest(now, config.evict_idle_min);
        let asked = eviction.ask_one();
        eviction.fruitless = (!asked).then_some(now);
        asked
    }

    /// Up to [`BATCH`] connections that have been idle for `min`, longest first.
    fn idle_longest(&self, now: Instant, min: Duration) -> VecDeque<(Instant, Listed)> {
        struct Idle(Instant, Activity);
        impl PartialEq for Idle {
            fn eq(&self, other: &Self) -> bool {
                self.0 == other.0
            }
        }
        impl Eq for Idle {}
        impl PartialOrd for Idle {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }
        impl Ord for Idle {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                self.0.cmp(&other.0)
            }
        }
        // The youngest of the longest on top, to be pushed out.
        let mut longest = BinaryHeap::with_capacity(BATCH + 1);
        self.for_each(|activity| {
            if let Some(since) = activity.evictable_since()
                && now.saturating_duration_since(since) >= min
                && (longest.len() < BATCH || longest.peek().is_some_and(|Idle(top, _)| since < *top))
            {
                longest.push(Idle(since, activity));
                if longest.len() > BATCH {
                    longest.pop();
                }
            }
        });
        longest
            .into_sorted_vec()
            .into_iter()
            .map(|Idle(since, activity)| (since, activity.listed()))
            .collect()
    }

    /// Up to `limit` connections, oldest first, and how many there are.
    pub(crate) fn oldest(&self, limit: usize) -> (Vec<Activity>, usize) {
        let mut total = 0;
        let mut ages = Vec::new();
        self.for_each(|activity| {
            total += 1;
            ages.push((Reverse(activity.age()), activity));
            // Never much more than what is asked for.
            if ages.len() >= 2 * limit.max(1) {
                ages.sort_by_key(|(age, _)| *age);
                ages.truncate(limit);
            }
        });
        ages.sort_by_key(|(age, _)| *age);
        ages.truncate(limit);
        (ages.into_iter().map(|(_, activity)| activity).collect(), total)
    }

    /// A lock is held for a moment only, whatever the number of connections.
    fn for_each(&self, mut see: impl FnMut(Activity)) {
        for shard in &self.shards {
            let mut from = 0;
            loop {
                let shard = lock(shard);
                let chunk = shard.places.iter().skip(from).take(CHUNK);
                let seen: Vec<Activity> = chunk.flatten().filter_map(Listed::get).collect();
                let is_last = from + CHUNK >= shard.places.len();
                drop(shard);
                seen.into_iter().for_each(&mut see);
                if is_last {
                    break;
                }
                from += CHUNK;
            }
        }
    }
}

impl Eviction {
    /// Asks the first candidate that is still there, and has been idle all the time.
    fn ask_one(&mut self) -> bool {
        std::iter::from_fn(|| self.candidates.pop_front())
            .any(|(since, listed)| listed.get().is_some_and(|activity| activity.evict(since)))
    }
}

/// What is behind these locks is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
