//! Who may change something: a listener that anybody can reach, and that obeys anybody, is a way to stop the server.
//!
//! A client on a loopback address may, and so may whoever shows the token, from anywhere. A browser is on a loopback
//! address, too, and sends what any web page tells it to: from there only the token counts.

use http::{HeaderMap, HeaderName, Request, StatusCode, header};
use sha2::{Digest as _, Sha256};

use super::{Answer, line, with_header};
use crate::{config::Config, request::RequestBody, socket::peer::Peer};

/// Set by browsers, and by nothing else.
const FROM_BROWSERS: [HeaderName; 2] = [header::ORIGIN, HeaderName::from_static("sec-fetch-site")];

/// What a request is answered that may not change something: 401 to a wrong token, 403 to none where one is needed.
pub(super) fn denial(request: &Request<RequestBody>, config: &Config) -> Option<Answer> {
    decide(&request.body().activity().peer(), request.headers(), config.admin_token.reveal())
        .err()
        .map(Denied::into_answer)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denied {
    WrongToken,
    Browser,
    FromAfar { is_token_set: bool },
}

impl Denied {
    fn into_answer(self) -> Answer {
        match self {
            Self::WrongToken => {
                let answer = line(StatusCode::UNAUTHORIZED, "the token is not the one of --admin-token");
                with_header(answer, header::WWW_AUTHENTICATE, "Bearer")
            }
            Self::Browser => line(
                StatusCode::FORBIDDEN,
                "a browser may change something only with `authorization: Bearer TOKEN` (--admin-token)",
            ),
            Self::FromAfar { is_token_set: true } => {
                line(StatusCode::FORBIDDEN, "only a loopback address may, or `authorization: Bearer TOKEN`")
            }
            Self::FromAfar { is_token_set: false } => line(
                StatusCode::FORBIDDEN,
                "only a loopback address may; --admin-token lets others in who know it",
            ),
        }
    }
}

fn decide(peer: &Peer, headers: &HeaderMap, token: Option<&str>) -> Result<(), Denied> {
    if let (Some(token), Some(shown)) = (token, headers.get(header::AUTHORIZATION)) {
        return if is_token(shown.as_bytes(), token) { Ok(()) } else { Err(Denied::WrongToken) };
    }
    if !peer.is_local() {
        return Err(Denied::FromAfar { is_token_set: token.is_some() });
    }
    if FROM_BROWSERS.iter().any(|name| headers.contains_key(name)) {
        return Err(Denied::Browser);
    }
    Ok(())
}

/// Compares digests: how long that takes says nothing about the token.
fn is_token(shown: &[u8], token: &str) -> bool {
    let Some((scheme, shown)) = shown.split_first_chunk::<7>() else { return false };
    scheme.eq_ignore_ascii_case(b"bearer ") && Sha256::digest(shown) == Sha256::digest(token)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http::HeaderValue;

    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::Ip(address.parse::<SocketAddr>().unwrap())
    }

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_loopback_or_the_token_and_nobody_else() {
        let (here, afar) = (peer("127.0.0.1:1"), peer("192.0.2.1:1"));
        let none = headers(&[]);
        let right = headers(&[(header::AUTHORIZATION, "bearer s3cret")]);
        let wrong = headers(&[(header::AUTHORIZATION, "Bearer s3cre")]);
        let basic = headers(&[(header::AUTHORIZATION, "Basic s3cret")]);
        for (peer, headers, token, decision) in [
            (&here, &none, None, Ok(())),
            (&here, &none, Some("s3cret"), Ok(())),
            (&here, &right, Some("s3cret"), Ok(())),
            (&here, &wrong, Some("s3cret"), Err(Denied::WrongToken)),
            (&here, &wrong, None, Ok(())),
            (&afar, &none, None, Err(Denied::FromAfar { is_token_set: false })),
            (&afar, &right, None, Err(Denied::FromAfar { is_token_set: false })),
            (&afar, &none, Some("s3cret"), Err(Denied::FromAfar { is_token_set: true })),
            (&afar, &right, Some("s3cret"), Ok(())),
            (&afar, &wrong, Some("s3cret"), Err(Denied::WrongToken)),
            (&afar, &basic, Some("s3cret"), Err(Denied::WrongToken)),
        ] {
            assert_eq!(decide(peer, headers, token), decision, "{peer} {headers:?} {token:?}");
        }
        assert_eq!(decide(&peer("[::ffff:127.0.0.1]:1"), &none, None), Ok(()));
    }

    #[test]
    fn a_web_page_cannot_use_the_browser_on_this_machine() {
        let here = peer("[::1]:1");
        for name in FROM_BROWSERS {
            let from_page = headers(&[(name, "http://evil.example")]);
            assert_eq!(decide(&here, &from_page, Some("s3cret")), Err(Denied::Browser));
        }
        let with_token = headers(&[(header::ORIGIN, "http://a"), (header::AUTHORIZATION, "Bearer s3cret")]);
        assert_eq!(decide(&here, &with_token, Some("s3cret")), Ok(()));
    }
}
