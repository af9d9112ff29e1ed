//! Without a check of every byte, a server that answers fast and wrongly would win every comparison.

use crate::{
    body::{Body, Payload},
    failure::{Failure, FailureClass},
};

/// How much of a response has to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// A 2xx status, and the body is the request's own, byte for byte.
    Echo,
    /// A 2xx status.
    Status,
}

/// Checks one response while it streams in.
#[derive(Debug)]
pub struct Checker<'a> {
    check: Check,
    body: &'a Body,
    payload: &'a Payload,
    status: Option<u16>,
    received: u64,
    failure: Option<Failure>,
}

impl<'a> Checker<'a> {
    /// A checker for the response to the request that carried `payload`.
    pub fn new(check: Check, body: &'a Body, payload: &'a Payload) -> Self {
        Self { check, body, payload, status: None, received: 0, failure: None }
    }

    /// Takes the response head. A status that is no success comes first: who refuses a request before reading it cannot
    /// know its id. An id is foreign if it is that of another request of this run; many servers make their own.
    pub fn head(&mut self, status: u16, request_id: Option<&[u8]>) {
        self.status = Some(status);
        if let Some(class) = status_class(status) {
            self.failure = Some(Failure::new(class, format!("status {status}")));
        } else if let Some(other) = request_id.filter(|id| self.payload.is_another_requests(id)) {
            let detail = format!(
                "x-request-id is {}, sent was {}",
                String::from_utf8_lossy(other),
                String::from_utf8_lossy(&self.payload.id),
            );
            self.failure = Some(Failure::new(FailureClass::Foreign, detail));
        }
    }

    /// Takes the next bytes of the response body.
    pub fn body(&mut self, mut bytes: &[u8]) {
        let mut position = self.received;
        self.received += bytes.len() as u64;
        if self.check == Check::Status || self.failure.is_some() {
            return;
        }
        while !bytes.is_empty() {
            let expected = self.body.piece(self.payload, position);
            let len = expected.len().min(bytes.len());
            if len == 0 {
                return; // Longer than what was sent: `finish` says so.
            }
            if expected[..len] != bytes[..len] {
                self.failure = Some(self.mismatch(position, &expected[..len], &bytes[..len]));
                return;
            }
            bytes = &bytes[len..];
            position += len as u64;
        }
    }

    /// Body bytes received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Status of the response, once its head has arrived.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// The verdict on a response that is complete.
    ///
    /// # Errors
    /// The first thing that was wrong with it.
    pub fn finish(&mut self) -> Result<(), Failure> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if self.check == Check::Echo && self.received != self.payload.len {
            let detail = format!("{} bytes came back of {} sent", self.received, self.payload.len);
            return Err(Failure::new(FailureClass::WrongLength, detail));
        }
        Ok(())
    }

    /// The run's part of the id matched and the request's part did not: it is another request's body.
    fn mismatch(&self, position: u64, expected: &[u8], bytes: &[u8]) -> Failure {
        let at = expected.iter().zip(bytes).position(|(want, got)| want != got).unwrap_or(0);
        let position = position + at as u64;
        let class = if self.body.is_request_digit(self.payload, position) {
            FailureClass::Foreign
        } else {
            FailureClass::WrongBody
        };
        let detail = format!(
            "byte {position} of {} is 0x{:02x}, sent was 0x{:02x}",
            self.payload.len, bytes[at], expected[at]
        );
        Failure::new(class, detail)
    }
}

/// The failure that a final status means; `None` for 2xx.
fn status_class(status: u16) -> Option<FailureClass> {
    match status {
        200..300 => None,
        300..400 => Some(FailureClass::Status3xx),
        400..500 => Some(FailureClass::Status4xx),
        500..600 => Some(FailureClass::Status5xx),
        _ => Some(FailureClass::Protocol),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::body::RunId;

    const RUN: u64 = 11;

    fn payload(body: &Body, request: u64) -> Payload {
        body.payload(RunId::from_seed(RUN), request)
    }

    /// The bytes that an honest server returns.
    fn echo(body: &Body, payload: &Payload) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() as u64 != payload.len {
            bytes.extend_from_slice(body.piece(payload, bytes.len() as u64));
        }
        bytes
    }

    fn check(body: &Body, payload: &Payload, answer: &[u8], cut: usize) -> Option<FailureClass> {
        let mut checker = Checker::new(Check::Echo, body, payload);
        checker.head(200, Some(&payload.id));
        checker.body(&answer[..cut.min(answer.len())]);
        checker.body(&answer[cut.min(answer.len())..]);
        checker.finish().err().map(|failure| failure.class)
    }

    #[test]
    fn an_answer_with_the_id_of_another_request_is_foreign() {
        let body = Body::None;
        let (mine, other) = (payload(&body, 1), payload(&body, 2));
        let mut checker = Checker::new(Check::Status, &body, &mine);
        checker.head(200, Some(&other.id));
        assert_eq!(checker.finish().unwrap_err().class, FailureClass::Foreign);
    }

    #[test]
    fn an_id_that_the_server_made_up_is_no_other_request() {
        let mine = payload(&Body::None, 1);
        let mut checker = Checker::new(Check::Status, &Body::None, &mine);
        checker.head(200, Some(b"0b6a2a3c-1f2e-4a33-9a0e-1c3f6a7b8c9d"));
        assert!(checker.finish().is_ok());
    }

    #[test]
    fn a_refusal_is_named_by_its_status_whatever_id_it_carries() {
        let (mine, other) = (payload(&Body::None, 1), payload(&Body::None, 2));
        let mut checker = Checker::new(Check::Status, &Body::None, &mine);
        checker.head(503, Some(&other.id));
        assert_eq!(checker.finish().unwrap_err().class, FailureClass::Status5xx);
    }

    #[test]
    fn a_swapped_body_is_foreign_even_if_the_server_returns_no_id() {
        let body = Body::generated(RUN, &[64]);
        let (mine, other) = (payload(&body, 1), payload(&body, 2));
        assert_eq!(check(&body, &mine, &echo(&body, &other), 10), Some(FailureClass::Foreign));
    }

    #[test]
    fn only_2xx_is_success() {
        let class = |status| {
            let (body, mut failed) = (Body::None, None);
            let payload = payload(&body, 0);
            let mut checker = Checker::new(Check::Status, &body, &payload);
            checker.head(status, None);
            if let Err(failure) = checker.finish() {
                failed = Some(failure.class);
            }
            failed
        };
        assert_eq!(class(204), None);
        assert_eq!(class(302), Some(FailureClass::Status3xx));
        assert_eq!(class(404), Some(FailureClass::Status4xx));
        assert_eq!(class(503), Some(FailureClass::Status5xx));
    }

    #[test]
    fn a_request_without_a_body_wants_an_empty_echo() {
        let body = Body::None;
        let payload = payload(&body, 3);
        assert_eq!(check(&body, &payload, b"", 0), None);
        assert_eq!(check(&body, &payload, b"x", 0), Some(FailureClass::WrongLength));
    }

    proptest! {
        #[test]
        fn an_exact_echo_passes_in_any_pieces(request: u64, len in 0..5_000_u64, cut in 0..5_000_usize) {
            let body = Body::generated(RUN, &[len]);
            let payload = payload(&body, request);
            prop_assert_eq!(check(&body, &payload, &echo(&body, &payload), cut), None);
        }

        #[test]
        fn one_changed_byte_anywhere_is_noticed(
            request: u64, len in 1..5_000_u64, at: prop::sample::Index, flip in 1..=255_u8, cut in 0..5_000_usize,
        ) {
            let body = Body::generated(RUN, &[len]);
            let payload = payload(&body, request);
            let mut answer = echo(&body, &payload);
            let at = at.index(answer.len());
            answer[at] ^= flip;
            let class = check(&body, &payload, &answer, cut);
            prop_assert!(matches!(class, Some(FailureClass::WrongBody | FailureClass::Foreign)));
        }

        #[test]
        fn one_byte_more_or_less_is_a_wrong_length(request: u64, len in 1..5_000_u64, more: bool) {
            let body = Body::generated(RUN, &[len]);
            let payload = payload(&body, request);
            let mut answer = echo(&body, &payload);
            if more { answer.push(0) } else { answer.pop(); }
            prop_assert_eq!(check(&body, &payload, &answer, 7), Some(FailureClass::WrongLength));
        }
    }
}
