//! Without one place for the derived figures, the text and the JSON of a run could disagree.

pub mod json;
pub mod text;

use serde::Serialize;

use crate::{
    clock::NANOS_PER_SECOND,
    run::Outcome,
    verdict::{Evidence, Judgement, Verdict, judge},
};

/// Exit code of a run in which a request failed or an echo was wrong.
pub const EXIT_FAILED: u8 = 1;

/// Exit code for wrong usage.
pub const EXIT_USAGE: u8 = 2;

/// Exit code of a run that says nothing about the server.
pub const EXIT_NOT_VALID: u8 = 4;

/// A run with its judgement.
#[derive(Debug)]
pub struct Report {
    /// What happened.
    pub outcome: Outcome,
    /// What it is worth.
    pub judgement: Judgement,
    /// The server's side, if it was asked.
    pub server: Option<ServerAccount>,
}

/// What the server counted while a run lasted.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ServerAccount {
    /// Requests answered, whatever the status.
    pub requests: u64,
    /// Bytes of request bodies read.
    pub request_body_bytes: u64,
    /// Bytes of response bodies written.
    pub response_body_bytes: u64,
    /// Its CPU time per request in us, if it runs on this machine.
    pub us_per_request: Option<f64>,
}

impl Report {
    /// Judges `outcome`.
    pub fn new(outcome: Outcome) -> Self {
        let judgement = judge(&Evidence::from_outcome(&outcome));
        Self { outcome, judgement, server: None }
    }

    /// What the process shall return.
    pub fn exit_code(&self) -> u8 {
        let record = &self.outcome.record;
        let failed = record.measured.failed() + record.warmup.failed() > 0
            || !record.measured.is_conserved()
            || !record.warmup.is_conserved()
            || !record.latencies.identity_holds();
        match self.outcome.interrupted {
            Some(interrupt) => interrupt.exit_code(),
            None if failed => EXIT_FAILED,
            None if self.judgement.name != Verdict::Valid => EXIT_NOT_VALID,
            None if record.measured.in_flight_at_end + record.warmup.in_flight_at_end > 0 => EXIT_FAILED,
            None => 0,
        }
    }
}

impl Outcome {
    /// Requests of the measured phase that ended, per second.
    pub fn achieved_rate(&self) -> f64 {
        let measured = &self.record.measured;
        let ended = measured.ok + measured.failed();
        ended as f64 * NANOS_PER_SECOND as f64 / self.elapsed_ns.max(1) as f64
    }

    /// CPU time of the worker threads per request, warm-up included and waiting excluded, in us.
    pub fn client_us_per_request(&self) -> f64 {
        self.us_per_request(self.cpu_ns)
    }

    /// CPU time spent on waiting for the next instant, per request, in us.
    pub fn spin_us_per_request(&self) -> f64 {
        self.us_per_request(self.spun_ns)
    }

    fn us_per_request(&self, cpu_ns: u64) -> f64 {
        let sent = self.record.measured.sent + self.record.warmup.sent;
        cpu_ns as f64 / 1_000.0 / sent.max(1) as f64
    }
}
