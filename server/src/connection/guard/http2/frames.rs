//! Finds the frames in a stream of bytes by their heads; payloads are skipped by their lengths.

/// Types of frames (RFC 9113, section 6).
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0x0;
    pub(crate) const HEADERS: u8 = 0x1;
    pub(crate) const RST_STREAM: u8 = 0x3;
    pub(crate) const SETTINGS: u8 = 0x4;
    pub(crate) const GOAWAY: u8 = 0x7;
    pub(crate) const CONTINUATION: u8 = 0x9;
}

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

/// Bytes of a frame's head (RFC 9113, section 4.1).
const HEAD: usize = 9;
const PREFACE: u32 = 24;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) length: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl Head {
    fn parse([a, b, c, kind, flags, stream @ ..]: [u8; HEAD]) -> Self {
        // The highest bit of the stream is reserved and ignored.
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        Self { length: u32::from_be_bytes([0, a, b, c]), kind, flags, stream }
    }

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A place in a stream of frames, fed in pieces of any size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frames {
    /// What has come of a head.
    head: [u8; HEAD],
    filled: u8,
    /// Bytes of payload that are still to come.
    left: u32,
}

impl Frames {
    /// The stream of a client, which begins with a preface.
    pub(super) fn after_preface() -> Self {
        Self { left: PREFACE, ..Self::default() }
    }

    /// Reads on, at least one byte: to the end of a payload, or to the end of a head, which is returned.
    pub(super) fn step(&mut self, bytes: &[u8]) -> (usize, Option<Head>) {
        if self.left > 0 {
            let read = self.left.min(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            self.left -= read;
            return (read as usize, None);
        }
        let filled = usize::from(self.filled);
        if filled == 0
            && let Some(whole) = bytes.first_chunk::<HEAD>()
        {
            return (HEAD, Some(self.begin(*whole)));
        }
        let read = bytes.len().min(HEAD - filled);
        self.head[filled..filled + read].copy_from_slice(&bytes[..read]);
        if filled + read < HEAD {
            // Below nine.
            self.filled += u8::try_from(read).unwrap_or(0);
            return (read, None);
        }
        self.filled = 0;
        (read, Some(self.begin(self.head)))
    }

    fn begin(&mut self, head: [u8; HEAD]) -> Head {
        let head = Head::parse(head);
        self.left = head.length;
        head
    }

    /// Whether the last frame is complete and no other has begun.
    pub(crate) fn is_between(&self) -> bool {
        self.left == 0 && self.filled == 0
    }

    /// Bytes up to which the frame that has begun goes on for sure.
    pub(crate) fn certain(&self) -> usize {
        match self.filled {
            0 => self.left as usize,
            filled => HEAD - usize::from(filled),
        }
    }
}
