//! Who has which bytes of a long range of addresses: an allocator as a pure state machine.
//!
//! It never touches the memory that it gives out, so its own data costs no page there, and any byte there may be on another host. What it
//! says must be done about the memory ([`Heap::give`]) is the caller's to do. No I/O, no clock, no threads, no `unsafe`.
//!
//! | file | what |
//! |---|---|
//! | `lib.rs` | which of three rooms a block is in |
//! | `classes.rs` | the sizes of small blocks |
//! | `slabs.rs` | small blocks: slabs of 64 KiB, each of blocks of one size |
//! | `spans.rs` | the others, and the slabs: runs of granules (pages, regions, slabs) |
//!
//! A block's life:
//! 1. *clean*: nobody has touched it since the range was new or the memory was given back. It reads as zeros and costs nothing;
//! 2. *live*: from [`Heap::take`] to [`Heap::give`];
//! 3. *kept*: free, its memory is still there. The next taker finds old bytes, and needs no page fault. All that is kept is bounded;
//! 4. *leaving*: the caller is giving its memory back, and nobody can have it; [`Heap::discarded`] makes it clean.
//!
//! Invariants (`tests/model.rs`):
//! - live blocks are disjoint, inside the range, and as long as was asked for;
//! - a block that is said to be zeros is clean: nobody has had its bytes since they were given back;
//! - what is kept is no more than the limit after every step.

#![forbid(unsafe_code)]

mod classes;
mod slabs;
mod spans;

use std::ops::Range;

use slabs::Slabs;
use spans::Spans;

/// What starts and lengths of pages' runs are multiples of.
pub const PAGE_BYTES: u64 = 4096;
/// Blocks of so many bytes or more begin at a multiple of it: the unit in which hosts keep the directory.
pub const REGION_BYTES: u64 = 2 << 20;
/// All blocks begin at a multiple of it.
pub const ALIGNMENT: u64 = 64;

/// No range is shorter.
pub const BYTES_MIN: u64 = SMALL_PART * REGION_BYTES;

/// What part of the range, and of the limit, small blocks have; and blocks of pages have.
const SMALL_PART: u64 = 8;

/// A block given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Its first address.
    pub address: u64,
    /// Whether all its bytes are zeros without being touched.
    pub zeros: bool,
}

/// An address at which no block begins that is given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotGivenOut;

/// See the module.
#[derive(Debug)]
pub struct Heap {
    small: Slabs,
    pages: Spans,
    regions: Spans,
    blocks: usize,
}

impl Heap {
    /// A heap of the `bytes` addresses from `start` on, all clean; of free memory it keeps up to `kept_bytes_max`.
    ///
    /// # Panics
    /// If the range is not of whole regions, or shorter than [`BYTES_MIN`].
    pub fn new(start: u64, bytes: u64, kept_bytes_max: u64) -> Self {
        assert!(start.is_multiple_of(REGION_BYTES) && bytes.is_multiple_of(REGION_BYTES), "regions");
        assert!(bytes >= BYTES_MIN, "too short for a heap");
        let part = bytes / SMALL_PART / REGION_BYTES * REGION_BYTES;
        let kept_part = kept_bytes_max / SMALL_PART;
        Self {
            small: Slabs::new(start, part, kept_part),
            pages: Spans::new(start + part, part, PAGE_BYTES, kept_part),
            regions: Spans::new(
                start + 2 * part,
                bytes - 2 * part,
                REGION_BYTES,
                kept_bytes_max - 2 * kept_part,
            ),
            blocks: 0,
        }
    }

    /// A block of `bytes` (at least one), with `zeros` best one that is clean; `None` if no addresses are free for it.
    pub fn take(&mut self, bytes: u64, zeros: bool) -> Option<Block> {
        let bytes = bytes.max(1);
        let block = if bytes <= classes::SMALL_BYTES_MAX {
            self.small.take(bytes)
        } else if bytes < REGION_BYTES {
            // To fill these with zeros costs less than a page fault for each page.
            self.pages.take(bytes, false)
        } else {
            self.regions.take(bytes, zeros)
        }?;
        self.blocks += 1;
        Some(block)
    }

    /// Takes a block back, by its address: the ranges (whole pages) whose memory is to be given back now, which are *leaving*.
    ///
    /// # Errors
    /// [`NotGivenOut`], and nothing has changed.
    pub fn give(&mut self, address: u64) -> Result<Vec<Range<u64>>, NotGivenOut> {
        let leaving = if self.small.holds(address) {
            self.small.give(address)
        } else {
            self.spans_of(address).give(address)
        }?;
        self.blocks -= 1;
        Ok(leaving)
    }

    /// The memory of a range that was leaving has been given back: it is clean.
    pub fn discarded(&mut self, range: Range<u64>) {
        if self.small.holds(range.start) {
            self.small.discarded(range);
        } else {
            self.spans_of(range.start).discarded(range);
        }
    }

    /// How many bytes a block may be used for, at least what was asked for.
    ///
    /// # Errors
    /// [`NotGivenOut`].
    pub fn length(&self, address: u64) -> Result<u64, NotGivenOut> {
        if self.small.holds(address) {
            self.small.length(address)
        } else if self.pages.holds(address) {
            self.pages.length(address)
        } else {
            self.regions.length(address)
        }
    }

    /// Makes a block longer or shorter where it is; `false` if that cannot be, or wastes half, and a new one must be taken.
    ///
    /// # Errors
    /// [`NotGivenOut`].
    pub fn resize(&mut self, address: u64, bytes: u64) -> Result<bool, NotGivenOut> {
        let (bytes, length) = (bytes.max(1), self.length(address)?);
        if bytes <= length {
            return Ok(bytes > length / 2);
        }
        if self.small.holds(address) {
            return Ok(false);
        }
        self.spans_of(address).extend(address, bytes)
    }

    /// How many blocks are given out.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Bytes of memory that are free and kept.
    pub fn kept_bytes(&self) -> u64 {
        self.small.kept_bytes() + self.pages.kept_bytes() + self.regions.kept_bytes()
    }

    fn spans_of(&mut self, address: u64) -> &mut Spans {
        if self.pages.holds(address) { &mut self.pages } else { &mut self.regions }
    }
}
