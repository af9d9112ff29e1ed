//! `If-Match`, `If-None-Match` and `If-Range` (RFC 9110, section 13): a client that resumes a download of another version,
//! and is not told so, has a file that nobody ever sent.

use http::{HeaderMap, header};

/// What the preconditions of a GET or HEAD come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It goes on.
    Met,
    /// 304: the client has it.
    NotModified,
    /// 412: it is not what the client has seen.
    Failed,
}

/// Checks them for what has the entity tag `etag`, with its quotes, and no date: conditions on dates do not count then
/// (sections 13.1.3 and 13.1.4).
pub(super) fn check(headers: &HeaderMap, etag: &str) -> Outcome {
    let names_it = |name, weak| headers.get_all(name).iter().any(|list| names(list.as_bytes(), etag, weak));
    if headers.contains_key(header::IF_MATCH) && !names_it(header::IF_MATCH, Weak::Differs) {
        Outcome::Failed
    } else if names_it(header::IF_NONE_MATCH, Weak::Counts) {
        Outcome::NotModified
    } else {
        Outcome::Met
    }
}

/// Whether `Range` counts. A date is never the one of what has none.
pub(super) fn if_range(headers: &HeaderMap, etag: &str) -> bool {
    let mut values = headers.get_all(header::IF_RANGE).into_iter();
    match (values.next(), values.next()) {
        (None, _) => true,
        (Some(value), None) => value.as_bytes() == etag.as_bytes(),
        (Some(_), Some(_)) => false,
    }
}

/// How a weak tag compares (section 8.8.3.2).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weak {
    Counts,
    Differs,
}

/// Whether a list of entity tags, or `*`, names `etag`, which is strong. What is behind a mistake is not read.
fn names(list: &[u8], etag: &str, weak: Weak) -> bool {
    let mut rest = list.trim_ascii();
    if rest == b"*" {
        return true;
    }
    while let Some((tag, is_weak, behind)) = first_tag(rest) {
        if tag == etag.as_bytes() && (weak == Weak::Counts || !is_weak) {
            return true;
        }
        rest = behind;
    }
    false
}

/// The first tag of a list with its quotes, whether it is weak, and what is behind it. A tag may have commas in it.
fn first_tag(list: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    let begin = list.iter().position(|byte| !matches!(byte, b',' | b' ' | b'\t'))?;
    let list = &list[begin..];
    let (tagged, is_weak) = list.strip_prefix(b"W/").map_or((list, false), |tagged| (tagged, true));
    let length = memchr::memchr(b'"', tagged.strip_prefix(b"\"")?)? + 2;
    let (tag, behind) = tagged.split_at(length);
    Some((tag, is_weak, behind))
}

/// For the fuzzer, through [`fuzzing`](crate::fuzzing).
pub(crate) fn fuzz(list: &[u8]) {
    if names(list, "\"a\"", Weak::Differs) {
        assert!(names(list, "\"a\"", Weak::Counts), "what is named strongly is named");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn of(fields: &[(HeaderName, &'static str)]) -> Outcome {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        check(&headers, "\"a,b\"")
    }

    #[test]
    fn if_match_is_strong_and_goes_first() {
        assert_eq!(of(&[]), Outcome::Met);
        for (value, outcome) in [
            ("*", Outcome::Met),
            ("\"a,b\"", Outcome::Met),
            ("\"x\", , \"a,b\"", Outcome::Met),
            ("W/\"a,b\"", Outcome::Failed),
            ("\"x\"", Outcome::Failed),
            ("\"a\"", Outcome::Failed),
            ("a,b", Outcome::Failed),
            ("", Outcome::Failed),
        ] {
            assert_eq!(of(&[(header::IF_MATCH, value)]), outcome, "{value}");
        }
        assert_eq!(of(&[(header::IF_NONE_MATCH, "*"), (header::IF_MATCH, "\"x\"")]), Outcome::Failed);
        assert_eq!(of(&[(header::IF_MATCH, "\"x\""), (header::IF_MATCH, "\"a,b\"")]), Outcome::Met);
    }

    #[test]
    fn if_none_match_is_weak() {
        for (value, outcome) in [
            ("*", Outcome::NotModified),
            ("W/\"a,b\"", Outcome::NotModified),
            ("\"x\",\"a,b\"", Outcome::NotModified),
            ("\"x\"", Outcome::Met),
            ("\"a,b", Outcome::Met),
        ] {
            assert_eq!(of(&[(header::IF_NONE_MATCH, value)]), outcome, "{value}");
        }
    }

    #[test]
    fn if_range_takes_one_strong_tag() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::IF_RANGE, HeaderValue::from_static(value));
            }
            if_range(&headers, "\"a\"")
        };
        assert!(of(&[]) && of(&["\"a\""]));
        for values in [&["W/\"a\""][..], &["\"b\""], &["Wed, 21 Oct 2015 07:28:00 GMT"], &["\"a\"", "\"a\""]]
        {
            assert!(!of(values), "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn any_list_is_read_without_panic(list in "[W/\"a, *]{0,24}") {
            fuzz(list.as_bytes());
        }
    }
}
