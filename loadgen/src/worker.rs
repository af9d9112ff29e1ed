//! Without a runtime of its own for each core, requests would cross threads and pay for locks and wake-ups.
//!
//! Nothing is shared between workers while they run: each has its lane of the schedule, its connections, its
//! histograms and its receive buffer. The records are merged when all are done.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::Arc,
    task::Waker,
    time::Duration,
};

use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};

use crate::{
    board::Notice,
    body::RunId,
    clock::monotonic_ns,
    connection,
    dispatch::{Dispatch, Next, Ticket},
    engine::{Job, RECEIVE_BUFFER_LEN},
    failure::Failure,
    latency::Stamps,
    opening::{self, OpenLink, Opener},
    pacer::Pacer,
    patrol::{Patrol, Usage},
    pulse::Pulse,
    record::{Completion, Record},
    run::{News, Phase, Shared},
};

/// How long an interrupted run waits for what is in flight.
const INTERRUPTED_DRAIN: Duration = Duration::from_secs(1);

/// What one worker brings home.
#[derive(Debug)]
pub(crate) struct WorkerReport {
    pub(crate) record: Record,
    /// CPU time of the worker's thread during the run, without `spun_ns`.
    pub(crate) cpu_ns: u64,
    /// CPU time that the pacer spent on waiting.
    pub(crate) spun_ns: u64,
    /// Wall time of the run as the worker saw it.
    pub(crate) wall_ns: u64,
    /// Time for which the worker was ready to run and had no CPU.
    pub(crate) waited_ns: u64,
    /// Time for which the worker's event loop did not turn although it was due to.
    pub(crate) stalled_ns: u64,
    /// When the last response was complete.
    pub(crate) last_finished_ns: u64,
}

/// The state that the tasks of one worker share; all of them run on one thread.
pub(crate) struct Worker {
    pub(crate) job: Arc<Job>,
    pub(crate) run_id: RunId,
    /// The buffer that all connections read into, one after the other.
    pub(crate) receive: RefCell<Box<[u8]>>,
    shared: Arc<Shared>,
    /// Its number among the workers.
    index: usize,
    opener: Rc<Opener>,
    dispatch: RefCell<Dispatch>,
    slots: RefCell<Vec<Slot>>,
    record: RefCell<Record>,
    last_finished_ns: Cell<u64>,
    spun_ns: Cell<u64>,
    pulse: Rc<Pulse>,
    /// Set while the pacer waits for a connection to come idle.
    pacer_parked: Cell<bool>,
    connection_idle: Notify,
}

/// What the worker knows about one of its connections.
#[derive(Default)]
struct Slot {
    waker: Option<Waker>,
    /// Handed over by the pacer, not yet picked up.
    ticket: Option<Ticket>,
    in_flight: Option<(Ticket, u64)>,
    expired: bool,
}

/// Runs worker `index` of `shared.plan.threads` on the calling thread.
pub(crate) fn run(
    shared: &Arc<Shared>,
    index: usize,
    mut phase: watch::Receiver<Phase>,
    news: &mpsc::Sender<News>,
) -> io::Result<WorkerReport> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let report = runtime.block_on(async {
        let threads = shared.plan.threads;
        let connections = (index..shared.plan.connections).step_by(threads.get()).count();
        let places = connections * shared.plan.protocol.streams();
        let pulse = Rc::new(Pulse::default());
        let opener = Rc::new(Opener::new(shared, connections, Rc::clone(&pulse)));
        let links = opening::open_all(&opener, places, &mut phase, news).await;
        // The controller closes the channel's other end only after it has told the phase.
        while *phase.borrow_and_update() == Phase::Connect {
            if phase.changed().await.is_err() {
                break;
            }
        }
        let Phase::Run { start_ns } = *phase.borrow() else {
            return Ok(WorkerReport::empty(shared));
        };
        let lane = shared.schedule.lane(index as u64, shared.plan.threads_u64());
        let dispatch = Dispatch::new(lane, start_ns);
        let worker = Rc::new(Worker::new(Arc::clone(shared), index, opener, pulse, dispatch, places));
        worker.measure(start_ns, links, phase).await
    });
    // A question to a name server that does not answer must not hold up the end of the run.
    runtime.shutdown_background();
    report
}

impl WorkerReport {
    fn empty(shared: &Shared) -> Self {
        Self {
            record: shared.record(),
            cpu_ns: 0,
            spun_ns: 0,
            wall_ns: 0,
            waited_ns: 0,
            stalled_ns: 0,
            last_finished_ns: 0,
        }
    }
}

impl Worker {
    fn new(
        shared: Arc<Shared>,
        index: usize,
        opener: Rc<Opener>,
        pulse: Rc<Pulse>,
        dispatch: Dispatch,
        places: usize,
    ) -> Self {
        Self {
            job: Arc::clone(&shared.job),
            run_id: RunId::from_seed(shared.plan.seed),
            receive: RefCell::new(vec![0; RECEIVE_BUFFER_LEN].into()),
            opener,
            dispatch: RefCell::new(dispatch),
            slots: RefCell::new((0..places).map(|_| Slot::default()).collect()),
            record: RefCell::new(shared.record()),
            shared,
            index,
            last_finished_ns: Cell::new(0),
            spun_ns: Cell::new(0),
            pulse,
            pacer_parked: Cell::new(false),
            connection_idle: Notify::new(),
        }
    }

    /// Runs all connections until the schedule is done and everything is answered, or the time for that is up.
    async fn measure(
        self: Rc<Self>,
        start_ns: u64,
        links: Vec<Option<OpenLink>>,
        mut phase: watch::Receiver<Phase>,
    ) -> io::Result<WorkerReport> {
        let mut pacing = JoinSet::new();
        pacing.spawn_local(Rc::clone(&self).pace(Pacer::new()?));
        let mut connections = JoinSet::new();
        for (connection, link) in links.into_iter().enumerate() {
            connections.spawn_local(connection::drive(Rc::clone(&self), connection, link));
        }
        let mut patrol = Patrol::new(&self.shared, start_ns);
        let mut stopping = false;
        loop {
            tokio::select! {
                ended = connections.join_next() => match ended {
                    Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                    Some(Ok(())) => {}
                    None => break,
                },
                ended = pacing.join_next(), if !pacing.is_empty() => match ended {
                    Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                    Some(Ok(result)) => result?,
                    None => {}
                },
                _ = patrol.interval.tick() => {
                    if patrol.look(&self) {
                        break;
                    }
                }
                changed = phase.changed(), if !stopping => {
                    stopping = true;
                    if changed.is_err() || *phase.borrow() == Phase::Stop {
                        self.stop();
                        patrol.drain_by(monotonic_ns(), INTERRUPTED_DRAIN);
                    }
                }
            }
        }
        let end_ns = monotonic_ns();
        let (usage, record) = (patrol.usage(), self.take_record(end_ns));
        let mut notice = Notice::of(&record);
        usage.note(self.spun_ns.get(), &mut notice);
        self.shared.board.put_last(self.index, &notice);
        Ok(WorkerReport {
            record,
            cpu_ns: notice.cpu_ns,
            spun_ns: self.spun_ns.get(),
            wall_ns: end_ns.saturating_sub(start_ns),
            waited_ns: usage.waited_ns,
            stalled_ns: usage.stalled_ns,
            last_finished_ns: self.last_finished_ns.get(),
        })
    }

    /// Hands each request to an idle connection at its instant.
    async fn pace(self: Rc<Self>, mut pacer: Pacer) -> io::Result<()> {
        loop {
            let Some(due_ns) = self.dispatch.borrow().next_due_ns() else { break };
            if !self.dispatch.borrow().has_idle() {
                self.pacer_parked.set(true);
                self.connection_idle.notified().await;
                self.pacer_parked.set(false);
                continue;
            }
            let now_ns = pacer.wait_until(due_ns, &self.pulse.worked).await?;
            self.spun_ns.set(pacer.spun_ns());
            let mut slots = self.slots.borrow_mut();
            self.dispatch.borrow_mut().release(now_ns, |connection, ticket| {
                slots[connection].ticket = Some(ticket);
                slots[connection].wake();
            });
        }
        self.wake_all();
        Ok(())
    }

    /// Connection `index` is free: what next?
    pub(crate) fn connection_free(&self, index: usize, free_ns: u64) -> Next {
        let next = self.dispatch.borrow_mut().connection_free(index, free_ns);
        if next == Next::Idle && self.pacer_parked.get() {
            self.connection_idle.notify_one();
        }
        next
    }

    /// Remembers how to wake connection `index`.
    pub(crate) fn register(&self, index: usize, waker: &Waker) {
        self.slots.borrow_mut()[index].waker = Some(waker.clone());
    }

    /// The request that the pacer handed to connection `index`.
    pub(crate) fn take_held(&self, index: usize) -> Option<Ticket> {
        self.slots.borrow_mut()[index].ticket.take()
    }

    /// True when no idle connection will be handed a request any more.
    pub(crate) fn is_idle_for_good(&self) -> bool {
        self.dispatch.borrow().next_due_ns().is_none()
    }

    /// Idle connection `index` is closed; a request that was handed to it just before waits for its reopening.
    pub(crate) fn connection_lost(&self, index: usize, now_ns: u64) {
        self.dispatch.borrow_mut().connection_lost(index, now_ns);
    }

    /// Connection `index` was gone from `lost_ns` to `open_ns`; a request that was handed to it waited for that.
    pub(crate) fn delay_held(&self, index: usize, lost_ns: u64, open_ns: u64) {
        if let Some(ticket) = &mut self.slots.borrow_mut()[index].ticket {
            ticket.lag_connection_ns += open_ns.saturating_sub(lost_ns.max(ticket.intended_ns));
        }
    }

    /// Opens link `index`, as [`Opener::open`] does.
    pub(crate) async fn open(&self, index: usize, shift: usize) -> Result<Option<OpenLink>, Failure> {
        self.opener.open(index, shift).await
    }

    /// The oldest due request, for a connection that cannot be opened.
    pub(crate) fn take_due(&self, now_ns: u64) -> Option<Ticket> {
        self.dispatch.borrow_mut().take_due(now_ns)
    }

    /// True when connection `index` has nothing more to send.
    pub(crate) fn is_over(&self, index: usize) -> bool {
        self.slots.borrow()[index].ticket.is_none() && self.dispatch.borrow().is_finished(monotonic_ns())
    }

    /// Connection `index` starts to send.
    pub(crate) fn begin(&self, index: usize, ticket: Ticket, started_ns: u64) {
        let slot = &mut self.slots.borrow_mut()[index];
        slot.in_flight = Some((ticket, started_ns));
        slot.expired = false;
    }

    /// Connection `index` is polled: true when its request has had its time.
    pub(crate) fn is_expired(&self, index: usize) -> bool {
        self.pulse.beat();
        self.slots.borrow()[index].expired
    }

    /// The request on connection `index` ended.
    pub(crate) fn finish(&self, index: usize, completion: Completion) {
        self.slots.borrow_mut()[index].in_flight = None;
        self.complete(completion);
    }

    /// A request ended.
    pub(crate) fn complete(&self, completion: Completion) {
        self.last_finished_ns.set(completion.stamps.finished_ns);
        self.record.borrow_mut().complete(completion);
    }

    /// A request was refused and will be sent again.
    pub(crate) fn retried(&self, measured: bool) {
        self.record.borrow_mut().retried(measured);
    }

    /// The server allows fewer streams than there are links, by one more.
    pub(crate) fn place_unavailable(&self) {
        self.record.borrow_mut().places_unavailable += 1;
    }

    /// Sends nothing more.
    fn stop(&self) {
        self.dispatch.borrow_mut().stop(monotonic_ns());
        self.connection_idle.notify_one();
        self.wake_all();
    }

    fn wake_all(&self) {
        self.slots.borrow().iter().for_each(Slot::wake);
    }

    /// Notes how far the schedule is behind when the measured time is `elapsed_ns` old.
    pub(crate) fn observe(&self, elapsed_ns: u64, now_ns: u64) {
        self.record.borrow_mut().course.look(elapsed_ns, self.dispatch.borrow().behind_ns(now_ns));
    }

    /// Ends every request that has been under way for longer than `timeout_ns`.
    pub(crate) fn expire(&self, now_ns: u64, timeout_ns: u64) {
        for slot in self.slots.borrow_mut().iter_mut() {
            let overdue = slot.in_flight.is_some_and(|(_, started)| now_ns - started >= timeout_ns);
            if overdue && !slot.expired {
                slot.expired = true;
                slot.wake();
            }
        }
    }

    /// Puts up what has happened so far.
    pub(crate) fn publish(&self, now_ns: u64, usage: &Usage) {
        let in_flight = self.slots.borrow().iter().filter(|slot| slot.in_flight.is_some()).count() as u64;
        let dispatch = self.dispatch.borrow();
        let mut notice = Notice::of(&self.record.borrow());
        notice.scheduled = dispatch.due(now_ns);
        notice.sent += in_flight;
        notice.in_flight = in_flight;
        // What was handed over a moment ago and is not being written yet waits, too.
        notice.backlog = notice.scheduled.saturating_sub(notice.sent);
        notice.connections_open = self.pulse.connections_open();
        notice.behind_ns = dispatch.behind_ns(now_ns);
        usage.note(self.spun_ns.get(), &mut notice);
        self.shared.board.put(self.index, &notice);
    }

    /// Closes the books: what is in flight and what was never sent is recorded as that.
    fn take_record(&self, end_ns: u64) -> Record {
        let mut record = self.record.replace(self.shared.record());
        let dispatch = self.dispatch.borrow();
        (record.warmup.scheduled, record.measured.scheduled) = dispatch.scheduled();
        dispatch.each_unsent(end_ns, |intended_ns, lag_connection_ns| {
            record.unsent(end_ns - intended_ns, lag_connection_ns);
        });
        for slot in self.slots.borrow().iter() {
            if let Some((ticket, started_ns)) = slot.in_flight {
                record.in_flight_at_end(ticket.measured, Stamps::new(ticket, started_ns, end_ns));
            }
            if let Some(ticket) = slot.ticket {
                record.handed_over_at_end(ticket, end_ns);
            }
        }
        record
    }
}

impl Slot {
    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}
