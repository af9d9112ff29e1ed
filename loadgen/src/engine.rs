//! Without one small interface, each way to carry a request (raw HTTP/1.1, TLS, HTTP/2) would count and check differently.
//!
//! A [`Link`] takes one request at a time: a connection of its own for HTTP/1.1, a stream of a shared one for HTTP/2.

mod head;
pub mod http2;
pub mod raw;
pub mod request;
pub mod response;
pub mod tls;
pub mod wire;

pub use self::head::Malformed;

use std::{
    cell::RefCell,
    task::{Context, Poll},
};

use tokio_rustls::client::TlsStream;

use self::{
    http2::{Http2Template, stream::StreamLink},
    raw::RawLink,
    request::RequestTemplate,
    wire::Socket,
};
use crate::{
    body::{Body, Payload},
    failure::Failure,
    verify::Check,
};

/// Size of the receive buffer that all connections of a worker share.
pub const RECEIVE_BUFFER_LEN: usize = 64 * 1024;

/// What all requests of a run have in common.
#[derive(Debug)]
pub struct Job {
    /// Rendered request heads for HTTP/1.1.
    pub template: RequestTemplate,
    /// Request heads for HTTP/2, if that is spoken.
    pub http2: Option<Http2Template>,
    /// Source of the bodies.
    pub body: Body,
    /// What the responses are held against.
    pub check: Check,
}

/// What became of one request on its connection.
#[derive(Debug)]
pub struct Exchange {
    /// Status of the response, if its head arrived.
    pub status: Option<u16>,
    /// Body bytes that went out.
    pub body_sent: u64,
    /// Body bytes that came back.
    pub body_received: u64,
    /// Right, or what was wrong.
    pub result: Result<(), Failure>,
    /// False if the link must not be used again.
    pub reusable: bool,
    /// True if the server has provably not processed the request, so that it may be sent again (RFC 9113 section 8.7).
    pub refused: bool,
}

/// A place on which one request at a time can be under way.
#[derive(Debug)]
pub enum Link {
    /// HTTP/1.1 over TCP or a Unix socket.
    Plain(RawLink<Socket>),
    /// HTTP/1.1 over TLS.
    Tls(Box<RawLink<TlsStream<Socket>>>),
    /// A stream of an HTTP/2 connection.
    Http2(StreamLink),
}

impl Link {
    /// Sends the request that carries `payload` and checks the response; gives up when `expired` says so.
    pub async fn exchange(
        &mut self,
        job: &Job,
        payload: &Payload,
        receive: &RefCell<Box<[u8]>>,
        expired: impl Fn() -> bool,
    ) -> Exchange {
        match self {
            Self::Plain(link) => link.exchange(job, payload, receive, expired).await,
            Self::Tls(link) => link.exchange(job, payload, receive, expired).await,
            // On the heap, so that it makes no connection of the raw engine larger.
            Self::Http2(link) => Box::pin(link.exchange(job, payload, expired)).await,
        }
    }

    /// Ready when an idle link is of no further use: closed by the peer, told to go, or sending unasked.
    pub fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(link) => link.poll_lost(cx),
            Self::Tls(link) => link.poll_lost(cx),
            Self::Http2(link) => link.poll_lost(cx),
        }
    }
}
