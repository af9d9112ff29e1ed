//! Without a body that differs from request to request, a server that mixes answers up would pass every check.
//!
//! A generated body is a window into one pool of seeded random bytes; where it begins follows from the request
//! number, so both the sender and the checker can name any byte of it without a copy.

use std::sync::Arc;

/// Length of a request id in hex digits: 16 for the run, 16 for the request.
pub const ID_LEN: usize = 32;

/// Digits of the id that all requests of a run share.
pub const RUN_LEN: usize = 16;

/// Bytes of random content that windows are cut from; small enough to stay in the second-level cache.
const POOL_LEN: usize = 256 * 1024;

/// Bodies up to this size are copied, so that one plain write or one frame sends them.
pub(crate) const INLINE_BODY_MAX: u64 = 2 * 1024;

/// What the requests of a run carry.
#[derive(Clone, Debug)]
pub enum Body {
    /// No body.
    None,
    /// The same bytes each time (`-d`, `-D`).
    Fixed(Arc<Vec<u8>>),
    /// Seeded random bytes in one of several sizes (`--body-size`).
    Generated(Generated),
}

/// The source of seeded bodies.
#[derive(Clone, Debug)]
pub struct Generated {
    pool: Arc<[u8]>,
    sizes: Arc<[u64]>,
    seed: u64,
}

/// One request's identity and content: all that is needed to send it and to check its echo.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    /// The `x-request-id` of this request.
    pub id: [u8; ID_LEN],
    /// Length of the body.
    pub len: u64,
    /// Index into [`Body::sizes`].
    pub size_class: usize,
    /// Number of the request within its run.
    pub(crate) request: u64,
    /// Where the window begins in the pool.
    offset: usize,
}

impl Payload {
    /// Whether `id` is that of another request of the same run.
    pub fn is_another_requests(&self, id: &[u8]) -> bool {
        id.len() == ID_LEN && id[..RUN_LEN] == self.id[..RUN_LEN] && *id != self.id
    }
}

impl Body {
    /// Bodies drawn by `seed` from `sizes`, each size equally likely.
    pub fn generated(seed: u64, sizes: &[u64]) -> Self {
        let mut pool = vec![0; POOL_LEN];
        fastrand::Rng::with_seed(seed).fill(&mut pool);
        Self::Generated(Generated { pool: pool.into(), sizes: sizes.into(), seed })
    }

    /// The lengths that occur.
    pub fn sizes(&self) -> Vec<u64> {
        match self {
            Self::None => vec![0],
            Self::Fixed(bytes) => vec![bytes.len() as u64],
            Self::Generated(generated) => generated.sizes.to_vec(),
        }
    }

    /// Identity and content of request `request` in the run `run`.
    pub fn payload(&self, run: RunId, request: u64) -> Payload {
        let id = run.request_id(request);
        match self {
            Self::None => Payload { id, len: 0, size_class: 0, request, offset: 0 },
            Self::Fixed(bytes) => Payload { id, len: bytes.len() as u64, size_class: 0, request, offset: 0 },
            Self::Generated(generated) => {
                let draw = mix(generated.seed ^ request);
                let size_class = below(draw >> 32, generated.sizes.len());
                let offset = below(draw & 0xffff_ffff, POOL_LEN);
                Payload { id, len: generated.sizes[size_class], size_class, request, offset }
            }
        }
    }

    /// The longest contiguous piece of `payload`'s body from `position` on; empty at its end.
    pub fn piece<'a>(&'a self, payload: &'a Payload, position: u64) -> &'a [u8] {
        let left = payload.len.saturating_sub(position);
        let whole = match self {
            Self::None => &[],
            // `position` is below the length of a slice in memory, or nothing is left.
            Self::Fixed(bytes) => bytes.get(to_index(position)..).unwrap_or_default(),
            Self::Generated(generated) => generated.piece(payload, position),
        };
        &whole[..whole.len().min(to_index(left))]
    }

    /// True if `position` lies in the id inside a generated body, behind the part that the whole run shares.
    pub fn is_request_digit(&self, payload: &Payload, position: u64) -> bool {
        matches!(self, Self::Generated(_))
            && has_id(payload)
            && (RUN_LEN as u64..ID_LEN as u64).contains(&position)
    }
}

impl Generated {
    fn piece<'a>(&'a self, payload: &'a Payload, position: u64) -> &'a [u8] {
        if has_id(payload) && position < ID_LEN as u64 {
            return &payload.id[to_index(position)..];
        }
        &self.pool[self.pool_index(payload, position)..]
    }

    /// Where in the pool the byte at `position` stands, behind the id.
    pub(crate) fn pool_index(&self, payload: &Payload, position: u64) -> usize {
        (payload.offset + to_index(position % POOL_LEN as u64)) % self.pool.len()
    }

    /// The pool.
    pub(crate) fn pool(&self) -> Arc<[u8]> {
        Arc::clone(&self.pool)
    }
}

/// The part of a request id that tells runs apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunId([u8; RUN_LEN]);

impl RunId {
    /// The id of the run with this seed.
    pub fn from_seed(seed: u64) -> Self {
        Self(hex(mix(seed)))
    }

    /// The `x-request-id` of request `request`.
    pub fn request_id(self, request: u64) -> [u8; ID_LEN] {
        let mut id = [0; ID_LEN];
        id[..RUN_LEN].copy_from_slice(&self.0);
        id[RUN_LEN..].copy_from_slice(&hex(request));
        id
    }
}

/// A body shorter than an id carries only pool bytes.
fn has_id(payload: &Payload) -> bool {
    payload.len >= ID_LEN as u64
}

/// 16 hex digits.
pub(crate) fn hex(value: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 16];
    for (place, byte) in value.to_be_bytes().into_iter().enumerate() {
        text[2 * place] = DIGITS[usize::from(byte >> 4)];
        text[2 * place + 1] = DIGITS[usize::from(byte & 0xf)];
    }
    text
}

/// SplitMix64: equal inputs give equal bits everywhere, neighbours give unrelated ones.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Scales 32 random bits to `0..bound`.
fn below(bits: u64, bound: usize) -> usize {
    to_index((bits * bound as u64) >> 32)
}

/// Sizes and positions are below the address space of any machine this runs on.
fn to_index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The whole body, put together from its pieces.
    fn whole(body: &Body, payload: &Payload) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() as u64 != payload.len {
            bytes.extend_from_slice(body.piece(payload, bytes.len() as u64));
        }
        bytes
    }

    #[test]
    fn an_id_names_run_and_request_in_fixed_width() {
        let run = RunId::from_seed(1);
        let id = run.request_id(0xabc);
        assert_eq!(&id[RUN_LEN..], b"0000000000000abc");
        assert_ne!(id[..RUN_LEN], RunId::from_seed(2).request_id(0xabc)[..RUN_LEN]);
    }

    #[test]
    fn every_size_of_the_mix_occurs_about_equally_often() {
        let body = Body::generated(7, &[64, 16_384, 100]);
        let mut seen = [0_u32; 3];
        for request in 0..30_000 {
            seen[body.payload(RunId::from_seed(7), request).size_class] += 1;
        }
        assert!(seen.iter().all(|count| (9_500..10_500).contains(count)), "{seen:?}");
    }

    proptest! {
        #[test]
        fn the_same_seed_gives_the_same_bodies_and_another_request_another_one(
            seed: u64, request in 0..1_u64 << 48, len in 40..2_000_u64,
        ) {
            let (one, two) = (Body::generated(seed, &[len]), Body::generated(seed, &[len]));
            let run = RunId::from_seed(seed);
            let content = whole(&one, &one.payload(run, request));
            prop_assert_eq!(content.len() as u64, len);
            prop_assert_eq!(&content, &whole(&two, &two.payload(run, request)));
            prop_assert_ne!(&content, &whole(&one, &one.payload(run, request + 1)));
        }

        #[test]
        fn a_piece_from_any_position_agrees_with_the_whole(
            request: u64, position in 0..600_000_u64,
        ) {
            let body = Body::generated(3, &[600_000]);
            let payload = body.payload(RunId::from_seed(3), request);
            let content = whole(&body, &payload);
            let piece = body.piece(&payload, position);
            prop_assert!(!piece.is_empty());
            let from = usize::try_from(position).unwrap();
            prop_assert_eq!(piece, &content[from..from + piece.len()]);
        }
    }
}
