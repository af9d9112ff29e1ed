//! Counts the frames of an HTTP/2 client before h2 works on them: frames that cost us and move nothing are how one
//! connection takes a core, and h2 bounds only some of them.

mod budget;
mod frames;

use self::budget::Budget;
pub(crate) use self::frames::Frames;
use self::frames::{Head, kind};
use crate::config::Config;

/// Frames of control that a request which we answer, or a piece of body that we send, pays for: two updates of windows,
/// and a ping or two that measure the line.
const PAID_BY_OUR_FRAME: u32 = 4;
/// And a piece of body that the client sends.
const PAID_BY_DATA: u32 = 1;
/// A change of settings is answered, and may touch every stream.
const COST_OF_SETTINGS: u32 = 4;
/// A header block may be this many times as long as the header list that it may hold: below that, h2 answers 431.
const BLOCK_PER_LIST: u64 = 4;

/// What an HTTP/2 client may send (config/settings.rs).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Frames of control per second, beyond those that work pays for.
    pub(crate) control_frames: u32,
    /// RST_STREAM per second, beyond one per answered request.
    pub(crate) resets: u32,
    /// CONTINUATION per header block.
    pub(crate) continuations: u32,
    /// Bytes of one header block.
    pub(crate) block_bytes: u64,
}

impl Limits {
    pub(crate) fn of(config: &Config) -> Self {
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Self {
            control_frames: small(config.http2_control_frames_max),
            resets: small(config.http2_resets_max),
            continuations: small(config.http2_continuations_max),
            block_bytes: config.header_max.saturating_mul(BLOCK_PER_LIST),
        }
    }
}

/// What a client does too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flood {
    Control,
    Resets,
    HeaderBlock,
}

/// Where the client's frames must not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMuch {
    pub(crate) flood: Flood,
    /// How many of the bytes are still for h2. The frame that is too much is not.
    pub(crate) valid: usize,
}

/// What one HTTP/2 client has sent, and been sent. Pure: time is handed in, in nanoseconds since any begin.
#[derive(Debug)]
pub(crate) struct Http2 {
    limits: Limits,
    incoming: Frames,
    outgoing: Frames,
    control: Budget,
    resets: Budget,
    block: Option<Block>,
    blocks: u32,
    /// The client's SETTINGS have come (RFC 9113, section 3.4).
    is_greeted: bool,
    last_stream: u32,
}

/// The header block that is being received.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    bytes: u64,
    continuations: u32,
    /// END_HEADERS has been seen; the frame's payload may still be on its way.
    is_last_frame: bool,
}

impl Http2 {
    /// Before the preface.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            control: Budget::new(limits.control_frames),
            resets: Budget::new(limits.resets),
            limits,
            incoming: Frames::after_preface(),
            outgoing: Frames::default(),
            block: None,
            blocks: 0,
            is_greeted: false,
            last_stream: 0,
        }
    }

    /// The client has sent this.
    ///
    /// # Errors
    /// The first frame that is too much. There is nothing to be read after it.
    pub(crate) fn read(&mut self, bytes: &[u8], now: u64) -> Result<(), TooMuch> {
        let mut at = 0;
        while at < bytes.len() {
            let (read, head) = self.incoming.step(&bytes[at..]);
            if let Some(head) = head
                && let Err(flood) = self.received(head, now)
            {
                // Torn from the bytes of its head that came earlier, the frame stays incomplete: h2 waits for the rest.
                return Err(TooMuch { flood, valid: at });
            }
            at += read;
            if self.incoming.is_between() && self.block.is_some_and(|block| block.is_last_frame) {
                self.block = None;
            }
        }
        Ok(())
    }

    /// The client has been sent this.
    pub(crate) fn wrote(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (read, head) = self.outgoing.step(bytes);
            bytes = &bytes[read..];
            match head {
                Some(Head { kind: kind::HEADERS, .. }) => {
                    self.control.earn(PAID_BY_OUR_FRAME);
                    self.resets.earn(1);
                }
                Some(Head { kind: kind::DATA, length: 1.., .. }) => self.control.earn(PAID_BY_OUR_FRAME),
                _ => {}
            }
        }
    }

    /// What we write: a frame of ours can stand only between two others.
    pub(crate) fn outgoing(&self) -> &Frames {
        &self.outgoing
    }

    /// The number of the thing that we wait for, without which nothing else can come: the client's SETTINGS (0), or the
    /// rest of a header block.
    pub(crate) fn awaits(&self) -> Option<u32> {
        (!self.is_greeted || self.block.is_some()).then_some(self.blocks)
    }

    /// The last stream that the client has begun.
    pub(crate) fn last_stream(&self) -> u32 {
        self.last_stream
    }

    fn received(&mut self, head: Head, now: u64) -> Result<(), Flood> {
        let cost = match head.kind {
            kind::DATA if head.length > 0 => {
                self.control.earn(PAID_BY_DATA);
                return Ok(());
            }
            // The end of a stream, which is work.
            kind::DATA if head.has(frames::END_STREAM) => return Ok(()),
            kind::HEADERS => {
                self.last_stream = self.last_stream.max(head.stream);
                self.blocks = self.blocks.wrapping_add(1).max(1);
                return self.block_goes_on(Block::default(), head);
            }
            kind::CONTINUATION => {
                let Block { bytes, continuations, .. } = self.block.unwrap_or_default();
                let block = Block { bytes, continuations: continuations + 1, is_last_frame: false };
                return self.block_goes_on(block, head);
            }
            kind::RST_STREAM => {
                return if self.resets.spend(1, now) { Ok(()) } else { Err(Flood::Resets) };
            }
            kind::SETTINGS => {
                self.is_greeted = true;
                COST_OF_SETTINGS
            }
            _ => 1,
        };
        if self.control.spend(cost, now) { Ok(()) } else { Err(Flood::Control) }
    }

    fn block_goes_on(&mut self, mut block: Block, head: Head) -> Result<(), Flood> {
        block.bytes += u64::from(head.length);
        block.is_last_frame = head.has(frames::END_HEADERS);
        if block.continuations > self.limits.continuations || block.bytes > self.limits.block_bytes {
            return Err(Flood::HeaderBlock);
        }
        self.block = Some(block);
        Ok(())
    }
}

/// GOAWAY (RFC 9113, section 6.8).
pub(crate) fn goaway(last_stream: u32, code: ErrorCode) -> Vec<u8> {
    let mut frame = vec![0, 0, 8, kind::GOAWAY, 0, 0, 0, 0, 0];
    frame.extend(last_stream.to_be_bytes());
    frame.extend((code as u32).to_be_bytes());
    frame
}

/// An empty SETTINGS: what each side says first (RFC 9113, section 3.4).
pub(crate) const SETTINGS: [u8; 9] = [0, 0, 0, kind::SETTINGS, 0, 0, 0, 0, 0];

/// RFC 9113, section 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorCode {
    SettingsTimeout = 0x4,
    EnhanceYourCalm = 0xb,
    Http11Required = 0xd,
}

#[cfg(test)]
mod tests;
