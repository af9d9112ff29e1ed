//! When a certificate ends: without it on a dashboard the day comes as a surprise.
//!
//! One field of the certificate's outermost structure is all we need, so this walks to it and parses nothing else
//! (X.690 for the encoding, RFC 5280, section 4.1 for the structure).

/// DER tags: universal types, and the explicit `[0]` of the version.
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of a certificate's validity, in seconds since 1970; `None` where it does not have the form of a certificate.
pub(crate) fn not_after(certificate: &[u8]) -> Option<i64> {
    let (certificate, _) = expect(certificate, SEQUENCE)?;
    let (fields, _) = expect(certificate, SEQUENCE)?;
    let fields = expect(fields, VERSION).map_or(fields, |(_, rest)| rest);
    let (_serial, fields) = expect(fields, INTEGER)?;
    let (_algorithm, fields) = expect(fields, SEQUENCE)?;
    let (_issuer, fields) = expect(fields, SEQUENCE)?;
    let (validity, _) = expect(fields, SEQUENCE)?;
    let (_, _begin, validity) = element(validity)?;
    let (kind, end, _) = element(validity)?;
    time(kind, end)
}

/// The content of the first element, which must have this `tag`, and what follows it.
fn expect(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(bytes)?;
    (found == tag).then_some((content, rest))
}

/// Tag and content of the first element, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [tag, length, rest @ ..] = bytes else { return None };
    let (length, rest) = match *length {
        short @ 0..=0x7f => (usize::from(short), rest),
        // So many bytes of length follow. None (0x80) would be of BER, and more than four of no certificate.
        long @ 0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(long - 0x80))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// `YYMMDDHHMMSSZ` (years 1950 to 2049) or `YYYYMMDDHHMMSSZ` (RFC 5280, section 4.1.2.5).
fn time(kind: u8, text: &[u8]) -> Option<i64> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0, |n, digit| n * 10 + i64::from(digit - b'0'));
    let (year, rest) = match (kind, digits.len()) {
        (UTC_TIME, 12) => {
            let year = number(&digits[..2]);
            (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(&rest[at..at + 2]));
    let is_real =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    is_real.then(|| ((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Days of the Gregorian calendar, by <https://howardhinnant.github.io/date_algorithms.html#days_from_civil>: years begin
/// in March, so that the leap day is their last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + year * 365 + year / 4 - year / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_found() {
        let key = rcgen::KeyPair::generate().unwrap();
        for (year, expected) in [(2030, 1_909_526_400), (2049, 2_509_142_400), (2050, 2_540_678_400)] {
            let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 7, 6);
            assert_eq!(not_after(params.self_signed(&key).unwrap().der()), Some(expected), "{year}");
        }
    }

    #[test]
    fn what_is_no_date_has_no_time() {
        assert_eq!(time(GENERALIZED_TIME, b"19700101000000Z"), Some(0));
        assert_eq!(time(UTC_TIME, b"500101000000Z"), Some(-631_152_000));
        for bad in ["700101000000", "7001010000Z", "701301000000Z", "700100000000Z", "7a0101000000Z", "Z", ""]
        {
            assert_eq!(time(UTC_TIME, bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn dates_are_those_of_another_calendar(seconds in 0_u32..) {
            let seconds = u64::from(seconds);
            let date = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            let text: String = date.to_string().chars().filter(char::is_ascii_digit).collect();
            let found = time(GENERALIZED_TIME, format!("{text}Z").as_bytes());
            prop_assert_eq!(found, i64::try_from(seconds).ok());
        }

        #[test]
        fn any_bytes_are_walked_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _found_or_not = not_after(&bytes);
        }

        #[test]
        fn a_damaged_certificate_is_walked_without_panic(at in 0_usize..120, byte in any::<u8>(), cut in 0_usize..400) {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            let mut der = params.self_signed(&key).unwrap().der().to_vec();
            der[at] = byte;
            der.truncate(cut);
            let _found_or_not = not_after(&der);
        }
    }
}
