//! A status that is asked for comes with all that its number demands.

use crate::harness::{Client, Echo, Response, ask_http2, config};

/// What must be there beside the number (RFC 9110, section 15).
fn demanded(status: u16) -> &'static [(&'static str, &'static str)] {
    match status {
        206 => &[("content-range", "bytes 0-19/20")],
        300..=303 | 305..=399 => &[("location", "/")],
        401 => &[("www-authenticate", "Basic realm=\"echo\"")],
        405 => &[("allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")],
        407 => &[("proxy-authenticate", "Basic realm=\"echo\"")],
        416 => &[("content-range", "bytes */0")],
        426 => &[("upgrade", "websocket"), ("connection", "upgrade")],
        _ => &[],
    }
}

fn check(status: u16, response: &Response) {
    assert_eq!(response.status, status);
    for (name, value) in demanded(status) {
        assert_eq!(response.header(name), *value, "{status}");
    }
    match status {
        // A length would be one of a body that another response would have had.
        204 | 304 => {
            assert!(response.body.is_empty() && !response.headers.contains_key("content-length"), "{status}");
        }
        205 => assert!(response.body.is_empty() && response.header("content-length") == "0", "{response:?}"),
        _ => {
            assert!(
                response.text().starts_with(&status.to_string()) && response.text().ends_with('\n'),
                "{status}"
            );
            assert_eq!(response.header("content-type"), "text/plain; charset=utf-8");
        }
    }
}

#[test]
fn every_final_status_comes_with_what_it_demands_and_the_connection_goes_on() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    for status in 200..=599 {
        check(status, &client.ask(&format!("GET /status/{status}")));
    }
    assert!(server.stop().is_clean());
}

#[test]
fn a_status_that_an_endpoint_is_given_is_as_complete() {
    let server = Echo::start(config());
    for status in [302, 401, 407, 426, 503] {
        let response = Client::connect(server.addr).ask(&format!("GET /get?status={status}"));
        assert_eq!(response.status, status);
        for (name, value) in demanded(status) {
            assert_eq!(response.header(name), *value, "{status}");
        }
    }
    let mut client = Client::connect(server.addr);
    for status in [204, 205, 304] {
        assert_eq!(client.ask(&format!("GET /get?status={status}")).body, b"", "{status}");
    }
    assert_eq!(client.ask("GET /get?status=405").header("allow"), "GET, HEAD, OPTIONS", "those of its path");
    server.stop();
}

#[test]
fn any_method_may_ask_and_what_it_sends_is_read() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
        let status = client.ask(&format!("{method} /status/201\r\ncontent-length: 0")).status;
        assert_eq!(status, 201, "{method}");
    }
    client.send(b"POST /status/418 HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
    assert_eq!(client.response().text(), "418 I'm a teapot\n");
    client.send(b"HEAD /status/200 HTTP/1.1\r\nhost: a\r\n\r\n");
    let head = client.head_of_large_response();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-length: 7"), "{head}");
    client.send(b"HEAD /status/304 HTTP/1.1\r\nhost: a\r\n\r\n");
    let head = client.head_of_large_response();
    assert!(head.starts_with("HTTP/1.1 304") && !head.contains("content-length"), "{head}");
    assert_eq!(client.ask("GET /status/503").status, 503, "nothing was left over from those without a body");

    let mut client = Client::connect(server.addr);
    client.send(b"GET /status/404 HTTP/1.0\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (404, "404 Not Found\n"));
    client.expect_close();
    server.stop();
}

#[test]
fn a_list_gives_each_status_its_share_and_a_seed_repeats_the_choice() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    for _ in 0..20 {
        assert_eq!(client.ask("GET /status/200:0,503:1").status, 503);
    }
    let mut statuses = |seed: u32| client.ask(&format!("GET /status/200,404%2C500:0.5?seed={seed}")).status;
    let first: Vec<_> = (0..60).map(&mut statuses).collect();
    let again: Vec<_> = (0..60).map(&mut statuses).collect();
    assert_eq!(first, again);
    assert!([200, 404, 500].iter().all(|status| first.contains(status)), "{first:?}");
    let by_header = client.ask("GET /status/200,404,500:0.5\r\nx-echo-seed: 7").status;
    assert_eq!(by_header, first[7]);
    server.stop();
}

#[test]
fn what_is_no_final_status_is_refused_by_name() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    for (codes, named) in [
        ("100", "100"),
        ("101", "101"),
        ("199", "199"),
        ("600", "600"),
        ("abc", "abc"),
        ("200,20", "20"),
        ("200:-1", "200:-1"),
        ("200:0", "above 0"),
        ("%zz", "%zz"),
        ("200?seed=x", "seed=x"),
    ] {
        let refused = client.ask(&format!("GET /status/{codes}"));
        let error = refused.json();
        assert_eq!(
            (refused.status, &error["status_code"], &error["error"]),
            (400, &400.into(), &"Bad Request".into())
        );
        assert!(error["detail"].as_str().unwrap().contains(named), "{codes}: {error}");
    }
    server.stop();
}

#[test]
fn http2_has_the_same_statuses_without_the_fields_of_connections() {
    let server = Echo::start(config());
    for status in [200, 204, 205, 206, 302, 304, 401, 405, 407, 416, 426, 503] {
        let response = ask_http2(server.addr, "GET", &format!("/status/{status}"), &[], b"");
        assert_eq!(response.status().as_u16(), status);
        for (name, value) in demanded(status) {
            let expected = Some(*value).filter(|_| status != 426);
            assert_eq!(
                response.headers().get(*name).map(|value| value.to_str().unwrap()),
                expected,
                "{status}"
            );
        }
        let has_body = !matches!(status, 204 | 205 | 304);
        assert_eq!(!response.body().is_empty(), has_body, "{status}");
    }
    let head = ask_http2(server.addr, "HEAD", "/status/200", &[], b"");
    assert_eq!((head.headers()["content-length"].to_str().unwrap(), head.body().len()), ("7", 0));
    assert!(server.stop().is_clean());
}
