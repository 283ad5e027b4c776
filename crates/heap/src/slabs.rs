//! Small blocks: slabs of 64 KiB, each of blocks of one size. What is free in a slab is a bit of ours, not a word of its memory.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::classes::{self, CLASSES};
use crate::spans::Spans;
use crate::{ALIGNMENT, Block, NotGivenOut};

const SLAB_BYTES: u64 = 64 << 10;
const WORDS: usize = (SLAB_BYTES / ALIGNMENT) as usize / 64;

#[derive(Debug)]
pub struct Slabs {
    start: u64,
    /// Gives out slabs.
    spans: Spans,
    /// By their places in the range. Slabs are given out from its front, so this is no longer than it has to be.
    slabs: Vec<Option<Box<Slab>>>,
    /// Of each class, the slabs that have a free block.
    open: [BTreeSet<u32>; CLASSES],
}

#[derive(Debug)]
struct Slab {
    class: usize,
    /// How many blocks are given out.
    used: u32,
    /// A bit for each block: whether it is free.
    free: [u64; WORDS],
    /// Blocks from this one on are clean.
    clean_from: u32,
}

impl Slab {
    fn new(class: usize, zeros: bool) -> Self {
        let blocks = capacity(class);
        let mut free = [0; WORDS];
        for (at, word) in free.iter_mut().enumerate() {
            let here = blocks.saturating_sub(at as u32 * 64).min(64);
            *word = if here == 64 { u64::MAX } else { (1 << here) - 1 };
        }
        Self { class, used: 0, free, clean_from: if zeros { 0 } else { blocks } }
    }

    /// The first free block, and whether it is clean; there is one.
    fn take(&mut self) -> (u32, bool) {
        let at = self.free.iter().position(|&word| word != 0).expect("an open slab has a free block");
        let block = at as u32 * 64 + self.free[at].trailing_zeros();
        self.free[at] &= self.free[at] - 1;
        self.used += 1;
        let zeros = block >= self.clean_from;
        self.clean_from = self.clean_from.max(block + 1);
        (block, zeros)
    }

    fn is_free(&self, block: u32) -> bool {
        self.free[block as usize / 64] >> (block % 64) & 1 == 1
    }

    fn give(&mut self, block: u32) {
        self.free[block as usize / 64] |= 1 << (block % 64);
        self.used -= 1;
    }
}

fn capacity(class: usize) -> u32 {
    SLAB_BYTES as u32 / classes::bytes_of(class) as u32
}

impl Slabs {
    pub fn new(start: u64, bytes: u64, kept_bytes_max: u64) -> Self {
        Self {
            start,
            spans: Spans::new(start, bytes, SLAB_BYTES, kept_bytes_max),
            slabs: Vec::new(),
            open: [const { BTreeSet::new() }; CLASSES],
        }
    }

    pub fn holds(&self, address: u64) -> bool {
        self.spans.holds(address)
    }

    pub fn take(&mut self, bytes: u64) -> Option<Block> {
        let class = classes::class_of(bytes);
        let at = match self.open[class].first() {
            Some(&at) => at,
            None => self.add(class)?,
        };
        let slab = self.slabs[at as usize].as_mut().expect("an open slab");
        let (block, zeros) = slab.take();
        if slab.used == capacity(class) {
            self.open[class].remove(&at);
        }
        let address = self.start + u64::from(at) * SLAB_BYTES + u64::from(block) * classes::bytes_of(class);
        Some(Block { address, zeros })
    }

    fn add(&mut self, class: usize) -> Option<u32> {
        let span = self.spans.take(SLAB_BYTES, false)?;
        let at = (span.address - self.start) / SLAB_BYTES;
        if self.slabs.len() <= at as usize {
            self.slabs.resize_with(at as usize + 1, || None);
        }
        self.slabs[at as usize] = Some(Box::new(Slab::new(class, span.zeros)));
        self.open[class].insert(at as u32);
        Some(at as u32)
    }

    pub fn give(&mut self, address: u64) -> Result<Vec<Range<u64>>, NotGivenOut> {
        let (at, block) = self.find(address)?;
        let slab = self.slabs[at as usize].as_mut().ok_or(NotGivenOut)?;
        let class = slab.class;
        if slab.used == capacity(class) {
            self.open[class].insert(at);
        }
        slab.give(block);
        let is_empty = slab.used == 0;
        // The last slab that has room stays, so that one block that comes and goes takes no slab each time.
        if !is_empty || self.open[class].len() == 1 {
            return Ok(Vec::new());
        }
        self.open[class].remove(&at);
        self.slabs[at as usize] = None;
        self.spans.give(self.start + u64::from(at) * SLAB_BYTES)
    }

    pub fn length(&self, address: u64) -> Result<u64, NotGivenOut> {
        let (at, _) = self.find(address)?;
        let slab = self.slabs[at as usize].as_ref().ok_or(NotGivenOut)?;
        Ok(classes::bytes_of(slab.class))
    }

    pub fn discarded(&mut self, range: Range<u64>) {
        self.spans.discarded(range);
    }

    pub fn kept_bytes(&self) -> u64 {
        self.spans.kept_bytes()
    }

    /// The slab and the block in it that begins at the address and is given out.
    fn find(&self, address: u64) -> Result<(u32, u32), NotGivenOut> {
        let offset = address - self.start;
        // Short ones divide faster.
        let (at, within) = (offset / SLAB_BYTES, (offset % SLAB_BYTES) as u32);
        let slab = self.slabs.get(at as usize).and_then(Option::as_ref).ok_or(NotGivenOut)?;
        let bytes = classes::bytes_of(slab.class) as u32;
        let block = within / bytes;
        if block * bytes != within || block >= capacity(slab.class) || slab.is_free(block) {
            return Err(NotGivenOut);
        }
        Ok((at as u32, block))
    }
}
