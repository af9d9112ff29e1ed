//! The framing of a chunked body: hyper skips whatever follows a chunk's size, and a byte that it skips and another server
//! reads is a second request.

use memchr::memchr;

use crate::{connection::guard::violation::Violation, grammar::is_token};

/// Bytes of extensions per chunk: nobody uses them, and they are read without being a body.
const EXTENSION_MAX: u16 = 256;
/// A chunk size is a `u64`.
const SIZE_DIGITS_MAX: u8 = 16;

/// A place in a chunked body (RFC 9112, section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunked {
    Size {
        size: u64,
        digits: u8,
    },
    /// After the size: the extensions of this chunk.
    Extension {
        size: u64,
        part: Extension,
        bytes: u16,
    },
    SizeLf(u64),
    /// So many bytes of the chunk are left.
    Data(u64),
    DataCr,
    DataLf,
    TrailerStart,
    /// Within a trailer line; whether the last byte was CR.
    Trailer(bool),
    EndLf,
    Over,
}

/// `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112, section 7.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extension {
    /// Whitespace before a semicolon.
    Before,
    /// After the semicolon.
    NameStart,
    Name,
    /// Whitespace after a name.
    NameOver,
    /// After the equals sign.
    ValueStart,
    Value,
    Quoted,
    Escaped,
    QuotedOver,
}

type Failure = (usize, Violation);

impl Default for Chunked {
    fn default() -> Self {
        Self::Size { size: 0, digits: 0 }
    }
}

impl Chunked {
    pub(super) fn is_over(self) -> bool {
        self == Self::Over
    }

    /// Reads on to the end of `bytes` or of the body; returns how many bytes that was.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<usize, Failure> {
        let mut at = 0;
        while at < bytes.len() && !self.is_over() {
            at += self.step(&bytes[at..]).map_err(|violation| (at, violation))?;
        }
        Ok(at)
    }

    /// Reads at least one byte.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let byte = bytes[0];
        *self = match *self {
            Self::Size { size, digits } => size_line(byte, size, digits)?,
            Self::Extension { bytes: EXTENSION_MAX, .. } => return Err(Violation::ChunkExtensionLong),
            Self::Extension { size, part, bytes } => match part.and(byte)? {
                Some(part) => Self::Extension { size, part, bytes: bytes + 1 },
                None => Self::SizeLf(size),
            },
            Self::SizeLf(size) if byte == b'\n' => {
                if size == 0 {
                    Self::TrailerStart
                } else {
                    Self::Data(size)
                }
            }
            Self::SizeLf(_) => return Err(Violation::ChunkLineEnd),
            Self::Data(left) => {
                let read = left.min(bytes.len() as u64);
                *self = if left == read { Self::DataCr } else { Self::Data(left - read) };
                // At most the length of `bytes`.
                return Ok(usize::try_from(read).unwrap_or(bytes.len()));
            }
            Self::DataCr if byte == b'\r' => Self::DataLf,
            Self::DataLf if byte == b'\n' => Self::default(),
            Self::DataCr | Self::DataLf => return Err(Violation::ChunkEnd),
            Self::TrailerStart => match byte {
                b'\r' => Self::EndLf,
                b'\n' => return Err(Violation::TrailerLineEnd),
                b' ' | b'\t' => return Err(Violation::TrailerFolded),
                _ => Self::Trailer(false),
            },
            Self::Trailer(after_cr) => return self.trailer(bytes, after_cr),
            Self::EndLf if byte == b'\n' => Self::Over,
            // hyper, too, takes no CR without LF here.
            Self::EndLf | Self::Over => return Err(Violation::TrailerLineEnd),
        };
        Ok(1)
    }

    fn trailer(&mut self, bytes: &[u8], after_cr: bool) -> Result<usize, Violation> {
        let Some(lf) = memchr(b'\n', bytes) else {
            *self = Self::Trailer(bytes.last() == Some(&b'\r'));
            return Ok(bytes.len());
        };
        let follows_cr = if lf == 0 { after_cr } else { bytes[lf - 1] == b'\r' };
        if !follows_cr {
            return Err(Violation::TrailerLineEnd);
        }
        *self = Self::TrailerStart;
        Ok(lf + 1)
    }
}

fn size_line(byte: u8, size: u64, digits: u8) -> Result<Chunked, Violation> {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        _ if digits == 0 => return Err(Violation::ChunkSize),
        b'\r' => return Ok(Chunked::SizeLf(size)),
        b'\n' => return Err(Violation::ChunkLineEnd),
        b';' => return Ok(Chunked::Extension { size, part: Extension::NameStart, bytes: 0 }),
        b' ' | b'\t' => return Ok(Chunked::Extension { size, part: Extension::Before, bytes: 0 }),
        _ => return Err(Violation::ChunkSize),
    };
    if digits == SIZE_DIGITS_MAX {
        return Err(Violation::ChunkSize);
    }
    Ok(Chunked::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
}

impl Extension {
    /// One byte further; `None` after the CR that ends the line.
    fn and(self, byte: u8) -> Result<Option<Self>, Violation> {
        if byte == b'\n' {
            return Err(Violation::ChunkLineEnd);
        }
        let space = matches!(byte, b' ' | b'\t');
        let next = match self {
            Self::Before | Self::Value | Self::QuotedOver if space => Self::Before,
            Self::NameStart if space => Self::NameStart,
            Self::NameStart | Self::Name if is_token(byte) => Self::Name,
            Self::Name | Self::NameOver if space => Self::NameOver,
            Self::Name | Self::NameOver if byte == b'=' => Self::ValueStart,
            Self::ValueStart if space => Self::ValueStart,
            Self::ValueStart if byte == b'"' => Self::Quoted,
            Self::ValueStart | Self::Value if is_token(byte) => Self::Value,
            Self::Quoted if byte == b'"' => Self::QuotedOver,
            Self::Quoted if byte == b'\\' => Self::Escaped,
            Self::Quoted | Self::Escaped if is_text(byte) => Self::Quoted,
            Self::Before | Self::Name | Self::NameOver | Self::Value | Self::QuotedOver if byte == b';' => {
                Self::NameStart
            }
            Self::Name | Self::Value | Self::QuotedOver if byte == b'\r' => return Ok(None),
            _ => return Err(Violation::ChunkExtension),
        };
        Ok(Some(next))
    }
}

/// RFC 9110, section 5.6.4, both `qdtext` and what may follow a backslash.
const fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}
