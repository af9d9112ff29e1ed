//! Without counting every request exactly once, lost and failed ones would vanish from the latencies.
//!
//! What the quantiles include: each request that was answered rightly, and each *censored* one (timed out, in
//! flight at the end, never sent) with the time it had waited by then, a lower bound. Requests that failed in
//! another way never got an answer; they are counted by class and have no latency.

use std::collections::BTreeMap;

use crate::{
    course::Course,
    dispatch::{Scheduled, Ticket},
    failure::{Failure, FailureClass},
    latency::{Latencies, Stamps},
};

/// A failure's detail is cut to this many characters.
const SAMPLE_LEN_MAX: usize = 160;

/// Why a latency is a lower bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Censored {
    /// No answer within the timeout.
    pub timeout: u64,
    /// Sent and unanswered when the run ended.
    pub in_flight_at_end: u64,
    /// Due and never sent.
    pub unsent: u64,
}

impl Censored {
    /// All of them.
    pub fn total(self) -> u64 {
        self.timeout + self.in_flight_at_end + self.unsent
    }
}

/// What became of the requests of one phase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that the schedule holds for this phase, and those that were never sent.
    pub scheduled: Scheduled,
    /// Requests for which a connection was written to or asked for.
    pub sent: u64,
    /// Answered with 2xx, and every checked byte right.
    pub ok: u64,
    /// Sent and unanswered when the run ended.
    pub in_flight_at_end: u64,
    /// Times that a request was sent again, because the server had provably not processed it; it counts as sent once.
    pub retried: u64,
    /// All others, by class.
    pub errors: BTreeMap<FailureClass, u64>,
    /// Responses by status, right or wrong.
    pub statuses: BTreeMap<u16, u64>,
    /// Body bytes written.
    pub body_bytes_sent: u64,
    /// Body bytes read.
    pub body_bytes_received: u64,
}

impl Counts {
    /// Requests that failed.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Echoes that came back wrong.
    pub fn wrong(&self) -> u64 {
        self.errors.iter().filter(|(class, _)| class.is_wrong_echo()).map(|(_, count)| count).sum()
    }

    /// `scheduled = sent + unsent` and `sent = ok + errors + in flight at end`.
    pub fn is_conserved(&self) -> bool {
        self.scheduled.scheduled == self.sent + self.scheduled.unsent
            && self.sent == self.ok + self.failed() + self.in_flight_at_end
    }

    fn merge(&mut self, other: &Self) {
        self.scheduled.scheduled += other.scheduled.scheduled;
        self.scheduled.unsent += other.scheduled.unsent;
        self.sent += other.sent;
        self.ok += other.ok;
        self.in_flight_at_end += other.in_flight_at_end;
        self.retried += other.retried;
        for (class, count) in &other.errors {
            *self.errors.entry(*class).or_default() += count;
        }
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.body_bytes_sent += other.body_bytes_sent;
        self.body_bytes_received += other.body_bytes_received;
    }
}

/// How one request ended, as the recorder has to know it.
#[derive(Debug)]
pub struct Completion {
    /// False if it belongs to the warm-up.
    pub measured: bool,
    /// Its instants.
    pub stamps: Stamps,
    /// Status of the response, if one came.
    pub status: Option<u16>,
    /// Body bytes written.
    pub body_sent: u64,
    /// Body bytes read.
    pub body_received: u64,
    /// Right, or what was wrong.
    pub result: Result<(), Failure>,
}

/// Everything one worker learns about its requests; workers are merged at the end.
#[derive(Clone, Debug)]
pub struct Record {
    /// Requests of the warm-up.
    pub warmup: Counts,
    /// Requests of the measured phase.
    pub measured: Counts,
    /// Latencies of the measured phase.
    pub latencies: Latencies,
    /// Which of the latencies are lower bounds.
    pub censored: Censored,
    /// The first failure of each class.
    pub samples: BTreeMap<FailureClass, String>,
    /// The course of the run.
    pub course: Course,
    /// Streams that were asked for and that the server does not allow.
    pub places_unavailable: u64,
}

impl Record {
    /// An empty record of a run whose course has windows of `window_ns`. Its memory does not grow with the number of
    /// requests.
    pub fn new(window_ns: u64) -> Self {
        Self {
            warmup: Counts::default(),
            measured: Counts::default(),
            latencies: Latencies::new(),
            censored: Censored::default(),
            samples: BTreeMap::new(),
            course: Course::new(window_ns),
            places_unavailable: 0,
        }
    }

    /// Records a request that ended, well or not.
    pub fn complete(&mut self, completion: Completion) {
        let counts = if completion.measured { &mut self.measured } else { &mut self.warmup };
        counts.sent += 1;
        counts.body_bytes_sent += completion.body_sent;
        counts.body_bytes_received += completion.body_received;
        if let Some(status) = completion.status {
            *counts.statuses.entry(status).or_default() += 1;
        }
        let timed_out = match completion.result {
            Ok(()) => {
                counts.ok += 1;
                false
            }
            Err(failure) => {
                *counts.errors.entry(failure.class).or_default() += 1;
                let timed_out = failure.class == FailureClass::Timeout;
                self.keep_sample(&failure);
                if !timed_out {
                    return;
                }
                true
            }
        };
        if completion.measured {
            self.censored.timeout += u64::from(timed_out);
            self.add_latency(completion.stamps);
        }
    }

    /// A request will be sent again.
    pub fn retried(&mut self, measured: bool) {
        let counts = if measured { &mut self.measured } else { &mut self.warmup };
        counts.retried += 1;
    }

    /// Records a request that was sent and is still unanswered at the end of the run.
    pub fn in_flight_at_end(&mut self, measured: bool, stamps: Stamps) {
        let counts = if measured { &mut self.measured } else { &mut self.warmup };
        counts.sent += 1;
        counts.in_flight_at_end += 1;
        if measured {
            self.censored.in_flight_at_end += 1;
            self.add_latency(stamps);
        }
    }

    /// Records a request of the measured phase that was due and never sent: it has no service time.
    pub fn unsent(&mut self, waited_ns: u64, lag_connection_ns: u64) {
        self.censored.unsent += 1;
        self.latencies.add_unsent(waited_ns, lag_connection_ns);
    }

    /// Records a request that had a connection at the end of the run and was not written to it yet.
    pub fn handed_over_at_end(&mut self, ticket: Ticket, end_ns: u64) {
        if ticket.measured {
            self.measured.scheduled.unsent += 1;
            self.unsent(end_ns.saturating_sub(ticket.intended_ns), ticket.lag_connection_ns);
        } else {
            self.warmup.scheduled.unsent += 1;
        }
    }

    /// Adds what another worker saw.
    pub fn merge(&mut self, other: &Self) {
        self.warmup.merge(&other.warmup);
        self.measured.merge(&other.measured);
        self.latencies.merge(&other.latencies);
        self.censored.timeout += other.censored.timeout;
        self.censored.in_flight_at_end += other.censored.in_flight_at_end;
        self.censored.unsent += other.censored.unsent;
        for (class, sample) in &other.samples {
            self.samples.entry(*class).or_insert_with(|| sample.clone());
        }
        self.course.merge(&other.course);
        self.places_unavailable += other.places_unavailable;
    }

    fn add_latency(&mut self, stamps: Stamps) {
        self.latencies.add(stamps);
        self.course.add(stamps.response_ns(), stamps.lag_generator_ns());
    }

    fn keep_sample(&mut self, failure: &Failure) {
        self.samples
            .entry(failure.class)
            .or_insert_with(|| failure.detail.chars().take(SAMPLE_LEN_MAX).collect());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ok(stamps: Stamps) -> Completion {
        Completion {
            measured: true,
            stamps,
            status: Some(200),
            body_sent: 10,
            body_received: 10,
            result: Ok(()),
        }
    }

    fn failed(class: FailureClass, stamps: Stamps) -> Completion {
        Completion { result: Err(Failure::new(class, "seen")), status: None, ..ok(stamps) }
    }

    const STAMPS: Stamps =
        Stamps { intended_ns: 100, lag_connection_ns: 20, started_ns: 150, finished_ns: 1_150 };

    #[test]
    fn a_timeout_is_an_error_with_a_latency_that_is_a_lower_bound() {
        let mut record = Record::new(1);
        record.complete(failed(FailureClass::Timeout, STAMPS));
        assert_eq!(record.measured.errors[&FailureClass::Timeout], 1);
        assert_eq!(record.censored, Censored { timeout: 1, ..Censored::default() });
        assert_eq!(record.latencies.response.count(), 1);
    }

    #[test]
    fn a_failed_request_is_counted_and_has_no_latency() {
        let mut record = Record::new(1);
        record.complete(failed(FailureClass::ResetMidBody, STAMPS));
        record.measured.scheduled = Scheduled { scheduled: 1, unsent: 0 };
        assert!(record.measured.is_conserved());
        assert_eq!(record.latencies.response.count(), 0);
        assert_eq!(record.samples[&FailureClass::ResetMidBody], "seen");
    }

    #[test]
    fn the_warmup_is_counted_apart() {
        let mut record = Record::new(1);
        record.complete(Completion { measured: false, ..ok(STAMPS) });
        assert_eq!((record.warmup.ok, record.measured.ok), (1, 0));
        assert_eq!(record.latencies.response.count(), 0);
    }

    #[test]
    fn conservation_notices_a_lost_request() {
        let mut record = Record::new(1);
        record.complete(ok(STAMPS));
        record.measured.scheduled = Scheduled { scheduled: 2, unsent: 0 };
        assert!(!record.measured.is_conserved());
        record.in_flight_at_end(true, STAMPS);
        assert!(record.measured.is_conserved());
    }

    proptest! {
        #[test]
        fn the_identity_holds_for_sums_of_any_requests_and_any_split_over_workers(
            requests in proptest::collection::vec((0..1_u64 << 40, 0..1_u64 << 30, 0..1_u64 << 30, 0..1_u64 << 40), 0..50),
            unsent in proptest::collection::vec((0..1_u64 << 30, 0..1_u64 << 30), 0..10),
            split: prop::sample::Index,
        ) {
            let mut workers = [Record::new(1), Record::new(1)];
            let split = split.index(requests.len() + 1);
            for (index, (intended_ns, lag_connection_ns, lag, service)) in requests.iter().copied().enumerate() {
                let started_ns = intended_ns + lag_connection_ns + lag;
                let stamps = Stamps { intended_ns, lag_connection_ns, started_ns, finished_ns: started_ns + service };
                workers[usize::from(index >= split)].complete(ok(stamps));
            }
            for (connection, generator) in &unsent {
                workers[0].unsent(connection + generator, *connection);
            }
            let [mut merged, other] = workers;
            merged.merge(&other);
            prop_assert!(merged.latencies.identity_holds());
            prop_assert_eq!(merged.latencies.service.count(), requests.len() as u64);
            prop_assert_eq!(merged.latencies.response.count(), (requests.len() + unsent.len()) as u64);
            prop_assert_eq!(merged.measured.ok, requests.len() as u64);
            let in_windows: u64 = merged.course.windows().iter().map(|window| window.requests).sum();
            prop_assert_eq!(in_windows, requests.len() as u64);
        }
    }
}
