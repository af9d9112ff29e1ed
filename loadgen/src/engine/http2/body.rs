//! Without pieces that share the pool, every large body would be copied into its DATA frames.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use crate::body::{Body, INLINE_BODY_MAX, Payload};

/// A piece of a body while it waits to be written.
#[derive(Debug)]
pub(super) struct Piece {
    bytes: Source,
    start: usize,
    end: usize,
}

#[derive(Debug)]
enum Source {
    /// A small body, or the beginning of a larger one, in which the request id stands.
    Copied(Bytes),
    Fixed(Arc<Vec<u8>>),
    Pool(Arc<[u8]>),
}

impl Piece {
    /// At most `len_max` bytes of `payload`'s body from `position` on.
    pub(super) fn new(body: &Body, payload: &Payload, position: u64, len_max: usize) -> Self {
        let whole = body.piece(payload, position);
        let len = whole.len().min(len_max);
        match body {
            Body::Fixed(bytes) => {
                let start = bytes.len() - whole.len();
                Self { bytes: Source::Fixed(Arc::clone(bytes)), start, end: start + len }
            }
            Body::Generated(generated) if position >= INLINE_BODY_MAX => {
                let start = generated.pool_index(payload, position);
                Self { bytes: Source::Pool(generated.pool()), start, end: start + len }
            }
            Body::None | Body::Generated(_) => Self::copied(body, payload, position, len_max),
        }
    }

    fn copied(body: &Body, payload: &Payload, position: u64, len_max: usize) -> Self {
        let left = INLINE_BODY_MAX.min(payload.len).saturating_sub(position);
        let len = usize::try_from(left).unwrap_or(len_max).min(len_max);
        let mut copy = Vec::with_capacity(len);
        while copy.len() < len {
            let piece = body.piece(payload, position + copy.len() as u64);
            copy.extend_from_slice(&piece[..piece.len().min(len - copy.len())]);
        }
        Self { bytes: Source::Copied(copy.into()), start: 0, end: len }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.end - self.start
    }

    fn chunk(&self) -> &[u8] {
        let whole: &[u8] = match &self.bytes {
            Source::Copied(bytes) => bytes,
            Source::Fixed(bytes) => bytes,
            Source::Pool(bytes) => bytes,
        };
        &whole[self.start..self.end]
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining(), "cannot advance beyond the end of a piece");
        self.start += count;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::body::RunId;

    fn content(body: &Body, payload: &Payload, len_max: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < payload.len {
            let mut piece = Piece::new(body, payload, bytes.len() as u64, len_max);
            assert!(piece.remaining() > 0 && piece.remaining() <= len_max);
            while piece.has_remaining() {
                bytes.push(piece.get_u8());
            }
        }
        bytes
    }

    proptest! {
        /// In whatever pieces a body goes out, it is the body that the checker expects.
        #[test]
        fn the_pieces_are_the_body(request in 0..1_u64 << 48, len in 1..600_000_u64, len_max in 1..70_000_usize) {
            let fixed: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            for body in [Body::generated(3, &[len]), Body::Fixed(fixed.into())] {
                let payload = body.payload(RunId::from_seed(3), request);
                let bytes = content(&body, &payload, len_max.max(12_000));
                prop_assert_eq!(bytes.len() as u64, len);
                let mut position = 0;
                while position < len {
                    let expected = body.piece(&payload, position);
                    let from = usize::try_from(position).unwrap();
                    prop_assert_eq!(expected, &bytes[from..from + expected.len()]);
                    position += expected.len() as u64;
                }
            }
        }
    }
}
