//! Without an incremental parser a large echo would have to be collected before it could be checked.
//!
//! Pure: bytes in, events out, whatever way the stream was cut into pieces (RFC 9112 sections 2 to 7).

use super::head::{self, Framing, Malformed};

/// A response head beyond this is not one that any server sends on purpose.
pub const HEAD_LEN_MAX: usize = 64 * 1024;

/// A chunk size line with its extensions, or one trailer line.
const LINE_LEN_MAX: usize = 8 * 1024;

/// All trailer lines together.
const TRAILERS_LEN_MAX: usize = 16 * 1024;

/// What the bytes say, in order: one head, any number of body pieces.
#[derive(Debug)]
pub enum Event<'a> {
    /// The final (not 1xx) response head.
    Head {
        /// Status code.
        status: u16,
        /// Value of `x-request-id`, if the response has one.
        request_id: Option<&'a [u8]>,
    },
    /// The next bytes of the body, without any framing.
    Body(&'a [u8]),
}

/// How far a call of [`Parser::feed`] got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All input is used up and the response is not complete.
    NeedMore,
    /// The response ended after this many bytes of the input.
    Complete {
        /// Bytes of the input that belong to the response.
        used: usize,
    },
}

/// What the end of the stream means at this point of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eof {
    /// The body was delimited by the close: the response is complete.
    Complete,
    /// No byte of the response had arrived.
    BeforeResponse,
    /// The response is cut off.
    Truncated,
}

/// The state of one response.
#[derive(Debug)]
pub struct Parser {
    state: State,
    /// Bytes of an incomplete head or line; empty for a response that arrives in one piece.
    partial: Vec<u8>,
    /// A response to HEAD has no body whatever its head says.
    to_head_request: bool,
    keep_alive: bool,
    started: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Head,
    Sized { left: u64 },
    UntilClose,
    ChunkSize,
    ChunkData { left: u64 },
    ChunkEnd,
    Trailers { len: usize },
    Done,
}

impl State {
    /// What comes after a head with this framing.
    fn after(framing: Framing) -> Self {
        match framing {
            Framing::Empty => Self::Done,
            Framing::Sized(left) => Self::Sized { left },
            Framing::Chunked => Self::ChunkSize,
            Framing::UntilClose => Self::UntilClose,
        }
    }
}

impl Parser {
    /// A parser for responses to requests that are HEAD requests or not.
    pub fn new(to_head_request: bool) -> Self {
        Self { state: State::Head, partial: Vec::new(), to_head_request, keep_alive: true, started: false }
    }

    /// Prepares for the next response on the same connection.
    pub fn reset(&mut self) {
        self.state = State::Head;
        self.partial.clear();
        self.keep_alive = true;
        self.started = false;
    }

    /// True once a byte of the response has arrived.
    pub fn has_started(&self) -> bool {
        self.started
    }

    /// True if the response is complete and the connection may carry another one.
    pub fn is_reusable(&self) -> bool {
        self.keep_alive && matches!(self.state, State::Done)
    }

    /// Takes the next bytes of the stream and reports what they mean.
    ///
    /// # Errors
    /// What is wrong; the connection is of no use after that.
    pub fn feed(&mut self, input: &[u8], mut on_event: impl FnMut(Event<'_>)) -> Result<Progress, Malformed> {
        self.started |= !input.is_empty();
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let step = match self.state {
                State::Done => return Ok(Progress::Complete { used }),
                _ if rest.is_empty() => return Ok(Progress::NeedMore),
                State::Head => self.head(rest, &mut on_event)?,
                State::Sized { left } | State::ChunkData { left } => self.data(left, rest, &mut on_event),
                State::UntilClose => {
                    on_event(Event::Body(rest));
                    rest.len()
                }
                State::ChunkSize | State::ChunkEnd | State::Trailers { .. } => self.line(rest)?,
            };
            used += step;
        }
    }

    /// The peer closed its side.
    pub fn eof(&self) -> Eof {
        match self.state {
            State::Done | State::UntilClose => Eof::Complete,
            _ if !self.started => Eof::BeforeResponse,
            _ => Eof::Truncated,
        }
    }

    /// Parses a head; an incomplete one moves into `partial` until the rest arrives.
    fn head(&mut self, rest: &[u8], on_event: &mut impl FnMut(Event<'_>)) -> Result<usize, Malformed> {
        let known = self.partial.len();
        let take = rest.len().min(HEAD_LEN_MAX - known);
        if known > 0 {
            self.partial.extend_from_slice(&rest[..take]);
        }
        let bytes = if known > 0 { &self.partial } else { rest };
        let Some(head) = head::parse(bytes, self.to_head_request)? else {
            if known == 0 {
                self.partial.extend_from_slice(&rest[..take]);
            }
            if self.partial.len() == HEAD_LEN_MAX {
                return Err(Malformed(format!("response head is longer than {HEAD_LEN_MAX} bytes")));
            }
            return Ok(take);
        };
        // 1xx is not the answer yet: the next head is.
        if head.status >= 200 {
            on_event(Event::Head { status: head.status, request_id: head.request_id });
            self.keep_alive = head.keep_alive;
            self.state = State::after(head.framing);
        }
        // A head that was complete before this call would have been taken then.
        let used = head.len - known;
        self.partial.clear();
        Ok(used)
    }

    fn data(&mut self, left: u64, rest: &[u8], on_event: &mut impl FnMut(Event<'_>)) -> usize {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        on_event(Event::Body(&rest[..take]));
        let left = left - take as u64;
        self.state = match self.state {
            State::ChunkData { .. } if left == 0 => State::ChunkEnd,
            State::ChunkData { .. } => State::ChunkData { left },
            _ if left == 0 => State::Done,
            _ => State::Sized { left },
        };
        take
    }

    /// Collects a line of chunked framing and acts on it when it is whole.
    fn line(&mut self, rest: &[u8]) -> Result<usize, Malformed> {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let take = end.map_or(rest.len(), |end| end + 1);
        if self.partial.len() + take > LINE_LEN_MAX {
            return Err(Malformed(format!("line of chunked framing is longer than {LINE_LEN_MAX} bytes")));
        }
        self.partial.extend_from_slice(&rest[..take]);
        if end.is_some() {
            let line =
                self.partial.strip_suffix(b"\r\n").ok_or_else(|| Malformed::new("line without CRLF"))?;
            self.state = match self.state {
                State::ChunkSize => match chunk_size(line)? {
                    0 => State::Trailers { len: 0 },
                    left => State::ChunkData { left },
                },
                State::ChunkEnd if line.is_empty() => State::ChunkSize,
                State::ChunkEnd => return Err(Malformed::new("chunk is longer than its size says")),
                State::Trailers { len } => trailer(len, line)?,
                other => other,
            };
            self.partial.clear();
        }
        Ok(take)
    }
}

/// The size in a chunk's first line, extensions ignored (RFC 9112 section 7.1).
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    let is_hex = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    let text = str::from_utf8(digits).ok().filter(|_| is_hex);
    text.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or_else(|| Malformed::new("bad chunk size"))
}

fn trailer(len: usize, line: &[u8]) -> Result<State, Malformed> {
    let len = len + line.len();
    if line.is_empty() {
        return Ok(State::Done);
    }
    if len > TRAILERS_LEN_MAX {
        return Err(Malformed::new("trailers are longer than 16384 bytes"));
    }
    Ok(State::Trailers { len })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that can be observed about one response.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Seen {
        status: Option<u16>,
        id: Option<Vec<u8>>,
        body: Vec<u8>,
        /// Bytes of the stream that belong to the response; `None` while it is incomplete.
        len: Option<usize>,
        error: bool,
    }

    /// Feeds `stream` in pieces that end at `cuts`.
    fn observe(stream: &[u8], cuts: &[usize]) -> (Seen, Parser) {
        let mut parser = Parser::new(false);
        let mut seen = Seen::default();
        let mut from = 0;
        for to in cuts.iter().copied().chain([stream.len()]) {
            let progress = parser.feed(&stream[from..to], |event| match event {
                Event::Head { status, request_id } => {
                    seen.status = Some(status);
                    seen.id = request_id.map(<[u8]>::to_vec);
                }
                Event::Body(bytes) => seen.body.extend_from_slice(bytes),
            });
            match progress {
                Ok(Progress::NeedMore) => from = to,
                Ok(Progress::Complete { used }) => {
                    seen.len = Some(from + used);
                    break;
                }
                Err(_) => {
                    seen.error = true;
                    break;
                }
            }
        }
        (seen, parser)
    }

    #[test]
    fn a_sized_response_ends_where_its_length_says() {
        let stream = b"HTTP/1.1 200 OK\r\nX-Request-Id: abc\r\nContent-Length: 5\r\n\r\nhelloHTTP";
        let (seen, parser) = observe(stream, &[]);
        assert_eq!((seen.status, seen.body.as_slice()), (Some(200), b"hello".as_slice()));
        assert_eq!(seen.id.as_deref(), Some(b"abc".as_slice()));
        assert_eq!(seen.len, Some(stream.len() - 4));
        assert!(parser.is_reusable());
    }

    #[test]
    fn chunks_extensions_and_trailers_are_taken_off() {
        let stream = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
            5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nx: y\r\n\r\n";
        let (seen, _) = observe(stream, &[]);
        assert_eq!(seen.body, b"hello world");
        assert_eq!(seen.len, Some(stream.len()));
    }

    #[test]
    fn interim_responses_are_skipped() {
        let stream = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        let (seen, _) = observe(stream, &[]);
        assert_eq!((seen.status, seen.len), (Some(204), Some(stream.len())));
    }

    #[test]
    fn a_response_without_framing_lasts_until_the_close() {
        let (seen, parser) = observe(b"HTTP/1.1 200 OK\r\n\r\nto the end", &[]);
        assert_eq!((seen.body.as_slice(), seen.len), (b"to the end".as_slice(), None));
        assert_eq!(parser.eof(), Eof::Complete);
        assert!(!parser.is_reusable());
    }

    #[test]
    fn connection_close_and_http_1_0_end_the_connection() {
        let reusable = |head: &str| observe(head.as_bytes(), &[]).1.is_reusable();
        assert!(!reusable("HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n"));
        assert!(!reusable("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"));
        assert!(reusable("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"));
    }

    #[test]
    fn a_response_to_head_has_no_body() {
        let mut parser = Parser::new(true);
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
        assert_eq!(parser.feed(head, |_| {}), Ok(Progress::Complete { used: head.len() }));
    }

    #[test]
    fn the_end_of_the_stream_is_told_apart() {
        let eof = |stream: &[u8]| observe(stream, &[]).1.eof();
        assert_eq!(eof(b""), Eof::BeforeResponse);
        assert_eq!(eof(b"HTTP/1.1 2"), Eof::Truncated);
        assert_eq!(eof(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"), Eof::Truncated);
        assert_eq!(eof(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello"), Eof::Truncated);
    }

    #[test]
    fn ambiguous_or_broken_framing_is_malformed() {
        for stream in [
            "garbage\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        ] {
            assert!(observe(stream.as_bytes(), &[]).0.error, "{stream:?}");
        }
    }

    #[test]
    fn an_endless_head_is_cut_off() {
        let mut stream = b"HTTP/1.1 200 OK\r\n".to_vec();
        stream.extend(b"x: y\r\n".repeat(90));
        stream.extend(vec![b'z'; HEAD_LEN_MAX]);
        assert!(observe(&stream, &[20]).0.error);
    }

    fn any_stream() -> impl Strategy<Value = Vec<u8>> {
        let body = proptest::collection::vec(any::<u8>(), 0..200);
        (body, 0..4_u8, 1..50_usize).prop_map(|(body, kind, chunk)| match kind {
            0 => {
                let head = format!(
                    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                [head.as_bytes(), &body, b"next"].concat()
            }
            1 => {
                let mut stream = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                for piece in body.chunks(chunk) {
                    stream.extend(format!("{:x};ext=1\r\n", piece.len()).as_bytes());
                    stream.extend(piece);
                    stream.extend(b"\r\n");
                }
                [stream.as_slice(), b"0\r\ntrailer: yes\r\n\r\n"].concat()
            }
            2 => [b"HTTP/1.1 503 Busy\r\nx-request-id: 1\r\n\r\n", body.as_slice()].concat(),
            _ => body,
        })
    }

    proptest! {
        #[test]
        fn any_split_of_the_stream_gives_the_same_result(
            stream in any_stream(), cuts in proptest::collection::vec(0..400_usize, 0..12),
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.sort_unstable();
            let (whole, whole_parser) = observe(&stream, &[]);
            let (split, split_parser) = observe(&stream, &cuts);
            if whole.error {
                // The error may come later in pieces, never not at all.
                prop_assert!(split.error);
            } else {
                prop_assert_eq!(&whole, &split);
                prop_assert_eq!(whole_parser.eof(), split_parser.eof());
            }
        }

        #[test]
        fn no_input_panics(
            stream in proptest::collection::vec(any::<u8>(), 0..300), cut in 0..300_usize,
        ) {
            let cut = cut.min(stream.len());
            observe(&stream, &[cut]);
        }
    }
}
