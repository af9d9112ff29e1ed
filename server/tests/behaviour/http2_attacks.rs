//! HTTP/2 clients that attack, stall or break the rules: each ends with the right error, and a healthy connection beside
//! them loses nothing.

use std::time::Duration;

use echo_server::Config;

use crate::{
    harness::{Echo, config},
    http2_frames::*,
};

const SHORT: Duration = Duration::from_millis(200);

/// Runs an attack beside a healthy connection, and expects the attacker's to end for this reason.
fn attack(config: Config, expected: u32, end: &str, attack: impl FnOnce(&mut Frames)) {
    let server = Echo::start(config);
    let mut healthy = Frames::greet(server.addr, &[]);
    assert!(!healthy.ask(1, GET).is_empty());
    let mut attacker = Frames::greet(server.addr, &[]);
    attack(&mut attacker);
    assert!(!healthy.ask(3, GET).is_empty());
    assert_eq!(attacker.last_error(), expected);
    server.await_metric("echo_connections_closed_total", end, 1);
    assert!(!healthy.ask(5, GET).is_empty());
    drop((healthy, attacker));
    server.await_metric("echo_tasks", "h2 stream", 0);
    server.await_metric("http_server_active_requests", "", 0);
    server.stop();
}

/// Sends `frame` until the server takes no more of it, or up to 10,000 times.
fn flood(attacker: &mut Frames, frame: &[u8]) {
    let many = frame.repeat(100);
    let _refused = (0..100).find(|_| !attacker.send(&many));
}

fn few_frames() -> Config {
    Config { http2_control_frames_max: 50, ..config() }
}

#[test]
fn a_flood_of_pings_ends_the_connection() {
    attack(few_frames(), ENHANCE_YOUR_CALM, "\"flood\"", |attacker| {
        flood(attacker, &frame(PING, 0, 0, &[0; 8]));
    });
}

/// CVE-2019-9515.
#[test]
fn a_flood_of_settings_ends_the_connection() {
    attack(few_frames(), ENHANCE_YOUR_CALM, "\"flood\"", |attacker| {
        flood(attacker, &frame(SETTINGS, 0, 0, &[]));
    });
}

/// CVE-2019-9513.
#[test]
fn a_flood_of_priorities_ends_the_connection() {
    attack(few_frames(), ENHANCE_YOUR_CALM, "\"flood\"", |attacker| {
        flood(attacker, &frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]));
    });
}

#[test]
fn a_flood_of_window_updates_ends_the_connection() {
    attack(few_frames(), ENHANCE_YOUR_CALM, "\"flood\"", |attacker| {
        flood(attacker, &frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]));
    });
}

#[test]
fn a_flood_of_frames_that_nobody_knows_ends_the_connection() {
    attack(few_frames(), ENHANCE_YOUR_CALM, "\"flood\"", |attacker| {
        flood(attacker, &frame(0x77, 0, 0, &[]));
    });
}

/// CVE-2019-9518.
#[test]
fn a_flood_of_empty_data_ends_the_connection() {
    attack(few_frames(), ENHANCE_YOUR_CALM, "\"flood\"", |attacker| {
        attacker.send(&frame(HEADERS, END_HEADERS, 1, POST_ECHO));
        flood(attacker, &frame(DATA, 0, 1, &[]));
    });
}

/// CVE-2023-44487.
#[test]
fn rapid_resets_end_the_connection() {
    let config = Config { http2_resets_max: 10, ..config() };
    attack(config, ENHANCE_YOUR_CALM, "\"flood\"", |attacker| {
        for n in 0..1000 {
            let stream = 2 * n + 1;
            let begun = frame(HEADERS, END_HEADERS, stream, POST_ECHO);
            if !attacker.send(&[begun, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()) {
                break;
            }
        }
    });
}

/// The same, by h2's own limit: streams that are reset before anybody has seen them.
#[test]
fn streams_that_are_reset_before_they_are_seen_end_the_connection() {
    let config = Config { http2_resets_pending_max: 5, http2_resets_max: 1_000_000, ..config() };
    attack(config, ENHANCE_YOUR_CALM, "\"flood\"", |attacker| {
        let burst: Vec<u8> = (0..100)
            .flat_map(|n| {
                let stream = 2 * n + 1;
                let begun = frame(HEADERS, END_HEADERS, stream, POST_ECHO);
                [begun, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
            })
            .collect();
        attacker.send(&burst);
    });
}

/// Streams that we reset for the client's errors ("MadeYouReset", CVE-2025-8671).
#[test]
fn streams_that_we_have_to_reset_end_the_connection() {
    let config = Config { http2_resets_local_max: 5, ..config() };
    attack(config, ENHANCE_YOUR_CALM, "\"flood\"", |attacker| {
        for n in 0..100 {
            // No :path.
            if !attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, b"\x82\x86\x41\x01a")) {
                break;
            }
        }
    });
}

/// CVE-2024-27316.
#[test]
fn a_flood_of_continuations_ends_the_connection() {
    let config = Config { http2_continuations_max: 2, ..config() };
    attack(config, ENHANCE_YOUR_CALM, "\"flood\"", |attacker| {
        attacker.send(&frame(HEADERS, END_STREAM, 1, GET));
        flood(attacker, &frame(CONTINUATION, 0, 1, b"\x00\x01x\x01y"));
    });
}

#[test]
fn a_header_block_without_end_ends_the_connection() {
    let config = Config { http2_continuations_max: 1024, header_max: 1024, ..config() };
    attack(config, ENHANCE_YOUR_CALM, "\"flood\"", |attacker| {
        attacker.send(&frame(HEADERS, END_STREAM, 1, GET));
        // A field of 1 KiB that is not indexed.
        let field = [b"\x00\x01x\x7f\x81\x07".as_slice(), &[b'y'; 1024]].concat();
        for _ in 0..5 {
            attacker.send(&frame(CONTINUATION, 0, 1, &field));
        }
    });
}

/// A block of a few bytes that stands for a list of megabytes: HPACK's dynamic table repeats its entry.
#[test]
fn a_header_bomb_ends_the_connection() {
    attack(config(), ENHANCE_YOUR_CALM, "\"flood\"", |attacker| {
        let entry = [b"\x40\x01x\x7f\xa1\x1e".as_slice(), &[b'y'; 4000]].concat();
        let bomb = [GET, &entry, &[0xbe; 4000]].concat();
        attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb));
    });
}

#[test]
fn a_header_list_over_the_limit_is_a_431_on_its_stream() {
    let server = Echo::start(Config { header_max: 1024, ..config() });
    let mut client = Frames::greet(server.addr, &[]);
    let field = [b"\x00\x01x\x7f\x81\x07".as_slice(), &[b'y'; 1024]].concat();
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &[GET, &field].concat()));
    let answer = client.find(|frame| frame.stream == 1);
    // :status 431 is not in HPACK's static table: its digits stand in the block, plain or in Huffman's code.
    assert_eq!(answer.kind, HEADERS, "{answer:?}");
    assert!(!client.ask(3, GET).is_empty());
    server.stop();
}

#[test]
fn streams_over_the_limit_are_refused_and_the_others_live() {
    let server = Echo::start(Config { http2_streams_max: 2, ..config() });
    let mut client = Frames::greet(server.addr, &[]);
    for stream in [1, 3, 5] {
        client.send(&frame(HEADERS, END_HEADERS, stream, POST_ECHO));
    }
    let refused = client.find(|frame| frame.kind == RST_STREAM);
    assert_eq!((refused.stream, refused.code()), (5, REFUSED_STREAM));
    client.send(&frame(DATA, END_STREAM, 1, b"one"));
    assert_eq!(client.answer(1), b"one");
    server.stop();
}

#[test]
fn windows_are_what_the_settings_say() {
    let server = Echo::start(Config {
        http2_stream_window: 2048,
        http2_connection_window: 100 * 1024,
        http2_streams_max: 7,
        header_max: 4096,
        ..config()
    });
    let mut client = Frames::greet(server.addr, &[]);
    let settings = client.find(|frame| frame.kind == SETTINGS && frame.flags == 0).payload;
    let announced = |name: u16| {
        let pair = settings.chunks(6).find(|pair| pair[..2] == name.to_be_bytes()).unwrap();
        u32::from_be_bytes(pair[2..].try_into().unwrap())
    };
    // RFC 9113, section 6.5.2: concurrent streams, initial window, header list.
    assert_eq!((announced(3), announced(4), announced(6)), (7, 2048, 4096));
    let update = client.find(|frame| frame.kind == WINDOW_UPDATE && frame.stream == 0);
    assert_eq!(u32::from_be_bytes(update.payload.try_into().unwrap()), 100 * 1024 - 65_535);

    client.send(&frame(SETTINGS, 1, 0, &[]));
    client.send(&frame(HEADERS, END_HEADERS, 1, POST_ECHO));
    client.send(&frame(DATA, 0, 1, &[b'x'; 4096]));
    let stopped = client.find(|frame| matches!(frame.kind, RST_STREAM | GOAWAY));
    assert_eq!(stopped.code(), FLOW_CONTROL_ERROR, "{stopped:?}");
    server.stop();
}

/// RFC 9113, section 3.4: a client's first frame is SETTINGS.
#[test]
fn a_preface_and_then_silence_is_no_connection() {
    let server = Echo::start(Config { header_read_timeout: SHORT, ..config() });
    let mut client = Frames::connect(server.addr);
    client.send(PREFACE);
    assert_eq!(client.last_error(), SETTINGS_TIMEOUT);
    server.await_metric("echo_connections_closed_total", "header_timeout", 1);
    server.stop();
}

#[test]
fn a_header_block_that_does_not_come_ends_the_connection() {
    let server = Echo::start(Config { header_read_timeout: SHORT, ..config() });
    for begin in [frame(HEADERS, 0, 3, GET), frame(HEADERS, END_HEADERS, 3, GET)[..12].to_vec()] {
        let mut client = Frames::greet(server.addr, &[]);
        assert!(!client.ask(1, GET).is_empty());
        client.send(&begin);
        assert_eq!(client.last_error(), ENHANCE_YOUR_CALM);
    }
    server.await_metric("echo_connections_closed_total", "header_timeout", 2);
    server.stop();
}

#[test]
fn a_client_that_answers_no_ping_is_closed() {
    let server = Echo::start(Config { http2_ping_interval: SHORT, http2_ping_timeout: SHORT, ..config() });
    let mut client = Frames::greet(server.addr, &[]);
    client.find(|frame| frame.kind == PING && frame.flags == 0);
    while client.next().is_some() {}
    server.await_metric("echo_connections_open", "", 0);
    server.stop();
}

/// Uploads whose echo nobody reads fill their streams' windows, and not the connection's.
#[test]
fn stalled_uploads_stop_nobody_else_and_are_reset_in_time() {
    let server = Echo::start(Config { write_stall_timeout: 5 * SHORT, ..config() });
    // No window for answers: those that are to be read get theirs one by one.
    let mut client = Frames::greet(server.addr, &[(4, 0)]);
    // The connection's window, which begins smaller than it is to be.
    client.find(|frame| frame.kind == WINDOW_UPDATE && frame.stream == 0);
    let stalled: Vec<u32> = (0..8).map(|n| 2 * n + 1).collect();
    for stream in &stalled {
        client.send(&frame(HEADERS, END_HEADERS, *stream, POST_ECHO));
        for _ in 0..4 {
            client.send(&frame(DATA, 0, *stream, &[b'x'; 16_000]));
        }
    }
    for stream in [101, 103, 105] {
        client.send(&frame(HEADERS, END_HEADERS, stream, POST_ECHO));
        client.send(&frame(WINDOW_UPDATE, 0, stream, &[0, 1, 0, 0]));
        client.send(&frame(DATA, END_STREAM, stream, b"healthy"));
        assert_eq!(client.answer(stream), b"healthy");
    }
    let mut reset: Vec<u32> =
        stalled.iter().map(|_| client.find(|frame| frame.kind == RST_STREAM).stream).collect();
    reset.sort_unstable();
    assert_eq!(reset, stalled);
    server.await_metric("echo_tasks", "h2 stream", 0);
    server.stop();
}

/// More of them than the connection's window holds stop the connection, until their deadline frees it.
#[test]
fn stalled_uploads_that_fill_the_connection_give_it_back() {
    let server = Echo::start(Config {
        write_stall_timeout: SHORT,
        http2_connection_window: 64 * 1024,
        http2_stream_window: 64 * 1024,
        ..config()
    });
    let mut client = Frames::greet(server.addr, &[(4, 0)]);
    client.send(&frame(HEADERS, END_HEADERS, 1, POST_ECHO));
    for _ in 0..4 {
        client.send(&frame(DATA, 0, 1, &[b'x'; 16_383]));
    }
    client.find(|frame| frame.kind == RST_STREAM && frame.stream == 1);
    // More than what is left of the connection's window, were it not granted again.
    client.send(&frame(HEADERS, END_HEADERS, 3, POST_ECHO));
    client.send(&frame(WINDOW_UPDATE, 0, 3, &[0, 1, 0, 0]));
    client.send(&frame(DATA, END_STREAM, 3, &[b'y'; 16_000]));
    assert_eq!(client.answer(3), [b'y'; 16_000]);
    server.stop();
}

#[test]
fn a_body_that_does_not_come_is_a_408_on_its_stream() {
    let server = Echo::start(Config { body_stall_timeout: SHORT, ..config() });
    let mut client = Frames::greet(server.addr, &[]);
    client.send(&frame(HEADERS, END_HEADERS, 1, POST_ECHO));
    let text = String::from_utf8(client.answer(1)).unwrap();
    assert!(text.contains("408") && text.contains("--body-stall-timeout"), "{text}");
    assert!(!client.ask(3, GET).is_empty(), "the other streams live");
    server.stop();
}

#[test]
fn a_body_that_trickles_is_reset_alone() {
    let server = Echo::start(Config { rate_grace: SHORT, ..config() });
    let mut client = Frames::greet(server.addr, &[]);
    client.send(&frame(HEADERS, END_HEADERS, 1, POST_ECHO));
    let mut trickle = client.stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            use std::io::Write as _;
            // Never silent for long, until the stream is closed: then DATA on it costs the connection.
            for _ in 0..40 {
                drop(trickle.write_all(&frame(DATA, 0, 1, b"x")));
                std::thread::sleep(SHORT / 20);
            }
        });
        client.find(|frame| frame.stream == 1 && frame.kind == RST_STREAM);
    });
    server.await_metric("http_server_active_requests", "", 0);
    server.stop();
}

/// RFC 9113, section 6.8.
#[test]
fn a_client_that_says_goaway_gets_what_it_asked_for_and_a_close() {
    let server = Echo::start(config());
    let mut client = Frames::greet(server.addr, &[]);
    client.send(&frame(HEADERS, END_HEADERS, 1, POST_ECHO));
    client.send(&frame(GOAWAY, 0, 0, &[0; 8]));
    client.send(&frame(DATA, END_STREAM, 1, b"last"));
    assert_eq!(client.answer(1), b"last");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    while client.next().is_some() {}
    server.await_metric("echo_connections_closed_total", "complete", 1);
    server.stop();
}

#[test]
fn http2_that_is_switched_off_is_told_so() {
    let server = Echo::start(Config { http2: false, ..config() });
    let mut client = Frames::greet(server.addr, &[]);
    assert_eq!(client.next().unwrap().kind, SETTINGS);
    assert_eq!(client.last_error(), HTTP_1_1_REQUIRED);
    server.stop();
}
