//! Names of header fields that a client may not choose for us: with one of them it could cut its response in two.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Fields that belong to one connection (RFC 9110, section 7.6.1) or say where a message ends: the engine sets them.
const FRAMING: [HeaderName; 7] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Fields that must be known before the body (RFC 9110, section 6.5.1): routing, modifiers, credentials, and how the body
/// is to be read.
const NEEDED_BEFORE_BODY: [HeaderName; 16] = [
    header::HOST,
    header::EXPECT,
    header::MAX_FORWARDS,
    header::CACHE_CONTROL,
    header::PRAGMA,
    header::RANGE,
    header::AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::WWW_AUTHENTICATE,
    header::COOKIE,
    header::SET_COOKIE,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::AGE,
];

/// Whether a client may not set this field of a response.
pub(super) fn is_framing(name: &HeaderName) -> bool {
    FRAMING.contains(name) || name == "proxy-connection"
}

/// Whether this field cannot be a trailer.
pub(super) fn is_forbidden_in_trailers(name: &HeaderName) -> bool {
    is_framing(name) || NEEDED_BEFORE_BODY.contains(name)
}

/// As many as clients take, and so few that nobody feels what setting them costs.
const FIELDS_MAX: usize = 64;

/// Whether a response may be given so many fields by a client.
///
/// # Errors
/// That it may not, for a person.
pub(super) fn check_number(fields: usize) -> Result<(), String> {
    match fields {
        ..=FIELDS_MAX => Ok(()),
        _ => Err(format!("{fields} header fields are asked for, and a response takes {FIELDS_MAX}")),
    }
}

/// Sets `fields`: the first of a name replaces what is there, the others are added.
pub(super) fn set_fields(headers: &mut HeaderMap, fields: Vec<(HeaderName, HeaderValue)>) {
    let mut replaced: Vec<HeaderName> = Vec::new();
    for (name, value) in fields {
        if replaced.contains(&name) {
            headers.append(name, value);
        } else {
            headers.insert(name.clone(), value);
            replaced.push(name);
        }
    }
}
