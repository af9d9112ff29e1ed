//! Durations as clients write them: a unit that is guessed wrong is a delay a thousand times too long.

use std::time::Duration;

/// Nanoseconds per unit, with the names that Go's `ParseDuration` has. Where one name begins another, the longer is first.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// `1.5` (seconds), `250ms`, `1m30.5s`. `None` for anything else, and for what is longer than about 584 years.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let (name, nanos) = match UNITS.iter().find(|(name, _)| tail.starts_with(name)) {
            Some((name, nanos)) => (*name, *nanos),
            None if tail.is_empty() && rest.len() == text.len() => ("", 1_000_000_000),
            None => return None,
        };
        total = total.checked_add(times(number, nanos)?)?;
        rest = &tail[name.len()..];
        if rest.is_empty() {
            return Some(total);
        }
    }
}

/// The decimal `number` times `nanos`; what is below a nanosecond is dropped.
fn times(number: &str, nanos: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !is_digits(fraction) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(nanos)?;
    let mut place = nanos;
    for digit in fraction.bytes() {
        // Exact for every unit: each is a power of ten, or one times 6 or 36.
        place /= 10;
        total = total.checked_add(place * u64::from(digit - b'0'))?;
    }
    Some(Duration::from_nanos(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bare_number_is_seconds_and_units_are_those_of_go() {
        for (text, nanos) in [
            ("0", 0),
            ("3", 3_000_000_000),
            ("1.5", 1_500_000_000),
            (".5", 500_000_000),
            ("2.", 2_000_000_000),
            ("250ms", 250_000_000),
            ("150us", 150_000),
            ("150µs", 150_000),
            ("7ns", 7),
            ("1m30.5s", 90_500_000_000),
            ("1h", 3_600_000_000_000),
            ("0.000000001", 1),
        ] {
            assert_eq!(parse(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", ".", "s", "-1", "+1", "1 s", "1x", "1.2.3", "1s2", "1e3", "NaN", "inf", "99999999999h", "1 "]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in "[0-9.nuµmsh]{0,24}") {
            let _parsed_or_refused = parse(&text).is_some();
        }

        #[test]
        fn what_is_written_is_read(seconds in 0_u32..100_000, millis in 0_u32..1000) {
            let expected = Duration::from_secs(seconds.into()) + Duration::from_millis(millis.into());
            prop_assert_eq!(parse(&format!("{seconds}.{millis:03}")), Some(expected));
            prop_assert_eq!(parse(&format!("{seconds}s{millis}ms")), Some(expected));
        }
    }
}
