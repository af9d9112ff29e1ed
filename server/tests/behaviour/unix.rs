//! The Unix socket: a file that must neither stand in the way of the next server nor be taken from a living one.

use std::{
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
};

use echo_server::{Config, Runtime, Server};

use crate::harness::{Client, Echo, PATIENCE, Program, config, pattern};

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("echo-server-test-{name}-{}.sock", std::process::id()))
}

fn connect(path: &PathBuf) -> Client<UnixStream> {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    Client::over(stream)
}

#[test]
fn a_unix_socket_echoes_on_either_runtime_and_is_gone_after_the_end() {
    for runtime in [Runtime::WorkStealing, Runtime::PerCore] {
        let path = path("echo");
        let workers = std::num::NonZeroUsize::new(2);
        let server = Echo::start(Config { listen_unix: Some(path.clone()), runtime, workers, ..config() });
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let body = pattern(300_000);
        let mut clients: Vec<_> = (0..4).map(|_| connect(&path)).collect();
        for client in &mut clients {
            assert_eq!(client.echo(&body).body, body);
        }
        server.await_metric("echo_connections_open", "", 4);
        drop(clients);
        assert!(server.stop().is_clean());
        assert!(!path.exists());
    }
}

#[test]
fn a_socket_that_a_dead_server_left_is_replaced_and_a_living_servers_is_not() {
    let path = path("stale");
    drop(UnixListener::bind(&path).unwrap());
    let with_path = || Config { listen_unix: Some(path.clone()), ..config() };
    let server = Echo::start(with_path());
    assert_eq!(connect(&path).echo(b"one").body, b"one");
    let error = Server::bind(with_path()).unwrap_err().to_string();
    let named = error.contains("--listen-unix") && error.contains(path.to_str().unwrap());
    assert!(named && error.contains("another process listens there"), "{error}");
    assert_eq!(connect(&path).echo(b"two").body, b"two", "the attempt took nothing away");
    server.stop();

    std::fs::write(&path, "mine").unwrap();
    let error = Server::bind(with_path()).unwrap_err().to_string();
    assert!(error.contains("no socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_file_that_is_another_servers_by_now_is_left_alone() {
    let path = path("taken");
    let server = Echo::start(Config { listen_unix: Some(path.clone()), ..config() });
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    server.stop();
    assert!(std::fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    drop(other);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn the_program_announces_its_unix_socket_and_drains_it() {
    let path = path("program");
    let program = Program::start(&[&format!("--listen-unix={}", path.display()), "--lame-duck=0s"]);
    let mut client = connect(&path);
    client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n1");
    crate::harness::await_metric(program.admin, "http_server_active_requests", "", 1);
    program.terminate();
    client.send(b"2");
    assert_eq!(client.response().body, b"12");
    client.expect_close();
    let (report, code) = program.wait();
    assert_eq!(code, Some(0), "{report}");
    assert!(!path.exists());
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_named() {
    let long = std::env::temp_dir().join("x".repeat(120));
    let error = Server::bind(Config { listen_unix: Some(long.clone()), ..config() }).unwrap_err().to_string();
    assert!(error.contains("--listen-unix") && error.contains(long.to_str().unwrap()), "{error}");
}
