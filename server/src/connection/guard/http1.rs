//! Reads the client's bytes before hyper does, and stops at what hyper lets pass and the RFCs forbid: two servers in a
//! chain that read one stream differently are how a request is smuggled.
//!
//! What httparse refuses by itself (bytes of names, values and methods) is left to it.

mod chunked;

use memchr::memchr;

use self::chunked::Chunked;
use super::violation::Violation;

/// Digits of the largest Content-Length, and a few leading zeros.
const LENGTH_DIGITS_MAX: u8 = 24;

/// Where the connection stands in its stream of requests. Fed with every byte once, in pieces of any size.
///
/// Allocates nothing and copies nothing: what is torn between two reads is carried as a state.
#[derive(Debug)]
pub(crate) struct Http1 {
    state: State,
    /// Facts of the head that is being read.
    is_http10: bool,
    length: Option<u64>,
    is_chunked: bool,
    is_first_field: bool,
}

/// Where the stream must not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) violation: Violation,
    /// How many of the bytes are still to be read by hyper: those before the head, or before the spot in the body.
    pub(crate) valid: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the request line, after this many empty lines.
    Begin(u8),
    BeginLf(u8),
    Method,
    Target,
    /// So many bytes of `HTTP/1.1` CR have been seen, and whether it is one of ours so far.
    Version(u8, bool),
    FieldStart,
    /// So many bytes of the name have been seen.
    Name(Field, u8),
    Length(LengthPart),
    Coding(Coding),
    /// The rest of a line that is none of our business; whether the last byte was CR.
    Skip(bool),
    /// The CR of a line that we have read is seen.
    LineLf,
    HeadLf,
    /// So many bytes are left.
    Body(u64),
    Chunked(Chunked),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    ContentLength,
    TransferEncoding,
}

impl Field {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::ContentLength => b"content-length",
            Self::TransferEncoding => b"transfer-encoding",
        }
    }
}

/// A place in the value of Content-Length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LengthPart {
    value: u64,
    digits: u8,
    /// Whitespace after the digits has been seen.
    is_over: bool,
}

/// A place in the value of Transfer-Encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Coding {
    /// So many bytes of the current name are those of `chunked`; [`Coding::OTHER`] where one is not.
    matched: u8,
    /// Whitespace after the name has been seen.
    is_over: bool,
    /// A name has ended before this one, and whether one of those was `chunked`.
    has_others: bool,
    was_chunked: bool,
}

impl Default for Http1 {
    fn default() -> Self {
        Self {
            state: State::Begin(0),
            is_http10: false,
            length: None,
            is_chunked: false,
            is_first_field: true,
        }
    }
}

impl Http1 {
    /// Reads on.
    ///
    /// # Errors
    /// The first violation. There is nothing to be read after it.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let (mut at, mut head) = (0, 0);
        while at < bytes.len() {
            match self.step(&bytes[at..]) {
                Ok(read) => at += read,
                Err((offset, violation)) => {
                    let valid = if violation.is_in_body() { at + offset } else { head };
                    return Err(Malformed { violation, valid });
                }
            }
            if self.is_between_requests() {
                head = at;
            }
        }
        Ok(())
    }

    /// Whether a head or a body has begun and has not ended.
    fn is_between_requests(&self) -> bool {
        self.state == State::Begin(0)
    }

    /// Reads at least one byte, all of one state; returns how many, or where the violation is.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, (usize, Violation)> {
        let here = |violation| (0, violation);
        match self.state {
            State::Begin(empty_lines) => self.begin(bytes[0], empty_lines).map_err(here),
            State::BeginLf(empty_lines) => self.expect_lf(bytes[0], State::Begin(empty_lines)).map_err(here),
            State::Method => self.method(bytes).map_err(here),
            State::Target => self.target(bytes).map_err(here),
            State::Version(seen, is_ours) => self.version(bytes, seen, is_ours).map_err(here),
            State::FieldStart => self.field_start(bytes[0]).map_err(here),
            State::Name(field, seen) => self.name(bytes, field, seen).map_err(here),
            State::Length(part) => self.length(bytes[0], part).map_err(here),
            State::Coding(coding) => self.coding(bytes[0], coding).map_err(here),
            State::Skip(after_cr) => self.skip(bytes, after_cr).map_err(here),
            State::LineLf => self.expect_lf(bytes[0], State::FieldStart).map_err(here),
            State::HeadLf => {
                let framing = self.framing();
                self.expect_lf(bytes[0], framing).map_err(here)
            }
            State::Body(left) => {
                let read = left.min(bytes.len() as u64);
                self.state = if left == read { State::Begin(0) } else { State::Body(left - read) };
                // At most the length of `bytes`.
                Ok(usize::try_from(read).unwrap_or(bytes.len()))
            }
            State::Chunked(mut chunked) => {
                let read = chunked.feed(bytes)?;
                self.state = if chunked.is_over() { State::Begin(0) } else { State::Chunked(chunked) };
                Ok(read)
            }
        }
    }

    /// RFC 9112, section 2.2: an empty line before the request line is ignored. One: more is no accident.
    fn begin(&mut self, byte: u8, empty_lines: u8) -> Result<usize, Violation> {
        match byte {
            b'\r' if empty_lines > 0 => return Err(Violation::EmptyLines),
            b'\r' => self.state = State::BeginLf(empty_lines + 1),
            b'\n' => return Err(Violation::BareLf),
            b' ' | b'\t' => return Err(Violation::RequestLine),
            _ => {
                *self = Self { state: State::Method, ..Self::default() };
            }
        }
        Ok(1)
    }

    fn expect_lf(&mut self, byte: u8, next: State) -> Result<usize, Violation> {
        if byte != b'\n' {
            return Err(Violation::BareCr);
        }
        self.state = next;
        Ok(1)
    }

    /// Its bytes are httparse's to judge.
    fn method(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b' ' => {
                    self.state = State::Target;
                    return Ok(at + 1);
                }
                b'\r' | b'\n' => return Err(Violation::RequestLine),
                _ => {}
            }
        }
        Ok(bytes.len())
    }

    /// httparse and `http` take non-ASCII bytes, and cut a fragment off.
    fn target(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'#' => return Err(Violation::Target),
                b'!'..=b'~' => {}
                b' ' => {
                    self.state = State::Version(0, true);
                    return Ok(at + 1);
                }
                b'\r' | b'\n' => return Err(Violation::NoVersion),
                _ => return Err(Violation::Target),
            }
        }
        Ok(bytes.len())
    }

    fn version(&mut self, bytes: &[u8], seen: u8, is_ours: bool) -> Result<usize, Violation> {
        if seen == 0 && bytes.starts_with(b"HTTP/1.1\r\n") {
            self.state = State::FieldStart;
            return Ok(10);
        }
        let byte = bytes[0];
        let is_ours = match (seen, byte) {
            (0..5, _) if byte == b"HTTP/"[usize::from(seen)] => true,
            (5, b'0'..=b'9') => byte == b'1',
            (6, b'.') => is_ours,
            (7, b'0'..=b'9') => {
                self.is_http10 = byte == b'0';
                is_ours && byte <= b'1'
            }
            (8, b'\r') if is_ours => {
                self.state = State::LineLf;
                return Ok(1);
            }
            (8, b'\r') => return Err(Violation::VersionUnsupported),
            (0, b' ') => return Err(Violation::RequestLine),
            (8, b'\n') => return Err(Violation::BareLf),
            _ => return Err(Violation::Version),
        };
        self.state = State::Version(seen + 1, is_ours);
        Ok(1)
    }

    /// Only two fields are ours, and a glance at the first byte tells most others.
    fn field_start(&mut self, byte: u8) -> Result<usize, Violation> {
        self.state = match byte {
            b'c' | b'C' => State::Name(Field::ContentLength, 1),
            b't' | b'T' => State::Name(Field::TransferEncoding, 1),
            b'\r' => State::HeadLf,
            b'\n' => return Err(Violation::BareLf),
            b' ' | b'\t' if self.is_first_field => return Err(Violation::LeadingSpace),
            b' ' | b'\t' => return Err(Violation::Folded),
            _ => State::Skip(false),
        };
        self.is_first_field = false;
        Ok(1)
    }

    fn name(&mut self, bytes: &[u8], field: Field, seen: u8) -> Result<usize, Violation> {
        let rest = &field.name()[usize::from(seen)..];
        let same = rest.iter().zip(bytes).take_while(|(a, b)| **a == b.to_ascii_lowercase()).count();
        if same == bytes.len() && same <= rest.len() {
            // A name has 17 bytes at most.
            self.state = State::Name(field, seen + u8::try_from(same).unwrap_or(u8::MAX));
            return Ok(same);
        }
        match bytes[same] {
            b':' if same == rest.len() => self.value_of(field)?,
            b' ' | b'\t' if same == rest.len() => return Err(Violation::SpaceBeforeColon),
            // Not consumed: it may be the end of the line.
            _ if same > 0 => {
                self.state = State::Skip(false);
                return Ok(same);
            }
            _ => {
                self.state = State::Skip(false);
                return self.skip(bytes, false);
            }
        }
        Ok(same + 1)
    }

    fn value_of(&mut self, field: Field) -> Result<(), Violation> {
        self.state = match field {
            Field::ContentLength if self.length.is_some() => return Err(Violation::LengthTwice),
            Field::TransferEncoding if self.is_chunked => return Err(Violation::CodingTwice),
            Field::TransferEncoding if self.is_http10 => return Err(Violation::CodingOn10),
            Field::ContentLength if self.is_chunked => return Err(Violation::LengthAndCoding),
            Field::TransferEncoding if self.length.is_some() => return Err(Violation::LengthAndCoding),
            Field::ContentLength => State::Length(LengthPart { value: 0, digits: 0, is_over: false }),
            Field::TransferEncoding => State::Coding(Coding::default()),
        };
        Ok(())
    }

    /// RFC 9110, section 8.6: `Content-Length = 1*DIGIT`, with whitespace around it.
    fn length(&mut self, byte: u8, part: LengthPart) -> Result<usize, Violation> {
        let LengthPart { value, digits, is_over } = part;
        self.state = match byte {
            b'0'..=b'9' if !is_over && digits < LENGTH_DIGITS_MAX => {
                let value = value.checked_mul(10).and_then(|tens| tens.checked_add(u64::from(byte - b'0')));
                // hyper keeps the two largest numbers for other purposes.
                let value = value.filter(|value| *value < u64::MAX - 1).ok_or(Violation::Length)?;
                State::Length(LengthPart { value, digits: digits + 1, is_over })
            }
            b' ' | b'\t' => State::Length(LengthPart { is_over: digits > 0, ..part }),
            b'\r' if digits > 0 => {
                self.length = Some(value);
                State::LineLf
            }
            _ => return Err(Violation::Length),
        };
        Ok(1)
    }

    fn coding(&mut self, byte: u8, coding: Coding) -> Result<usize, Violation> {
        self.state = match byte {
            b'\r' => {
                coding.verdict()?;
                self.is_chunked = true;
                State::LineLf
            }
            b'\n' => return Err(Violation::BareLf),
            _ => State::Coding(coding.and(byte)),
        };
        Ok(1)
    }

    fn skip(&mut self, bytes: &[u8], after_cr: bool) -> Result<usize, Violation> {
        let Some(lf) = memchr(b'\n', bytes) else {
            self.state = State::Skip(bytes.last() == Some(&b'\r'));
            return Ok(bytes.len());
        };
        let follows_cr = if lf == 0 { after_cr } else { bytes[lf - 1] == b'\r' };
        if !follows_cr {
            return Err(Violation::BareLf);
        }
        self.state = State::FieldStart;
        Ok(lf + 1)
    }

    /// What follows the head (RFC 9112, section 6.3).
    fn framing(&self) -> State {
        match self.length {
            _ if self.is_chunked => State::Chunked(Chunked::default()),
            Some(length) if length > 0 => State::Body(length),
            _ => State::Begin(0),
        }
    }
}

impl Coding {
    const CHUNKED: &'static [u8] = b"chunked";
    const OTHER: u8 = u8::MAX;

    fn is_chunked(self) -> bool {
        usize::from(self.matched) == Self::CHUNKED.len()
    }

    /// One byte further.
    fn and(self, byte: u8) -> Self {
        let expected = Self::CHUNKED.get(usize::from(self.matched));
        match byte {
            b',' => Self {
                matched: 0,
                is_over: false,
                has_others: true,
                was_chunked: self.was_chunked || self.is_chunked(),
            },
            b' ' | b'\t' => Self { is_over: self.matched > 0, ..self },
            _ if !self.is_over && expected == Some(&byte.to_ascii_lowercase()) => {
                Self { matched: self.matched + 1, ..self }
            }
            _ => Self { matched: Self::OTHER, ..self },
        }
    }

    /// At the end of the value: one `chunked` and nothing else. Another coding before it is one that we do not know
    /// (RFC 9112, section 6.1: 501); without it at the end nobody knows where the body ends (section 6.3: 400).
    fn verdict(self) -> Result<(), Violation> {
        match (self.is_chunked(), self.has_others, self.was_chunked) {
            (true, false, _) => Ok(()),
            (true, true, false) => Err(Violation::CodingUnknown),
            _ => Err(Violation::Coding),
        }
    }
}

#[cfg(test)]
#[path = "http1/tests.rs"]
mod tests;
