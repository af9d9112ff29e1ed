//! Request smuggling: every shape whose end two servers see in different places is refused, in our form, and nothing behind
//! it is ever taken for a request.

use std::time::Duration;

use crate::harness::{Client, Echo, config};

/// What follows each attack: it must not be answered.
const SMUGGLED: &str = "GET /echo HTTP/1.1\r\nHost: smuggled\r\n\r\n";

fn post(fields: &str, body: &str) -> String {
    format!("POST /echo HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

/// Sends `attack`, and expects one answer of this status that says why, and a close.
fn expect_refusal(server: &Echo, attack: &str, status: u16, why: &str) {
    let mut client = Client::connect(server.addr);
    client.send((attack.to_owned() + SMUGGLED).as_bytes());
    let response = client.response();
    assert_eq!(
        (response.status, response.header("connection")),
        (status, "close"),
        "{attack:?} {}",
        response.text()
    );
    assert!(!response.header("x-request-id").is_empty(), "{attack:?}");
    assert!(response.text().contains(why), "{attack:?}: {}", response.text());
    client.expect_close();
}

#[test]
fn a_head_that_two_servers_could_read_differently_is_refused() {
    let server = Echo::start(config());
    let long = "9".repeat(40);
    for (attack, status, why) in [
        // RFC 9112, section 6.1: both lengths. CL.TE and TE.CL.
        (post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400, "together"),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n"), 400, "together"),
        // RFC 9112, section 6.3: TE.TE.
        (
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", "0\r\n\r\n"),
            400,
            "more than one Transfer",
        ),
        (post("Transfer-Encoding: xchunked\r\n", ""), 400, "6.3"),
        (post("Transfer-Encoding: identity\r\n", ""), 400, "6.3"),
        (post("Transfer-Encoding: chunked, chunked\r\n", ""), 400, "6.3"),
        (post("Transfer-Encoding: chunked, identity\r\n", ""), 400, "6.3"),
        (post("Transfer-Encoding: gzip, chunked\r\n", ""), 501, "6.1"),
        (post("Transfer-Encoding : chunked\r\n", ""), 400, "colon"),
        (post("Transfer-Encoding\r\n : chunked\r\n", ""), 400, ""),
        (post("Transfer-Encoding: \u{b}chunked\r\n", ""), 400, ""),
        (post("X: y\r\n Transfer-Encoding: chunked\r\n", ""), 400, "folded"),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), 400, "HTTP/1.0"),
        // RFC 9110, section 8.6.
        (post("Content-Length: 0\r\nContent-Length: 44\r\n", ""), 400, "more than one Content-Length"),
        (post("Content-Length: 1\r\nContent-Length: 1\r\n", "x"), 400, "more than one Content-Length"),
        (post("Content-Length: 1, 1\r\n", "x"), 400, "8.6"),
        (post("Content-Length: +1\r\n", "x"), 400, "8.6"),
        (post("Content-Length: 0x1\r\n", "x"), 400, "8.6"),
        (post("Content-Length: \r\n", ""), 400, "8.6"),
        (post(&format!("Content-Length: {long}\r\n"), ""), 400, "8.6"),
        (post("Content-Length\t: 1\r\n", "x"), 400, "colon"),
        // RFC 9112, section 2.2: line ends.
        ("GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(), 400, "LF"),
        ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n".to_owned(), 400, "LF"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(), 400, "LF"),
        ("GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n".to_owned(), 400, ""),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400, "empty line"),
    ] {
        expect_refusal(&server, &attack, status, why);
    }
    server.stop();
}

#[test]
fn a_chunked_body_that_two_servers_could_read_differently_is_refused() {
    let server = Echo::start(config());
    let extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(300));
    for (body, why) in [
        ("0x5\r\nhello\r\n0\r\n\r\n", "chunk size"),
        ("+5\r\nhello\r\n0\r\n\r\n", "chunk size"),
        (" 5\r\nhello\r\n0\r\n\r\n", "chunk size"),
        ("5 \r\nhello\r\n0\r\n\r\n", "7.1.1"),
        ("10000000000000005\r\nhello\r\n0\r\n\r\n", "chunk size"),
        ("\n5\r\nhello\r\n0\r\n\r\n", "chunk size"),
        ("5\nhello\r\n0\r\n\r\n", "CR LF"),
        ("5;a\nb\r\nhello\r\n0\r\n\r\n", "CR LF"),
        ("5;a\u{0}\r\nhello\r\n0\r\n\r\n", "7.1.1"),
        ("5;\r\nhello\r\n0\r\n\r\n", "7.1.1"),
        (extension.as_str(), "256 bytes"),
    ] {
        expect_refusal(&server, &chunked(body), 400, why);
    }
    server.stop();
}

#[test]
fn a_body_that_goes_wrong_after_the_answer_has_begun_never_ends_cleanly() {
    let server = Echo::start(config());
    for rest in
        ["hello0\r\n\r\n", "hello\n0\r\n\r\n", "hello\r\n0\r\nX: y\n\r\n", "hello\r\n0\r\nHost: b\r\n\r\n"]
    {
        let mut client = Client::connect(server.addr);
        client.send((chunked("5\r\n") + rest + SMUGGLED).as_bytes());
        let response = client.response();
        assert_eq!((response.status, response.complete), (200, false), "{rest:?} {response:?}");
        assert_eq!(response.text(), "hello");
    }
    server.stop();
}

/// RFC 9110, section 6.5.1.
#[test]
fn a_trailer_that_belongs_into_the_head_breaks_the_body_and_others_do_not() {
    let server = Echo::start(config());
    for name in ["Content-Length", "Transfer-Encoding", "Host", "Authorization", "Trailer", "Content-Type"] {
        let mut client = Client::connect(server.addr);
        client.send(chunked(&format!("0\r\n{name}: 5\r\n\r\n")).as_bytes());
        let response = client.response();
        assert_eq!(response.status, 400, "{name}");
        assert!(response.text().contains("6.5.1"), "{}", response.text());
        client.expect_close();
    }
    let mut client = Client::connect(server.addr);
    client.send(chunked("0\r\nDigest: x\r\n\r\n").as_bytes());
    assert_eq!(client.response().status, 200);
    assert_eq!(client.echo(b"next").body, b"next");
    server.stop();
}

#[test]
fn what_came_before_a_bad_head_is_answered_first() {
    let server = Echo::start(config());
    let good = post("Content-Length: 5\r\n", "first") + &chunked("6\r\nsecond\r\n0\r\n\r\n");
    let bad = post("Content-Length: 1\r\nContent-Length: 2\r\n", "") + SMUGGLED;
    let whole = (good + &bad).into_bytes();
    // However the bytes are torn: the boundary of a packet is the client's choice.
    for piece in [whole.len(), 40, 7] {
        let mut client = Client::connect(server.addr);
        for bytes in whole.chunks(piece) {
            client.send(bytes);
            if piece < 40 {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        assert_eq!(client.response().text(), "first");
        assert_eq!(client.response().text(), "second");
        assert_eq!(client.response().status, 400);
        client.expect_close();
    }
    server.stop();
}

#[test]
fn a_client_that_is_still_sending_sees_the_refusal() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    client.send(post("Transfer-Encoding: gzip, chunked\r\n", "").as_bytes());
    // Far more than any buffer holds: closed at once, the server would reset the answer away.
    client.send(&vec![b'x'; 4 << 20]);
    assert_eq!(client.response().status, 501);
    client.expect_close();
    server.await_metric("echo_connections_closed_total", "malformed", 1);
    server.stop();
}

/// A long answer that the client does not read at first is not lost to the bad request behind it.
#[test]
fn an_answer_that_is_still_being_written_is_not_cut_by_a_bad_head_behind_it() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    let large = crate::harness::pattern(8 << 20);
    let mut sender = client.stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        let large = &large;
        scope.spawn(move || {
            use std::io::Write as _;
            let head = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", large.len());
            sender.write_all(head.as_bytes()).unwrap();
            sender.write_all(large).unwrap();
            sender.write_all(b"GET / HTTP/1.1\n\n").unwrap();
        });
        assert_eq!(&client.response().body, large);
    });
    assert_eq!(client.response().status, 400);
    client.expect_close();
    server.stop();
}
