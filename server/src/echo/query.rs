//! The query of a request, decoded: a parameter that cannot be read must not be taken for one that was not sent.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use super::answer::Refusal;

/// The parameters of a query or form (`application/x-www-form-urlencoded`) in their order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// What is wrong with a query.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} cannot be decoded: {why}")]
pub(super) struct BadQuery {
    text: String,
    why: &'static str,
}

impl From<BadQuery> for Refusal {
    fn from(bad: BadQuery) -> Self {
        Self::bad_request(format!("query: {bad}"))
    }
}

impl<'a> Query<'a> {
    /// Decodes `text`, which is without its `?`.
    ///
    /// # Errors
    /// [`BadQuery`] for a `%` without two hexadecimal digits, and for bytes that are not UTF-8.
    pub(super) fn parse(text: &'a str) -> Result<Self, BadQuery> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        decoded.collect::<Result<_, _>>().map(Self)
    }

    /// The query of `uri`; empty where it has none.
    pub(super) fn of(uri: &'a http::Uri) -> Result<Self, BadQuery> {
        Self::parse(uri.query().unwrap_or_default())
    }

    /// The first value of `name`.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every value of `name`.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.iter().filter(move |(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Names and values, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

/// What stands behind `prefix` in the path, decoded.
///
/// # Errors
/// 400 where it cannot be decoded.
pub(super) fn path_tail<'a>(uri: &'a http::Uri, prefix: &str) -> Result<Cow<'a, str>, Refusal> {
    let tail = uri.path().strip_prefix(prefix).unwrap_or_default();
    unescape(tail).map_err(|bad| Refusal::bad_request(format!("path: {bad}")))
}

fn decode(text: &str) -> Result<Cow<'_, str>, BadQuery> {
    if text.contains('+') {
        return unescape(&text.replace('+', " ")).map(|decoded| decoded.into_owned().into());
    }
    unescape(text)
}

fn unescape(text: &str) -> Result<Cow<'_, str>, BadQuery> {
    if !text.contains('%') {
        return Ok(text.into());
    }
    let bad = |why| BadQuery { text: text.to_owned(), why };
    let is_escape =
        |tail: &str| matches!(tail.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    if !text.split('%').skip(1).all(is_escape) {
        return Err(bad("a % is not followed by two hexadecimal digits"));
    }
    let decoded: Vec<u8> = percent_decode(text.as_bytes()).collect();
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_not_utf8| bad("it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let query = Query::parse(text).unwrap();
        query.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn names_and_values_are_decoded_in_their_order() {
        let expected = [("a", "1"), ("b", ""), ("a", "2 3"), ("", "x"), ("ü", "&="), ("c", "d=e")];
        let expected: Vec<_> = expected.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        assert_eq!(pairs("a=1&b&&a=2+3&=x&%C3%BC=%26%3d&c=d=e"), expected);
        assert_eq!(pairs(""), []);
    }

    #[test]
    fn what_cannot_be_decoded_is_named() {
        for (text, part) in [("a=%", "\"%\""), ("a=%4", "\"%4\""), ("%zz=1", "\"%zz\""), ("a=%ff", "UTF-8")] {
            let error = Query::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(sent in proptest::collection::vec(("\\PC{0,8}", "\\PC{0,8}"), 1..6)) {
            let encoded = form_urlencoded::Serializer::new(String::new()).extend_pairs(&sent).finish();
            prop_assert_eq!(pairs(&encoded), sent);
        }

        #[test]
        fn any_text_is_decoded_or_refused_without_panic(text in "[a-f%+&=\u{80}-\u{fff}]{0,40}") {
            let _decoded_or_refused = Query::parse(&text).is_ok();
        }
    }
}
