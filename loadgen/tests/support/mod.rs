//! Without servers of known behaviour, a test could not tell a right count from a lucky one.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(unreachable_pub, reason = "each test file is a crate of its own")]
#![allow(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
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
        let listen = ["serve", "--", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let rest = ["--lame-duck", "0s", "--log", "warn"];
        let child = program(&[listen.as_slice(), &rest].concat()).stdout(Stdio::piped()).spawn();
        let mut child = Guard(child.unwrap());
        let mut line = String::new();
        BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.trim().strip_prefix("listening on http://").unwrap().parse().unwrap();
        Self { child, addr }
    }

    pub fn url(&self) -> String {
        format!("http://{}/echo", self.addr)
    }
}

/// One request as a scripted server reads it.
#[derive(Debug)]
pub struct Request {
    pub id: String,
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
    let (mut id, mut len) = (String::new(), 0);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.trim_end().split_once(": ") {
            Some(("x-request-id", value)) => value.clone_into(&mut id),
            Some(("content-length", value)) => len = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    Some(Request { id, body })
}
