//! What was uploaded is what was read.

use std::{io::Write as _, time::Duration};

use echo_server::Config;

use crate::harness::{Client, Echo, Program, ask_http2, config, pattern};

const HELLO_SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const NOTHING_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn an_upload_is_counted_and_digested_by_reading_whatever_its_method_and_framing() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    for method in ["POST", "PUT", "PATCH"] {
        client.send(
            format!("{method} /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello").as_bytes(),
        );
        let seen = client.response().json();
        assert_eq!((&seen["bytes_received"], &seen["sha256"]), (&5.into(), &HELLO_SHA256.into()), "{method}");
        assert!(seen["elapsed_ms"].as_f64().is_some_and(|elapsed| elapsed >= 0.0), "{seen}");
    }
    client.send(b"POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n");
    let seen = client.response().json();
    assert_eq!((&seen["bytes_received"], &seen["sha256"]), (&5.into(), &HELLO_SHA256.into()));
    let seen = client.ask("POST /upload\r\ncontent-length: 0").json();
    assert_eq!((&seen["bytes_received"], &seen["sha256"]), (&0.into(), &NOTHING_SHA256.into()));

    let body = pattern(300_000);
    let head =
        format!("POST /upload?format=text HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    client.send(&[head.as_bytes(), &body].concat());
    let response = client.response();
    assert_eq!(
        (response.text().trim(), response.header("content-type")),
        ("300000", "text/plain; charset=utf-8")
    );

    client.send(b"POST /upload HTTP/1.0\r\ncontent-length: 5\r\n\r\nhello");
    assert_eq!(client.response().json()["bytes_received"], 5);
    client.expect_close();

    let response = ask_http2(server.addr, "PUT", "/upload", &[], &body);
    let seen: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(seen["bytes_received"], 300_000);
    assert_eq!(Client::connect(server.addr).ask("GET /upload").status, 405);
    assert!(server.stop().is_clean());
}

#[test]
fn a_body_at_the_limit_is_taken_and_one_above_it_is_a_413_that_names_it() {
    let server = Echo::start(Config { body_max: 1000, ..config() });
    for (length, status) in [(1000, 200), (1001, 413)] {
        let mut client = Client::connect(server.addr);
        client.send(
            format!(
                "POST /upload HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
            )
            .as_bytes(),
        );
        let first = client.response();
        if status == 200 {
            assert_eq!(first.status, 100);
            client.send(&pattern(length));
            assert_eq!(client.response().json()["bytes_received"], length);
        } else {
            assert_eq!(first.status, 413, "before a byte of it was sent");
            let error = first.json();
            assert_eq!((&error["status_code"], &error["error"]), (&413.into(), &"Payload Too Large".into()));
            assert!(error["detail"].as_str().unwrap().contains("--body-max"), "{error}");
        }
    }
    for (length, status) in [(1000, 200), (1001, 413)] {
        let mut client = Client::connect(server.addr);
        client.send(b"POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        let chunk = [format!("{length:x}\r\n").as_bytes(), &pattern(length), b"\r\n0\r\n\r\n"].concat();
        client.send(&chunk);
        let response = client.response();
        assert_eq!(response.status, status, "one that does not say how large it is");
        if status == 413 {
            assert!(
                response.text().contains("--body-max") && response.header("connection") == "close",
                "{response:?}"
            );
        }
        let over_http2 = ask_http2(server.addr, "POST", "/upload", &[], &pattern(length));
        assert_eq!(over_http2.status().as_u16(), status);
    }
    server.stop();
}

#[test]
fn a_cut_body_is_no_success() {
    let server = Echo::start(Config { body_stall_timeout: Duration::from_millis(50), ..config() });
    let bodies: [&[u8]; 3] = [
        b"content-length: 1000\r\n\r\nbegin",
        b"transfer-encoding: chunked\r\n\r\n5\r\nbegin\r\n",
        b"transfer-encoding: chunked\r\n\r\n5\r\nbegin\r\nxyz\r\n",
    ];
    for body in bodies {
        let mut client = Client::connect(server.addr);
        client.send(&[b"POST /upload HTTP/1.1\r\nhost: a\r\n".as_slice(), body].concat());
        client.close_write();
        let response = client.response();
        assert!((400..500).contains(&response.status), "{response:?}");
        assert!(!response.text().contains("bytes_received"));
    }
    // Neither is one that stops without an end.
    let mut client = Client::connect(server.addr);
    client.send(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nbegin");
    let response = client.response();
    assert!(response.status == 408 && response.text().contains("--body-stall-timeout"), "{response:?}");
    server.stop();
}

#[test]
fn a_form_that_nobody_knows_is_refused_before_the_body_is_sent() {
    let server = Echo::start(config());
    let mut client = Client::connect(server.addr);
    client.send(
        b"POST /upload?format=xml HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n",
    );
    let refused = client.response();
    assert_eq!((refused.status, refused.header("connection")), (400, "close"));
    assert!(refused.text().contains("format=xml"), "{refused:?}");
    server.stop();
}

#[test]
fn an_upload_of_any_size_costs_no_memory_of_its_size() {
    const SIZE: usize = 256 << 20;
    let program = Program::start(&[]);
    let mut client = Client::connect(program.addr);
    client.send(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
    assert_eq!(client.response().status, 200);
    let before = program.memory("VmHWM");
    let block = pattern(1 << 20);
    write!(client.stream, "POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: {SIZE}\r\n\r\n").unwrap();
    for _ in 0..SIZE / block.len() {
        client.stream.write_all(&block).unwrap();
    }
    assert_eq!(client.response().json()["bytes_received"], SIZE);
    let growth = program.memory("VmHWM") - before;
    eprintln!("memory grew by {growth} bytes");
    assert!(growth < 16 << 20, "memory grew by {growth} bytes");
}
