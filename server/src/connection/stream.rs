//! The write deadline of one HTTP/2 stream: a client that grants a stream no window blocks that stream and not the
//! socket, so the socket's deadline never sees it, and its task, buffers and place in the limit are held for ever.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use crate::{
    activity::Activity,
    request::{BodyPolls, LastPoll},
    socket::progress::{PaceLimits, PaceTimer},
    task::{TaskKind, spawn},
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
        spawn(core, TaskKind::Http2Stream, paced);
    }
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
        let (polled, body) = BodyPolls::during(|| this.stream.poll(cx));
        if polled.is_ready() {
            return Poll::Ready(());
        }
        if let Some(last) = body.last {
            this.timer.moved(body.yielded);
            *this.wants_window = last == LastPoll::Yielded;
        }
        if *this.wants_window && this.timer.poll_wait(cx, this.limits).is_ready() {
            tracing::debug!("the client does not read its stream");
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
