//! The write deadline of one HTTP/2 stream: a client that grants a stream no window blocks that stream and not the
//! socket, so the socket's deadline never sees it, and its task, buffers and place in the limit are held for ever.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use super::Activity;
use crate::{
    socket::progress::{PaceLimits, PaceTimer},
    task::TaskKind,
};

/// Spawns hyper's stream tasks, each with its deadline, as tasks of the server. hyper-util's own executor detaches
/// them: "connection finished" would not be "work finished", and a drain would cut them.
#[derive(Clone, Debug)]
pub(super) struct StreamExecutor(pub(super) Activity);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let core = self.0.core();
        let limits = PaceLimits::of_reader(&core.config);
        let paced = Paced { stream, limits, timer: PaceTimer::default(), wants_window: false };
        core.spawn(TaskKind::Http2Stream, paced);
    }
}

/// What a response body did while its stream's task was polled. The body says it, the task reads it; hyper, which
/// stands between them, has no other way to tell.
#[derive(Clone, Copy, Debug, Default)]
struct BodyPolls {
    /// Bytes handed to the stream.
    yielded: usize,
    /// How the last poll ended.
    last: Option<LastPoll>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastPoll {
    /// The body's source has nothing yet.
    Pending,
    /// A frame was handed over; the next is asked for only when the stream has window.
    Yielded,
}

thread_local!(static BODY: Cell<BodyPolls> = const { Cell::new(BodyPolls { yielded: 0, last: None }) });

/// A response body was polled: it yielded `Some(bytes)`, or waits for its source.
pub(crate) fn body_was_polled(yielded: Option<usize>) {
    let mut polls = BODY.get();
    polls.yielded += yielded.unwrap_or(0);
    polls.last = Some(if yielded.is_some() { LastPoll::Yielded } else { LastPoll::Pending });
    BODY.set(polls);
}

pin_project! {
    /// A stream's task that ends, and so resets its stream, when the client does not take what we send.
    struct Paced<F> {
        #[pin]
        stream: F,
        limits: PaceLimits,
        timer: PaceTimer,
        wants_window: bool,
    }
}

impl<F: Future<Output = ()>> Future for Paced<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        BODY.set(BodyPolls::default());
        if this.stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let polls = BODY.get();
        if let Some(last) = polls.last {
            this.timer.moved(polls.yielded);
            *this.wants_window = last == LastPoll::Yielded;
        }
        if *this.wants_window && this.timer.poll_wait(cx, this.limits).is_ready() {
            tracing::debug!("the client does not read its stream");
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
