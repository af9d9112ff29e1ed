//! The limit of requests in progress: tower's limits release at the response head, so that streaming load is invisible to
//! them; a place here is released when whoever holds it is dropped, and the response body holds it.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::activity::Activity;

/// The limit of requests in progress.
#[derive(Debug)]
pub(crate) struct Gate {
    limit: usize,
    entered: AtomicUsize,
}

impl Gate {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, entered: AtomicUsize::new(0) }
    }

    pub(crate) fn entered(&self) -> usize {
        self.entered.load(Relaxed)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn try_enter(activity: &Activity) -> Option<Admitted> {
        let gate = &activity.core().gate;
        if gate.entered.fetch_add(1, Relaxed) < gate.limit {
            return Some(Admitted(activity.clone()));
        }
        gate.entered.fetch_sub(1, Relaxed);
        None
    }
}

/// A request's place in the limit, released on drop.
#[derive(Debug)]
pub(crate) struct Admitted(Activity);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.core().gate.entered.fetch_sub(1, Relaxed);
    }
}
