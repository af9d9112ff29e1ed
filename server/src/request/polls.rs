//! Tells the task of an HTTP/2 stream what its response body did: hyper stands between the two, and a stream that waits
//! for the client looks to its task like one that waits for its source.

use std::cell::Cell;

/// What a response body did while its task was polled. The body says it, the task reads it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BodyPolls {
    /// Bytes handed to the stream.
    pub(crate) yielded: usize,
    /// How the last poll ended.
    pub(crate) last: Option<LastPoll>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastPoll {
    /// The body's source has nothing yet.
    Pending,
    /// A frame or the response's head was handed over; the next is asked for only when the stream has window.
    Yielded,
}

thread_local!(static POLLS: Cell<BodyPolls> = const { Cell::new(BodyPolls { yielded: 0, last: None }) });

impl BodyPolls {
    /// What the body did while `poll` ran.
    pub(crate) fn during<T>(poll: impl FnOnce() -> T) -> (T, Self) {
        POLLS.set(Self::default());
        let result = poll();
        (result, POLLS.get())
    }

    /// The response's head is there. A stream without any window never asks its body for a frame.
    pub(super) fn answered() {
        Self::yielded(0);
    }

    /// The body yielded a frame with this many bytes.
    pub(super) fn yielded(bytes: usize) {
        POLLS.set(Self { yielded: POLLS.get().yielded + bytes, last: Some(LastPoll::Yielded) });
    }

    /// The body waits for its source.
    pub(super) fn pending() {
        POLLS.set(Self { last: Some(LastPoll::Pending), ..POLLS.get() });
    }
}
