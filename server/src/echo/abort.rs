//! Responses that go wrong on the wire: what a client or proxy does with a reset, a cut or garbage cannot be tested with a
//! server that always ends well.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::{answer::Refusal, ask::Ask};
use crate::{
    activity::{Activity, Break},
    config::Config,
    request::BoxError,
};

/// Bytes that a truncated response still owes.
const OWED: u64 = 512;

/// What has been sent is given so long to reach the client: a reset takes back what is still on its way.
const SETTLE: Duration = Duration::from_millis(20);

/// What the body consists of, until it goes wrong.
const FILL: &[u8; 16 * 1024] = &[b'*'; 16 * 1024];

/// What happens to the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// A TCP reset.
    Reset,
    /// An orderly end (FIN), in the middle.
    Fin,
    /// The stream is reset, the connection stays: only HTTP/2 has that.
    StreamReset,
    /// It ends before its Content-Length.
    Truncate,
    /// Bytes that are no HTTP, then an end.
    Garbage,
}

/// When it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// Before a single byte.
    Nothing,
    /// When so many bytes of the body have been sent; 0: the head alone.
    Body(u64),
}

/// How, and when where the name already says so: WireMock's faults say both.
pub(crate) fn how(name: &str) -> Option<(How, Option<After>)> {
    Some(match name {
        "rst" => (How::Reset, None),
        "fin" => (How::Fin, None),
        "h2reset" => (How::StreamReset, None),
        "truncate" => (How::Truncate, None),
        "garbage" => (How::Garbage, None),
        "CONNECTION_RESET_BY_PEER" => (How::Reset, Some(After::Nothing)),
        "EMPTY_RESPONSE" => (How::Fin, Some(After::Nothing)),
        "MALFORMED_RESPONSE_CHUNK" => (How::Garbage, Some(After::Body(0))),
        "RANDOM_DATA_THEN_CLOSE" => (How::Garbage, Some(After::Nothing)),
        _ => return None,
    })
}

/// `/abort?how=rst|fin|h2reset|truncate|garbage&after=headers|N`; without `after`, before anything is sent, and
/// a truncation after half of its body.
pub(super) fn abort<B>(
    request: &Request<B>,
    activity: &Activity,
    config: &Config,
) -> Result<Response<Aborted>, Refusal> {
    let ask = Ask::of(request)?;
    let name = ask.get("how").unwrap_or("rst");
    let (how, fixed) = how(name).ok_or_else(|| {
        Refusal::bad_request(format!(
            "how={name} is none of rst, fin, h2reset, truncate, garbage, nor of WireMock's"
        ))
    })?;
    let is_http2 = request.version() == Version::HTTP_2;
    if how == How::StreamReset && !is_http2 {
        return Err(Refusal::bad_request("how=h2reset resets a stream, and HTTP/1 has none; use rst"));
    }
    let after = match ask.get("after") {
        None => fixed.unwrap_or(if how == How::Truncate { After::Body(OWED) } else { After::Nothing }),
        Some(_) if fixed.is_some() => {
            return Err(Refusal::bad_request(format!(
                "how={name} already says when; after= goes with the other names"
            )));
        }
        Some("headers") => After::Body(0),
        Some(_) => After::Body(ask.bytes("after", 0, config.size_max, "--size-max")?),
    };
    let left = if let After::Body(bytes) = after { bytes } else { 0 };
    let aborted = Aborted {
        how,
        is_http2,
        left,
        owed: if how == How::Truncate { OWED } else { 0 },
        settle: None,
        activity: activity.clone(),
        stage: if after == After::Nothing { Stage::Nothing } else { Stage::Body },
    };
    if after == After::Nothing && how != How::StreamReset {
        // Whatever is written next is stopped, so the head of this response is.
        aborted.break_off();
    }
    let mut response = Response::new(aborted);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if how == How::Truncate {
        headers.insert(header::CONTENT_LENGTH, (left + OWED).into());
    }
    Ok(response)
}

/// A body that goes wrong once `left` bytes of it have been sent.
#[derive(Debug)]
pub(super) struct Aborted {
    how: How,
    is_http2: bool,
    left: u64,
    /// What the Content-Length promises beyond `left`.
    owed: u64,
    settle: Option<Pin<Box<Sleep>>>,
    activity: Activity,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Goes wrong at once.
    Nothing,
    /// Sends what was asked for, waits until it has arrived, and goes wrong.
    Body,
    /// Has gone wrong.
    Over,
}

impl Aborted {
    fn break_off(&self) {
        let how = match self.how {
            How::Reset => Break::Reset,
            How::Garbage => Break::Garbage,
            How::Fin | How::Truncate | How::StreamReset => Break::Close,
        };
        self.activity.break_off(how);
    }

    /// Goes wrong. What the connection's owner does with the frame no longer matters, but where there is none it has
    /// nothing to write, and would not notice.
    fn go_wrong(&mut self) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.stage = Stage::Over;
        match self.how {
            How::StreamReset => Poll::Ready(Some(Err("the stream was reset as asked for".into()))),
            // HTTP/2 ends a stream with a frame of its own, so the end comes early but in order.
            How::Truncate if self.is_http2 => Poll::Ready(None),
            _ => {
                self.break_off();
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"*")))))
            }
        }
    }
}

impl Body for Aborted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.stage {
            Stage::Nothing => return self.go_wrong(),
            Stage::Over => return Poll::Pending,
            Stage::Body => {}
        }
        if self.left > 0 {
            let part = self.left.min(FILL.len() as u64);
            self.left -= part;
            let part = usize::try_from(part).unwrap_or(FILL.len());
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&FILL[..part])))));
        }
        // The connection sends what it has while this waits.
        let settle = self.settle.get_or_insert_with(|| Box::pin(tokio::time::sleep(SETTLE)));
        ready!(settle.as_mut().poll(cx));
        self.go_wrong()
    }

    /// Promises what will not come.
    fn size_hint(&self) -> SizeHint {
        if self.how == How::Truncate {
            SizeHint::with_exact(self.left + self.owed)
        } else {
            SizeHint::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_ours_and_those_of_wiremock() {
        let own = ["rst", "fin", "h2reset", "truncate", "garbage"].map(how);
        assert!(own.iter().all(|found| matches!(found, Some((_, None)))));
        let wiremock = [
            "EMPTY_RESPONSE",
            "MALFORMED_RESPONSE_CHUNK",
            "RANDOM_DATA_THEN_CLOSE",
            "CONNECTION_RESET_BY_PEER",
        ];
        assert!(wiremock.map(how).iter().all(|found| matches!(found, Some((_, Some(_))))));
    }

    proptest! {
        #[test]
        fn any_other_name_is_none(name in any::<String>()) {
            prop_assume!(!["rst", "fin"].contains(&&*name));
            prop_assert_eq!(how(&name), None);
        }
    }
}
