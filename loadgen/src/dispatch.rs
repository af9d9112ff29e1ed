//! Without one queue for all connections of a worker, a request would wait behind one slow connection while
//! others stand idle, and nobody could tell whether the server or the generator made it wait.
//!
//! Any idle connection takes the next due request. When none is idle the request waits; the wait needs no
//! memory, because the schedule is a formula: the backlog is the gap between two counters.

use std::collections::VecDeque;

use crate::schedule::{Lane, LaneKind};

/// Permission to send one request, with all that is known about it before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Number of the request within the run.
    pub request: u64,
    /// The instant at which it was due.
    pub intended_ns: u64,
    /// The part of its wait during which every connection was busy.
    pub lag_connection_ns: u64,
    /// False for a request of the warm-up.
    pub measured: bool,
}

/// What a free connection shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send this request at once.
    Send(Ticket),
    /// Nothing is due: stay idle until the pacer hands over a request.
    Idle,
    /// The schedule has no more requests.
    Done,
}

/// Requests of one phase that the schedule contains, and those of them that nobody took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduled {
    /// Requests due in this phase.
    pub scheduled: u64,
    /// Those that no connection was free for before the run ended.
    pub unsent: u64,
}

/// Which request goes out next, on which connection, and since when it waits.
#[derive(Debug)]
pub struct Dispatch {
    lane: Lane,
    start_ns: u64,
    /// Lane index of the next request.
    next: u64,
    /// When that one is due (open loop). Kept, because the formula of a ramp costs a square root.
    due_ns: u64,
    /// Requests of the warm-up taken so far (closed loop; in open loop the formula knows).
    warmup_taken: u64,
    /// Idle connections, longest idle first, so that all of them take part.
    idle: VecDeque<usize>,
    /// The instant since which no connection is idle; meaningful while `idle` is empty.
    none_idle_since_ns: u64,
    /// Closed loop: set when the connections that were open before the start have been let go.
    started: bool,
    /// Set when the run is cut short: nothing beyond this lane index is sent.
    cut: Option<u64>,
}

impl Dispatch {
    /// The dispatch of `lane` for a run that starts at `start_ns`.
    pub fn new(lane: Lane, start_ns: u64) -> Self {
        let due_ns = due_ns(&lane, start_ns, 0);
        Self {
            lane,
            start_ns,
            next: 0,
            due_ns,
            warmup_taken: 0,
            idle: VecDeque::new(),
            none_idle_since_ns: start_ns,
            started: false,
            cut: None,
        }
    }

    /// `connection` is free since `free_ns`: the oldest due request, or a place among the idle.
    pub fn connection_free(&mut self, connection: usize, free_ns: u64) -> Next {
        if self.is_finished(free_ns) {
            return Next::Done;
        }
        if let Some(ticket) = self.take_due(free_ns) {
            return Next::Send(ticket);
        }
        self.idle.push_back(connection);
        Next::Idle
    }

    /// The oldest due request, for a connection that is free (or gave up connecting) since `free_ns`.
    pub fn take_due(&mut self, free_ns: u64) -> Option<Ticket> {
        if self.is_finished(free_ns) {
            return None;
        }
        let (intended_ns, lag_connection_ns) = match self.lane.kind {
            LaneKind::Open(_) => {
                let intended_ns = self.next_due_ns().filter(|due| *due <= free_ns)?;
                // Was another connection idle all the while, then the generator overslept.
                let busy_from_ns = intended_ns.max(self.none_idle_since_ns);
                let waited = if self.idle.is_empty() { free_ns.saturating_sub(busy_from_ns) } else { 0 };
                (intended_ns, waited)
            }
            LaneKind::Closed { .. } if free_ns < self.start_ns => return None,
            LaneKind::Closed { .. } => (free_ns, 0),
        };
        Some(self.ticket(intended_ns, lag_connection_ns))
    }

    /// Hands every due request to an idle connection, as long as there is one.
    pub fn release(&mut self, now_ns: u64, mut hand_over: impl FnMut(usize, Ticket)) {
        while let Some(intended_ns) = self.next_due_ns().filter(|due| *due <= now_ns) {
            let Some(connection) = self.idle.pop_front() else { break };
            if self.idle.is_empty() {
                self.none_idle_since_ns = now_ns;
            }
            hand_over(connection, self.ticket(intended_ns, 0));
        }
        self.started |= now_ns >= self.start_ns;
    }

    /// The peer closed an idle connection, so it can take no request before it is open again.
    pub fn connection_lost(&mut self, connection: usize, now_ns: u64) {
        let Some(place) = self.idle.iter().position(|idle| *idle == connection) else { return };
        self.idle.remove(place);
        if self.idle.is_empty() {
            self.none_idle_since_ns = now_ns;
        }
    }

    /// The instant at which idle connections are needed next; `None` when they will not be. In closed loop
    /// that is the start, after which no connection is idle any more.
    pub fn next_due_ns(&self) -> Option<u64> {
        let LaneKind::Open(lane) = &self.lane.kind else {
            return (!self.started && self.cut.is_none()).then_some(self.start_ns);
        };
        (self.next < self.open_end(lane.total)).then_some(self.due_ns)
    }

    /// True when at least one connection waits for work.
    pub fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// Requests that are due and not yet taken.
    pub fn backlog(&self, now_ns: u64) -> u64 {
        let LaneKind::Open(lane) = &self.lane.kind else { return 0 };
        let due = lane.due_before((now_ns + 1).saturating_sub(self.start_ns));
        due.min(self.open_end(lane.total)).saturating_sub(self.next)
    }

    /// Requests that have fallen due so far, warm-up included: those taken and the backlog.
    pub fn due(&self, now_ns: u64) -> u64 {
        self.cut.unwrap_or_else(|| self.next + self.backlog(now_ns))
    }

    /// How long the oldest waiting request has been due.
    pub fn behind_ns(&self, now_ns: u64) -> u64 {
        self.next_due_ns().map_or(0, |due| now_ns.saturating_sub(due))
    }

    /// Cuts the run short: what is due by `now_ns` counts as scheduled, and nothing more is sent.
    pub fn stop(&mut self, now_ns: u64) {
        self.cut = Some(self.next + self.backlog(now_ns));
        if !self.idle.is_empty() {
            self.idle.clear();
            self.none_idle_since_ns = now_ns;
        }
    }

    /// The counts of the warm-up and of the measured phase.
    pub fn scheduled(&self) -> (Scheduled, Scheduled) {
        let LaneKind::Open(lane) = &self.lane.kind else {
            let warmup = Scheduled { scheduled: self.warmup_taken, unsent: 0 };
            return (warmup, Scheduled { scheduled: self.next - self.warmup_taken, unsent: 0 });
        };
        let total = self.cut.unwrap_or(lane.total);
        let warmup = lane.due_before(self.lane.warmup_ns).min(total);
        let warmup_unsent = warmup.saturating_sub(self.next);
        let unsent = total.saturating_sub(self.next) - warmup_unsent;
        (
            Scheduled { scheduled: warmup, unsent: warmup_unsent },
            Scheduled { scheduled: total - warmup, unsent },
        )
    }

    /// Calls `each` with the intended instant and the connection lag of every measured request that was due
    /// and never sent; all of its wait up to `now_ns` is known.
    pub fn each_unsent(&self, now_ns: u64, mut each: impl FnMut(u64, u64)) {
        let LaneKind::Open(lane) = &self.lane.kind else { return };
        let total = self.cut.unwrap_or(lane.total);
        let measured_from = self.next.max(lane.due_before(self.lane.warmup_ns));
        for index in measured_from..total {
            let intended_ns = self.start_ns + lane.intended_ns(index);
            if intended_ns >= now_ns {
                return;
            }
            let waited = now_ns - intended_ns.max(self.none_idle_since_ns).min(now_ns);
            each(intended_ns, if self.idle.is_empty() { waited } else { 0 });
        }
    }

    /// True when no request will be sent any more.
    pub fn is_finished(&self, now_ns: u64) -> bool {
        match &self.lane.kind {
            _ if self.cut.is_some() => true,
            LaneKind::Open(lane) => self.next >= lane.total,
            LaneKind::Closed { measured, end_ns } => {
                measured.is_some_and(|measured| self.next - self.warmup_taken >= measured)
                    || end_ns.is_some_and(|end| now_ns >= self.start_ns.saturating_add(end))
            }
        }
    }

    fn ticket(&mut self, intended_ns: u64, lag_connection_ns: u64) -> Ticket {
        let measured = intended_ns - self.start_ns >= self.lane.warmup_ns;
        let request = self.lane.request(self.next);
        self.next += 1;
        self.due_ns = due_ns(&self.lane, self.start_ns, self.next);
        self.warmup_taken += u64::from(!measured);
        Ticket { request, intended_ns, lag_connection_ns, measured }
    }

    /// Lane index after the last request that may still be sent.
    fn open_end(&self, total: u64) -> u64 {
        if self.cut.is_some() { self.next } else { total }
    }
}

/// When request `index` of an open lane is due, on the monotonic clock.
fn due_ns(lane: &Lane, start_ns: u64, index: u64) -> u64 {
    match &lane.kind {
        LaneKind::Open(open) => start_ns.saturating_add(open.intended_ns(index)),
        LaneKind::Closed { .. } => start_ns,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use proptest::prelude::*;

    use super::*;
    use crate::schedule::{Arrivals, Schedule};

    const START: u64 = 1_000_000;
    const MS: u64 = 1_000_000;

    /// 1,000 requests per second: one per millisecond.
    fn open(requests: u64) -> Dispatch {
        let arrivals = Arrivals::Constant { per_second: NonZeroU64::new(1_000).unwrap() };
        let schedule = Schedule::new(&arrivals, 0, Some(requests), None);
        Dispatch::new(schedule.lane(0, NonZeroU64::MIN), START)
    }

    fn closed(requests: Option<u64>, duration_ns: Option<u64>) -> Dispatch {
        let schedule = Schedule::new(&Arrivals::Closed, 0, requests, duration_ns);
        Dispatch::new(schedule.lane(0, NonZeroU64::MIN), START)
    }

    fn released(dispatch: &mut Dispatch, now_ns: u64) -> Vec<(usize, Ticket)> {
        let mut handed = Vec::new();
        dispatch.release(now_ns, |connection, ticket| handed.push((connection, ticket)));
        handed
    }

    #[test]
    fn an_idle_connection_gets_the_request_that_falls_due() {
        let mut dispatch = open(10);
        assert_eq!(dispatch.connection_free(7, START - 1), Next::Idle);
        assert_eq!(dispatch.next_due_ns(), Some(START));
        let handed = released(&mut dispatch, START);
        assert_eq!(
            handed,
            [(7, Ticket { request: 0, intended_ns: START, lag_connection_ns: 0, measured: true })]
        );
    }

    #[test]
    fn a_late_pacer_is_the_generators_fault_and_a_busy_connection_the_servers() {
        let mut dispatch = open(10);
        dispatch.connection_free(0, START - 1);
        // The pacer wakes 2.5 ms late: one request finds the idle connection, two find none.
        let woken = START + 2 * MS + MS / 2;
        let handed = released(&mut dispatch, woken);
        assert_eq!(handed.len(), 1);
        assert_eq!(handed[0].1.lag_connection_ns, 0);
        // The connection is busy until 4 ms: of the wait since 1 ms only the part after 2.5 ms was its doing.
        let Next::Send(second) = dispatch.connection_free(0, START + 4 * MS) else { panic!("one is due") };
        assert_eq!(second.intended_ns, START + MS);
        assert_eq!(second.lag_connection_ns, START + 4 * MS - woken);
    }

    #[test]
    fn a_due_request_that_an_idle_connection_could_have_taken_has_no_connection_lag() {
        let mut dispatch = open(10);
        dispatch.connection_free(0, START - 1);
        // Connection 1 comes free at 3 ms while connection 0 is idle and the pacer asleep.
        let Next::Send(first) = dispatch.connection_free(1, START + 3 * MS) else { panic!("one is due") };
        assert_eq!((first.intended_ns, first.lag_connection_ns), (START, 0));
    }

    #[test]
    fn the_backlog_is_sent_oldest_first_without_being_stored() {
        let mut dispatch = open(1_000_000);
        let now = START + 500_000 * MS;
        assert_eq!(dispatch.backlog(now), 500_001);
        assert_eq!(dispatch.behind_ns(now), 500_000 * MS);
        let Next::Send(first) = dispatch.connection_free(0, now) else { panic!("one is due") };
        let Next::Send(second) = dispatch.connection_free(0, now) else { panic!("one is due") };
        assert_eq!((first.request, second.request), (0, 1));
        assert_eq!(dispatch.backlog(now), 499_999);
    }

    #[test]
    fn a_stop_counts_only_what_was_due_by_then() {
        let mut dispatch = open(1_000);
        dispatch.connection_free(0, START);
        dispatch.stop(START + 10 * MS);
        let (_, measured) = dispatch.scheduled();
        assert_eq!(measured, Scheduled { scheduled: 11, unsent: 10 });
        assert_eq!(dispatch.connection_free(0, START + 20 * MS), Next::Done);
        assert_eq!(dispatch.next_due_ns(), None);
    }

    #[test]
    fn a_lost_idle_connection_gets_no_request() {
        let mut dispatch = open(10);
        dispatch.connection_free(0, START - 1);
        dispatch.connection_free(1, START - 1);
        dispatch.connection_lost(0, START - 1);
        assert_eq!(released(&mut dispatch, START)[0].0, 1);
    }

    #[test]
    fn a_closed_loop_ends_by_count_or_by_time() {
        let mut by_count = closed(Some(2), None);
        assert!(matches!(by_count.connection_free(0, START), Next::Send(_)));
        assert!(matches!(by_count.connection_free(0, START + 5), Next::Send(_)));
        assert_eq!(by_count.connection_free(0, START + 9), Next::Done);

        let mut by_time = closed(None, Some(MS));
        assert_eq!(by_time.connection_free(0, START - 5), Next::Idle);
        assert_eq!(released(&mut by_time, START + 2)[0].1.intended_ns, START);
        assert_eq!(by_time.next_due_ns(), None);
        let Next::Send(ticket) = by_time.connection_free(0, START + 5) else { panic!("always due") };
        assert_eq!(ticket.intended_ns, START + 5);
        assert_eq!(by_time.connection_free(0, START + MS), Next::Done);
    }

    proptest! {
        /// Whatever connections and pacer do, every request is taken once, in order, or counted as unsent.
        #[test]
        fn every_request_is_taken_once_or_unsent(
            steps in proptest::collection::vec((0..4_usize, 0..3_000_000_u64, any::<bool>()), 0..60),
        ) {
            let mut dispatch = open(40);
            let mut now = START;
            let mut busy = [true; 4];
            let mut taken = Vec::new();
            for (connection, pause, pacer_runs) in steps {
                now += pause;
                if pacer_runs {
                    for (freed, ticket) in released(&mut dispatch, now) {
                        busy[freed] = true;
                        taken.push(ticket);
                    }
                } else if busy[connection] {
                    match dispatch.connection_free(connection, now) {
                        Next::Send(ticket) => taken.push(ticket),
                        Next::Idle => busy[connection] = false,
                        Next::Done => {}
                    }
                }
            }
            let (_, measured) = dispatch.scheduled();
            prop_assert_eq!(measured.scheduled, 40);
            prop_assert_eq!(measured.scheduled, taken.len() as u64 + measured.unsent);
            for (index, ticket) in taken.iter().enumerate() {
                prop_assert_eq!(ticket.request, index as u64);
                prop_assert!(ticket.lag_connection_ns <= now - ticket.intended_ns);
            }
        }
    }
}
