//! An HTTP/2 client that sends exactly the frames that it is told to.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use crate::harness::PATIENCE;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// RFC 9113, section 7.
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const SETTINGS_TIMEOUT: u32 = 4;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;
pub(crate) const HTTP_1_1_REQUIRED: u32 = 13;

/// `GET http://a/`, in the static table of HPACK.
pub(crate) const GET: &[u8] = b"\x82\x86\x84\x41\x01a";
/// `POST http://a/echo`
pub(crate) const POST_ECHO: &[u8] = b"\x83\x86\x44\x05/echo\x41\x01a";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error code of a GOAWAY or a RST_STREAM.
    pub(crate) fn code(&self) -> u32 {
        let code = &self.payload[if self.kind == GOAWAY { 4..8 } else { 0..4 }];
        u32::from_be_bytes(code.try_into().unwrap())
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(crate) struct Frames {
    pub(crate) stream: TcpStream,
}

impl Frames {
    /// Connects and says hello, with these settings.
    pub(crate) fn greet(addr: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut frames = Self::connect(addr);
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        frames.send(PREFACE);
        frames.send(&frame(SETTINGS, 0, 0, &payload));
        frames
    }

    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// The server may have had enough already; what it says then is read by the test.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return None,
            Err(e) => panic!("waited for a frame: {e}"),
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.stream.read_exact(&mut payload).unwrap();
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame that fits; panics where the connection ends before.
    pub(crate) fn find(&mut self, fits: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let Some(frame) = self.next() else {
                panic!("the connection ended before the frame that was waited for")
            };
            if fits(&frame) {
                return frame;
            }
        }
    }

    /// The error that the server ends the connection with: a GOAWAY, then the end, and no reset.
    pub(crate) fn last_error(&mut self) -> u32 {
        let code = self.find(|frame| frame.kind == GOAWAY).code();
        while let Some(frame) = self.next() {
            assert_ne!(frame.kind, HEADERS, "nothing is answered after a GOAWAY for an error");
        }
        code
    }

    /// Asks with `block`, and waits for the end of the answer; returns its body.
    pub(crate) fn ask(&mut self, stream: u32, block: &[u8]) -> Vec<u8> {
        assert!(self.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, block)));
        self.answer(stream)
    }

    /// The body of the answer on this stream.
    pub(crate) fn answer(&mut self, stream: u32) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let frame = self
                .find(|frame| frame.stream == stream && matches!(frame.kind, DATA | HEADERS | RST_STREAM));
            assert_ne!(frame.kind, RST_STREAM, "stream {stream}: {}", frame.code());
            if frame.kind == DATA {
                body.extend(&frame.payload);
            }
            if frame.flags & END_STREAM != 0 {
                return body;
            }
        }
    }
}
