//! Without a tally, a client that was cut would look like one that still holds on.

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    collections::BTreeMap,
};

use serde::{Deserialize, Serialize};

/// Ends that a table names.
const NAMED_MAX: usize = 4;

/// How hostile clients are doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Clients that got to where they wanted to be, whatever became of them.
    pub attached: u64,
    /// Clients that did not, because the server did not let them.
    pub failed: u64,
    /// Clients that hold on.
    pub alive: u64,
    /// How the others, or each connection of a flood, came to their end.
    pub ends: BTreeMap<String, u64>,
}

impl Count {
    /// The most frequent ends, in words.
    pub fn ends_by_frequency(&self) -> String {
        let mut ends: Vec<_> = self.ends.iter().collect();
        ends.sort_by_key(|(_, count)| Reverse(**count));
        let named = ends.iter().take(NAMED_MAX).map(|(end, count)| format!("{count} {end}"));
        named.collect::<Vec<_>>().join("; ")
    }
}

/// The same while it goes on.
#[derive(Debug, Default)]
pub(super) struct Tally {
    attached: Cell<u64>,
    failed: Cell<u64>,
    alive: Cell<u64>,
    ends: RefCell<BTreeMap<String, u64>>,
}

impl Tally {
    /// A client holds on to something.
    pub(super) fn attached(&self) {
        self.attached.update(|count| count + 1);
        self.alive.update(|count| count + 1);
    }

    /// A client that held on came to this end.
    pub(super) fn cut(&self, end: String) {
        self.alive.update(|count| count - 1);
        self.ended(end);
    }

    /// A client could not even begin.
    pub(super) fn failed(&self, why: String) {
        self.failed.update(|count| count + 1);
        self.ended(why);
    }

    /// One connection of a flood ended.
    pub(super) fn ended(&self, end: String) {
        *self.ends.borrow_mut().entry(end).or_default() += 1;
    }

    pub(super) fn count(&self) -> Count {
        Count {
            attached: self.attached.get(),
            failed: self.failed.get(),
            alive: self.alive.get(),
            ends: self.ends.borrow().clone(),
        }
    }
}
