//! Without reading each stream while it is still written, an echo larger than the windows would stop for ever.
//!
//! One request at a time on a stream of a shared connection.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};

use super::{body::Piece, session::Session};
use crate::{
    body::Payload,
    engine::{Exchange, Job, raw::TURN_BYTES_MAX},
    failure::{Failure, FailureClass},
    verify::Checker,
};

/// What is asked of the flow control for one piece.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// A place for one stream on a session.
#[derive(Debug)]
pub struct StreamLink {
    session: Rc<Session>,
    requests: SendRequest<Piece>,
    watched: bool,
}

impl StreamLink {
    /// A place on `session`, if the server allows one more.
    pub(super) fn on(session: &Rc<Session>) -> Option<Self> {
        session.take_place().then(|| Self {
            requests: session.requests(),
            session: Rc::clone(session),
            watched: false,
        })
    }

    /// Sends the request that carries `payload` and checks the response; gives up when `expired` says so.
    pub async fn exchange(&mut self, job: &Job, payload: &Payload, expired: impl Fn() -> bool) -> Exchange {
        let mut call = Call::new(self, job, payload);
        let result = poll_fn(|cx| {
            if expired() {
                let detail = "no complete response within the timeout";
                return Poll::Ready(Err(End::Failed(Failure::new(FailureClass::Timeout, detail))));
            }
            call.poll(cx)
        })
        .await;
        // What is still open of the stream is reset by the drop of its handles (CANCEL).
        call.end(result)
    }

    /// Ready when the connection takes no more requests.
    pub fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.session.is_gone() {
            return Poll::Ready(());
        }
        if !std::mem::replace(&mut self.watched, true) {
            // The waker of a link's task never changes.
            self.session.watch(cx.waker());
        }
        Poll::Pending
    }
}

impl Drop for StreamLink {
    fn drop(&mut self) {
        self.session.give_place_back();
    }
}

/// Why a request has no right answer.
enum End {
    Failed(Failure),
    /// The server has provably not processed it.
    Refused(Failure),
}

/// One request and its response while they are under way.
struct Call<'a> {
    link: &'a mut StreamLink,
    job: &'a Job,
    payload: &'a Payload,
    checker: Checker<'a>,
    /// Bytes of the body given to the connection so far, as its windows allowed.
    sent: u64,
    upload: Option<SendStream<Piece>>,
    response: Option<ResponseFuture>,
    download: Option<RecvStream>,
}

impl<'a> Call<'a> {
    fn new(link: &'a mut StreamLink, job: &'a Job, payload: &'a Payload) -> Self {
        let checker = Checker::new(job.check, &job.body, payload);
        Self { link, job, payload, checker, sent: 0, upload: None, response: None, download: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.response.is_none() && self.download.is_none() {
            ready!(self.poll_begin(cx))?;
        }
        self.upload(cx);
        self.poll_download(cx)
    }

    /// Sends the head. An error here means that nothing of the request went out.
    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let ready = ready!(self.link.requests.poll_ready(cx));
        let Some(template) = &self.job.http2 else {
            let detail = "the run has no request heads for HTTP/2";
            return Poll::Ready(Err(End::Failed(Failure::new(FailureClass::Protocol, detail))));
        };
        let no_body = self.payload.len == 0;
        let begun =
            ready.and_then(|()| self.link.requests.send_request(template.render(self.payload), no_body));
        match begun {
            Ok((response, upload)) => {
                self.response = Some(response);
                self.upload = Some(upload).filter(|_| !no_body);
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                self.link.session.retire();
                let detail = format!("not sent: {error}");
                Poll::Ready(Err(End::Refused(Failure::new(FailureClass::GoAway, detail))))
            }
        }
    }

    /// Writes what the windows allow until the turn is over. An error is left to the response, which knows the reason.
    fn upload(&mut self, cx: &mut Context<'_>) {
        let turn_end = self.sent + TURN_BYTES_MAX as u64;
        while let Some(upload) = &mut self.upload {
            if self.sent >= turn_end {
                cx.waker().wake_by_ref();
                return;
            }
            let left = usize::try_from(self.payload.len - self.sent).unwrap_or(usize::MAX);
            upload.reserve_capacity(left.min(PIECE_BYTES_MAX));
            // Only an increase is reported, so what is left of an earlier one comes first.
            let allowed = match upload.capacity() {
                0 => match upload.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(allowed))) => allowed,
                    Poll::Ready(None | Some(Err(_))) => {
                        self.upload = None;
                        return;
                    }
                    Poll::Pending => return,
                },
                left => left,
            };
            if allowed == 0 {
                continue;
            }
            let piece = Piece::new(&self.job.body, self.payload, self.sent, allowed);
            let len = bytes::Buf::remaining(&piece) as u64;
            let last = self.sent + len == self.payload.len;
            if upload.send_data(piece, last).is_err() {
                self.upload = None;
                return;
            }
            self.sent += len;
            if last {
                self.upload = None;
            }
        }
    }

    fn poll_download(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if let Some(response) = &mut self.response {
            let answered = ready!(Pin::new(response).poll(cx));
            let (head, body) = answered.map_err(|error| self.fault(&error))?.into_parts();
            let request_id = head.headers.get("x-request-id").map(http::HeaderValue::as_bytes);
            self.checker.head(head.status.as_u16(), request_id);
            self.response = None;
            self.download = Some(body);
        }
        let turn_end = self.checker.received() + TURN_BYTES_MAX as u64;
        while let Some(body) = &mut self.download {
            if self.checker.received() >= turn_end {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match ready!(body.poll_data(cx)) {
                Some(Ok(bytes)) => {
                    self.checker.body(&bytes);
                    // Fails only for a stream that is closed, whose window nobody needs.
                    body.flow_control().release_capacity(bytes.len()).unwrap_or_default();
                }
                Some(Err(error)) => return Poll::Ready(Err(self.fault(&error))),
                None => {
                    let trailers = ready!(body.poll_trailers(cx));
                    trailers.map_err(|error| self.fault(&error))?;
                    break;
                }
            }
        }
        Poll::Ready(self.checker.finish().map_err(End::Failed))
    }

    /// What an error of the stream or of its connection means for this request.
    fn fault(&self, error: &h2::Error) -> End {
        let answered = self.checker.status().is_some();
        // A GOAWAY reaches only those streams whose ids are above the last one that was or will be processed.
        let unprocessed = error.is_remote()
            && !answered
            && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM));
        let class = match error.get_io() {
            _ if error.is_go_away() && error.is_remote() => FailureClass::GoAway,
            _ if error.is_reset() && error.is_remote() => FailureClass::StreamReset,
            None => FailureClass::Protocol,
            // Streams that end with a connection which the server gave up with an error.
            Some(_) if self.link.session.farewell().is_some_and(|reason| reason != Reason::NO_ERROR) => {
                FailureClass::GoAway
            }
            // The h2 crate says so when the connection was closed in the middle of the stream.
            Some(error)
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof) =>
            {
                if answered {
                    FailureClass::Truncated
                } else {
                    FailureClass::EofBeforeResponse
                }
            }
            Some(_) if answered => FailureClass::ResetMidBody,
            Some(_) => FailureClass::ResetBeforeResponse,
        };
        let farewell = self.link.session.farewell().filter(|_| error.is_io());
        let farewell = farewell.map(|reason| format!(", after GOAWAY ({reason:?})")).unwrap_or_default();
        let failure = Failure::new(class, format!("{error}{farewell}"));
        if unprocessed { End::Refused(failure) } else { End::Failed(failure) }
    }

    fn end(self, result: Result<(), End>) -> Exchange {
        let (result, refused) = match result {
            Ok(()) => (Ok(()), false),
            Err(End::Failed(failure)) => (Err(failure), false),
            Err(End::Refused(failure)) => (Err(failure), true),
        };
        Exchange {
            status: self.checker.status(),
            body_sent: self.sent,
            body_received: self.checker.received(),
            result,
            reusable: !refused && !self.link.session.is_gone(),
            refused,
        }
    }
}
