//! What a client can get wrong in HTTP/1.1's framing, and what it is told: without one list, each check has words and
//! a status of its own.

use http::StatusCode;

/// A breach of HTTP/1.1's syntax. Stored as its number, so that a connection carries one byte for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Violation {
    /// hyper's own 400: a byte that a head may not have.
    Engine = 1,
    /// hyper's own 414.
    EngineTarget,
    /// hyper's own 431.
    EngineHead,
    EmptyLines,
    RequestLine,
    Target,
    NoVersion,
    Version,
    VersionUnsupported,
    BareLf,
    BareCr,
    Folded,
    LeadingSpace,
    SpaceBeforeColon,
    Length,
    LengthTwice,
    LengthAndCoding,
    Coding,
    CodingTwice,
    CodingUnknown,
    CodingOn10,
    ChunkSize,
    ChunkExtension,
    ChunkExtensionLong,
    ChunkEnd,
    ChunkLineEnd,
    TrailerLineEnd,
    TrailerFolded,
}

impl Violation {
    const ALL: [Self; 28] = [
        Self::Engine,
        Self::EngineTarget,
        Self::EngineHead,
        Self::EmptyLines,
        Self::RequestLine,
        Self::Target,
        Self::NoVersion,
        Self::Version,
        Self::VersionUnsupported,
        Self::BareLf,
        Self::BareCr,
        Self::Folded,
        Self::LeadingSpace,
        Self::SpaceBeforeColon,
        Self::Length,
        Self::LengthTwice,
        Self::LengthAndCoding,
        Self::Coding,
        Self::CodingTwice,
        Self::CodingUnknown,
        Self::CodingOn10,
        Self::ChunkSize,
        Self::ChunkExtension,
        Self::ChunkExtensionLong,
        Self::ChunkEnd,
        Self::ChunkLineEnd,
        Self::TrailerLineEnd,
        Self::TrailerFolded,
    ];

    /// The violation with this number, if there is one.
    pub(crate) fn numbered(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|violation| *violation as u8 == number)
    }

    /// Whether the request had begun: its body is broken then, and a refusal of the head would be an answer too many.
    pub(crate) const fn is_in_body(self) -> bool {
        self as u8 >= Self::ChunkSize as u8
    }

    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::EngineTarget => StatusCode::URI_TOO_LONG,
            Self::EngineHead => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::VersionUnsupported => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::CodingUnknown => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// What the client is told, with the rule that it broke.
    pub(crate) const fn detail(self) -> &'static str {
        match self {
            Self::Engine => "the request head is not valid HTTP/1.1",
            Self::EngineTarget => "the request target is too large (--header-max)",
            Self::EngineHead => "the request head is too large (--header-max)",
            Self::EmptyLines => "more than one empty line before the request line (RFC 9112, section 2.2)",
            Self::RequestLine => {
                "the request line is not method, one space, target, one space, version (RFC 9112, section 3)"
            }
            Self::Target => {
                "the request target has a byte that must be percent-encoded (RFC 9112, section 3.2)"
            }
            Self::NoVersion => "the request line has no HTTP version (RFC 9112, section 3)",
            Self::Version => "the HTTP version is malformed; it is written HTTP/1.1 (RFC 9112, section 2.3)",
            Self::VersionUnsupported => {
                "this HTTP version is not spoken in this form, HTTP/1.0 and HTTP/1.1 are (RFC 9110, section 15.6.6)"
            }
            Self::BareLf => "a line of the head ends with LF alone, not CR LF (RFC 9112, section 2.2)",
            Self::BareCr => "a CR in the head is not followed by LF (RFC 9112, section 2.2)",
            Self::Folded => "a field line is folded (RFC 9112, section 5.2)",
            Self::LeadingSpace => "whitespace before the first field line (RFC 9112, section 2.2)",
            Self::SpaceBeforeColon => "whitespace between field name and colon (RFC 9112, section 5.1)",
            Self::Length => "Content-Length is not a decimal number (RFC 9110, section 8.6)",
            Self::LengthTwice => "more than one Content-Length (RFC 9112, section 6.3)",
            Self::LengthAndCoding => "Content-Length and Transfer-Encoding together (RFC 9112, section 6.1)",
            Self::Coding => "Transfer-Encoding does not end in one chunked (RFC 9112, section 6.3)",
            Self::CodingTwice => "more than one Transfer-Encoding (RFC 9112, section 6.1)",
            Self::CodingUnknown => "a transfer coding other than chunked (RFC 9112, section 6.1)",
            Self::CodingOn10 => "Transfer-Encoding on HTTP/1.0 (RFC 9112, section 6.1)",
            Self::ChunkSize => {
                "a chunk size is not a hexadecimal number of at most 16 digits (RFC 9112, section 7.1)"
            }
            Self::ChunkExtension => "a chunk extension is malformed (RFC 9112, section 7.1.1)",
            Self::ChunkExtensionLong => {
                "the extensions of a chunk are longer than 256 bytes (RFC 9112, section 7.1.1)"
            }
            Self::ChunkEnd => "a chunk's data is not followed by CR LF (RFC 9112, section 7.1)",
            Self::ChunkLineEnd => "a chunk-size line does not end with CR LF (RFC 9112, section 7.1)",
            Self::TrailerLineEnd => {
                "a line of the trailers does not end with CR LF (RFC 9112, section 7.1.2)"
            }
            Self::TrailerFolded => "a trailer field is folded (RFC 9112, section 5.2)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_violation_is_found_by_its_number() {
        for (place, violation) in Violation::ALL.into_iter().enumerate() {
            assert_eq!(violation as usize, place + 1);
            assert_eq!(Violation::numbered(violation as u8), Some(violation));
            assert!(violation.status().is_client_error() || violation.status().is_server_error());
            assert!(violation.detail().is_ascii() && !violation.detail().contains('"'));
        }
        assert_eq!(Violation::numbered(0), None);
    }
}
