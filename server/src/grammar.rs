//! What RFC 9110 calls by a name: with a copy per parser, one of them is stricter, and that is where requests are smuggled.

/// A byte of a token (section 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
