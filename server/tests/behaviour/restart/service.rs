//! A service whose processes come and go.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{PATIENCE, program};

/// A directory of one test, removed at its end.
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("echo-restart-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file, whole at any moment.
    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let (path, new) = (self.path(name), self.path("new"));
        fs::write(&new, text).unwrap();
        fs::rename(new, &path).unwrap();
        path
    }

    /// Puts the program at `name`.
    pub(super) fn install(&self, name: &str) -> PathBuf {
        let (path, new) = (self.path(name), self.path("new"));
        fs::copy(env!("CARGO_BIN_EXE_echo-server"), &new).unwrap();
        fs::rename(new, &path).unwrap();
        path
    }

    /// Puts a shell script at `name`.
    pub(super) fn install_script(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let new = self.path("new");
        fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// All processes of one service, as its standard output tells of them. Killed if the test fails.
pub(super) struct Service {
    pub(super) addr: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) tls: Option<SocketAddr>,
    /// The process that serves.
    pub(super) pid: Pid,
    first: Child,
    lines: Receiver<String>,
    log: Receiver<String>,
    /// Processes that have drained.
    drained: usize,
}

impl Service {
    pub(super) fn start(args: &[&str]) -> Self {
        Self::spawn(program().args(args).args(["--listen=127.0.0.1:0", "--admin=127.0.0.1:0"]))
    }

    /// `command` says where to listen.
    pub(super) fn spawn(command: &mut Command) -> Self {
        let mut first = command.stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&first);
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let lines = lines_of(first.stdout.take().unwrap());
        let log = lines_of(first.stderr.take().unwrap());
        let mut service =
            Self { addr: nowhere, admin: nowhere, tls: None, pid, first, lines, log, drained: 0 };
        service.announced();
        service
    }

    /// Reads where the service is, up to the line that comes last.
    fn announced(&mut self) {
        loop {
            let line = self.line();
            if let Some(address) = line.strip_prefix("listening on http://") {
                self.addr = address.parse().unwrap();
            } else if let Some(address) = line.strip_prefix("listening on https://") {
                self.tls = Some(address.parse().unwrap());
            } else if let Some(address) = line.strip_prefix("admin on http://") {
                self.admin = address.parse().unwrap();
                break;
            }
        }
    }

    fn line(&mut self) -> String {
        self.line_or_end().unwrap_or_else(|| panic!("no line of standard output"))
    }

    /// The next line of standard output; `None` once every process has ended. Each that has drained has lost nothing.
    fn line_or_end(&mut self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                if line.starts_with("drained in") {
                    assert!(line.contains("0 requests lost"), "{line}");
                    self.drained += 1;
                }
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("standard output is silent"),
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Has a new process take over.
    pub(super) fn restart(&mut self) {
        self.signal(Signal::USR2);
        loop {
            let line = self.line();
            if let Some(rest) = line.strip_prefix("process ") {
                let pid = rest.strip_suffix(" goes on").unwrap().parse().unwrap();
                self.pid = Pid::from_raw(pid).unwrap();
                return;
            }
        }
    }

    /// Waits for the end of all processes. Returns how many there were.
    pub(super) fn end(mut self) -> usize {
        while self.line_or_end().is_some() {}
        assert_eq!(self.first.wait().unwrap().code(), Some(0));
        self.drained
    }

    pub(super) fn stop(self) -> usize {
        self.signal(Signal::TERM);
        self.end()
    }

    /// Waits for a line of the log that contains `text`.
    pub(super) fn logged(&self, text: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no line of the log contains {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _killed_or_gone = kill_process(self.pid, Signal::KILL);
        }
        drop(self.first.kill());
        drop(self.first.wait());
    }
}

/// The lines of a pipe, until every process that holds its other end is gone.
fn lines_of(pipe: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (lines, received) = sync_channel(10_000);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            eprintln!("| {line}");
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    received
}

/// What the processes of a service tell the service manager.
pub(super) struct Manager(UnixDatagram);

impl Manager {
    pub(super) fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// The next message, without the watchdog's.
    pub(super) fn message(&self) -> Vec<String> {
        loop {
            let lines = self.any_message();
            if lines != ["WATCHDOG=1"] {
                return lines;
            }
        }
    }

    pub(super) fn any_message(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned).collect()
    }

    /// Waits for a message with this line.
    pub(super) fn await_line(&self, line: &str) -> Vec<String> {
        let began = Instant::now();
        loop {
            let message = self.any_message();
            if message.iter().any(|each| each == line) {
                return message;
            }
            assert!(began.elapsed() < PATIENCE, "{line} was not said");
        }
    }
}

/// Reads a pipe or a socket to its end.
pub(super) fn read_all(mut from: impl std::io::Read) -> Vec<u8> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).unwrap();
    all
}

/// For what has to happen soon.
pub(super) fn eventually(mut holds: impl FnMut() -> bool, what: &str) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
