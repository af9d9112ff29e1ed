//! Bodies that are made while they are sent: without it a client that asks for a gigabyte makes memory of its size.

use std::{
    ops::Range,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use super::random;
use crate::request::BoxError;

/// Most bytes per frame, and all that a body has in memory: what HTTP/2 carries in one frame, unless told otherwise.
pub(super) const FRAME_MAX: usize = 16 * 1024;

/// The bytes of a seed's stream ([`random`]) from one place to another.
#[derive(Debug)]
pub(super) struct Generated {
    seed: u64,
    /// Places that have not been made.
    left: Range<u64>,
    /// Bytes per frame, but for the last.
    chunk: usize,
    tells_length: bool,
    /// Made, and not yet handed over. Its memory is used again once the frames from it have been sent.
    made: BytesMut,
}

impl Generated {
    /// With a length that the client is told.
    pub(super) fn new(seed: u64, part: Range<u64>) -> Self {
        Self { seed, left: part, chunk: FRAME_MAX, tells_length: true, made: BytesMut::new() }
    }

    /// In frames of so many bytes; at least 1, and at most [`FRAME_MAX`].
    pub(super) fn in_frames_of(self, bytes: usize) -> Self {
        Self { chunk: bytes.clamp(1, FRAME_MAX), ..self }
    }

    /// With a length that shows at its end only: HTTP/1.1 sends it in chunks.
    pub(super) fn of_unknown_length(self) -> Self {
        Self { tells_length: false, ..self }
    }

    /// Makes what goes into whole frames, so that no frame is cut where memory ends.
    fn make(&mut self) {
        let left = self.left.end.saturating_sub(self.left.start);
        let most = FRAME_MAX / self.chunk * self.chunk;
        let length = usize::try_from(left).unwrap_or(most).min(most);
        self.made.resize(length, 0);
        random::fill(self.seed, self.left.start, &mut self.made);
        self.left.start += length as u64;
    }
}

impl Body for Generated {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        // It never waits for anything, so a client that reads fast, or asks for frames of one byte, would keep its worker
        // from everybody else.
        ready!(pin!(tokio::task::consume_budget()).poll(cx));
        if self.made.is_empty() {
            self.make();
        }
        let chunk = self.chunk.min(self.made.len());
        Poll::Ready(Some(Ok(Frame::data(self.made.split_to(chunk).freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.made.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.tells_length {
            SizeHint::with_exact(self.left.end.saturating_sub(self.left.start) + self.made.len() as u64)
        } else {
            SizeHint::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn frames(mut body: Generated) -> Vec<Bytes> {
        let mut frames = Vec::new();
        while let Some(frame) = body.frame().await {
            frames.push(frame.unwrap().into_data().unwrap());
        }
        frames
    }

    #[tokio::test]
    async fn frames_are_as_long_as_asked_for_and_together_the_stream() {
        let mut whole = vec![0; 100_000];
        random::fill(7, 3, &mut whole);
        for chunk in [1, 7, 10_000, FRAME_MAX] {
            let body = Generated::new(7, 3..100_003).in_frames_of(chunk);
            assert_eq!(body.size_hint().exact(), Some(100_000));
            let frames = frames(body).await;
            assert!(frames.iter().rev().skip(1).all(|frame| frame.len() == chunk), "{chunk}");
            assert_eq!(frames.concat(), whole, "{chunk}");
        }
        assert!(Generated::new(7, 5..5).is_end_stream());
        assert_eq!(Generated::new(7, 0..9).of_unknown_length().size_hint().exact(), None);
    }

    #[tokio::test]
    async fn memory_is_used_again_once_a_frame_has_been_sent() {
        let mut body = Generated::new(7, 0..u64::MAX);
        let mut places = std::collections::HashSet::new();
        for _ in 0..1000 {
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            places.insert(frame.as_ptr());
        }
        assert_eq!(places.len(), 1, "one frame in memory");
    }

    #[tokio::test]
    async fn a_body_that_is_always_ready_lets_others_go_first() {
        let mut body = pin!(Generated::new(7, 0..u64::MAX).in_frames_of(1));
        let polled = std::future::poll_fn(|cx| {
            let ready = (0..100_000).take_while(|_| body.as_mut().poll_frame(cx).is_ready()).count();
            Poll::Ready(ready)
        });
        assert!(polled.await < 1000);
    }
}
