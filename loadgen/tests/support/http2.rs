//! Without HTTP/2 servers of known behaviour, a test could not tell a right count from a lucky one.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{Request, Response};
use tokio::task::JoinSet;

use super::gateway::in_background;

/// What a scripted server does with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Echo,
    /// Another byte at the end.
    WrongByte,
    /// One byte less, and no length announced.
    Short,
    Status(u16),
    /// RST_STREAM before the head of an answer.
    Reset(Reason),
    /// RST_STREAM after the head.
    ResetLate,
    Hang,
    /// Echo, and tell the client to go (GOAWAY, nothing lost).
    Farewell,
    /// GOAWAY with this error, and the end of the connection.
    Expel(Reason),
}

/// A server that does to each request, known by its number, what `script` says.
pub fn scripted(script: impl Fn(u64) -> Act + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let script = Arc::new(script);
    in_background(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let mut connections = JoinSet::new();
        loop {
            let stream = listener.accept().await.unwrap().0;
            stream.set_nodelay(true).unwrap();
            connections.spawn(converse(stream, Arc::clone(&script)));
        }
    });
    addr
}

async fn converse(stream: tokio::net::TcpStream, script: Arc<impl Fn(u64) -> Act + Send + Sync + 'static>) {
    let mut builder = h2::server::Builder::new();
    let Ok(mut connection) = builder.max_concurrent_streams(100).handshake::<_, Bytes>(stream).await else {
        return;
    };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let id = request.headers()["x-request-id"].to_str().unwrap();
        let act = script(u64::from_str_radix(&id[16..], 16).unwrap());
        match act {
            Act::Farewell => connection.graceful_shutdown(),
            Act::Expel(reason) => connection.abrupt_shutdown(reason),
            _ => {}
        }
        streams.spawn(answer(request, respond, act));
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, act: Act) {
    match act {
        Act::Reset(reason) => return respond.send_reset(reason),
        Act::Hang | Act::Expel(_) => return std::future::pending().await,
        _ => {}
    }
    let id = request.headers()["x-request-id"].clone();
    let mut incoming = request.into_body();
    let mut body = Vec::new();
    while let Some(Ok(bytes)) = incoming.data().await {
        incoming.flow_control().release_capacity(bytes.len()).unwrap();
        body.extend_from_slice(&bytes);
    }
    let mut response = Response::new(());
    response.headers_mut().insert("x-request-id", id);
    match act {
        Act::Status(status) => *response.status_mut() = status.try_into().unwrap(),
        Act::WrongByte => *body.last_mut().unwrap() ^= 1,
        Act::Short => body.truncate(body.len() - 1),
        _ => {}
    }
    // The client may have given up.
    let Ok(mut stream) = respond.send_response(response, false) else { return };
    if act == Act::ResetLate {
        return stream.send_reset(Reason::INTERNAL_ERROR);
    }
    stream.reserve_capacity(body.len());
    stream.send_data(body.into(), true).ok();
}

/// A server that answers with frames put together by hand. On its first connection it processes two streams and says so
/// (GOAWAY with the id of the second) when the fourth arrives; on all others it answers everything.
pub fn leaves_after_two() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let stream = stream.unwrap();
            std::thread::spawn(move || frames(stream, number == 0).ok());
        }
    });
    addr
}

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const HEADERS: u8 = 1;

fn frames(mut stream: TcpStream, leaves: bool) -> std::io::Result<()> {
    const LAST_PROCESSED: u32 = 3;
    const FOURTH: u32 = 7;
    stream.read_exact(&mut [0; 24])?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; len as usize];
        stream.read_exact(&mut payload)?;
        match (head[3], head[4] & 1) {
            (SETTINGS, 0) => stream.write_all(&frame(SETTINGS, 1, 0, &[]))?,
            (PING, 0) => stream.write_all(&frame(PING, 1, 0, &payload))?,
            // `:status 200` is entry 8 of the static table; END_HEADERS and END_STREAM.
            (HEADERS, _) if !leaves => stream.write_all(&frame(HEADERS, 5, id, &[0x88]))?,
            (HEADERS, _) if id == FOURTH => {
                let last = [LAST_PROCESSED.to_be_bytes(), [0; 4]].concat();
                stream.write_all(&frame(GOAWAY, 0, 0, &last))?;
                for id in [1, LAST_PROCESSED] {
                    stream.write_all(&frame(HEADERS, 5, id, &[0x88]))?;
                }
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            }
            _ => {}
        }
    }
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}
