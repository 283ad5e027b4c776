//! Frames: what the directory knows of the bytes of pages. A page's entry points at a frame, or at none while
//! nobody has touched the page.

use crate::HostId;
use crate::hosts::HostSet;

/// The bytes of one page version, and who has them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Frame {
    /// Who has the authoritative copy. It may write if `sharers` is empty.
    pub(crate) owner: HostId,
    /// How many pages point here. 1 until pages can be cloned.
    pub(crate) refs: u32,
    /// Who else has a copy to read; never contains `owner`.
    pub(crate) sharers: HostSet,
}

const _: () = assert!(size_of::<Frame>() <= 32, "a frame is paid for every touched page");

/// A frame's number; `FrameIndex::NONE` says that the page is untouched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameIndex(u32);

impl FrameIndex {
    pub(crate) const NONE: FrameIndex = FrameIndex(u32::MAX);
}

/// All frames of a directory host. Grows by whole chunks, so that no growth ever copies what there is.
#[derive(Clone, Default, Debug)]
pub(crate) struct Frames {
    chunks: Vec<Vec<Frame>>,
    free: Vec<FrameIndex>,
}

// Small under Miri, which needs a minute for chunks of this size.
const CHUNK_SHIFT: u32 = if cfg!(miri) { 4 } else { 12 };
const CHUNK_FRAMES: usize = 1 << CHUNK_SHIFT;

impl Frames {
    /// Makes a frame that one page points at and `owner` alone has.
    pub(crate) fn make(&mut self, owner: HostId) -> FrameIndex {
        let frame = Frame { owner, refs: 1, sharers: HostSet::default() };
        if let Some(index) = self.free.pop() {
            *self.get_mut(index).expect("a freed index lies in a chunk") = frame;
            return index;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK_FRAMES) {
            // The first chunk grows as it is needed: a directory of a few pages stays small.
            self.chunks.push(if self.chunks.is_empty() {
                Vec::new()
            } else {
                Vec::with_capacity(CHUNK_FRAMES)
            });
        }
        let number = (self.chunks.len() - 1) * CHUNK_FRAMES;
        let chunk = self.chunks.last_mut().expect("just made");
        chunk.push(frame);
        let index = u32::try_from(number + chunk.len() - 1).ok().filter(|index| *index != u32::MAX);
        FrameIndex(index.expect("fewer than 2^32 - 1 frames: 16 TiB of touched pages per directory host"))
    }

    pub(crate) fn get(&self, index: FrameIndex) -> Option<&Frame> {
        self.chunks.get((index.0 >> CHUNK_SHIFT) as usize)?.get(index.0 as usize & (CHUNK_FRAMES - 1))
    }

    pub(crate) fn get_mut(&mut self, index: FrameIndex) -> Option<&mut Frame> {
        self.chunks.get_mut((index.0 >> CHUNK_SHIFT) as usize)?.get_mut(index.0 as usize & (CHUNK_FRAMES - 1))
    }

    /// A page no longer points at the frame.
    pub(crate) fn release(&mut self, index: FrameIndex) {
        if let Some(frame) = self.get_mut(index) {
            frame.refs -= 1;
            if frame.refs == 0 {
                frame.sharers.clear();
                self.free.push(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_frames_are_used_again_and_none_is_no_frame() {
        let mut frames = Frames::default();
        let made: Vec<_> = (0..3 * CHUNK_FRAMES).map(|n| frames.make(HostId(n as u16))).collect();
        for (n, index) in made.iter().enumerate() {
            assert_eq!(frames.get(*index).map(|frame| frame.owner), Some(HostId(n as u16)));
        }
        assert!(frames.get(FrameIndex::NONE).is_none());
        frames.release(made[5]);
        assert_eq!(frames.make(HostId(9)), made[5]);
    }
}
