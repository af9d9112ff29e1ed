//! A server to talk to and a client that says exactly what it is told to.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use echo_server::{BoxError, Config, DrainReport, HttpService, Server};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::oneshot;

/// After this a test fails rather than hangs. Never what decides a test that passes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Addresses chosen by the kernel, no lame duck, and no refusal because the tests keep this machine busy; everything else
/// as in production.
pub(crate) fn config() -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        admin: ([127, 0, 0, 1], 0).into(),
        lame_duck: Duration::ZERO,
        drain_idle_grace: Duration::from_millis(20),
        busy_max: Duration::ZERO,
        ..Config::default()
    }
}

/// The echo server with its admin listener, on threads of this process.
pub(crate) struct Echo {
    pub(crate) addr: SocketAddr,
    /// Where `listen_tls` is set.
    pub(crate) tls: Option<SocketAddr>,
    pub(crate) admin: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<DrainReport>>,
}

impl Echo {
    pub(crate) fn start(config: Config) -> Self {
        let server = Server::bind(config).unwrap();
        let (addr, admin) = (server.addr().unwrap(), server.admin_addr().unwrap());
        let tls = server.tls_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || server.run(async { drop(stopped.await) }, std::future::pending()).unwrap();
        Self { addr, tls, admin, stop: Some(stop), thread: Some(std::thread::spawn(run)) }
    }

    pub(crate) fn stop(mut self) -> DrainReport {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap()
    }

    pub(crate) fn begin_drain(&mut self) {
        drop(self.stop.take());
    }

    /// The sum of the series of `name` whose labels contain `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> u64 {
        metric(self.admin, name, label)
    }

    /// Waits until the metric is `expected`: it may change a moment after the client has seen its cause.
    pub(crate) fn await_metric(&self, name: &str, label: &str, expected: u64) {
        await_metric(self.admin, name, label, expected);
    }
}

/// Any service behind the server core.
pub(crate) struct Served {
    pub(crate) addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<DrainReport>>,
}

impl Served {
    pub(crate) fn start(service: impl HttpService, config: Config) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let serve = echo_server::serve(listener, service, config, async { drop(stopped.await) });
            runtime.block_on(Box::pin(serve))
        });
        Self { addr, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn stop(mut self) -> DrainReport {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap()
    }
}

/// The program in a process of its own; killed if the test fails.
pub(crate) struct Program {
    pub(crate) addr: SocketAddr,
    /// Where it is started with `--listen-tls`.
    pub(crate) tls: Option<SocketAddr>,
    pub(crate) admin: SocketAddr,
    pub(crate) child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::spawn(program().args(args))
    }

    /// Like [`Self::start`], and what it writes to standard error is left to the test.
    pub(crate) fn start_with_log(args: &[&str]) -> (Self, ChildStderr) {
        let mut program = Self::spawn(program().args(args).stderr(Stdio::piped()));
        let log = program.child.stderr.take().unwrap();
        (program, log)
    }

    /// Like [`Self::start`], with a command of the test's own, from [`program`].
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.args(["--listen=127.0.0.1:0", "--admin=127.0.0.1:0"]).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut program = Self { addr: nowhere, tls: None, admin: nowhere, child, stdout };
        program.addr = program.announced("listening on http://");
        program.admin = loop {
            let line = program.line();
            if let Some(address) = line.strip_prefix("listening on https://") {
                program.tls = Some(address.parse().unwrap());
            } else if let Some(address) = line.strip_prefix("admin on http://") {
                break address.parse().unwrap();
            } else {
                assert!(line.starts_with("listening on unix:"), "{line:?}");
            }
        };
        program
    }

    /// The next line of its standard output.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// The address in the next line of its standard output, which begins with `what`.
    pub(crate) fn announced(&mut self, what: &str) -> SocketAddr {
        let line = self.line();
        line.strip_prefix(what).unwrap_or_else(|| panic!("{line:?}")).parse().unwrap()
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub(crate) fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// Drains, and expects a clean end.
    pub(crate) fn stop(self) -> String {
        self.terminate();
        let (rest, code) = self.wait();
        assert_eq!(code, Some(0), "{rest}");
        rest
    }

    /// Waits for the end: the rest of its standard output, and its exit code.
    pub(crate) fn wait(mut self) -> (String, Option<i32>) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (rest, self.child.wait().unwrap().code())
    }

    /// Like [`Self::stop`], but nothing that it writes is read.
    pub(crate) fn stop_unread(mut self) {
        self.terminate();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }

    /// A number of bytes from `/proc/PID/status`.
    pub(crate) fn memory(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// CPU time of the process so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        let ticks: u64 =
            after_name.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The program, with a quiet log and nothing of this environment's settings.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-server"));
    command
        .env_clear()
        .env("ECHO_LOG", "warn")
        .env("ECHO_BUSY_MAX", "0s")
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    command
}

pub(crate) fn metric(admin: SocketAddr, name: &str, label: &str) -> u64 {
    samples(&scrape(admin), name, label).map(|value| value.parse::<u64>().unwrap()).sum()
}

/// The text of `/metrics`.
pub(crate) fn scrape(admin: SocketAddr) -> String {
    let mut client = Client::connect(admin);
    client.send(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    client.response().text()
}

/// The values of the series of `name` whose labels contain `label`.
pub(crate) fn samples<'a>(text: &'a str, name: &str, label: &str) -> impl Iterator<Item = &'a str> {
    // An exemplar may stand behind the value.
    let samples = text.lines().map(|line| line.split(" # ").next().unwrap());
    samples
        .filter(move |sample| sample.split(['{', ' ']).next() == Some(name) && sample.contains(label))
        .map(|sample| sample.rsplit(' ').next().unwrap())
}

pub(crate) fn await_metric(admin: SocketAddr, name: &str, label: &str, expected: u64) {
    let began = Instant::now();
    loop {
        let value = metric(admin, name, label);
        if value == expected {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{name}{{{label}}} is {value}, not {expected}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A raw HTTP/1.1 client.
pub(crate) struct Client<S = TcpStream> {
    pub(crate) stream: S,
    unread: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HashMap<String, String>,
    /// False if the connection ended before the body did.
    pub(crate) complete: bool,
}

impl Response {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self::from_stream(TcpStream::connect(addr).unwrap())
    }

    pub(crate) fn from_stream(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    pub(crate) fn close_write(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

impl<S: Read + Write> Client<S> {
    /// A client over TLS, or a Unix socket.
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn send_echo(&mut self, body: &[u8]) {
        let head = format!("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
        self.send(&[head.as_bytes(), body].concat());
    }

    pub(crate) fn echo(&mut self, body: &[u8]) -> Response {
        self.send_echo(body);
        self.response()
    }

    /// Sends a request without a body, and reads its response: `GET /get`, with more header lines if there are any.
    pub(crate) fn ask(&mut self, request: &str) -> Response {
        let (line, fields) = request.split_once("\r\n").unwrap_or((request, ""));
        let fields = if fields.is_empty() { String::new() } else { format!("{fields}\r\n") };
        self.send(format!("{line} HTTP/1.1\r\nhost: a\r\n{fields}\r\n").as_bytes());
        self.response()
    }

    /// Reads more; false at the end of the stream, also at a reset.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(n) => {
                self.unread.extend_from_slice(&chunk[..n]);
                n > 0
            }
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(e) => panic!("waited {PATIENCE:?} for the server: {e}"),
        }
    }

    /// The next response; panics where the connection ends before its head does.
    pub(crate) fn response(&mut self) -> Response {
        let head_end = loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(
                self.fill(),
                "closed before a response head: {:?}",
                String::from_utf8_lossy(&self.unread)
            );
        };
        let head: Vec<u8> = self.unread.drain(..head_end).collect();
        let mut slots = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Response::new(&mut slots);
        parsed.parse(&head).unwrap();
        let status = parsed.code.unwrap();
        let headers: HashMap<String, String> = parsed
            .headers
            .iter()
            .map(|h| (h.name.to_lowercase(), String::from_utf8_lossy(h.value).into_owned()))
            .collect();
        let mut response =
            Response { status, headers, body: Vec::new(), trailers: HashMap::new(), complete: true };
        if status >= 200 {
            self.body(&mut response);
        }
        response
    }

    /// The head of the next response; its body is left to be read from [`Self::stream`].
    pub(crate) fn head_of_large_response(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    fn body(&mut self, response: &mut Response) {
        if response.header("transfer-encoding") == "chunked" {
            loop {
                let Some(line) = self.line() else { break response.complete = false };
                let size = usize::from_str_radix(line.trim(), 16).unwrap();
                if size == 0 {
                    break self.trailers(response);
                }
                let Some(data) = self.take(size + 2) else { break response.complete = false };
                response.body.extend_from_slice(&data[..size]);
            }
        } else {
            let length: usize = response.header("content-length").parse().unwrap_or(0);
            while self.unread.len() < length && self.fill() {}
            response.complete = self.unread.len() >= length;
            response.body = self.unread.drain(..length.min(self.unread.len())).collect();
        }
    }

    fn trailers(&mut self, response: &mut Response) {
        loop {
            let Some(line) = self.line() else { break response.complete = false };
            let Some((name, value)) = line.trim().split_once(':') else { break };
            response.trailers.insert(name.to_lowercase(), value.trim().to_owned());
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|b| *b == b'\n') {
                return Some(String::from_utf8(self.unread.drain(..=end).collect()).unwrap());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    fn take(&mut self, n: usize) -> Option<Vec<u8>> {
        while self.unread.len() < n {
            if !self.fill() {
                return None;
            }
        }
        Some(self.unread.drain(..n).collect())
    }

    /// Asserts that the server closes without another byte.
    pub(crate) fn expect_close(&mut self) {
        while self.fill() {}
        assert!(self.unread.is_empty(), "more than a close: {:?}", String::from_utf8_lossy(&self.unread));
    }
}

/// A client's HTTP/2 connection, which the caller drives.
pub(crate) async fn connect_http2<B>(
    addr: SocketAddr,
) -> (http2::SendRequest<B>, http2::Connection<TokioIo<tokio::net::TcpStream>, B, TokioExecutor>)
where
    B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    let stream = TokioIo::new(tokio::net::TcpStream::connect(addr).await.unwrap());
    http2::handshake(TokioExecutor::new(), stream).await.unwrap()
}

/// Sends one request over an HTTP/2 connection of its own, and reads the whole response.
pub(crate) fn ask_http2(
    addr: SocketAddr,
    method: &str,
    target: &str,
    fields: &[(&str, &str)],
    body: &[u8],
) -> http::Response<Bytes> {
    let mut request = http::Request::builder().method(method).uri(format!("http://a{target}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
    let exchange = async {
        let (mut sender, connection) = connect_http2(addr).await;
        let response = async move {
            let (head, body) = sender.send_request(request).await.unwrap().into_parts();
            http::Response::from_parts(head, body.collect().await.unwrap().to_bytes())
        };
        tokio::join!(response, connection).0
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange).await.unwrap() })
}

/// Bytes that differ from place to place, so that a shift or swap shows.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect()
}
