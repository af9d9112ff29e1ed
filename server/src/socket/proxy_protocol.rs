//! The client's address as a trusted load balancer tells it (PROXY protocol, versions 1 and 2): without it every client
//! behind one has the balancer's address.
//!
//! Rules: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. Our own parser, because it must say how many
//! bytes surely still belong to the header: what comes behind them is TLS's or HTTP's, and is never read here.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How a header of version 2 begins (section 2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family, length.
const V2_FIXED: usize = 16;

/// Longest header of version 2 with all its extensions; those in use need a few hundred bytes.
const V2_MAX: usize = 4096;

/// Longest header of version 1, with its end of line (section 2.1).
const V1_MAX: usize = 107;

/// The shortest header there is: `PROXY UNKNOWN` and an end of line.
const SHORTEST: usize = 15;

/// What the bytes so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// Not yet a header; at least so many of the next bytes belong to it.
    Partial(usize),
    /// Exactly one header. The client's address, unless the proxy speaks for itself (LOCAL) or does not know (UNKNOWN,
    /// or a family without IP addresses).
    Complete(Option<SocketAddr>),
}

/// The bytes are no PROXY protocol header, however many more come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAHeader;

/// Why [`read`] has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// The peer closed, or broke off, before it sent anything.
    Silent,
    /// It sent something else, or a part of a header.
    Header,
}

/// Reads one header from `io`, and no byte behind it.
///
/// # Errors
/// See [`ReadError`].
pub(crate) async fn read<Io>(io: &mut Io) -> Result<Option<SocketAddr>, ReadError>
where
    Io: AsyncRead + Unpin,
{
    let mut bytes = Vec::with_capacity(V1_MAX);
    loop {
        let missing = match parse(&bytes) {
            Ok(Header::Complete(client)) => return Ok(client),
            Ok(Header::Partial(missing)) => missing,
            Err(NotAHeader) => return Err(ReadError::Header),
        };
        let mut limited = (&mut *io).take(missing as u64);
        let read = limited.read_buf(&mut bytes).await.unwrap_or(0);
        if read == 0 {
            return Err(if bytes.is_empty() { ReadError::Silent } else { ReadError::Header });
        }
    }
}

/// What `bytes`, the beginning of a connection, amount to. If [`Header::Partial`] is respected, they never hold more than
/// the header.
///
/// # Errors
/// [`NotAHeader`]
pub(crate) fn parse(bytes: &[u8]) -> Result<Header, NotAHeader> {
    let begins = |whole: &[u8]| bytes.iter().zip(whole).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        if bytes.is_empty() { Ok(Header::Partial(SHORTEST)) } else { binary(bytes) }
    } else if begins(b"PROXY ") {
        text(bytes)
    } else {
        Err(NotAHeader)
    }
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Header, NotAHeader> {
    let Some((fixed, rest)) = bytes.split_at_checked(V2_FIXED) else {
        return Ok(Header::Partial(V2_FIXED - bytes.len()));
    };
    let [.., command, family, high, low] = *fixed else { return Err(NotAHeader) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if V2_FIXED + length > V2_MAX {
        return Err(NotAHeader);
    }
    if let Some(missing) = length.checked_sub(rest.len()).filter(|missing| *missing > 0) {
        return Ok(Header::Partial(missing));
    }
    let rest = &rest[..length];
    match command {
        // LOCAL: the proxy's own connection (a health check); addresses are to be skipped unread.
        0x20 => Ok(Header::Complete(None)),
        0x21 => {
            let (client, extensions) = binary_addresses(family, rest)?;
            extensions_are_whole(extensions)?;
            Ok(Header::Complete(client))
        }
        _ => Err(NotAHeader),
    }
}

/// The source address of `block`, and what stands behind the addresses.
fn binary_addresses(family: u8, block: &[u8]) -> Result<(Option<SocketAddr>, &[u8]), NotAHeader> {
    let split = |length| block.split_at_checked(length).ok_or(NotAHeader);
    match family {
        // TCP over IPv4: two addresses, two ports.
        0x11 => {
            let (addresses, extensions) = split(12)?;
            let [a, b, c, d, _, _, _, _, high, low, ..] = *addresses else { return Err(NotAHeader) };
            Ok((Some(socket_address(Ipv4Addr::new(a, b, c, d), [high, low])), extensions))
        }
        0x21 => {
            let (addresses, extensions) = split(36)?;
            let source = <[u8; 16]>::try_from(&addresses[..16]).or(Err(NotAHeader))?;
            let port = [addresses[32], addresses[33]];
            Ok((Some(socket_address(Ipv6Addr::from(source), port)), extensions))
        }
        // Unix sockets: two paths of 108 bytes.
        0x31 => Ok((None, split(216)?.1)),
        // UNSPEC: whatever stands there is to be skipped.
        0x00 => Ok((None, &[])),
        // Datagrams (0x12, 0x22, 0x32) do not come over a stream; the rest does not exist.
        _ => Err(NotAHeader),
    }
}

fn socket_address(ip: impl Into<IpAddr>, port: [u8; 2]) -> SocketAddr {
    SocketAddr::new(ip.into(), u16::from_be_bytes(port))
}

/// Each extension is a type, a length of two bytes and so many bytes. None of them means anything to us.
fn extensions_are_whole(mut rest: &[u8]) -> Result<(), NotAHeader> {
    while !rest.is_empty() {
        let [_kind, high, low, value @ ..] = rest else { return Err(NotAHeader) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        rest = value.get(length..).ok_or(NotAHeader)?;
    }
    Ok(())
}

/// Version 1: `PROXY TCP4 SOURCE DESTINATION SOURCE-PORT DESTINATION-PORT` and an end of line.
fn text(bytes: &[u8]) -> Result<Header, NotAHeader> {
    let Some(line) = bytes.strip_suffix(b"\r\n") else {
        return partial_text(bytes);
    };
    if bytes.len() > V1_MAX || line.contains(&b'\n') {
        return Err(NotAHeader);
    }
    let line = std::str::from_utf8(line).or(Err(NotAHeader))?;
    let mut fields = line.split(' ').skip(1);
    match fields.next() {
        // What follows is to be ignored.
        Some("UNKNOWN") => Ok(Header::Complete(None)),
        Some("TCP4") => text_addresses::<Ipv4Addr>(fields),
        Some("TCP6") => text_addresses::<Ipv6Addr>(fields),
        _ => Err(NotAHeader),
    }
}

fn text_addresses<'a, A>(mut fields: impl Iterator<Item = &'a str>) -> Result<Header, NotAHeader>
where
    A: FromStr + Into<IpAddr>,
{
    let mut next = || fields.next().ok_or(NotAHeader);
    let source: A = next()?.parse().or(Err(NotAHeader))?;
    let _destination: A = next()?.parse().or(Err(NotAHeader))?;
    let (port, _destination_port) = (text_port(next()?)?, text_port(next()?)?);
    if fields.next().is_some() {
        return Err(NotAHeader);
    }
    Ok(Header::Complete(Some(SocketAddr::new(source.into(), port))))
}

/// Digits alone, without leading zeros: `u16::from_str` would take `+1`.
fn text_port(text: &str) -> Result<u16, NotAHeader> {
    let is_plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain).ok_or(NotAHeader)
}

/// How many bytes a line that has begun so still needs at least.
fn partial_text(bytes: &[u8]) -> Result<Header, NotAHeader> {
    let room = V1_MAX.saturating_sub(bytes.len());
    let missing = if bytes.len() < SHORTEST {
        SHORTEST - bytes.len()
    } else if bytes.ends_with(b"\r") {
        1
    } else if bytes.starts_with(b"PROXY TCP") {
        // Each space that is still to come has at least one character behind it; then the end of the line.
        let spaces = bytes.split(|b| *b == b' ').skip(1).count();
        2 * 5_usize.saturating_sub(spaces) + 2
    } else {
        2
    };
    if missing > room || bytes.contains(&b'\n') {
        return Err(NotAHeader);
    }
    Ok(Header::Partial(missing))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, block].concat()
    }

    fn complete(bytes: &[u8]) -> Option<SocketAddr> {
        match parse(bytes) {
            Ok(Header::Complete(client)) => client,
            other => panic!("{other:?} of {bytes:?}"),
        }
    }

    #[test]
    fn both_versions_tell_the_clients_address() {
        let client = Some("192.0.2.7:40000".parse().unwrap());
        assert_eq!(complete(b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n"), client);
        let block = [192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 1, 187];
        assert_eq!(complete(&v2(0x21, 0x11, &block)), client);
        let extended = [block.as_slice(), &[1, 0, 2, b'h', b'2', 4, 0, 0]].concat();
        assert_eq!(complete(&v2(0x21, 0x11, &extended)), client);
        let client = Some("[2001:db8::7]:40000".parse().unwrap());
        assert_eq!(complete(b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 443\r\n"), client);
        let mut block = [0; 36];
        block[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        block[32..34].copy_from_slice(&40000_u16.to_be_bytes());
        assert_eq!(complete(&v2(0x21, 0x21, &block)), client);
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_or_does_not_know_tells_no_address() {
        assert_eq!(complete(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(complete(b"PROXY UNKNOWN ffff::1 what ever\r\n"), None);
        assert_eq!(complete(&v2(0x20, 0x11, &[1; 12])), None);
        assert_eq!(complete(&v2(0x20, 0x00, &[])), None);
        assert_eq!(complete(&v2(0x21, 0x00, b"skipped")), None);
        assert_eq!(complete(&v2(0x21, 0x31, &[0; 216])), None);
    }

    #[test]
    fn what_is_no_header_is_refused_at_the_first_byte_that_shows_it() {
        for bad in [
            b"GET / HTTP/1.1\r\n".as_slice(),
            b"P0",
            b"PROXY TCP5 1.1.1.1 1.1.1.1 1 1\r\n",
            b"PROXY TCP4 1.1.1.1 1.1.1.1 1 +1\r\n",
            b"PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n",
            b"PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n",
            b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n",
            b"PROXY TCP4  1.1.1.1 1.1.1.1 1 1\r\n",
            b"PROXY TCP4 ::1 ::1 1 1\r\n",
            b"PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n",
            b"PROXY UNKNOWN\n and more",
            b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n",
        ] {
            assert_eq!(parse(bad), Err(NotAHeader), "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(parse(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat()), Err(NotAHeader));
        for (command, family, block) in [
            (0x11, 0x11, vec![0; 12]),
            (0x22, 0x11, vec![0; 12]),
            (0x21, 0x12, vec![0; 12]),
            (0x21, 0x11, vec![0; 11]),
            (0x21, 0x21, vec![0; 35]),
            (0x21, 0x11, vec![0; 14]),
            (0x21, 0x11, [vec![0; 12], vec![1, 0, 9, 0]].concat()),
        ] {
            assert_eq!(parse(&v2(command, family, &block)), Err(NotAHeader), "{command} {family} {block:?}");
        }
        assert_eq!(parse(&v2(0x21, 0x11, &[0; V2_MAX])), Err(NotAHeader), "longer than anybody needs");
    }

    #[tokio::test]
    async fn what_follows_the_header_is_left_unread() {
        let headers: [&[u8]; 4] = [
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
            b"PROXY TCP6 ::1 ::2 65535 2\r\n",
            b"PROXY UNKNOWN\r\n",
            &v2(0x21, 0x11, &[9; 12]),
        ];
        for header in headers {
            let bytes = [header, b"GET / HTTP/1.1"].concat();
            let mut input = bytes.as_slice();
            read(&mut input).await.unwrap();
            assert_eq!(input, b"GET / HTTP/1.1");
        }
        assert_eq!(read(&mut b"".as_slice()).await, Err(ReadError::Silent));
        assert_eq!(read(&mut b"PROX".as_slice()).await, Err(ReadError::Header));
    }

    fn headers() -> impl Strategy<Value = Vec<u8>> {
        let v4 = any::<(Ipv4Addr, Ipv4Addr, u16, u16)>()
            .prop_map(|(a, b, c, d)| format!("PROXY TCP4 {a} {b} {c} {d}\r\n").into_bytes());
        let v6 = any::<(Ipv6Addr, Ipv6Addr, u16, u16)>()
            .prop_map(|(a, b, c, d)| format!("PROXY TCP6 {a} {b} {c} {d}\r\n").into_bytes());
        let unknown = "[a-z ]{0,80}".prop_map(|text| format!("PROXY UNKNOWN {text}\r\n").into_bytes());
        let binary =
            (any::<[u8; 12]>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(block, value)| {
                let length = u8::try_from(value.len()).unwrap();
                v2(0x21, 0x11, &[block.as_slice(), &[5, 0, length], &value].concat())
            });
        prop_oneof![v4, v6, unknown, binary]
    }

    proptest! {
        #[test]
        fn every_part_of_a_header_asks_for_no_more_than_its_rest(header in headers()) {
            for n in 0..header.len() {
                match parse(&header[..n]) {
                    Ok(Header::Partial(missing)) => prop_assert!(missing > 0 && missing <= header.len() - n),
                    other => prop_assert!(false, "{other:?} of {:?}", String::from_utf8_lossy(&header[..n])),
                }
            }
            prop_assert!(matches!(parse(&header), Ok(Header::Complete(_))));
        }

        #[test]
        fn any_bytes_are_parsed_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), version in 0..3) {
            let bytes = match version {
                0 => [SIGNATURE.as_slice(), &bytes].concat(),
                1 => [b"PROXY TCP4 ".as_slice(), &bytes].concat(),
                _ => bytes,
            };
            let _parsed_or_not = parse(&bytes).is_ok();
        }
    }
}
