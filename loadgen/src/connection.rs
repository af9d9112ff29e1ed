//! Without reopening what the server closed, one drained server would turn every later request into an error.
//!
//! The life of one connection: open, take a request, exchange, record, and from the beginning when it breaks.

use std::{future::poll_fn, rc::Rc, task::Poll, time::Duration};

use crate::{
    clock::monotonic_ns,
    dispatch::{Next, Ticket},
    engine::Link,
    latency::Stamps,
    record::Completion,
    worker::{OpenLink, Worker},
};

/// Pause after the first failed attempt to reopen; it doubles up to [`REOPEN_PAUSE_MAX`].
const REOPEN_PAUSE_MIN: Duration = Duration::from_millis(5);

/// Longest pause between two attempts.
const REOPEN_PAUSE_MAX: Duration = Duration::from_millis(500);

/// The pauses between attempts to open a connection.
pub(crate) struct Backoff {
    pause: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { pause: REOPEN_PAUSE_MIN }
    }

    /// Waits before the next attempt, each time longer.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(REOPEN_PAUSE_MAX);
    }
}

/// What an idle connection was woken for.
enum Wake {
    Send(Ticket),
    Lost,
    Done,
}

/// Keeps connection `index` of `worker` busy until the schedule ends. `link` is its first connection, if that
/// could be opened.
pub(crate) async fn drive(worker: Rc<Worker>, index: usize, link: Option<Link>) {
    let mut link = link.map(|link| worker.counted(link));
    // The waker of a task never changes; the worker uses it to hand over requests and to end overdue ones.
    poll_fn(|cx| {
        worker.register(index, cx.waker());
        Poll::Ready(())
    })
    .await;
    let mut free_ns = monotonic_ns();
    loop {
        let Some(OpenLink { link: open, .. }) = &mut link else {
            link = reopen(&worker, index).await;
            if link.is_none() {
                return;
            }
            let lost_ns = std::mem::replace(&mut free_ns, monotonic_ns());
            worker.delay_held(index, lost_ns, free_ns);
            continue;
        };
        match next_request(&worker, index, free_ns, open).await {
            Wake::Send(ticket) => {
                let reusable = exchange(&worker, index, open, ticket, &mut free_ns).await;
                if !reusable {
                    link = None;
                }
            }
            Wake::Lost => {
                free_ns = monotonic_ns();
                worker.connection_lost(index, free_ns);
                link = None;
            }
            Wake::Done => return,
        }
    }
}

/// Waits until there is a request to send, and watches for the peer closing the connection until then.
async fn next_request(worker: &Worker, index: usize, free_ns: u64, link: &mut Link) -> Wake {
    let mut asked = false;
    poll_fn(|cx| {
        // A close that came with the last response is known already, and costs no system call to see.
        if link.poll_lost(cx).is_ready() {
            return Poll::Ready(Wake::Lost);
        }
        if let Some(ticket) = worker.take_held(index) {
            return Poll::Ready(Wake::Send(ticket));
        }
        if std::mem::replace(&mut asked, true) {
            return if worker.is_idle_for_good() { Poll::Ready(Wake::Done) } else { Poll::Pending };
        }
        match worker.connection_free(index, free_ns) {
            Next::Send(ticket) => Poll::Ready(Wake::Send(ticket)),
            Next::Done => Poll::Ready(Wake::Done),
            Next::Idle => Poll::Pending,
        }
    })
    .await
}

/// Sends one request, records what became of it, and says whether the connection may carry another.
async fn exchange(worker: &Worker, index: usize, link: &mut Link, ticket: Ticket, free_ns: &mut u64) -> bool {
    let job = &worker.job;
    let payload = job.body.payload(worker.run_id, ticket.request);
    let started_ns = monotonic_ns();
    worker.begin(index, ticket, started_ns);
    let exchange = link.exchange(job, &payload, &worker.receive, || worker.is_expired(index)).await;
    let finished_ns = monotonic_ns();
    *free_ns = finished_ns;
    worker.finish(
        index,
        Completion {
            measured: ticket.measured,
            stamps: Stamps::new(ticket, started_ns, finished_ns),
            status: exchange.status,
            body_sent: exchange.body_sent,
            body_received: exchange.body_received,
            result: exchange.result,
        },
    );
    exchange.reusable
}

/// Opens the connection again, however often it takes. Each failed attempt fails one due request: the one that
/// was handed to this connection, or the oldest that waits. `None` when the schedule is over.
async fn reopen(worker: &Worker, index: usize) -> Option<OpenLink> {
    let mut backoff = Backoff::new();
    loop {
        if worker.is_over(index) {
            return None;
        }
        let failure = match worker.open().await {
            Ok(link) => return Some(worker.counted(link)),
            Err(failure) => failure,
        };
        let now_ns = monotonic_ns();
        if let Some(ticket) = worker.take_held(index).or_else(|| worker.take_due(now_ns)) {
            worker.complete(Completion {
                measured: ticket.measured,
                stamps: Stamps::new(ticket, now_ns, now_ns),
                status: None,
                body_sent: 0,
                body_received: 0,
                result: Err(failure),
            });
        }
        backoff.wait().await;
    }
}
