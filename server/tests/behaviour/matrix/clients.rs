//! The clients: ours, curl, and Python.

use std::{
    io::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::rustls::pki_types::ServerName;

use super::Case;
use crate::{
    harness::Echo,
    tls_client::{Authority, Files, client_config},
};

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http1Tls,
    /// With prior knowledge.
    Http2,
    Http2Tls,
}

impl Protocol {
    pub(crate) const ALL: [Self; 4] = [Self::Http1, Self::Http1Tls, Self::Http2, Self::Http2Tls];

    fn is_tls(self) -> bool {
        matches!(self, Self::Http1Tls | Self::Http2Tls)
    }

    fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Http2Tls)
    }

    fn addr(self, server: &Echo) -> SocketAddr {
        if self.is_tls() { server.tls.unwrap() } else { server.addr }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Ours,
    Curl,
    Python,
}

pub(crate) const CLIENTS: [Client; 3] = [Client::Ours, Client::Curl, Client::Python];

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Client {
    /// The answer to each case, in their order; `None` in all where this client is not installed, or cannot speak so.
    pub(crate) fn ask(
        self,
        server: &Echo,
        protocol: Protocol,
        cases: &[Case],
        authority: &Authority,
        files: &Files,
    ) -> Option<Vec<Option<Answer>>> {
        let addr = protocol.addr(server);
        match self {
            Self::Ours => Some(ours(addr, protocol, cases, authority)),
            Self::Curl if !is_there("curl", "--version") => skipped("curl is not installed"),
            Self::Curl => Some(cases.iter().map(|case| curl(addr, protocol, case, files)).collect()),
            Self::Python => python(addr, protocol, cases, files),
        }
    }
}

fn skipped<T>(why: &str) -> Option<T> {
    eprintln!("\n*** NOT TESTED: {why}; .ci/clients installs what is needed ***\n");
    None
}

fn is_there(program: &str, arg: &str) -> bool {
    Command::new(program)
        .arg(arg)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// A connection for each case.
fn ours(addr: SocketAddr, protocol: Protocol, cases: &[Case], authority: &Authority) -> Vec<Option<Answer>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let alpn = if protocol.is_http2() { "h2" } else { "http/1.1" };
    let tls = client_config(authority, &[alpn], None);
    let all = async {
        let mut answers = Vec::new();
        for case in cases {
            let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
            answers.push(if protocol.is_tls() {
                let name = ServerName::try_from("localhost").unwrap();
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(&tls));
                let stream = connector.connect(name, stream).await.unwrap();
                one(stream, addr, protocol, case).await.ok()
            } else {
                one(stream, addr, protocol, case).await.ok()
            });
        }
        answers
    };
    runtime.block_on(all)
}

async fn one<Io>(io: Io, addr: SocketAddr, protocol: Protocol, case: &Case) -> hyper::Result<Answer>
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let scheme = if protocol.is_tls() { "https" } else { "http" };
    let mut driven = tokio::task::JoinSet::new();
    let builder = Request::builder().method(case.method).header("host", "localhost");
    let body = Full::new(Bytes::from(case.body.clone()));
    let response = if protocol.is_http2() {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
        driven.spawn(connection);
        let uri = format!("{scheme}://{addr}{}", case.target);
        let request = Request::builder().method(case.method).uri(uri).body(body).unwrap();
        sender.send_request(request).await?
    } else {
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        driven.spawn(connection);
        sender.send_request(builder.uri(&case.target).body(body).unwrap()).await?
    };
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes().to_vec();
    Ok(Answer { status, body })
}

fn curl(addr: SocketAddr, protocol: Protocol, case: &Case, files: &Files) -> Option<Answer> {
    let version = match protocol {
        Protocol::Http1 | Protocol::Http1Tls => "--http1.1",
        Protocol::Http2 => "--http2-prior-knowledge",
        Protocol::Http2Tls => "--http2",
    };
    let port = addr.port();
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        "--max-time",
        "20",
        "--noproxy",
        "*",
        version,
        "--request",
        case.method,
    ]);
    command.args(["--write-out", "%{http_code}"]);
    let base = if protocol.is_tls() {
        command.arg("--cacert").arg(files.path("ca.pem"));
        command.arg("--resolve").arg(format!("localhost:{port}:127.0.0.1"));
        format!("https://localhost:{port}")
    } else {
        format!("http://127.0.0.1:{port}")
    };
    if !case.body.is_empty() {
        command.args(["--data-binary", "@-"]);
    }
    command.arg(format!("{base}{}", case.target));
    let output = run(&mut command, &case.body);
    if !output.status.success() {
        // Shown with a test that fails.
        eprintln!("curl {}: {}", case.target, String::from_utf8_lossy(&output.stderr));
    }
    let (body, code) = output.stdout.split_at(output.stdout.len().checked_sub(3)?);
    let status = std::str::from_utf8(code).ok()?.parse().ok()?;
    output.status.success().then(|| Answer { status, body: body.to_vec() })
}

fn python(
    addr: SocketAddr,
    protocol: Protocol,
    cases: &[Case],
    files: &Files,
) -> Option<Vec<Option<Answer>>> {
    let with_http2 = std::env::var("MATRIX_PYTHON").ok();
    if protocol.is_http2() && with_http2.is_none() {
        return skipped("MATRIX_PYTHON names no Python with httpx, so none speaks HTTP/2");
    }
    let program = with_http2.as_deref().unwrap_or("python3");
    if !is_there(program, "--version") {
        return skipped("there is no Python");
    }
    let listed: Vec<Value> = cases
        .iter()
        .map(|case| json!({"method": case.method, "target": case.target, "body": BASE64.encode(&case.body)}))
        .collect();
    let ca = protocol.is_tls().then(|| files.path("ca.pem"));
    let ask = json!({"port": addr.port(), "ca": ca, "http2": protocol.is_http2(), "cases": listed});
    let output =
        run(Command::new(program).arg("-c").arg(include_str!("client.py")), ask.to_string().as_bytes());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    eprintln!("{said}");
    let answers: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let answer = |answer: &Value| {
        let status = answer.get(0)?.as_u64()?;
        Some(Answer {
            status: u16::try_from(status).ok()?,
            body: BASE64.decode(answer.get(1)?.as_str()?).ok()?,
        })
    };
    Some(answers.iter().map(answer).collect())
}

/// Runs a program with `input`, from a thread of its own: one that answers before it has read all would block us.
fn run(command: &mut Command, input: &[u8]) -> std::process::Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}
