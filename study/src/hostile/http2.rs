//! Frames put together by hand: without them only those mistakes could be made that a client library makes.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::fleet::{Kind, describe};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// Error codes by number (RFC 9113 section 7).
const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// One frame (RFC 9113 section 4.1).
pub(super) fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&len[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}

/// The preface with settings.
pub(super) fn preface(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in settings {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &payload)].concat()
}

/// SETTINGS_INITIAL_WINDOW_SIZE.
pub(super) const INITIAL_WINDOW: u16 = 4;

/// The fields of `POST /echo`, as HPACK without a table (RFC 7541): `:method POST`, `:scheme http`, path and authority.
pub(super) fn post_echo() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    block.extend(literal(0x04, b"/echo"));
    block.extend(literal(0x01, b"hostile"));
    block
}

/// A literal without indexing whose name is entry `name` of the static table; `value` is shorter than 127 bytes.
pub(super) fn literal(name: u8, value: &[u8]) -> Vec<u8> {
    let len = u8::try_from(value.len()).unwrap_or(126).min(126);
    [&[name, len], &value[..usize::from(len)]].concat()
}

/// A server that refuses a request does so within this time.
const REFUSAL_MAX: Duration = Duration::from_millis(300);

/// Brings a client to the point from which on it only annoys.
pub(super) async fn begin(kind: Kind, mut stream: TcpStream) -> io::Result<TcpStream> {
    let no_window = kind == Kind::StalledResponse;
    let settings = [(INITIAL_WINDOW, 0)];
    let mut bytes = preface(if no_window { &settings } else { &[] });
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &post_echo()));
    if no_window {
        bytes.extend(frame(DATA, END_STREAM, 1, &[b'x'; 16 * 1024]));
    } else {
        bytes.extend(frame(DATA, 0, 1, b"x"));
    }
    bytes.extend(frame(SETTINGS, ACK, 0, &[]));
    stream.write_all(&bytes).await?;
    match timeout(REFUSAL_MAX, refusal(&mut stream)).await {
        Ok(why) => Err(io::Error::other(why?)),
        Err(_elapsed) => Ok(stream),
    }
}

/// Reads until the server ends the stream, and says how it did.
async fn refusal(stream: &mut TcpStream) -> io::Result<String> {
    let mut end = Ending::default();
    loop {
        match end.read_frame(stream).await? {
            Some(Notable::Reset) => return Ok(end.describe("refused")),
            Some(Notable::Ping(_) | Notable::Nothing) => {}
            None => return Ok(end.describe("closed")),
        }
    }
}

/// Answers pings, as every library does, and otherwise waits for the end.
pub(super) async fn hold_on(mut stream: TcpStream) -> String {
    let (mut reader, mut writer) = stream.split();
    let mut end = Ending::default();
    loop {
        match end.read_frame(&mut reader).await {
            // A stream that is reset is the end of what the client came for; the connection may stay.
            Ok(Some(Notable::Reset)) => return end.describe("stream ended"),
            Ok(Some(Notable::Ping(payload))) => {
                let pong = frame(PING, ACK, 0, &payload);
                if let Err(error) = writer.write_all(&pong).await {
                    return end.describe(&describe(&error));
                }
            }
            Ok(Some(Notable::Nothing)) => {}
            Ok(None) => return end.describe("closed"),
            Err(error) => return end.describe(&describe(&error)),
        }
    }
}

/// What a frame may be that a client acts on.
pub(super) enum Notable {
    Ping(Vec<u8>),
    Reset,
    Nothing,
}

/// What the server said before the end of a connection.
#[derive(Debug, Default)]
pub(super) struct Ending {
    goaway: Option<u32>,
    reset: Option<u32>,
}

impl Ending {
    /// Reads one frame; `None` at the end.
    pub(super) async fn read_frame(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<Option<Notable>> {
        let mut head = [0; 9];
        if let Err(error) = reader.read_exact(&mut head).await {
            return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
        }
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; len];
        reader.read_exact(&mut payload).await?;
        let code = |at: usize| {
            payload.get(at..at + 4).map(|code| u32::from_be_bytes([code[0], code[1], code[2], code[3]]))
        };
        match (head[3], head[4]) {
            (PING, flags) if flags & ACK == 0 => return Ok(Some(Notable::Ping(payload))),
            (GOAWAY, _) => self.goaway = code(4).or(self.goaway),
            (RST_STREAM, _) => {
                self.reset = code(0).or(self.reset);
                return Ok(Some(Notable::Reset));
            }
            _ => {}
        }
        Ok(Some(Notable::Nothing))
    }

    /// The end in words: what was said, and how the connection went.
    pub(super) fn describe(&self, end: &str) -> String {
        let name = |code: u32| CODES.get(code as usize).copied().unwrap_or("unknown code");
        match (self.goaway, self.reset) {
            (Some(code), _) => format!("GOAWAY {}, {end}", name(code)),
            (None, Some(code)) => format!("RST_STREAM {}, {end}", name(code)),
            (None, None) => end.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn an_end_is_named_by_what_the_server_said() {
        let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 11]);
        let bytes = [frame(SETTINGS, 0, 0, &[]), goaway].concat();
        let mut reader = bytes.as_slice();
        let mut end = Ending::default();
        while end.read_frame(&mut reader).await.unwrap().is_some() {}
        assert_eq!(end.describe("closed"), "GOAWAY ENHANCE_YOUR_CALM, closed");
    }

    #[test]
    fn frames_have_the_form_of_the_rfc() {
        assert_eq!(frame(PING, 1, 3, b"12"), [0, 0, 2, 6, 1, 0, 0, 0, 3, b'1', b'2']);
        assert_eq!(literal(4, b"/echo"), b"\x04\x05/echo");
    }
}
