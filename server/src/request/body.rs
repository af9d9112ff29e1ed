//! Request bodies that know their limits: a timeout around a handler never sees a body, and a body that is collected
//! makes memory of its size.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http::{HeaderName, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::RequestId;
use crate::{
    activity::Activity,
    socket::progress::{PaceLimits, PaceTimer, Slow},
};

/// Why a request body ended before its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// More than `body_max` bytes came: 413.
    #[error("request body is larger than {limit} bytes (--body-max)")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// Nothing came for `body_stall_timeout`: 408.
    #[error("request body stalled for {0:?} (--body-stall-timeout)")]
    Stalled(std::time::Duration),
    /// It came slower than `rate_min`: 408.
    #[error("request body came slower than {0} bytes per second (--rate-min)")]
    TooSlow(u64),
    /// The client reset the connection or the stream, closed early, or broke the framing: 400.
    #[error("request body broke: {0}")]
    Broken(#[source] hyper::Error),
    /// Its framing or its trailers break a rule, which is named: 400.
    #[error("request body is malformed: {0}")]
    Malformed(&'static str),
}

/// The body of a request, as services get it: streamed, bounded in size, and with a deadline on progress.
///
/// Yields frames as they come; nothing is collected, and nothing is read ahead of the reader.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Incoming,
    activity: Activity,
    id: RequestId,
    /// Only once we have had to wait: a body that came with its head never has one.
    pace: Option<Box<PaceTimer>>,
    received: u64,
    /// The same, for those who want to know at the end.
    counter: Option<Arc<AtomicU64>>,
    failed: bool,
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, activity: &Activity) -> Self {
        Self {
            incoming,
            activity: activity.clone(),
            id: RequestId::next(),
            pace: None,
            received: 0,
            counter: None,
            failed: false,
        }
    }

    /// The connection that the request came over.
    pub(crate) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Our id for the request that this is the body of.
    pub(crate) fn request_id(&self) -> RequestId {
        self.id
    }

    /// Reads to the end and keeps nothing, so that the connection can carry another request.
    pub(crate) async fn discard(&mut self) -> Result<(), BodyError> {
        while !self.is_end_stream() {
            match self.frame().await {
                Some(frame) => drop(frame?),
                None => break,
            }
        }
        Ok(())
    }

    /// Counts the bytes of the body in `counter`, too.
    pub(super) fn count_in(&mut self, counter: &Arc<AtomicU64>) {
        self.counter = Some(Arc::clone(counter));
    }

    /// Where the bytes of the body are counted from now on.
    pub(super) fn counter(&mut self) -> Arc<AtomicU64> {
        Arc::clone(self.counter.get_or_insert_default())
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        let Some(data) = frame.data_ref() else { return trailers(frame) };
        let bytes = data.remaining();
        if let Some(pace) = &mut self.pace {
            pace.moved(bytes);
        }
        self.received += bytes as u64;
        if let Some(counter) = &self.counter {
            counter.store(self.received, Relaxed);
        }
        let shard = self.activity.core().metrics.shard();
        shard.request_body_bytes.fetch_add(bytes as u64, Relaxed);
        let limit = self.activity.config().body_max;
        if self.received > limit { Err(BodyError::TooLarge { limit }) } else { Ok(frame) }
    }

    fn slow(&self, slow: Slow) -> BodyError {
        let config = self.activity.config();
        match slow {
            Slow::Stalled => BodyError::Stalled(config.body_stall_timeout),
            Slow::BelowRate => BodyError::TooSlow(config.rate_min),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.failed {
            return Poll::Ready(None);
        }
        let result = match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(Ok(frame))) => this.take(frame),
            Poll::Ready(Some(Err(error))) => Err(match this.activity.violation() {
                Some(violation) if violation.is_in_body() => BodyError::Malformed(violation.detail()),
                _ => BodyError::Broken(error),
            }),
            Poll::Pending => {
                let limits = PaceLimits::of_sender(this.activity.config());
                let slow = ready!(this.pace.get_or_insert_default().poll_wait(cx, &limits));
                Err(this.slow(slow))
            }
        };
        this.failed = result.is_err();
        Poll::Ready(Some(result))
    }

    fn is_end_stream(&self) -> bool {
        self.failed || self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Fields that frame a message, route it, modify it or prove who sent it: behind the body they come too late, and a
/// service that merges them into the head believes them (RFC 9110, section 6.5.1).
const NOT_IN_TRAILERS: [HeaderName; 22] = [
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::HOST,
    header::CONNECTION,
    header::UPGRADE,
    header::TRAILER,
    header::TE,
    header::EXPECT,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::CONTENT_RANGE,
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    header::CACHE_CONTROL,
    header::PRAGMA,
    header::MAX_FORWARDS,
    header::RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

fn trailers(frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
    let is_forbidden = |name: &HeaderName| NOT_IN_TRAILERS.contains(name);
    if frame.trailers_ref().is_some_and(|trailers| trailers.keys().any(is_forbidden)) {
        return Err(BodyError::Malformed("a field that may not be a trailer (RFC 9110, section 6.5.1)"));
    }
    Ok(frame)
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if !self.incoming.is_end_stream() {
            self.activity.body_left_unread();
        }
    }
}
