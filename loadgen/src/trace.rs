//! Without a trace that the client has begun, nobody finds the server's spans of a request that was sent.
//!
//! Every N-th request carries a W3C `traceparent` that asks for its trace to be kept (the sampled flag). Its ids are
//! drawn from the seed, so a run that is repeated asks for the same traces.

use std::num::NonZeroU64;

use crate::body::{hex, mix};

/// Length of a `traceparent` value: version, trace id, span id and flags.
pub(crate) const TRACEPARENT_LEN: usize = 55;

/// Keeps trace ids apart from what else is drawn from the seed.
const SALT: u64 = 0x7472_6163_655f_6964;

/// Which requests are traced, and under which ids.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tracer {
    one_in: NonZeroU64,
    seed: u64,
}

impl Tracer {
    /// Traces one request in `one_in`; none if that is 0.
    pub(crate) fn new(one_in: u64, seed: u64) -> Option<Self> {
        NonZeroU64::new(one_in).map(|one_in| Self { one_in, seed })
    }

    /// The `traceparent` of request `request`, if it is to be traced.
    pub(crate) fn traceparent(self, request: u64) -> Option<[u8; TRACEPARENT_LEN]> {
        if !request.is_multiple_of(self.one_in.get()) {
            return None;
        }
        let high = mix(self.seed ^ SALT ^ request);
        let low = mix(high);
        let mut value = *b"00-00000000000000000000000000000000-0000000000000000-01";
        value[3..19].copy_from_slice(&hex(high));
        // Ids of zeros alone are invalid.
        value[19..35].copy_from_slice(&hex(low | 1));
        value[36..52].copy_from_slice(&hex(mix(low) | 1));
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_nth_request_has_a_valid_id_of_its_own() {
        let tracer = Tracer::new(10, 42).unwrap();
        let parents: Vec<_> = (0..1_000).filter_map(|request| tracer.traceparent(request)).collect();
        assert_eq!(parents.len(), 100);
        let ids: HashSet<_> = parents.iter().map(|value| &value[3..35]).collect();
        assert_eq!(ids.len(), 100);
        for value in &parents {
            let text = str::from_utf8(value).unwrap();
            let parts: Vec<_> = text.split('-').collect();
            assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{text}");
            assert_eq!((parts[0], parts[3]), ("00", "01"));
            assert!(
                text.bytes()
                    .all(|byte| byte == b'-' || byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
            );
        }
        assert!(Tracer::new(0, 42).is_none());
    }
}
