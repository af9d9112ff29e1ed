//! Without a place that links and worker share, nobody would know how many connections are open or whether any worked.

use std::{cell::Cell, rc::Rc};

/// Signs of life of one worker's connections; all of them run on one thread.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// Set whenever a connection is polled, which tells the pacer's waiting from work.
    pub(crate) worked: Cell<bool>,
    connections_open: Cell<u64>,
}

impl Pulse {
    /// A connection is polled.
    pub(crate) fn beat(&self) {
        self.worked.set(true);
    }

    /// Connections that are open now.
    pub(crate) fn connections_open(&self) -> u64 {
        self.connections_open.get()
    }

    /// Counts a connection as open for as long as the returned value lives.
    pub(crate) fn counted(self: &Rc<Self>) -> Counted {
        self.connections_open.update(|open| open + 1);
        Counted(Rc::clone(self))
    }
}

/// A connection that is open.
#[derive(Debug)]
pub(crate) struct Counted(Rc<Pulse>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections_open.update(|open| open - 1);
    }
}
