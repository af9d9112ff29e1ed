//! Without servers of known behaviour, a test could not tell a right count from a lucky one.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(unreachable_pub, reason = "each test file is a crate of its own")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

pub mod gateway;
pub mod http2;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use loadgen::{
    live::Progress,
    plan::{Plan, PlanOptions},
    run::{self, Outcome},
};

/// The loadgen program with `args`.
pub fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub fn loadgen(args: &[&str]) -> Output {
    program(args).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Executes a run in this process.
pub fn execute(options: PlanOptions) -> Outcome {
    run::execute(Plan::new(options).unwrap(), Progress::Off).unwrap()
}

/// A child that does not outlive the test.
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The real echo server, in a process of its own.
pub struct EchoServer {
    pub child: Guard,
    pub addr: SocketAddr,
}

impl EchoServer {
    pub fn start() -> Self {
        Self::start_on("127.0.0.1:0")
    }

    pub fn start_on(listen: &str) -> Self {
        Self::start_with(listen, &[]).0
    }

    /// The same with more flags; and what it says until it is ready.
    pub fn start_with(listen: &str, flags: &[&str]) -> (Self, Vec<String>) {
        let listen = ["serve", "--", "--listen", listen, "--admin", "127.0.0.1:0"];
        // A test says how much it asks for; a machine that is busy with other things must not make it a shed.
        let rest = ["--lame-duck", "0s", "--busy-max", "0s", "--log", "warn"];
        let child = program(&[listen.as_slice(), &rest, flags].concat()).stdout(Stdio::piped()).spawn();
        let mut child = Guard(child.unwrap());
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut said = Vec::new();
        while said.last().is_none_or(|line: &String| !line.starts_with("admin on ")) {
            said.push(lines.next().unwrap());
        }
        let addr = said[0].strip_prefix("listening on http://").unwrap().parse().unwrap();
        (Self { child, addr }, said)
    }

    pub fn url(&self) -> String {
        format!("http://{}/echo", self.addr)
    }
}

/// Asks for `path`; the status and the body of the answer.
pub fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: test\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A page of metrics.
pub struct Page(String);

impl Page {
    pub fn get(addr: SocketAddr) -> Self {
        let (status, body) = get(addr, "/metrics");
        assert_eq!(status, 200, "{body}");
        assert!(body.ends_with("# EOF\n"), "{body}");
        Self(body)
    }

    /// The value of one sample, named with its labels.
    pub fn value(&self, sample: &str) -> f64 {
        self.find(sample).unwrap_or_else(|| panic!("no {sample} in {}", self.0))
    }

    pub fn find(&self, sample: &str) -> Option<f64> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
        Some(line.parse().unwrap())
    }

    /// The sum over all labels.
    pub fn sum(&self, name: &str) -> f64 {
        let samples = self.0.lines().filter_map(|line| line.rsplit_once(' '));
        samples
            .filter(|(sample, _)| sample.split('{').next() == Some(name))
            .map(|(_, value)| value.parse::<f64>().unwrap())
            .sum()
    }

    /// The names of all samples.
    pub fn names(&self) -> std::collections::BTreeSet<&str> {
        let samples = self.0.lines().filter(|line| !line.starts_with('#'));
        samples.filter_map(|line| line.split(['{', ' ']).next()).collect()
    }
}

/// Waits for `what` to hold. The bound is for a machine that is stuck, not for one that is slow.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A loadgen that runs on its own, with its metrics and what it says.
pub struct Running {
    pub child: Guard,
    pub metrics: SocketAddr,
    pub said: Arc<Mutex<String>>,
}

impl Running {
    pub fn start(args: &[&str]) -> Self {
        let mut command = program(&[args, &["--metrics", "127.0.0.1:0"]].concat());
        let mut child = Guard(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        let mut stderr = BufReader::new(child.0.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let addr = line
            .trim()
            .strip_prefix("loadgen: metrics on http://")
            .and_then(|rest| rest.strip_suffix("/metrics"));
        let metrics = addr.unwrap_or_else(|| panic!("{line}")).parse().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let saying = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                *saying.lock().unwrap() += &(line + "\n");
            }
        });
        Self { child, metrics, said }
    }

    pub fn page(&self) -> Page {
        Page::get(self.metrics)
    }

    /// Ends it by SIGTERM; its exit code and its report.
    pub fn terminate(mut self) -> (Option<i32>, String) {
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child.0),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        let mut report = String::new();
        self.child.0.stdout.take().unwrap().read_to_string(&mut report).unwrap();
        (self.child.0.wait().unwrap().code(), report)
    }
}

/// A file name for this test process; the file is removed when the value is dropped.
pub struct TempFile(pub String);

impl TempFile {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir();
        Self(format!("{}/loadgen-test-{}-{name}", dir.display(), std::process::id()))
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(&self.0).unwrap()).unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

/// One request as a scripted server reads it.
#[derive(Debug)]
pub struct Request {
    pub id: String,
    pub traceparent: Option<String>,
    pub body: Vec<u8>,
}

impl Request {
    /// The number of the request within its run: the second half of its id.
    pub fn number(&self) -> u64 {
        u64::from_str_radix(&self.id[16..], 16).unwrap()
    }

    /// A response with this status, this id and this body.
    pub fn answer(status: u16, id: &str, body: &[u8]) -> Vec<u8> {
        let len = body.len();
        let head = format!("HTTP/1.1 {status} X\r\nx-request-id: {id}\r\ncontent-length: {len}\r\n\r\n");
        [head.as_bytes(), body].concat()
    }

    /// The right answer.
    pub fn echo(&self) -> Vec<u8> {
        Self::answer(200, &self.id, &self.body)
    }
}

/// What a scripted server does after it has written its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    KeepOpen,
    Close,
    Reset,
    /// Says nothing more until the client leaves.
    Hang,
}

/// A server on real sockets that does to each request what `script` says. Its threads end with the connections.
pub fn scripted(script: impl Fn(&Request) -> (Vec<u8>, Then) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let script = Arc::new(script);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, script) = (stream.unwrap(), Arc::clone(&script));
            std::thread::spawn(move || converse(stream, script.as_ref()));
        }
    });
    addr
}

fn converse(stream: TcpStream, script: &(impl Fn(&Request) -> (Vec<u8>, Then) + ?Sized)) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader) {
        let (bytes, then) = script(&request);
        if then == Then::Close {
            // Holds the last bytes back until the close, so that both arrive at the same instant.
            socket2::SockRef::from(reader.get_ref()).set_tcp_cork(true).unwrap();
        }
        if reader.get_mut().write_all(&bytes).is_err() {
            return;
        }
        match then {
            Then::KeepOpen => {}
            Then::Close => return,
            Then::Reset => {
                // With no time to linger, closing sends RST.
                let socket = socket2::SockRef::from(reader.get_ref());
                socket.set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            Then::Hang => {
                reader.read_to_end(&mut Vec::new()).ok();
                return;
            }
        }
    }
}

/// Reads one request; `None` when the client has left.
fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let (mut id, mut traceparent, mut len) = (String::new(), None, 0);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.trim_end().split_once(": ") {
            Some(("x-request-id", value)) => value.clone_into(&mut id),
            Some(("traceparent", value)) => traceparent = Some(value.to_owned()),
            Some(("content-length", value)) => len = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    Some(Request { id, traceparent, body })
}
