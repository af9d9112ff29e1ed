//! The tasks of a server: their names, their numbers, and what is said of each.

use std::{process::Stdio, time::Duration};

use crate::{
    harness::{Client, program},
    watch::{Watched, busy, polls},
};

#[test]
fn every_task_is_named_for_what_it_does() {
    let Watched { program, mut console } = Watched::start(&["--console-one-in=1"]);
    let mut talking: Vec<_> = (0..3).map(|_| Client::connect(program.addr)).collect();
    for _ in 0..3 {
        for client in &mut talking {
            assert_eq!(client.echo(b"hello").body, b"hello");
        }
    }
    let _silent = Client::connect(program.addr);
    let mut http2 = Client::connect(program.addr);
    // The preface, empty SETTINGS, and a GET of / on stream 1 with literal fields.
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    request.extend(b"\0\0\x06\x01\x05\0\0\0\x01\x82\x84\x86\x01\x01a");
    http2.send(&request);

    let accept = format!("accept {}", program.addr);
    let admin = format!("admin accept {}", program.admin);
    let seen = console.until("all are there", |seen| {
        let is_there = |name: &str| seen.named(name).count() > 0;
        seen.live("h1 connection") == 3
            && [&accept, &admin, "new connection", "h2 connection", "h2 stream"].into_iter().all(is_there)
    });
    let unnamed: Vec<_> = seen.tasks.values().filter(|task| task.name.is_empty()).collect();
    assert!(unnamed.is_empty(), "{unnamed:?}");
    for (task, stats) in seen.named("h1 connection") {
        assert!(polls(stats) > 0 && !busy(stats).is_zero(), "{stats:?}");
        assert!(stats.wakes > stats.self_wakes, "what wakes it from outside is seen, too: {stats:?}");
        assert!(task.size > 0 && task.spawned_at.ends_with("connection.rs"), "{task:?}");
    }
    assert_eq!(seen.dropped, 0);
    let (count, longest) = console.poll_times("h1 connection");
    assert!(count > 0 && !longest.is_zero() && longest < Duration::from_secs(1), "{count} {longest:?}");

    drop(talking);
    console.until("the connections have ended", |seen| seen.live("h1 connection") == 0);
}

#[test]
fn one_connection_in_n_is_shown_and_all_else_as_it_is() {
    let Watched { program, mut console } = Watched::start(&["--console-one-in=4"]);
    let mut clients: Vec<_> = (0..40).map(|_| Client::connect(program.addr)).collect();
    for client in &mut clients {
        assert_eq!(client.echo(b"hello").body, b"hello");
    }
    let accept = format!("accept {}", program.addr);
    let seen = console.until("a quarter is there", |seen| seen.live("h1 connection") >= 10);
    assert_eq!((seen.live("h1 connection"), seen.live(&accept), seen.dropped), (10, 1, 0));
}

#[test]
fn a_console_port_that_is_taken_is_named_with_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = program()
        .args(["--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--console", &address])
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    for part in ["--console", &address, "another process listens there"] {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
}
