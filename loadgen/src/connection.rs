//! Without reopening what the server closed, one drained server would turn every later request into an error.
//!
//! The life of one link: open, take a request, exchange, record, and from the beginning when it breaks.

use std::{future::poll_fn, rc::Rc, task::Poll, time::Duration};

use crate::{
    clock::monotonic_ns,
    dispatch::{Next, Ticket},
    engine::Link,
    failure::{Failure, FailureClass},
    latency::Stamps,
    opening::OpenLink,
    record::Completion,
    worker::Worker,
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

/// How often a request that the server has provably not processed is sent again before it counts as failed.
const RETRIES_MAX: u32 = 10;

/// What an idle connection was woken for.
enum Wake {
    Send(Attempt),
    Lost,
    Done,
}

/// A request that goes out, perhaps not for the first time.
#[derive(Clone, Copy)]
struct Attempt {
    ticket: Ticket,
    /// When it first began to be sent; `None` for a request that has not been.
    started_ns: Option<u64>,
    /// How often it was refused.
    refusals: u32,
}

/// What a link is good for after an exchange.
enum After {
    Reuse,
    Replace,
    /// The request has to be sent again, on another connection.
    Again(Attempt),
}

/// Keeps link `index` of `worker` busy until the schedule ends. `link` is the first one, if that could be opened.
pub(crate) async fn drive(worker: Rc<Worker>, index: usize, mut link: Option<OpenLink>) {
    // The waker of a task never changes; the worker uses it to hand over requests and to end overdue ones.
    poll_fn(|cx| {
        worker.register(index, cx.waker());
        Poll::Ready(())
    })
    .await;
    let mut free_ns = monotonic_ns();
    let mut again = None;
    loop {
        let Some(OpenLink { link: open, .. }) = &mut link else {
            link = reopen(&worker, index, &mut again).await;
            if link.is_none() {
                return;
            }
            let lost_ns = std::mem::replace(&mut free_ns, monotonic_ns());
            worker.delay_held(index, lost_ns, free_ns);
            continue;
        };
        let wake = match again.take() {
            Some(attempt) => Wake::Send(attempt),
            None => next_request(&worker, index, free_ns, open).await,
        };
        match wake {
            Wake::Send(attempt) => match exchange(&worker, index, open, attempt, &mut free_ns).await {
                After::Reuse => {}
                After::Replace => link = None,
                After::Again(attempt) => {
                    again = Some(attempt);
                    link = None;
                }
            },
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
    let first = |ticket| Wake::Send(Attempt { ticket, started_ns: None, refusals: 0 });
    poll_fn(|cx| {
        // A close that came with the last response is known already, and costs no system call to see.
        if link.poll_lost(cx).is_ready() {
            return Poll::Ready(Wake::Lost);
        }
        if let Some(ticket) = worker.take_held(index) {
            return Poll::Ready(first(ticket));
        }
        if std::mem::replace(&mut asked, true) {
            return if worker.is_idle_for_good() { Poll::Ready(Wake::Done) } else { Poll::Pending };
        }
        match worker.connection_free(index, free_ns) {
            Next::Send(ticket) => Poll::Ready(first(ticket)),
            Next::Done => Poll::Ready(Wake::Done),
            Next::Idle => Poll::Pending,
        }
    })
    .await
}

/// Sends one request and records what became of it. Its service time begins with the first attempt.
async fn exchange(
    worker: &Worker,
    index: usize,
    link: &mut Link,
    attempt: Attempt,
    free_ns: &mut u64,
) -> After {
    let job = &worker.job;
    let ticket = attempt.ticket;
    let payload = job.body.payload(worker.run_id, ticket.request);
    let started_ns = attempt.started_ns.unwrap_or_else(monotonic_ns);
    if attempt.started_ns.is_none() {
        worker.begin(index, ticket, started_ns);
    }
    let exchange = link.exchange(job, &payload, &worker.receive, || worker.is_expired(index)).await;
    if exchange.refused && attempt.refusals < RETRIES_MAX {
        worker.retried(ticket.measured);
        let refusals = attempt.refusals + 1;
        return After::Again(Attempt { started_ns: Some(started_ns), refusals, ..attempt });
    }
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
    // A guest on another connection, where one refused it, goes home.
    let is_guest = attempt.refusals > 0;
    if exchange.reusable && !is_guest { After::Reuse } else { After::Replace }
}

/// Opens the link again, however often it takes. Each failed attempt fails one due request: the one that was refused
/// and is to be sent again, the one that was handed to this link, or the oldest that waits. `None` when the schedule is
/// over, or when the server allows fewer streams than there are links.
async fn reopen(worker: &Worker, index: usize, again: &mut Option<Attempt>) -> Option<OpenLink> {
    let mut backoff = Backoff::new();
    if again.is_some_and(|attempt| attempt.refusals > 1) {
        // Whoever refuses twice is asked less and less often.
        let doubled = 2_u32.saturating_pow(again.map_or(0, |attempt| attempt.refusals));
        let pause = REOPEN_PAUSE_MIN.saturating_mul(doubled);
        tokio::time::sleep(pause.min(REOPEN_PAUSE_MAX)).await;
    }
    loop {
        if again.is_none() && worker.is_over(index) {
            return None;
        }
        let shift = again.map_or(0, |attempt| attempt.refusals as usize);
        let failure = match worker.open(index, shift).await {
            Ok(Some(link)) => return Some(link),
            Ok(None) => {
                give_up(worker, index, again.take());
                return None;
            }
            Err(failure) => failure,
        };
        let now_ns = monotonic_ns();
        if let Some(attempt) = again.take() {
            let stamps = Stamps::new(attempt.ticket, attempt.started_ns.unwrap_or(now_ns), now_ns);
            worker.finish(index, unanswered(attempt.ticket, stamps, failure));
        } else if let Some(ticket) = worker.take_held(index).or_else(|| worker.take_due(now_ns)) {
            worker.complete(unanswered(ticket, Stamps::new(ticket, now_ns, now_ns), failure));
        }
        backoff.wait().await;
    }
}

/// The server allows fewer streams than there are links: this one takes no more requests.
fn give_up(worker: &Worker, index: usize, again: Option<Attempt>) {
    let failure =
        || Failure::new(FailureClass::StreamReset, "the server allows no more streams on a connection");
    let now_ns = monotonic_ns();
    worker.place_unavailable();
    if let Some(attempt) = again {
        let stamps = Stamps::new(attempt.ticket, attempt.started_ns.unwrap_or(now_ns), now_ns);
        worker.finish(index, unanswered(attempt.ticket, stamps, failure()));
    }
    if let Some(ticket) = worker.take_held(index) {
        worker.complete(unanswered(ticket, Stamps::new(ticket, now_ns, now_ns), failure()));
    }
}

fn unanswered(ticket: Ticket, stamps: Stamps, failure: Failure) -> Completion {
    Completion {
        measured: ticket.measured,
        stamps,
        status: None,
        body_sent: 0,
        body_received: 0,
        result: Err(failure),
    }
}
