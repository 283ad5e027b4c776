//! Frames: how messages lie in the byte stream between two hosts.
//!
//! ```text
//! 0        3 4         8                8 + length
//! ├────────┬─┼─────────┼────────────────┤
//! │ length │k│  epoch  │ payload        │    little-endian; k is the kind (the top byte of the first u32)
//! └────────┴─┴─────────┴────────────────┘
//! ```
//!
//! Invariant of [`FrameBuffer`]: `start <= end <= bytes.len()`; a frame begins at `start`.

use coherence::Epoch;

/// Largest message.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes that the fabric adds to each message.
pub const FRAME_HEADER_BYTES: usize = 8;
/// Receive buffer at first; it grows only for a message that does not fit.
const BUFFER_BYTES: usize = 256 << 10;

/// What a frame is for. All but `Message` are the fabric's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The user's bytes.
    Message = 0,
    /// Sign of life; empty.
    KeepAlive = 1,
    /// To home: all my links stand; empty.
    Ready = 2,
    /// To home: I cannot link; host u16, kind u8, text.
    Failed = 3,
    /// From home: every host is ready; empty.
    Stands = 4,
    /// The end of this stream is meant; empty.
    Goodbye = 5,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        use Kind::{Failed, Goodbye, KeepAlive, Message, Ready, Stands};
        [Message, KeepAlive, Ready, Failed, Stands, Goodbye].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Appends a frame whose payload is the concatenation of `parts`.
pub(crate) fn append(out: &mut Vec<u8>, kind: Kind, epoch: Epoch, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    assert!(length <= MESSAGE_BYTES_MAX, "a message of {length} bytes; the largest is {MESSAGE_BYTES_MAX}");
    out.reserve(FRAME_HEADER_BYTES + length);
    out.extend_from_slice(&(length as u32 | (kind as u32) << 24).to_le_bytes());
    out.extend_from_slice(&epoch.0.to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// A frame in a [`FrameBuffer`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: Kind,
    pub(crate) epoch: Epoch,
    pub(crate) payload: &'a [u8],
}

/// Bytes that no sender of this protocol writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAFrame(pub(crate) u32);

/// Collects the stream and gives its frames as slices of itself.
pub(crate) struct FrameBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl FrameBuffer {
    pub(crate) fn new() -> FrameBuffer {
        FrameBuffer { bytes: vec![0; BUFFER_BYTES], start: 0, end: 0 }
    }

    /// Room to read into; never empty. Call it only when [`FrameBuffer::next`] has given `None`.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let frame_bytes = self.frame_bytes().unwrap_or(FRAME_HEADER_BYTES);
        // Move the piece of a frame to the front if the frame would not fit, or reads would become small.
        if self.start > 0
            && (self.start + frame_bytes > self.bytes.len() || self.bytes.len() - self.end < BUFFER_BYTES / 2)
        {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if frame_bytes > self.bytes.len() {
            self.bytes.resize(frame_bytes.next_power_of_two(), 0);
        }
        &mut self.bytes[self.end..]
    }

    /// `count` bytes have been read into [`FrameBuffer::space`].
    pub(crate) fn filled(&mut self, count: usize) {
        self.end += count;
        assert!(self.end <= self.bytes.len());
    }

    /// The next whole frame, if there is one.
    pub(crate) fn next(&mut self) -> Result<Option<Frame<'_>>, NotAFrame> {
        let Some(word) = self.word(0) else { return Ok(None) };
        let kind = Kind::from_byte((word >> 24) as u8).ok_or(NotAFrame(word))?;
        let length = (word & 0x00ff_ffff) as usize;
        if length > MESSAGE_BYTES_MAX {
            return Err(NotAFrame(word));
        }
        let payload = self.start + FRAME_HEADER_BYTES;
        let Some(epoch) = self.word(4).filter(|_| payload + length <= self.end) else { return Ok(None) };
        self.start = payload + length;
        Ok(Some(Frame { kind, epoch: Epoch(epoch), payload: &self.bytes[payload..payload + length] }))
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes[self.start..self.end].get(at..at + 4)?;
        Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Bytes of the frame at `start`, header included, once its length is known (and was found sane by `next`).
    fn frame_bytes(&self) -> Option<usize> {
        self.word(0).map(|word| FRAME_HEADER_BYTES + (word & 0x00ff_ffff) as usize)
    }
}
