//! A name for each request: without it a client's complaint and a server's log line never meet.

use std::{cell::Cell, fmt, sync::LazyLock};

use http::{HeaderName, HeaderValue, Request};

use crate::telemetry::metrics::thread_index;

/// The header that carries the id, in both directions.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken from a client.
const CLIENT_ID_MAX: usize = 128;

/// The id that we give a request: from a counter per thread. A random id costs nine allocations and tells no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestId {
    thread: u32,
    number: u64,
}

impl RequestId {
    /// The next of the calling thread.
    pub(crate) fn next() -> Self {
        thread_local!(static NUMBER: Cell<u64> = const { Cell::new(0) });
        let number = NUMBER.replace(NUMBER.get() + 1);
        Self { thread: u32::try_from(thread_index()).unwrap_or(u32::MAX), number }
    }

    /// What the response carries: the client's own id if it sent a decent one, else this.
    pub(crate) fn or_clients<B>(self, request: &Request<B>) -> HeaderValue {
        match request.headers().get(&X_REQUEST_ID) {
            Some(value) if is_decent(value.as_bytes()) => value.clone(),
            _ => self.into_value(),
        }
    }

    fn into_value(self) -> HeaderValue {
        let mut text = [b'-'; 8 + 1 + 4 + 1 + 10];
        hex(u64::from(*PROCESS), &mut text[..8]);
        hex(u64::from(self.thread), &mut text[9..13]);
        hex(self.number, &mut text[14..]);
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.into_value().to_str().unwrap_or("-"))
    }
}

/// Tells the ids of one process from those of the next.
static PROCESS: LazyLock<u32> = LazyLock::new(|| fastrand::u32(..));

/// The last digits of `number` in hexadecimal, as many as fit.
fn hex(mut number: u64, text: &mut [u8]) {
    for digit in text.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 0xf) as usize];
        number >>= 4;
    }
}

/// Visible ASCII, and not too long: it goes into logs and other people's systems.
fn is_decent(id: &[u8]) -> bool {
    (1..=CLIENT_ID_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_ours_differ_and_have_one_width() {
        let ids: Vec<String> = (0..100).map(|_| RequestId::next().to_string()).collect();
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
        assert!(ids.iter().all(|id| id.len() == 24), "{}", ids[0]);
    }

    #[test]
    fn a_client_keeps_its_own_id_if_it_is_decent() {
        let of = |value: &[u8]| {
            let value = HeaderValue::from_bytes(value).unwrap();
            let request = Request::builder().header(X_REQUEST_ID, value).body(()).unwrap();
            RequestId::next().or_clients(&request)
        };
        assert_eq!(of(b"abc-1"), "abc-1");
        for indecent in [b"".as_slice(), b"a b", &[b'x'; 129], b"\xff"] {
            assert_eq!(of(indecent).len(), 24, "{indecent:?}");
        }
    }
}
