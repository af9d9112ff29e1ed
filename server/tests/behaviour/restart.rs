//! One process after another: nobody notices, or the old one goes on.

mod service;
mod tls;

use std::{
    io::{ErrorKind, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use rustix::{
    io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd},
    process::Signal,
};

use self::service::{Manager, Place, Service, eventually, read_all};
use crate::{
    drain::{Tally, echo_until_close, requests_until_close, streams_until_goaway},
    harness::{Client, PATIENCE, await_metric, metric, program},
};

const QUICK: [&str; 3] = ["--lame-duck=100ms", "--drain-idle-grace=50ms", "--workers=2"];

/// Clients that do not pause, while processes come and go.
struct Load {
    addr: SocketAddr,
    tally: Tally,
    is_over: AtomicBool,
}

impl Load {
    fn on(addr: SocketAddr) -> Self {
        Self { addr, tally: Tally::default(), is_over: AtomicBool::new(false) }
    }

    fn answered(&self) -> usize {
        self.tally.answered.load(Relaxed)
    }

    /// Runs `session` again and again; it is false where the server cannot be reached.
    fn repeat(&self, mut session: impl FnMut() -> bool) {
        while !self.is_over.load(Relaxed) {
            if !session() && !self.is_over.load(Relaxed) {
                self.tally.failed("cannot connect");
            }
        }
    }

    /// One connection for as long as the server lets it.
    fn keep_alive(&self) {
        self.repeat(|| echo_until_close(self.addr, &self.tally));
    }

    /// A connection for each request.
    fn churn(&self) {
        self.repeat(|| {
            let Ok(mut stream) = TcpStream::connect(self.addr) else { return false };
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let sent = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            let response = sent.map(|()| read_all(stream));
            match response {
                Ok(response) if response.starts_with(b"HTTP/1.1 200") => self.tally.answered(),
                other => self.tally.failed(&format!("{other:?}")),
            }
            true
        });
    }

    fn unix(&self, path: &Path) {
        self.repeat(|| match UnixStream::connect(path) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                requests_until_close(&mut stream, &self.tally);
                true
            }
            Err(_) => false,
        });
    }

    fn http2(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        self.repeat(|| runtime.block_on(streams_until_goaway(self.addr, &self.tally)));
    }

    /// Lets the clients run for a while between two restarts.
    fn go_on(&self) {
        let before = self.answered();
        eventually(|| self.answered() >= before + 200, "the load has stopped");
    }

    fn check(&self) {
        assert_eq!(self.tally.failed.load(Relaxed), 0, "of {} requests", self.answered());
    }
}

/// Ends the load, also where the test fails: its threads would keep it for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Restarts again and again under load.
fn restart_under_load(args: &[&str], unix: Option<&Path>) {
    let mut service = Service::start(args);
    let load = Load::on(service.addr);
    std::thread::scope(|scope| {
        let over = Over(&load.is_over);
        for _ in 0..2 {
            scope.spawn(|| load.keep_alive());
            scope.spawn(|| load.churn());
            scope.spawn(|| load.http2());
            if let Some(path) = unix {
                scope.spawn(|| load.unix(path));
            }
        }
        for _ in 0..4 {
            load.go_on();
            service.restart();
        }
        load.go_on();
        assert_eq!(metric(service.admin, "echo_restarts_total", "completed"), 4);
        // The clients' connections end with the last process.
        drop(over);
        assert_eq!(service.stop(), 5);
    });
    load.check();
}

#[test]
fn restarts_under_load_fail_no_request() {
    let place = Place::new("load");
    let path = place.path("socket");
    let listen = format!("--listen-unix={}", path.display());
    restart_under_load(&[&QUICK[..], &["--runtime=work-stealing", &listen]].concat(), Some(&path));
    assert!(!path.exists(), "the last process removes the file");
}

#[test]
fn restarts_under_load_fail_no_request_with_a_listener_per_core() {
    restart_under_load(&[&QUICK[..], &["--runtime=per-core"]].concat(), None);
}

#[test]
fn tls_clients_move_to_the_new_process() {
    let mut service = Service::start(&[&QUICK[..], &["--listen-tls=127.0.0.1:0", "--tls-dev-cert"]].concat());
    let address = service.tls.unwrap();
    let tally = Tally::default();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = Over(&is_over);
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    match tls::connect(address) {
                        Ok(mut stream) => requests_until_close(&mut stream, &tally),
                        Err(_) if is_over.load(Relaxed) => {}
                        Err(error) => tally.failed(&error.to_string()),
                    }
                }
            });
        }
        for _ in 0..3 {
            let before = tally.answered.load(Relaxed);
            eventually(|| tally.answered.load(Relaxed) >= before + 50, "the load has stopped");
            service.restart();
        }
        drop(over);
        assert_eq!(service.stop(), 4);
    });
    assert_eq!(tally.failed.load(Relaxed), 0);
}

#[test]
fn a_request_in_progress_is_finished_by_the_old_process_while_the_new_one_serves() {
    let mut service = Service::start(&["--lame-duck=0s"]);
    let mut slow = Client::connect(service.addr);
    slow.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhello");
    await_metric(service.admin, "http_server_active_requests", "", 1);
    service.restart();
    assert_eq!(Client::connect(service.addr).echo(b"new").header("connection"), "");
    // The admin listener is the new process's, too.
    eventually(|| metric(service.admin, "echo_restarts_total", "completed") == 1, "asked the old process");
    assert_eq!(metric(service.admin, "echo_ready", ""), 1);
    slow.send(b"world");
    assert_eq!(slow.response().body, b"helloworld");
    slow.expect_close();
    assert_eq!(service.stop(), 2);
}

#[test]
fn a_new_process_that_ends_leaves_the_old_one_serving() {
    let place = Place::new("ends");
    let config = place.write("server.toml", "lame_duck = \"0s\"\n");
    let mut service = Service::start(&["--config", config.to_str().unwrap()]);
    let mut client = Client::connect(service.addr);
    assert_eq!(client.echo(b"hi").body, b"hi");
    place.write("server.toml", "lame_duck = \"soon\"\n");
    service.signal(Signal::USR2);
    let line = service.logged("restart failed");
    assert!(line.contains("ended before it was ready: exit status: 2"), "{line}");
    assert_eq!(metric(service.admin, "echo_restarts_total", "failed"), 1);
    assert_eq!(client.echo(b"as before").header("connection"), "");

    // What is repaired works, and the counters go on.
    place.write("server.toml", "lame_duck = \"0s\"\n");
    service.restart();
    eventually(|| metric(service.admin, "echo_restarts_total", "completed") == 1, "asked the old process");
    assert_eq!(metric(service.admin, "echo_restarts_total", "failed"), 1);
    assert_eq!(service.stop(), 2);
}

/// The program at `place`, in its own directory.
fn installed(place: &Place, args: &[&str]) -> Service {
    let mut command = Command::new(place.install("server"));
    command.env_clear().env("ECHO_LOG", "warn").stdout(std::process::Stdio::piped());
    Service::spawn(command.args(["--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--lame-duck=0s"]).args(args))
}

#[test]
fn a_new_process_that_says_nothing_is_ended_and_further_signals_meanwhile_are_ignored() {
    let place = Place::new("silent");
    let mut service = installed(&place, &["--restart-timeout=1s"]);
    let mut client = Client::connect(service.addr);
    place.install_script("server", "echo $$ > $0.pid\nexec sleep 600");
    service.signal(Signal::USR2);
    eventually(|| place.path("server.pid").exists(), "the new program was not started");
    service.signal(Signal::USR2);
    service.logged("SIGUSR2 ignored");
    let line = service.logged("restart failed");
    assert!(line.contains("not ready within 1s (--restart-timeout)"), "{line}");
    assert_eq!(metric(service.admin, "echo_restarts_total", "timed_out"), 1);
    assert_eq!(client.echo(b"as before").header("connection"), "");

    // The file of the running program is gone from the disk; what is in its place is started.
    place.install("server");
    service.restart();
    assert_eq!(service.stop(), 2);
}

#[test]
fn sigterm_while_a_new_process_starts_ends_both() {
    let place = Place::new("both");
    let service = installed(&place, &[]);
    place.install_script("server", "echo $$ > $0.pid\nexec sleep 600");
    service.signal(Signal::USR2);
    eventually(|| place.path("server.pid").exists(), "the new program was not started");
    let mut client = Client::connect(service.addr);
    assert_eq!(client.echo(b"hi").body, b"hi");
    assert_eq!(service.stop(), 1, "the end of the pipe says that the other is gone, too");
}

#[test]
fn a_program_that_cannot_be_started_is_an_error_and_no_more() {
    let place = Place::new("missing");
    let service = installed(&place, &[]);
    std::fs::remove_file(place.path("server")).unwrap();
    service.signal(Signal::USR2);
    service.logged("restart failed");
    assert_eq!(Client::connect(service.addr).echo(b"as before").body, b"as before");
    assert_eq!(service.stop(), 1);
}

#[test]
fn fewer_threads_serve_all_the_sockets_of_more() {
    let place = Place::new("threads");
    let config = place.write("server.toml", "workers = 4\nruntime = \"per-core\"\nlame_duck = \"0s\"\n");
    let mut service = Service::start(&["--config", config.to_str().unwrap()]);
    for text in ["workers = 1", "workers = 6", "workers = 2\nruntime = \"work-stealing\""] {
        let runtime = if text.contains("runtime") { "" } else { "runtime = \"per-core\"" };
        place.write("server.toml", &format!("{text}\n{runtime}\nlame_duck = \"0s\"\n"));
        service.restart();
        // The kernel spreads clients over the sockets by hash: a queue without a server would soon show.
        for _ in 0..64 {
            assert_eq!(Client::connect(service.addr).echo(b"hi").body, b"hi");
        }
    }
    assert_eq!(service.stop(), 4);
}

#[test]
fn the_service_manager_is_told_of_every_step() {
    let place = Place::new("notify");
    let manager = Manager::at(&place.path("notify"));
    let mut command = program();
    command.env("NOTIFY_SOCKET", place.path("notify")).args(QUICK);
    let mut service = Service::spawn(command.args(["--listen=127.0.0.1:0", "--admin=127.0.0.1:0"]));
    assert_eq!(manager.message(), ["READY=1", "STATUS=serving"]);

    service.signal(Signal::HUP);
    let reloading = manager.message();
    assert_eq!(reloading[0], "RELOADING=1");
    assert!(reloading[1].starts_with("MONOTONIC_USEC="), "{reloading:?}");
    assert_eq!(manager.message(), ["READY=1", "STATUS=serving"]);

    service.restart();
    assert_eq!(manager.message(), ["STATUS=restarting"]);
    // In this order, or systemd does not believe the new process.
    let pid = service.pid.as_raw_nonzero();
    assert_eq!(manager.message()[0], format!("MAINPID={pid}"));
    assert_eq!(manager.message(), ["READY=1", "STATUS=serving"]);

    service.signal(Signal::TERM);
    assert_eq!(manager.message(), ["STOPPING=1", "STATUS=draining"]);
    assert_eq!(service.end(), 2);
}

#[test]
fn the_watchdog_is_fed_by_whichever_process_serves() {
    let place = Place::new("watchdog");
    let manager = Manager::at(&place.path("notify"));
    let mut command = program();
    command.env("NOTIFY_SOCKET", place.path("notify")).env("WATCHDOG_USEC", "100000").args(QUICK);
    let mut service = Service::spawn(command.args(["--listen=127.0.0.1:0", "--admin=127.0.0.1:0"]));
    for _ in 0..3 {
        manager.await_line("WATCHDOG=1");
    }
    service.restart();
    manager.await_line(&format!("MAINPID={}", service.pid.as_raw_nonzero()));
    for _ in 0..3 {
        manager.await_line("WATCHDOG=1");
    }
    assert_eq!(service.stop(), 2);
}

/// Two listeners whose descriptors children inherit, with numbers that follow each other.
fn passed_on(from: i32) -> ([OwnedFd; 2], [SocketAddr; 2]) {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = [0, 1].map(|place: usize| listeners[place].local_addr().unwrap());
    let first = fcntl_dupfd_cloexec(&listeners[0], from).unwrap();
    let second = fcntl_dupfd_cloexec(&listeners[1], first.as_raw_fd() + 1).unwrap();
    assert_eq!(second.as_raw_fd(), first.as_raw_fd() + 1);
    for descriptor in [&first, &second] {
        fcntl_setfd(descriptor, FdFlags::empty()).unwrap();
    }
    ([first, second], addresses)
}

/// The program as systemd starts it, with these sockets. (systemd's begin with number 3, which here is the test's own.)
fn activated(sockets: &[OwnedFd; 2], names: &str, args: &[&str]) -> Command {
    let script = format!("LISTEN_PID=$$ exec {} \"$@\"", env!("CARGO_BIN_EXE_echo-server"));
    let mut command = Command::new("/bin/sh");
    command.env_clear().env("ECHO_LOG", "warn").stdout(std::process::Stdio::piped());
    command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", names);
    command.env("LISTEN_FDS_FIRST_FD", sockets[0].as_raw_fd().to_string());
    command.args(["-c", &script, "sh"]).args(QUICK).args(args);
    command
}

#[test]
fn sockets_of_the_service_manager_keep_their_clients_while_no_process_runs() {
    let (sockets, [admin, http]) = passed_on(200);
    let start = || Service::spawn(&mut activated(&sockets, "admin:http", &[]));

    let mut early = Client::connect(http);
    early.send_echo(b"before the first process");
    let mut service = start();
    assert_eq!((service.addr, service.admin), (http, admin));
    assert_eq!(early.response().body, b"before the first process");
    // What the service manager holds is still its own after a handover.
    service.restart();
    assert_eq!(Client::connect(http).echo(b"second").body, b"second");
    assert_eq!(service.stop(), 2);

    let mut between = Client::connect(http);
    between.send_echo(b"between two processes");
    let service = start();
    assert_eq!(between.response().body, b"between two processes");
    assert_eq!(service.stop(), 1);
}

#[test]
fn sockets_without_names_are_taken_in_their_order_and_others_are_refused() {
    let (sockets, [http, tls]) = passed_on(300);
    let args = ["--admin=127.0.0.1:0", "--listen-tls=127.0.0.1:0", "--tls-dev-cert"];
    let service = Service::spawn(&mut activated(&sockets, "", &args));
    assert_eq!((service.addr, service.tls), (http, Some(tls)));
    assert_eq!(service.stop(), 1);

    for (names, args, why) in [
        ("http:https", &["--admin=127.0.0.1:0"][..], "--listen-tls"),
        ("admin:admin", &["--listen=127.0.0.1:0"][..], "several"),
        ("http:unix", &["--admin=127.0.0.1:0"][..], "not a Unix socket"),
    ] {
        let output = activated(&sockets, names, args).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && error.contains(why), "{names}: {error}");
    }
}

#[test]
fn the_unit_files_are_understood_by_systemd() {
    let files = ["echo-server.service", "echo-server.socket"];
    let paths = files.map(|file| Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
    match Command::new("systemd-analyze").arg("verify").args(&paths).output() {
        // It also tells of the program, which is not installed here.
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let complaint = text.lines().find(|line| {
                files.iter().any(|file| line.contains(file)) && !line.contains("is not executable")
            });
            assert_eq!(complaint, None, "{text}");
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
    }
}
