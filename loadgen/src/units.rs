//! Without one reading of `10k`, `16k` and `30s`, the same text would mean different things behind two flags.

use std::time::Duration;

/// `30s`, `500ms`, `1m 30s`; a bare number is seconds, as in hey.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 30s, 500ms or 2m"))
}

/// `200`, `10k`, `2m`: decimal multiples.
pub(crate) fn count(text: &str) -> Result<u64, String> {
    scaled(text, 1_000).ok_or_else(|| "write it as 200, 10k or 2m".to_owned())
}

/// `64`, `16k`, `1m`: binary multiples.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    scaled(text, 1_024).ok_or_else(|| "write it as 64, 16k or 1m".to_owned())
}

fn scaled(text: &str, kilo: u64) -> Option<u64> {
    let (digits, factor) = match text.to_ascii_lowercase() {
        lower if lower.ends_with('k') => (lower.len() - 1, kilo),
        lower if lower.ends_with('m') => (lower.len() - 1, kilo * kilo),
        lower => (lower.len(), 1),
    };
    text.get(..digits)?.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_and_counts_decimal() {
        assert_eq!((size("16k"), count("2m")), (Ok(16_384), Ok(2_000_000)));
        assert!(count("2x").is_err() && size("").is_err() && size("99999999999999m").is_err());
    }

    #[test]
    fn a_bare_number_is_seconds() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(duration("soon").is_err());
    }
}
