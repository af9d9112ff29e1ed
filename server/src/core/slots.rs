//! The connection limit: without one, memory and descriptors grow with the number of clients until the kernel says no,
//! to everybody.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::Notify;

use super::{AddressPlace, Core, registry::Entry};
use crate::activity::Activity;

/// The connection limit.
#[derive(Debug)]
pub(crate) struct Slots {
    limit: usize,
    taken: AtomicUsize,
    /// Told on every release, so that whoever waits for a place (or a descriptor) does not wait a moment too long.
    freed: Notify,
}

impl Slots {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, taken: AtomicUsize::new(0), freed: Notify::new() }
    }

    /// A place for one connection, or `None` at the limit.
    pub(crate) fn try_take(core: &Arc<Core>) -> Option<Slot> {
        let slots = &core.slots;
        let take = |taken: usize| (taken < slots.limit).then_some(taken + 1);
        slots.taken.fetch_update(Relaxed, Relaxed, take).ok()?;
        Some(Slot { core: Arc::clone(core), entry: None, address: None })
    }

    /// Waits for a place.
    pub(crate) async fn take(core: &Arc<Core>) -> Slot {
        loop {
            let mut freed = std::pin::pin!(core.slots.freed.notified());
            // Listens before it looks: a release between the two would be nobody's.
            freed.as_mut().enable();
            if let Some(slot) = Self::try_take(core) {
                return slot;
            }
            freed.await;
        }
    }

    /// Waits until a place (and its descriptor) has been released since the last call.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }
}

/// One connection's place in the limit, released on drop. Stands last in the object that holds the socket, so that
/// the descriptor is closed before the place is free.
#[derive(Debug)]
pub(crate) struct Slot {
    core: Arc<Core>,
    entry: Option<Entry>,
    address: Option<AddressPlace>,
}

impl Slot {
    /// The place also is one of the client's address.
    pub(crate) fn of_address(mut self, address: Option<AddressPlace>) -> Self {
        self.address = address;
        self
    }

    /// As [`Self::of_address`], for a client whose address is known only now.
    pub(crate) fn count_address(&mut self, address: Option<AddressPlace>) {
        self.address = address;
    }

    /// Lists the connection until the place is released.
    pub(crate) fn list(&mut self, activity: &Activity) {
        self.entry = Some(self.core.registry.insert(activity));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.core.registry.remove(entry);
        }
        // Before the place is free: whoever takes that may be of the same address.
        self.address = None;
        self.core.slots.taken.fetch_sub(1, Relaxed);
        self.core.slots.freed.notify_one();
    }
}
