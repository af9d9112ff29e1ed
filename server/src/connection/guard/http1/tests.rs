use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// The bodies of the complete requests, and the violation, if there is one.
fn read(stream: &[u8]) -> (Vec<Vec<u8>>, Option<Malformed>) {
    let mut http1 = Http1::default();
    let mut bodies = Vec::new();
    let mut body = Vec::new();
    let mut has_begun = false;
    for (at, byte) in stream.iter().enumerate() {
        let is_data = matches!(http1.state, State::Body(_) | State::Chunked(Chunked::Data(_)));
        if let Err(Malformed { violation, .. }) = http1.feed(std::slice::from_ref(byte)) {
            return (bodies, Some(Malformed { violation, valid: at }));
        }
        if is_data {
            body.push(*byte);
        }
        has_begun |= http1.state == State::Method;
        if has_begun && http1.is_between_requests() {
            has_begun = false;
            bodies.push(std::mem::take(&mut body));
        }
    }
    (bodies, None)
}

fn violation(stream: impl AsRef<[u8]>) -> Option<Violation> {
    read(stream.as_ref()).1.map(|malformed| malformed.violation)
}

fn head(fields: &str) -> String {
    format!("POST /echo HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn chunked(body: &str) -> String {
    head("Transfer-Encoding: chunked\r\n") + body
}

#[test]
fn what_the_rfcs_allow_passes() {
    for stream in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET / HTTP/1.0\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n".to_owned(),
        "GET /%00?a=[1]&b={|} HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        head("Content-Length: 5 \r\n") + "hello" + &head("content-length:\t0\r\n") + &head(""),
        head("Cookie: a\r\nContent-Type: b\r\nTE: trailers\r\nTransfer-Encodings: x\r\nX:\r\n"),
        head("TRANSFER-ENCODING: \t Chunked \r\n") + "5\r\nhello\r\n0\r\n\r\n",
        chunked("5;a=b;c ; d = \"e\\\"f;\\r\" ;g\r\nhello\r\n00\r\nX: y\r\nZ:\r\n\r\n"),
        chunked("000000000000000A\r\n0123456789\r\n0;last\r\n\r\n"),
    ] {
        assert_eq!(violation(&stream), None, "{stream:?}");
    }
}

#[test]
fn what_the_rfcs_forbid_in_a_head_is_named() {
    use Violation as V;
    let get = |line: &str| format!("{line}\r\nHost: a\r\n\r\n");
    for (stream, expected) in [
        // RFC 9112, section 2.2: lines end with CR LF; one empty line is ignored, no whitespace before a field.
        ("GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(), V::BareLf),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned(), V::BareLf),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(), V::BareLf),
        (head("Transfer-Encoding: chunked\n"), V::BareLf),
        ("\nGET / HTTP/1.1\r\n\r\n".to_owned(), V::BareLf),
        ("GET / HTTP/1.1\r\nHost: a\r\n\rX: y\r\n\r\n".to_owned(), V::BareCr),
        (head("Content-Length: 5\rX: y\r\n"), V::BareCr),
        ("\rGET / HTTP/1.1\r\n\r\n".to_owned(), V::BareCr),
        ("\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_owned(), V::EmptyLines),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n".to_owned(), V::LeadingSpace),
        // Section 5.2.
        (head("X: y\r\n z\r\n"), V::Folded),
        (head("X: y\r\n\tz\r\n"), V::Folded),
        // Section 3.
        (get(" GET / HTTP/1.1"), V::RequestLine),
        (get("GET  / HTTP/1.1"), V::Version),
        (get("GET /  HTTP/1.1"), V::RequestLine),
        (get("GET"), V::RequestLine),
        (get("GET /"), V::NoVersion),
        (get("GET /\u{e4} HTTP/1.1"), V::Target),
        (get("GET /a\tb HTTP/1.1"), V::Target),
        (get("GET /a\u{7f} HTTP/1.1"), V::Target),
        (get("GET /a#b HTTP/1.1"), V::Target),
        // Section 2.3; RFC 9110, section 15.6.6.
        (get("GET / http/1.1"), V::Version),
        (get("GET / HTTP/1"), V::Version),
        (get("GET / HTTP/01.1"), V::Version),
        (get("GET / HTTP/1.1 "), V::Version),
        (get("GET / HTTP/1.10"), V::Version),
        (get("GET / HTTP/2.0"), V::VersionUnsupported),
        (get("GET / HTTP/1.2"), V::VersionUnsupported),
        (get("PRI * HTTP/2.0"), V::VersionUnsupported),
        // Section 5.1.
        (head("Content-Length : 5\r\n"), V::SpaceBeforeColon),
        (head("Transfer-Encoding\t: chunked\r\n"), V::SpaceBeforeColon),
        // RFC 9110, section 8.6; RFC 9112, section 6.3.
        (head("Content-Length: \r\n"), V::Length),
        (head("Content-Length: +1\r\n"), V::Length),
        (head("Content-Length: -1\r\n"), V::Length),
        (head("Content-Length: 0x1\r\n"), V::Length),
        (head("Content-Length: 1, 1\r\n"), V::Length),
        (head("Content-Length: 1 1\r\n"), V::Length),
        (head("Content-Length: 1_0\r\n"), V::Length),
        (head("Content-Length: \u{663}\r\n"), V::Length),
        (head("Content-Length: 18446744073709551616\r\n"), V::Length),
        (head(&format!("Content-Length: {}1\r\n", "0".repeat(24))), V::Length),
        (head("Content-Length: 1\r\nContent-Length: 1\r\n"), V::LengthTwice),
        (head("Content-Length: 1\r\nContent-Length: 2\r\n"), V::LengthTwice),
        // RFC 9112, sections 6.1 and 6.3.
        (head("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), V::LengthAndCoding),
        (head("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), V::LengthAndCoding),
        (head("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"), V::CodingTwice),
        (head("Transfer-Encoding: chunked, chunked\r\n"), V::Coding),
        (head("Transfer-Encoding: chunked, identity\r\n"), V::Coding),
        (head("Transfer-Encoding: identity\r\n"), V::Coding),
        (head("Transfer-Encoding: gzip\r\n"), V::Coding),
        (head("Transfer-Encoding: xchunked\r\n"), V::Coding),
        (head("Transfer-Encoding: chunkedx\r\n"), V::Coding),
        (head("Transfer-Encoding: chun ked\r\n"), V::Coding),
        (head("Transfer-Encoding: \u{b}chunked\r\n"), V::Coding),
        (head("Transfer-Encoding: \"chunked\"\r\n"), V::Coding),
        (head("Transfer-Encoding: chunked;q=1\r\n"), V::Coding),
        (head("Transfer-Encoding: chunked,\r\n"), V::Coding),
        (head("Transfer-Encoding:\r\n"), V::Coding),
        (head("Transfer-Encoding: gzip, chunked\r\n"), V::CodingUnknown),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), V::CodingOn10),
    ] {
        assert_eq!(violation(&stream), Some(expected), "{stream:?}");
        assert!(!expected.is_in_body());
    }
}

#[test]
fn what_the_rfcs_forbid_in_a_chunked_body_is_named() {
    use Violation as V;
    for (body, expected) in [
        ("0x5\r\nhello\r\n", V::ChunkSize),
        ("+5\r\nhello\r\n", V::ChunkSize),
        (" 5\r\nhello\r\n", V::ChunkSize),
        ("\r\n", V::ChunkSize),
        ("5_\r\nhello\r\n", V::ChunkSize),
        ("5\rX", V::ChunkLineEnd),
        ("00000000000000005\r\nhello\r\n", V::ChunkSize),
        ("5\nhello\r\n", V::ChunkLineEnd),
        ("5;a\nhello\r\n", V::ChunkLineEnd),
        ("5 \r\nhello\r\n", V::ChunkExtension),
        ("5;\r\nhello\r\n", V::ChunkExtension),
        ("5;a=\r\nhello\r\n", V::ChunkExtension),
        ("5;a b\r\nhello\r\n", V::ChunkExtension),
        ("5;a=\"b\r\nhello\r\n", V::ChunkExtension),
        ("5;a\0\r\nhello\r\n", V::ChunkExtension),
        ("5;a\rb\r\nhello\r\n", V::ChunkLineEnd),
        ("5\r\nhello0\r\n\r\n", V::ChunkEnd),
        ("5\r\nhello\n0\r\n\r\n", V::ChunkEnd),
        ("5\r\nhello\rX", V::ChunkEnd),
        ("0\r\nX: y\n\r\n", V::TrailerLineEnd),
        ("0\r\n\n", V::TrailerLineEnd),
        ("0\r\nX: y\r\n z\r\n\r\n", V::TrailerFolded),
    ] {
        assert_eq!(violation(chunked(body)), Some(expected), "{body:?}");
        assert!(expected.is_in_body());
    }
    let long = |length| chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(length)));
    assert_eq!(violation(long(255)), None);
    assert_eq!(violation(long(256)), Some(V::ChunkExtensionLong));
}

#[test]
fn hyper_is_left_the_requests_before_the_violation() {
    let good = head("Content-Length: 5\r\n") + "hello";
    let bad = head("Content-Length: x\r\n");
    let found = Http1::default().feed((good.clone() + &bad).as_bytes());
    assert_eq!(found, Err(Malformed { violation: Violation::Length, valid: good.len() }));
    // Within a body, all of the body that is there.
    let body = chunked("5\r\nhello\r\nx");
    let found = Http1::default().feed((good.clone() + &body).as_bytes());
    let valid = good.len() + body.len() - 1;
    assert_eq!(found, Err(Malformed { violation: Violation::ChunkSize, valid }));
}

/// Requests, pieces of requests, and what attackers put between them.
fn piece() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /echo HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
        "Host: a\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "content-length:5\t\r\n",
        "Transfer-Encoding: chunked\r\n",
        "transfer-encoding:\tCHUNKED \r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Connection: keep-alive\r\n",
        "Cookie: t\r\n",
        "X: \r\n",
        "\r\n",
        "\n",
        "\r",
        " ",
        "hello",
        "5\r\nhello\r\n",
        "5;a=\"b\"\r\nhello\r\n",
        "5 ;a\r\nhello\r\n",
        "0\r\n\r\n",
        "0\r\nX: y\r\n\r\n",
        "Content-Length",
        "Transfer-Encoding",
        ":",
        ",",
        "\0",
        "1",
        "ffffffffffffffff\r\n",
    ])
    .prop_map(str::to_owned);
    let whole = prop::sample::select(vec![
        head(""),
        head("Content-Length: 5\r\n") + "hello",
        head("Content-Length: 0\r\n"),
        head("Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n")
            + "3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
        chunked("0\r\nTrailer: x\r\n\r\n"),
        "\r\n".to_owned() + &head(""),
    ]);
    prop_oneof![1 => fixed, 2 => whole]
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::collection::vec(piece(), 0..12).prop_map(|pieces| pieces.concat().into_bytes());
    // A byte changed, added or lost somewhere.
    (pieces, any::<prop::sample::Index>(), any::<Option<u8>>(), 0..4_u8).prop_map(
        |(mut bytes, at, byte, how)| {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                match (how, byte) {
                    (0, Some(byte)) => bytes[at] = byte,
                    (1, Some(byte)) => bytes.insert(at, byte),
                    (2, _) => drop(bytes.remove(at)),
                    _ => {}
                }
            }
            bytes
        },
    )
}

/// What hyper's own server makes of the stream: the bodies that it read to their end.
fn hypers(stream: &[u8]) -> Vec<Vec<u8>> {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let seen = Arc::clone(&bodies);
        let service = service_fn(move |request: Request<Incoming>| {
            let seen = Arc::clone(&seen);
            async move {
                if let Ok(body) = request.into_body().collect().await {
                    seen.lock().unwrap().push(body.to_bytes().to_vec());
                }
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        let connection = builder
            .header_read_timeout(None)
            .half_close(true)
            .serve_connection(TokioIo::new(server), service);
        let talk = async {
            // A server that has closed early takes no more.
            drop(client.write_all(stream).await);
            drop(client.shutdown().await);
            drop(client.read_to_end(&mut Vec::new()).await);
        };
        let (_result, ()) = tokio::join!(connection, talk);
    });
    Arc::try_unwrap(bodies).unwrap().into_inner().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_way_of_tearing_a_stream_gives_the_same_verdict(stream in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let (_, expected) = read(&stream);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let mut http1 = Http1::default();
        let torn = cuts.windows(2).find_map(|cut| http1.feed(&stream[cut[0]..cut[1]]).err());
        prop_assert_eq!(torn.map(|torn| torn.violation), expected.map(|whole| whole.violation));
        if let Err(malformed) = Http1::default().feed(&stream) {
            prop_assert!(malformed.valid <= stream.len());
            // What is left to hyper is in order.
            prop_assert_eq!(read(&stream[..malformed.valid]).1, None);
        }
    }

    /// The proof against smuggling: of what we let pass, hyper reads the same bodies, one after the other, until it
    /// refuses by itself, or closes because the client asked for it.
    #[test]
    fn what_passes_is_framed_as_hyper_frames_it(stream in stream()) {
        let (ours, malformed) = read(&stream);
        let passed = &stream[..malformed.map_or(stream.len(), |malformed| malformed.valid)];
        let hypers = hypers(passed);
        prop_assert!(hypers.len() <= ours.len(), "{hypers:?} {ours:?}");
        prop_assert_eq!(&ours[..hypers.len()], &hypers[..]);
    }

    #[test]
    fn heads_that_pass_and_are_plain_are_those_that_httparse_takes(fields in prop::collection::vec("[!-9;-~]{1,12}:[ -~]{0,12}", 0..6), target in "/[!\"$-~]{0,12}") {
        let fields: String = fields.iter().filter(|field| !matches!(field.as_bytes()[0] | 0x20, b'c' | b't')).map(|field| field.clone() + "\r\n").collect();
        let head = format!("GET {target} HTTP/1.1\r\n{fields}\r\n");
        let mut slots = [httparse::EMPTY_HEADER; 8];
        let parsed = httparse::Request::new(&mut slots).parse(head.as_bytes());
        if parsed.is_ok() {
            prop_assert_eq!(parsed, Ok(httparse::Status::Complete(head.len())));
            prop_assert_eq!(violation(&head), None);
        }
    }
}
