//! The time of day as text: formatting a date for every line costs more than the rest of the line.

use std::{
    cell::Cell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// `2026-11-22T10:15:30`
const SECONDS: usize = 19;

/// Appends `now` in UTC with milliseconds: `2026-11-22T10:15:30.123Z` (RFC 3339).
pub(crate) fn append(line: &mut Vec<u8>, now: SystemTime) {
    thread_local!(static LAST: Cell<(u64, [u8; SECONDS])> = const { Cell::new((u64::MAX, [0; SECONDS])) });
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (mut second, mut text) = LAST.get();
    if second != since.as_secs() {
        second = since.as_secs();
        let formatted =
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(second)).to_string();
        if let Some(beginning) = formatted.as_bytes().first_chunk() {
            text = *beginning;
        }
        LAST.set((second, text));
    }
    let mut digits = itoa::Buffer::new();
    line.extend_from_slice(&text);
    line.push(b'.');
    // 1000 + n has the digits of n with their leading zeros.
    line.extend_from_slice(&digits.format(1000 + since.subsec_millis()).as_bytes()[1..]);
    line.push(b'Z');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_what_humantime_writes(seconds in 0..4_102_444_800_u64, nanos in 0..1_000_000_000_u32) {
            let at = UNIX_EPOCH + Duration::new(seconds, nanos);
            for at in [at, at + Duration::from_millis(1), at + Duration::from_hours(24)] {
                let mut text = Vec::new();
                append(&mut text, at);
                prop_assert_eq!(String::from_utf8(text).unwrap(), humantime::format_rfc3339_millis(at).to_string());
            }
        }
    }
}
