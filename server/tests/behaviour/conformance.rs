//! The rules of RFC 9110, RFC 9112 and RFC 9113 that a server can be seen to keep, one by one, over real sockets.

use bytes::Bytes;
use echo_server::Config;
use http::{Method, Request, Version};
use http_body_util::{BodyExt as _, Full};

use crate::harness::{Client, Echo, config, connect_http2};

/// The status of the answer to these bytes, and whether the connection then takes another request.
fn ask(server: &Echo, bytes: &str) -> (u16, String) {
    let mut client = Client::connect(server.addr);
    client.send(bytes.as_bytes());
    client.close_write();
    let response = client.response();
    (response.status, String::from_utf8_lossy(&response.body).into_owned())
}

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\n{fields}\r\n")
}

/// RFC 9112, section 3.2; RFC 9110, sections 4.2.1 and 7.2.
#[test]
fn there_is_one_well_formed_host() {
    let server = Echo::start(config());
    for (fields, status) in [
        ("Host: a\r\n", 200),
        ("host:a:8080\r\n", 200),
        ("Host: [::1]:80\r\n", 200),
        ("", 400),
        ("Host: a\r\nHost: a\r\n", 400),
        ("Host: a\r\nHost: b\r\n", 400),
        ("Host:\r\n", 400),
        ("Host: \r\n", 400),
        ("Host: a b\r\n", 400),
        ("Host: a, b\r\n", 400),
        ("Host: a/b\r\n", 400),
        ("Host: u@a\r\n", 400),
        ("Host: a:b\r\n", 400),
        ("Host: a:99999\r\n", 400),
        ("Host: [::1\r\n", 400),
        ("Host: http://a\r\n", 400),
        ("Host: \u{e4}\r\n", 400),
        ("Host : a\r\n", 400),
    ] {
        assert_eq!(ask(&server, &get("/", fields)).0, status, "{fields:?}");
    }
    assert_eq!(ask(&server, "GET / HTTP/1.0\r\n\r\n").0, 200, "HTTP/1.0 knows no Host");
    assert_eq!(ask(&server, "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n").0, 400);
    server.stop();
}

/// RFC 9112, sections 3 and 3.2.
#[test]
fn a_target_has_one_of_the_four_forms() {
    let server = Echo::start(config());
    for (target, status) in [
        ("/", 200),
        ("/?a=b#", 400),
        ("/#a", 400),
        ("/\u{e4}", 400),
        ("/a b", 400),
        ("/\u{7f}", 400),
        ("/\u{1}", 400),
        ("*", 400),
        ("a", 400),
        ("a:80", 400),
        ("?a", 400),
        ("http://a/", 200),
        ("HTTPS://a/", 200),
        ("http://b/", 200),
        ("http://u:p@a/", 400),
        ("http:///", 400),
        ("http://a:b/", 400),
        ("ftp://a/", 400),
    ] {
        let (answered, text) = ask(&server, &get(target, "Host: a\r\n"));
        assert_eq!(answered, status, "{target} {text}");
    }
    server.stop();
}

/// RFC 9112, section 2.3; RFC 9110, section 15.6.6.
#[test]
fn versions_that_are_not_spoken_are_told_so() {
    let server = Echo::start(config());
    for (line, status) in [
        ("GET / HTTP/2.0", 505),
        ("GET / HTTP/3.0", 505),
        ("GET / HTTP/1.2", 505),
        ("GET / HTTP/0.9", 505),
        ("PRI * HTTP/2.0", 505),
        ("GET / http/1.1", 400),
        ("GET / HTTP/1", 400),
        ("GET / HTTP/1.1.1", 400),
        ("GET / HTTPS/1.1", 400),
        ("GET /", 400),
        ("GET", 400),
        ("GET  / HTTP/1.1", 400),
        ("GET /  HTTP/1.1", 400),
        (" GET / HTTP/1.1", 400),
        ("GET\t/\tHTTP/1.1", 400),
        ("G\u{e4}T / HTTP/1.1", 400),
        ("GE(T / HTTP/1.1", 400),
    ] {
        let (answered, text) = ask(&server, &format!("{line}\r\nHost: a\r\n\r\n"));
        assert_eq!(answered, status, "{line} {text}");
    }
    server.stop();
}

/// RFC 9110, sections 5.1, 5.5 and 5.6; RFC 9112, section 5.
#[test]
fn field_lines_are_a_name_a_colon_and_a_value() {
    let server = Echo::start(config());
    for (field, status) in [
        ("X:\r\n", 200),
        ("X: \t y \t \r\n", 200),
        ("X: \u{e4}\r\n", 200),
        ("X-_.!~: y\r\n", 200),
        ("X : y\r\n", 400),
        (" X: y\r\n", 400),
        ("X: y\r\n\tz\r\n", 400),
        (": y\r\n", 400),
        ("X\r\n", 400),
        ("X(: y\r\n", 400),
        ("X: a\u{0}b\r\n", 400),
        ("X: a\u{1}b\r\n", 400),
        ("X: a\u{7f}b\r\n", 400),
        ("X: a\rb\r\n", 400),
    ] {
        assert_eq!(ask(&server, &get("/", &format!("Host: a\r\n{field}"))).0, status, "{field:?}");
    }
    server.stop();
}

/// RFC 9110, sections 9.3.6 to 9.3.8 and 15.5.6; RFC 9112, section 3.2.4; RFC 9113, section 3.4.
#[test]
fn methods_that_need_more_than_an_origin_server_are_refused() {
    let server = Echo::start(config());
    let ask = |line: &str| {
        let mut client = Client::connect(server.addr);
        client.send(format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        client.response()
    };
    assert_eq!(ask("CONNECT a:80").status, 405);
    assert_eq!(ask("CONNECT /").status, 405);
    assert_eq!(ask("PRI /").status, 501);
    let trace = ask("TRACE /echo");
    assert_eq!((trace.status, trace.header("allow").contains("GET")), (405, true));
    assert!(!matches!(ask("OPTIONS *").status, 400 | 501), "the one method that has the target *");
    server.stop();
}

/// RFC 9110, section 10.1.1.
#[test]
fn an_expectation_other_than_100_continue_is_not_met() {
    let server = Echo::start(config());
    assert_eq!(ask(&server, &get("/", "Host: a\r\nExpect: 200-ok\r\n")).0, 417);
    assert_eq!(ask(&server, "GET / HTTP/1.0\r\nExpect: 200-ok\r\n\r\n").0, 200, "HTTP/1.0 knows none");
    let mut client = Client::connect(server.addr);
    client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.response().status, 100);
    client.send(b"ok");
    assert_eq!(client.response().text(), "ok");
    server.stop();
}

/// RFC 9112, section 2.2.
#[test]
fn one_empty_line_before_a_request_is_nothing() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    client.send(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((client.response().status, client.response().status), (200, 200));
    server.stop();
}

/// RFC 9110, sections 9.3.2 and 6.4.1.
#[test]
fn an_answer_to_head_has_no_body_and_the_connection_goes_on() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let head = client.head_of_large_response();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let full = client.response();
    let length = format!("content-length: {}\r\n", full.body.len());
    assert!(full.status == 200 && head.contains(&length), "{head} {full:?}");
    client.expect_close();
    server.stop();
}

/// RFC 9113, section 3.1 and appendix B: the upgrade of HTTP/1.1 to h2c is gone.
#[test]
fn an_offer_of_h2c_is_ignored() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    let offer =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";
    client.send(get("/", &format!("Host: a\r\n{offer}")).as_bytes());
    assert_eq!(client.response().status, 200);
    assert_eq!(client.echo(b"still HTTP/1.1").body, b"still HTTP/1.1");
    server.stop();
}

/// hyper keeps the offer of an upgrade for as long as the connection lives, and then does not close it by itself.
#[test]
fn an_offer_that_nobody_took_does_not_take_a_later_answer_away() {
    let server = Echo::start(Config { body_max: 1000, ..config() });
    let mut client = Client::connect(server.addr);
    client.send(get("/", "Host: a\r\nConnection: upgrade\r\nUpgrade: x\r\n").as_bytes());
    assert_eq!(client.response().status, 200);
    client.send_echo(&vec![b'x'; 4 << 20]);
    assert_eq!(client.response().status, 413);
    client.expect_close();
    server.await_metric("echo_connections_closed_total", "complete", 1);
    server.stop();
}

#[test]
fn http1_that_is_switched_off_is_told_so() {
    let server = Echo::start(Config { http1: false, ..config() });
    let (status, text) = ask(&server, &get("/", "Host: a\r\n"));
    assert_eq!(status, 505);
    assert!(text.contains("--http1"), "{text}");
    server.stop();
}

/// RFC 9113, sections 8.1 to 8.3.
#[test]
fn malformed_http2_requests_end_their_streams_and_no_others() {
    let server = Echo::start(config());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut sender, connection) = connect_http2(server.addr).await;
        let mut connections = tokio::task::JoinSet::new();
        connections.spawn(connection);
        let request = |uri: &str| Request::builder().version(Version::HTTP_2).uri(uri);
        for (request, status) in [
            (request("http://a/"), 200),
            (request("http://a/").header("host", "a"), 200),
            (request("http://a/").header("host", "b"), 400),
            (request("http://u@a/"), 400),
            (request("ftp://a/"), 400),
            (request("http://a/\u{e4}"), 400),
            (request("http://a/").method(Method::TRACE), 405),
            (request("http://a/").header("expect", "x"), 417),
            (request("http://a/").header("te", "trailers"), 200),
        ] {
            let request = request.body(Full::<Bytes>::default()).unwrap();
            let asked = format!("{request:?}");
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), status, "{asked}");
            drop(response.into_body().collect().await.unwrap());
        }
    });
    server.stop();
}
