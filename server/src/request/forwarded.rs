//! Who the client is, when proxies that we trust stand between: whoever believes these headers from anybody lets each
//! client choose its own address.
//!
//! `Forwarded` (RFC 7239) and `X-Forwarded-For`, `-Proto`, `-Host`, which no standard describes and every proxy sends.

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderMap, HeaderName, header::FORWARDED, uri::Authority};
use ipnet::IpNet;

use crate::{
    grammar::is_token,
    socket::peer::{Peer, is_trusted},
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What is known of the client and of what it asked for, before any proxy changed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin<'a> {
    /// `None` where the client came over a Unix socket, and nobody that we trust says more.
    pub(crate) address: Option<IpAddr>,
    /// `http` or `https`, where a trusted proxy says so.
    pub(crate) scheme: Option<&'static str>,
    /// Host and port as the client wrote them, where a trusted proxy says so.
    pub(crate) host: Option<Cow<'a, str>>,
}

/// The client of a request with `headers` that came from `peer`.
///
/// The chain is walked from its end, which our peer has written, towards the client, for as long as the writers are
/// `trusted`: the first address that is not is the client's; what stands beyond, it may have written itself.
///
/// Where both kinds of header are there and name different clients, one of them has come through a proxy that does not
/// know it, and neither is believed.
pub(crate) fn client_of<'a>(headers: &'a HeaderMap, peer: &Peer, trusted: &[IpNet]) -> Origin<'a> {
    let itself = Origin { address: peer.ip(), ..Origin::default() };
    if !is_trusted(peer, trusted) {
        return itself;
    }
    let standard = headers.contains_key(FORWARDED).then(|| by_standard(headers, &itself, trusted));
    let custom =
        [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST].iter().any(|name| headers.contains_key(name));
    let custom = custom.then(|| by_custom(headers, &itself, trusted));
    match (standard, custom) {
        (None, None) => itself,
        (Some(origin), None) | (None, Some(origin)) => origin.unwrap_or(itself),
        (Some(standard), Some(custom)) => match (standard, custom) {
            (Some(standard), Some(custom)) if standard.address == custom.address => standard,
            _ => itself,
        },
    }
}

/// One hop, as the proxy behind it describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hop<'a> {
    /// `None` where the proxy hides it, or does not know it.
    address: Option<IpAddr>,
    scheme: Option<&'static str>,
    host: Option<Cow<'a, str>>,
}

/// The client at the end of `hops`, which go from the nearest to the farthest.
fn walk<'a>(hops: impl Iterator<Item = Hop<'a>>, itself: &Origin<'a>, trusted: &[IpNet]) -> Origin<'a> {
    let mut origin = itself.clone();
    for hop in hops {
        let is_proxy = hop.address.is_some_and(|address| trusted.iter().any(|net| net.contains(&address)));
        // A hidden hop leaves the client's nearest known proxy in its place.
        let address = hop.address.or(origin.address);
        origin = Origin { address, scheme: hop.scheme, host: hop.host };
        if !is_proxy {
            break;
        }
    }
    origin
}

/// `None` where the header breaks its grammar: then it is not known who wrote what.
fn by_standard<'a>(headers: &'a HeaderMap, itself: &Origin<'a>, trusted: &[IpNet]) -> Option<Origin<'a>> {
    let mut hops = Vec::new();
    for value in headers.get_all(FORWARDED) {
        parse(value.to_str().ok()?, &mut hops)?;
    }
    Some(walk(hops.into_iter().rev(), itself, trusted))
}

/// Adds the elements of one `Forwarded` header (RFC 7239, section 4).
fn parse<'a>(text: &'a str, hops: &mut Vec<Hop<'a>>) -> Option<()> {
    let mut rest = text.trim_matches(OWS);
    let mut hop = Hop::default();
    loop {
        // An element, and a pair in it, may be empty.
        if !rest.is_empty() && !rest.starts_with([',', ';']) {
            rest = pair(rest, &mut hop)?.trim_start_matches(OWS);
        }
        let separator = rest.chars().next();
        if separator != Some(';') {
            hops.push(std::mem::take(&mut hop));
        }
        match separator {
            None => return Some(()),
            Some(';' | ',') => rest = rest[1..].trim_start_matches(OWS),
            Some(_) => return None,
        }
    }
}

const OWS: [char; 2] = [' ', '\t'];

/// Takes `name=value` from the beginning of `text`; returns what follows.
fn pair<'a>(text: &'a str, hop: &mut Hop<'a>) -> Option<&'a str> {
    let (name, text) = text.split_once('=')?;
    if name.is_empty() || !name.bytes().all(is_token) {
        return None;
    }
    let (value, rest) = if let Some(quoted) = text.strip_prefix('"') {
        unquote(quoted)?
    } else {
        let end = text.bytes().position(|b| !is_token(b)).unwrap_or(text.len());
        (Cow::Borrowed(&text[..end]), &text[end..])
    };
    if value.is_empty() {
        return None;
    }
    match name.to_ascii_lowercase().as_str() {
        "for" => hop.address = address(&value),
        "proto" => hop.scheme = scheme(&value),
        "host" => hop.host = host(value),
        _ => {}
    }
    Some(rest)
}

/// The rest of a quoted string, and what follows it.
fn unquote(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let end = text.find(['"', '\\'])?;
    if text[end..].starts_with('"') {
        return Some((Cow::Borrowed(&text[..end]), &text[end + 1..]));
    }
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((Cow::Owned(plain), &text[at + 1..])),
            '\\' => plain.push(characters.next()?.1),
            other => plain.push(other),
        }
    }
    None
}

fn by_custom<'a>(headers: &'a HeaderMap, itself: &Origin<'a>, trusted: &[IpNet]) -> Option<Origin<'a>> {
    let clients = values(headers, &X_FORWARDED_FOR)?;
    let schemes = values(headers, &X_FORWARDED_PROTO)?;
    let hosts = values(headers, &X_FORWARDED_HOST)?;
    // Some proxies add to these two, others keep one value for the whole chain.
    let at = |values: &[&'a str], place: usize| {
        if values.len() == clients.len() { values.get(place) } else { values.last() }.copied()
    };
    let hop = |place: usize| Hop {
        address: clients.get(place).and_then(|client| address(client)),
        scheme: at(&schemes, place).and_then(scheme),
        host: at(&hosts, place).and_then(|text| host(Cow::Borrowed(text))),
    };
    // Without the first, the others still tell of our peer's own client.
    let places = (0..clients.len().max(1)).rev();
    Some(walk(places.map(hop), itself, trusted))
}

/// The members of a list header, in their order.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Vec<&'a str>> {
    let mut values = Vec::new();
    for value in headers.get_all(name) {
        values.extend(value.to_str().ok()?.split(',').map(str::trim).filter(|text| !text.is_empty()));
    }
    Some(values)
}

/// An IP address, with or without a port; `None` for `unknown`, `_hidden` and anything else (RFC 7239, section 6).
fn address(text: &str) -> Option<IpAddr> {
    let ip = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (ip, port) = bracketed.split_once(']')?;
            if !port.is_empty() && !port.starts_with(':') {
                return None;
            }
            IpAddr::V6(ip.parse().ok()?)
        }
        None => match text.parse() {
            Ok(ip) => ip,
            Err(_) => IpAddr::V4(text.split_once(':')?.0.parse().ok()?),
        },
    };
    Some(ip.to_canonical())
}

fn scheme(text: &str) -> Option<&'static str> {
    ["http", "https"].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme))
}

/// What cannot stand in a `Host` header is dropped.
fn host(text: Cow<'_, str>) -> Option<Cow<'_, str>> {
    let authority = text.parse::<Authority>().ok()?;
    (!text.contains('@') && !authority.host().is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRUSTED: &str = "10.0.0.0/8,::1/128";

    fn trusted() -> Vec<IpNet> {
        TRUSTED.split(',').map(|net| net.parse().unwrap()).collect()
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    /// The client, scheme and host that a peer in a trusted network, 10.0.0.1, is believed to have named.
    fn named(lines: &[(&'static str, &str)]) -> (String, String) {
        let headers = headers(lines);
        let origin = client_of(&headers, &Peer::Ip("10.0.0.1:1".parse().unwrap()), &trusted());
        let url = format!("{}://{}", origin.scheme.unwrap_or("-"), origin.host.as_deref().unwrap_or("-"));
        (origin.address.unwrap().to_string(), url)
    }

    fn client(lines: &[(&'static str, &str)]) -> String {
        named(lines).0
    }

    #[test]
    fn nobody_is_believed_who_is_not_trusted() {
        let headers = headers(&[("forwarded", "for=1.2.3.4;proto=https"), ("x-forwarded-for", "1.2.3.4")]);
        let stranger = Peer::Ip("192.0.2.1:1".parse().unwrap());
        let expected = Origin { address: stranger.ip(), ..Origin::default() };
        assert_eq!(client_of(&headers, &stranger, &trusted()), expected);
        assert_eq!(client_of(&headers, &Peer::Unix, &["10.0.0.0/8".parse().unwrap()]), Origin::default());
        let told = client_of(&headers, &Peer::Unix, &["127.0.0.0/8".parse().unwrap()]);
        assert_eq!(told.address, Some("1.2.3.4".parse().unwrap()));
    }

    #[test]
    fn the_first_address_from_the_end_that_is_no_trusted_proxy_is_the_client() {
        assert_eq!(client(&[("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.2.2.2")]), "1.2.3.4");
        assert_eq!(client(&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.2.3.4")]), "1.2.3.4");
        assert_eq!(
            client(&[("x-forwarded-for", "10.3.3.3, 10.2.2.2")]),
            "10.3.3.3",
            "a client that is trusted, too"
        );
        assert_eq!(client(&[("forwarded", "for=6.6.6.6, for=1.2.3.4, for=10.2.2.2")]), "1.2.3.4");
        assert_eq!(client(&[("forwarded", "for=\"[2001:db8::7]:443\"")]), "2001:db8::7");
        assert_eq!(client(&[("x-forwarded-for", "1.2.3.4:567")]), "1.2.3.4");
        assert_eq!(client(&[("x-forwarded-for", "::ffff:1.2.3.4")]), "1.2.3.4");
    }

    #[test]
    fn a_hop_that_is_hidden_ends_the_walk_at_the_proxy_before_it() {
        assert_eq!(client(&[("forwarded", "for=6.6.6.6, for=_secret, for=10.2.2.2")]), "10.2.2.2");
        assert_eq!(client(&[("x-forwarded-for", "unknown")]), "10.0.0.1");
        assert_eq!(client(&[("x-forwarded-for", "")]), "10.0.0.1");
    }

    #[test]
    fn two_headers_that_disagree_are_both_disbelieved() {
        let forwarded = ("forwarded", "for=1.2.3.4;proto=https");
        assert_eq!(client(&[forwarded, ("x-forwarded-for", "1.2.3.4")]), "1.2.3.4");
        assert_eq!(client(&[forwarded, ("x-forwarded-for", "5.6.7.8")]), "10.0.0.1");
        assert_eq!(client(&[("forwarded", "nonsense"), ("x-forwarded-for", "5.6.7.8")]), "10.0.0.1");
    }

    #[test]
    fn scheme_and_host_are_those_of_the_clients_own_hop() {
        let url = |lines: &[(&'static str, &str)]| named(lines).1;
        let chain = "for=1.2.3.4;proto=https;host=\"a.example:8443\", for=10.2.2.2;proto=http;host=inner";
        assert_eq!(url(&[("forwarded", chain)]), "https://a.example:8443");
        let chain = ("x-forwarded-for", "1.2.3.4, 10.2.2.2");
        assert_eq!(
            url(&[chain, ("x-forwarded-proto", "https, http"), ("x-forwarded-host", "a.example")]),
            "https://a.example"
        );
        assert_eq!(url(&[("x-forwarded-proto", "HTTPS")]), "https://-");
        assert_eq!(url(&[("x-forwarded-proto", "gopher"), ("x-forwarded-host", "a b")]), "-://-");
        assert_eq!(url(&[("forwarded", "host=\"user@a.example\"")]), "-://-");
    }

    #[test]
    fn forwarded_follows_its_grammar() {
        let parsed = |text| {
            let mut hops = Vec::new();
            parse(text, &mut hops).map(|()| hops.len())
        };
        assert_eq!(parsed("for=_gazonk"), Some(1));
        assert_eq!(parsed("For=\"[2001:db8:cafe::17]:4711\""), Some(1));
        assert_eq!(parsed("for=192.0.2.60;proto=http;by=203.0.113.43"), Some(1));
        assert_eq!(parsed("for=192.0.2.43 , for=198.51.100.17;;"), Some(2));
        assert_eq!(parsed("for=\"a,b;c\\\"d\", proto=http"), Some(2));
        for bad in
            ["for", "for=", "=1", "for=\"open", "for=1.1.1.1 for=2.2.2.2", "for=[::1]", "for=a=b", "f r=1"]
        {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_client_writes_before_a_proxys_word_changes_nothing(written in "[ -~]{0,60}") {
            let expected = Some("1.2.3.4".parse().unwrap());
            let peer = Peer::Ip("10.0.0.1:1".parse().unwrap());
            let list = headers(&[("x-forwarded-for", &format!("{written}, 1.2.3.4"))]);
            prop_assert_eq!(client_of(&list, &peer, &trusted()).address, expected);
            let standard = headers(&[("forwarded", &format!("{written}, for=1.2.3.4"))]);
            let found = client_of(&standard, &peer, &trusted()).address;
            prop_assert!(found == expected || found == peer.ip(), "{found:?}");
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "\\PC{0,60}") {
            let _parsed_or_not = parse(&text, &mut Vec::new());
            let _address_or_not = (address(&text), host(Cow::Borrowed(&text)));
        }
    }
}
