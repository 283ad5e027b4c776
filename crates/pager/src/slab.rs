//! Memory for stowed pages: slots of few sizes in spans of 16 KiB.
//!
//! Invariants: a span holds slots of one class; of the spans without a used slot a few are kept for the next who
//! needs one, and the others are given back to the kernel; the budget is charged for whole spans, kept ones
//! included, so what the slab really takes is what is counted.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::budget::Budget;
use crate::reserve::Reserve;

const SPAN_BYTES: usize = 16 << 10;
/// Empty spans that are kept: pages come and go all the time, and the kernel's page faults are dear.
const SPARE_SPANS: usize = 32;
const STEP: usize = 64;
/// Slots of 64, 128, … 3072 bytes, and of a whole page.
const CLASSES: usize = 3072 / STEP + 1;
const PAGE: usize = client::PAGE_BYTES as usize;
const NIL: u16 = u16::MAX;

/// The largest blob that is worth a slot smaller than a page.
pub const SMALL_MAX: usize = 3072;

/// A slot's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    span: u32,
    index: u16,
    len: u16,
}

impl Slot {
    /// Bytes stored.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(self) -> usize {
        usize::from(self.len)
    }
}

#[derive(Debug)]
struct Span {
    class: u8,
    used: u16,
    /// First slot that was freed; each holds the next one's index in its first two bytes.
    free: u16,
    /// Slots from here on were never used since the span was made.
    fresh: u16,
    /// Where the span stands in its class's list of spans with room.
    listed: Option<u32>,
}

/// The allocator. See the module's text.
#[derive(Debug)]
pub struct Slab {
    reserve: Reserve,
    spans: Vec<Span>,
    /// Empty, with memory, charged.
    spare: Vec<u32>,
    /// Empty, without memory.
    empty: Vec<u32>,
    with_room: [Vec<u32>; CLASSES],
    budget: Arc<Budget>,
    live: u64,
}

impl Slab {
    /// A slab that may grow to the budget's limit (address space is reserved, memory is not).
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn new(budget: Arc<Budget>) -> io::Result<Self> {
        let bytes = (budget.limit() as usize + budget.limit() as usize / 4).next_multiple_of(SPAN_BYTES);
        Ok(Self {
            reserve: Reserve::new(bytes)?,
            spans: Vec::new(),
            spare: Vec::new(),
            empty: Vec::new(),
            with_room: [const { Vec::new() }; CLASSES],
            budget,
            live: 0,
        })
    }

    /// Bytes taken from the budget.
    pub fn held(&self) -> u64 {
        self.live * SPAN_BYTES as u64
    }

    /// Stores `bytes` (1 to 4096 of them).
    ///
    /// # Panics
    /// When the slab has outgrown its address space, a quarter above the budget.
    pub fn put(&mut self, bytes: &[u8]) -> Slot {
        assert!(!bytes.is_empty() && bytes.len() <= PAGE);
        let class = class_of(bytes.len());
        let span = match self.with_room[class].last() {
            Some(&span) => span,
            None => self.new_span(class),
        };
        let (index, full) = {
            let size = size_of_class(class);
            let start = self.start(span);
            let s = &mut self.spans[span as usize];
            let index = if s.free == NIL {
                s.fresh += 1;
                s.fresh - 1
            } else {
                let index = s.free;
                // SAFETY: the slot is inside the span, and freed: its first two bytes are the list's link.
                s.free = unsafe { start.add(usize::from(index) * size).cast::<u16>().read_unaligned() };
                index
            };
            s.used += 1;
            (index, s.free == NIL && usize::from(s.fresh) == SPAN_BYTES / size)
        };
        if full {
            self.unlist(span);
        }
        // SAFETY: the slot is ours alone and at least as long as `bytes`.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.slot_start(span, index).as_ptr(), bytes.len());
        }
        Slot { span, index, len: bytes.len() as u16 }
    }

    /// What a slot holds.
    pub fn get(&self, slot: Slot) -> &[u8] {
        // SAFETY: the slot was made by `put` with this length and is not yet freed (the caller owns its name).
        unsafe { std::slice::from_raw_parts(self.slot_start(slot.span, slot.index).as_ptr(), slot.len()) }
    }

    /// Frees a slot.
    pub fn free(&mut self, slot: Slot) {
        let start = self.slot_start(slot.span, slot.index);
        let span = &mut self.spans[slot.span as usize];
        // SAFETY: a slot is at least 64 bytes long and no longer used.
        unsafe { start.cast::<u16>().as_ptr().write_unaligned(span.free) };
        span.free = slot.index;
        span.used -= 1;
        if span.used == 0 {
            self.drop_span(slot.span);
        } else if self.spans[slot.span as usize].listed.is_none() {
            self.list(slot.span);
        }
    }

    fn new_span(&mut self, class: usize) -> u32 {
        let fresh = Span { class: class as u8, used: 0, free: NIL, fresh: 0, listed: None };
        if let Some(span) = self.spare.pop() {
            self.spans[span as usize] = fresh;
            self.list(span);
            return span;
        }
        let span = if let Some(span) = self.empty.pop() {
            self.spans[span as usize] = fresh;
            span
        } else {
            assert!(
                (self.spans.len() + 1) * SPAN_BYTES <= self.reserve.bytes(),
                "the slab has outgrown its budget"
            );
            self.spans.push(fresh);
            self.spans.len() as u32 - 1
        };
        self.budget.take(SPAN_BYTES as u64);
        self.live += 1;
        self.list(span);
        span
    }

    fn drop_span(&mut self, span: u32) {
        if self.spans[span as usize].listed.is_some() {
            self.unlist(span);
        }
        if self.spare.len() < SPARE_SPANS {
            self.spare.push(span);
            return;
        }
        self.reserve.forget(span as usize * SPAN_BYTES, SPAN_BYTES);
        self.empty.push(span);
        self.live -= 1;
        self.budget.give(SPAN_BYTES as u64);
    }

    fn list(&mut self, span: u32) {
        let list = &mut self.with_room[usize::from(self.spans[span as usize].class)];
        self.spans[span as usize].listed = Some(list.len() as u32);
        list.push(span);
    }

    fn unlist(&mut self, span: u32) {
        let at = self.spans[span as usize].listed.take().expect("a listed span") as usize;
        let list = &mut self.with_room[usize::from(self.spans[span as usize].class)];
        list.swap_remove(at);
        if let Some(&moved) = list.get(at) {
            self.spans[moved as usize].listed = Some(at as u32);
        }
    }

    fn start(&self, span: u32) -> NonNull<u8> {
        // SAFETY: spans are numbered within the mapping.
        unsafe { self.reserve.base().add(span as usize * SPAN_BYTES) }
    }

    fn slot_start(&self, span: u32, index: u16) -> NonNull<u8> {
        let size = size_of_class(usize::from(self.spans[span as usize].class));
        // SAFETY: indices are below the span's number of slots.
        unsafe { self.start(span).add(usize::from(index) * size) }
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        self.budget.give(self.held());
    }
}

fn class_of(len: usize) -> usize {
    if len > SMALL_MAX { CLASSES - 1 } else { len.div_ceil(STEP) - 1 }
}

fn size_of_class(class: usize) -> usize {
    if class == CLASSES - 1 { PAGE } else { (class + 1) * STEP }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_got_whatever_the_order() {
        let budget = Arc::new(Budget::new(64 << 20));
        let mut slab = Slab::new(budget.clone()).unwrap();
        let mut live: Vec<(Slot, Vec<u8>)> = Vec::new();
        let mut seed = 7u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize
        };
        let rounds = if cfg!(miri) { 400 } else { 40_000 };
        for round in 0..rounds {
            if live.len() > 3000 || (round > rounds / 2 && !live.is_empty()) {
                let (slot, bytes) = live.swap_remove(random() % live.len());
                assert_eq!(slab.get(slot), bytes);
                slab.free(slot);
            } else {
                let len = 1 + random() % PAGE;
                let bytes = vec![random() as u8; len];
                live.push((slab.put(&bytes), bytes));
            }
        }
        assert_eq!(budget.held(), slab.held());
        for (slot, bytes) in live.drain(..) {
            assert_eq!(slab.get(slot), bytes);
            slab.free(slot);
        }
        assert!(budget.held() <= (SPARE_SPANS * SPAN_BYTES) as u64, "empty spans go back");
        drop(slab);
        assert_eq!(budget.held(), 0);
    }
}
