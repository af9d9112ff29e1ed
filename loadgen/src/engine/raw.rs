//! Without reading while it still writes, a large body against a streaming echo would deadlock: both sides
//! would wait for the other to empty its socket buffer.
//!
//! The raw HTTP/1.1 engine: one stream of bytes (TCP, Unix, TLS), one request at a time, one write and one read per
//! small request, and no allocation once its buffers have grown.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::ReadBuf;

use super::{
    Exchange, Job,
    response::{Eof, Event, Parser, Progress},
    wire::Wire,
};
use crate::{
    body::{Body, INLINE_BODY_MAX, Payload},
    failure::{Failure, FailureClass},
    verify::Checker,
};

/// Bytes that one request may write or read before the other connections of the worker have their turn.
pub(super) const TURN_BYTES_MAX: usize = 256 * 1024;

/// Pieces of a larger body that go into one vectored write: head, id, end of the pool, its beginning.
const SLICES_MAX: usize = 4;

/// One open connection.
#[derive(Debug)]
pub struct RawLink<S> {
    stream: S,
    parser: Parser,
    /// The head of the current request and the part of its body that is sent with it.
    out: Vec<u8>,
}

impl<S: Wire> RawLink<S> {
    /// Speaks HTTP/1.1 over `stream`.
    pub fn new(stream: S, to_head_request: bool) -> Self {
        Self { stream, parser: Parser::new(to_head_request), out: Vec::new() }
    }

    /// Sends the request that carries `payload` and checks the response; gives up when `expired` says so.
    pub async fn exchange(
        &mut self,
        job: &Job,
        payload: &Payload,
        receive: &RefCell<Box<[u8]>>,
        expired: impl Fn() -> bool,
    ) -> Exchange {
        self.parser.reset();
        job.template.render(payload, &mut self.out);
        let mut transfer = Transfer::new(self, job, payload);
        let result = std::future::poll_fn(|cx| {
            if expired() {
                let detail = "no complete response within the timeout";
                return Poll::Ready(Err(Failure::new(FailureClass::Timeout, detail)));
            }
            transfer.poll(cx, receive)
        })
        .await;
        transfer.end(result)
    }

    /// Ready when an idle connection is of no further use: closed by the peer, or sending unasked.
    pub fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_lost(cx)
    }
}

/// One request and its response while they are under way.
struct Transfer<'a, S> {
    stream: &'a mut S,
    parser: &'a mut Parser,
    out: &'a [u8],
    body: &'a Body,
    payload: &'a Payload,
    head_len: u64,
    /// Bytes of head and body sent so far.
    sent: u64,
    /// Set when all of it is on the wire and not only in the buffer of a TLS stream.
    flushed: bool,
    write_error: Option<io::Error>,
    checker: Checker<'a>,
}

impl<'a, S: Wire> Transfer<'a, S> {
    fn new(link: &'a mut RawLink<S>, job: &'a Job, payload: &'a Payload) -> Self {
        let head_len = link.out.len() as u64;
        if payload.len <= INLINE_BODY_MAX {
            let mut position = 0;
            while position < payload.len {
                let piece = job.body.piece(payload, position);
                link.out.extend_from_slice(piece);
                position += piece.len() as u64;
            }
        }
        Self {
            stream: &mut link.stream,
            parser: &mut link.parser,
            out: &link.out,
            body: &job.body,
            payload,
            head_len,
            sent: 0,
            flushed: false,
            write_error: None,
            checker: Checker::new(job.check, &job.body, payload),
        }
    }

    /// Sends and receives what the socket takes and has. Ready when the response is complete, be it before
    /// the request is: a server may reject a body that it has not read.
    fn poll(&mut self, cx: &mut Context<'_>, receive: &RefCell<Box<[u8]>>) -> Poll<Result<(), Failure>> {
        self.send(cx);
        self.poll_receive(cx, receive)
    }

    /// Writes until all is sent, the socket is full or the turn is over. An error is kept: the answer may be
    /// here already.
    fn send(&mut self, cx: &mut Context<'_>) {
        let turn_end = self.sent + TURN_BYTES_MAX as u64;
        while self.sent < self.head_len + self.payload.len && self.write_error.is_none() {
            if self.sent >= turn_end {
                cx.waker().wake_by_ref();
                return;
            }
            match self.poll_write(cx) {
                Poll::Ready(Ok(0)) => self.write_error = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => self.sent += written as u64,
                Poll::Ready(Err(error)) => self.write_error = Some(error),
                Poll::Pending => return,
            }
        }
        if !self.flushed && self.write_error.is_none() {
            match Pin::new(&mut *self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.flushed = true,
                Poll::Ready(Err(error)) => self.write_error = Some(error),
                Poll::Pending => {}
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let out_len = self.out.len() as u64;
        let buffered = usize::try_from(self.sent).ok().and_then(|sent| self.out.get(sent..));
        let first = buffered.unwrap_or_default();
        let mut position = self.sent.max(out_len) - self.head_len;
        let stream = Pin::new(&mut *self.stream);
        if position == self.payload.len {
            return stream.poll_write(cx, first);
        }
        let mut slices = [IoSlice::new(first); SLICES_MAX];
        for slice in &mut slices[1..] {
            let piece = self.body.piece(self.payload, position);
            let piece = &piece[..piece.len().min(TURN_BYTES_MAX)];
            *slice = IoSlice::new(piece);
            position += piece.len() as u64;
        }
        stream.poll_write_vectored(cx, &slices)
    }

    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        receive: &RefCell<Box<[u8]>>,
    ) -> Poll<Result<(), Failure>> {
        let mut buffer = receive.borrow_mut();
        let turn_end = self.checker.received() + TURN_BYTES_MAX as u64;
        loop {
            if self.checker.received() >= turn_end {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // `poll_read` clears the readiness after a short read, so a small response costs one read.
            let mut read = ReadBuf::new(&mut buffer);
            match ready!(Pin::new(&mut *self.stream).poll_read(cx, &mut read)) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(self.cut());
                }
                Err(error) => {
                    return Poll::Ready(Err(Failure::transfer(&error, self.parser.has_started())));
                }
                Ok(()) if read.filled().is_empty() => return Poll::Ready(self.eof()),
                Ok(()) => {}
            }
            let bytes = read.filled();
            let checker = &mut self.checker;
            let progress = self.parser.feed(bytes, |event| match event {
                Event::Head { status, request_id } => checker.head(status, request_id),
                Event::Body(piece) => checker.body(piece),
            });
            match progress {
                Ok(Progress::NeedMore) => {}
                Ok(Progress::Complete { used }) if used == bytes.len() => {
                    return Poll::Ready(self.checker.finish());
                }
                Ok(Progress::Complete { used }) => {
                    let detail = format!("{} bytes after the end of the response", bytes.len() - used);
                    return Poll::Ready(Err(Failure::new(FailureClass::Protocol, detail)));
                }
                Err(malformed) => {
                    let failure = Failure::new(FailureClass::Protocol, malformed.to_string());
                    return Poll::Ready(Err(failure));
                }
            }
        }
    }

    fn eof(&mut self) -> Result<(), Failure> {
        match (self.parser.eof(), &self.write_error) {
            (Eof::Complete, _) => self.checker.finish(),
            (Eof::BeforeResponse, Some(error)) => Err(Failure::transfer(error, false)),
            _ => self.cut(),
        }
    }

    /// Closed too early: a TLS stream that ends without `close_notify` proves no end of a body either (RFC 9112 section
    /// 9.8).
    fn cut(&self) -> Result<(), Failure> {
        if self.parser.has_started() {
            let detail = format!("closed after {} body bytes", self.checker.received());
            return Err(Failure::new(FailureClass::Truncated, detail));
        }
        Err(Failure::new(FailureClass::EofBeforeResponse, "closed without an answer"))
    }

    fn end(self, result: Result<(), Failure>) -> Exchange {
        let sent_whole = self.sent == self.head_len + self.payload.len;
        let framing_intact = match &result {
            Ok(()) => true,
            Err(failure) => is_answer(failure.class),
        };
        Exchange {
            status: self.checker.status(),
            body_sent: self.sent.saturating_sub(self.head_len),
            body_received: self.checker.received(),
            result,
            reusable: sent_whole && framing_intact && self.parser.is_reusable(),
            refused: false,
        }
    }
}

/// True for failures of a response that was complete: its connection is still in step.
fn is_answer(class: FailureClass) -> bool {
    class.is_wrong_echo()
        || matches!(class, FailureClass::Status3xx | FailureClass::Status4xx | FailureClass::Status5xx)
}
