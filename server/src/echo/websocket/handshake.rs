//! What a client must say to get a WebSocket: an endpoint that is lenient here becomes a way to smuggle bytes past a
//! proxy that is not.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderMap, HeaderValue, Method, Request, Version, header};
use http_body::Body;
use hyper::ext::Protocol;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::grammar::is_token;

/// The one version of the protocol (RFC 6455 section 4.1).
pub(super) const VERSION: &str = "13";

/// The name of the protocol, in `Upgrade` (RFC 6455) and `:protocol` (RFC 8441).
const WEBSOCKET: &str = "websocket";

/// Bytes of a client's nonce (RFC 6455 section 4.1).
const KEY_BYTES: usize = 16;

/// A handshake that is as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    /// What proves that we have read the key; HTTP/2 has none.
    pub(super) accept: Option<HeaderValue>,
    /// The first of the subprotocols that the client offers: a browser that offers some and is given none hangs up.
    pub(super) subprotocol: Option<HeaderValue>,
}

/// Why there is no WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// 426, with what we would speak.
    #[error("this is a WebSocket endpoint: the request needs `Upgrade: websocket` and `Connection: upgrade`")]
    NotAsked,
    /// 426, with the version that we speak (RFC 6455 section 4.4).
    #[error("`Sec-WebSocket-Version` must be 13")]
    Version,
    #[error("a WebSocket is opened with GET (HTTP/1.1) or CONNECT (HTTP/2)")]
    Method,
    #[error("`Upgrade: websocket` needs `upgrade` in `Connection`, too")]
    Connection,
    #[error("`Sec-WebSocket-Key` must be there once, and be 16 bytes in base64")]
    Key,
    #[error("a request that opens a WebSocket has no body")]
    Body,
}

/// Whether the request wants to become a WebSocket, well-formed or not.
pub(super) fn is_asked_for<B>(request: &Request<B>) -> bool {
    match request.version() {
        // RFC 9110 section 7.8: an HTTP/1.0 request has no Upgrade, whatever it says.
        Version::HTTP_11 => lists(request.headers(), &header::UPGRADE, WEBSOCKET),
        Version::HTTP_2 => {
            let protocol = request.extensions().get::<Protocol>();
            request.method() == Method::CONNECT
                && protocol.is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case(WEBSOCKET))
        }
        _ => false,
    }
}

/// Reads a handshake (RFC 6455 section 4.2.1; RFC 8441 section 5).
///
/// # Errors
/// What is missing or wrong.
pub(super) fn open<B: Body>(request: &Request<B>) -> Result<Opening, Refused> {
    if !is_asked_for(request) {
        return Err(Refused::NotAsked);
    }
    let headers = request.headers();
    let accept = if request.version() == Version::HTTP_2 { None } else { Some(accept(request)?) };
    if only(headers, &header::SEC_WEBSOCKET_VERSION) != Some(VERSION.as_bytes()) {
        return Err(Refused::Version);
    }
    Ok(Opening { accept, subprotocol: first_subprotocol(headers) })
}

/// The rules that only HTTP/1.1 has.
fn accept<B: Body>(request: &Request<B>) -> Result<HeaderValue, Refused> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(Refused::Method);
    }
    if !request.body().is_end_stream() {
        return Err(Refused::Body);
    }
    if !lists(headers, &header::CONNECTION, "upgrade") {
        return Err(Refused::Connection);
    }
    let key = only(headers, &header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key)).ok_or(Refused::Key)?;
    HeaderValue::try_from(derive_accept_key(key)).ok().ok_or(Refused::Key)
}

/// Whether it is the base64 of 16 bytes.
pub(crate) fn is_key(key: &[u8]) -> bool {
    // Room for what base64 may guess too high.
    let mut nonce = [0; KEY_BYTES + 8];
    key.len() == KEY_BYTES.div_ceil(3) * 4
        && BASE64.decode_slice(key, &mut nonce).is_ok_and(|bytes| bytes == KEY_BYTES)
}

/// The value of a header that is there once, without the space around it.
fn only<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none()).map(|value| value.as_bytes().trim_ascii())
}

/// Whether a header that is a list of tokens has this one, in any case, in any of its lines.
fn lists(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| has_token(value.as_bytes(), token))
}

/// Whether the list has the token (RFC 9110 section 5.6.1), in any case.
pub(crate) fn has_token(list: &[u8], token: &str) -> bool {
    list.split(|byte| *byte == b',').any(|each| each.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

fn first_subprotocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?;
    let first = offered.as_bytes().split(|byte| *byte == b',').next()?.trim_ascii();
    let is_one = !first.is_empty() && first.iter().copied().all(is_token);
    HeaderValue::from_bytes(first).ok().filter(|_| is_one)
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};
    use proptest::prelude::*;

    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<Empty<&'static [u8]>> {
        let mut request = Request::builder().uri("/echo");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Empty::new()).unwrap()
    }

    const GOOD: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    /// [`GOOD`] with the header `name` as these.
    fn with(name: &str, values: &[&str]) -> Request<Empty<&'static [u8]>> {
        let mut headers: Vec<_> = GOOD.into_iter().filter(|(each, _)| *each != name).collect();
        headers.extend(values.iter().map(|value| (name, *value)));
        request(&headers)
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted_with_its_answer() {
        let opening = open(&request(&GOOD)).unwrap();
        assert_eq!(opening.accept.unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(opening.subprotocol, None);
    }

    #[test]
    fn each_rule_of_the_handshake_refuses_with_its_reason() {
        assert_eq!(open(&with("upgrade", &[])), Err(Refused::NotAsked));
        assert_eq!(open(&with("upgrade", &["websockets"])), Err(Refused::NotAsked));
        assert!(open(&with("upgrade", &["h2c, websocket"])).is_ok());
        assert_eq!(open(&with("connection", &[])), Err(Refused::Connection));
        assert_eq!(open(&with("connection", &["upgraded"])), Err(Refused::Connection));
        assert!(open(&with("connection", &["close", "upgrade"])).is_ok());
        for versions in [&[][..], &["8"], &["13, 8"], &["13", "13"], &["013"]] {
            assert_eq!(open(&with("sec-websocket-version", versions)), Err(Refused::Version), "{versions:?}");
        }
        let good = "dGhlIHNhbXBsZSBub25jZQ==";
        for keys in [&[][..], &[""], &["SGVsbG8sIHdvcmxkIQ=="], &["dGhlIHNhbXBsZSBub25jZQ"], &[good, good]] {
            assert_eq!(open(&with("sec-websocket-key", keys)), Err(Refused::Key), "{keys:?}");
        }
        let mut post = request(&GOOD);
        *post.method_mut() = Method::POST;
        assert_eq!(open(&post), Err(Refused::Method));
        let with_body = request(&GOOD).map(|_| Full::new(&b"x"[..]));
        assert_eq!(open(&with_body), Err(Refused::Body));
    }

    #[test]
    fn an_upgrade_is_only_asked_for_where_the_version_has_one() {
        for version in [Version::HTTP_10, Version::HTTP_2] {
            let mut old = request(&GOOD);
            *old.version_mut() = version;
            assert!(!is_asked_for(&old), "{version:?}");
        }
        let mut connect = request(&[("sec-websocket-version", "13")]);
        *connect.version_mut() = Version::HTTP_2;
        *connect.method_mut() = Method::CONNECT;
        assert!(!is_asked_for(&connect));
        connect.extensions_mut().insert(Protocol::from_static("websocket"));
        assert_eq!(open(&connect), Ok(Opening { accept: None, subprotocol: None }));
    }

    #[test]
    fn the_first_subprotocol_is_chosen_if_it_is_a_token() {
        let chosen = |offered| open(&with("sec-websocket-protocol", &[offered])).unwrap().subprotocol;
        assert_eq!(chosen(" chat.v2 , superchat").unwrap(), "chat.v2");
        assert_eq!(chosen("chat v2"), None);
        assert_eq!(chosen(",x"), None);
    }

    proptest! {
        #[test]
        fn a_key_is_the_base64_of_16_bytes_and_nothing_else(nonce in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(is_key(BASE64.encode(&nonce).as_bytes()), nonce.len() == KEY_BYTES);
            // Whatever the bytes are, they are read without a panic.
            is_key(&nonce);
        }

        #[test]
        fn a_token_is_found_wherever_it_stands_in_the_list(
            before in proptest::collection::vec("[a-z]{0,5}", 0..4),
            after in proptest::collection::vec("[a-z]{0,5}", 0..4),
            space in "[ \t]{0,3}",
        ) {
            let found = format!("{space}UpGrade{space}");
            let with: Vec<_> = before.iter().chain([&found]).chain(&after).cloned().collect();
            prop_assert!(has_token(with.join(",").as_bytes(), "upgrade"));
            let without: Vec<_> = before.iter().chain(&after).cloned().collect();
            prop_assert!(!has_token(without.join(",").as_bytes(), "upgrade"));
        }
    }
}
