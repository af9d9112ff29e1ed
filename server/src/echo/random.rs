//! Bytes that follow from a seed and their place alone: a client checks any part of a generated body without a copy of
//! it, and a server that has sent half of one keeps nothing of it.
//!
//! The stream is that of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), its outputs one after the other, each in
//! little-endian order. SplitMix64 is a counter with a hash behind it, so output `n` needs none of those before it:
//! byte `i` with seed `s` is byte `i % 8` of `mix(s + (i / 8 + 1) * 0x9E3779B97F4A7C15)`, all in 64 bits without sign.

/// Bytes of one output.
const WORD: usize = size_of::<u64>();

/// Output `n`, from 0 on, of the generator seeded with `seed`.
pub(super) fn word(seed: u64, n: u64) -> u64 {
    let z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Writes the bytes of the stream from place `from` on.
pub(super) fn fill(seed: u64, from: u64, bytes: &mut [u8]) {
    let mut n = from / WORD as u64;
    let skip = usize::try_from(from % WORD as u64).unwrap_or(0);
    let begun = if skip == 0 { 0 } else { (WORD - skip).min(bytes.len()) };
    let (head, aligned) = bytes.split_at_mut(begun);
    if begun > 0 {
        head.copy_from_slice(&word(seed, n).to_le_bytes()[skip..skip + begun]);
        n += 1;
    }
    let mut words = aligned.chunks_exact_mut(WORD);
    for place in &mut words {
        place.copy_from_slice(&word(seed, n).to_le_bytes());
        n = n.wrapping_add(1);
    }
    let tail = words.into_remainder();
    tail.copy_from_slice(&word(seed, n).to_le_bytes()[..tail.len()]);
}

/// For the fuzzer, through [`fuzzing`](crate::fuzzing): any part of a stream is that part of the whole.
pub(crate) fn fuzz(seed: u64, from: u64, length: usize) {
    let (mut part, mut whole) = (vec![0; length], vec![0; length + WORD]);
    // The whole begins at a word, or where a word has already begun.
    let before = usize::try_from(from % WORD as u64).unwrap_or(0);
    fill(seed, from, &mut part);
    fill(seed, from - before as u64, &mut whole);
    assert_eq!(part, whole[before..before + length], "seed {seed}, from {from}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_words_are_those_of_splitmix64() {
        // From the reference implementation, seed 1234567.
        let expected: [u64; 3] =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        for (n, expected) in expected.into_iter().enumerate() {
            assert_eq!(word(1_234_567, n as u64), expected);
        }
    }

    #[test]
    fn a_byte_is_what_the_description_says() {
        let mut bytes = [0; 100];
        fill(42, 0, &mut bytes);
        for (i, byte) in bytes.iter().enumerate() {
            assert_eq!(*byte, word(42, i as u64 / 8).to_le_bytes()[i % 8]);
        }
    }

    proptest! {
        #[test]
        fn any_part_is_the_part_of_the_whole(seed: u64, from in 0_usize..200, length in 0_usize..200) {
            let (mut whole, mut part) = ([0; 400], vec![0; length]);
            fill(seed, 0, &mut whole);
            fill(seed, from as u64, &mut part);
            prop_assert_eq!(&part[..], &whole[from..from + length]);
            fuzz(seed, u64::MAX - 1000 + from as u64, length);
        }
    }
}
