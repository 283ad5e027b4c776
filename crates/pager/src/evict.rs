//! Mapped → stowed, in three steps, so that the long one runs without the machine's lock:
//!
//! 1. [`Pager::begin_eviction`], under the lock: the oldest mapped pages become [`Place::Evicting`];
//! 2. [`Eviction::pack_next`], without it, until all are packed: write-protect (which drains writers), read, pack;
//! 3. [`Pager::finish_eviction`], under the lock: pages that nobody called back meanwhile leave the memfd.
//!
//! A thread that writes such a page in between faults, and its fault calls the page back: it is hot. The order is
//! first in, first out with this second chance, and a page once stowed is cheap to bring back: the two queues are
//! S3-FIFO's small and main one in a setting without an accessed bit (Yang et al., SOSP 2023).

use std::sync::Arc;

use coherence::PageId;

use crate::bug::{Bug, Planted};
use crate::ids::{SpaceId, address, offset};
use crate::packed::{PAGE, Packed, Packer, Packing};
use crate::pager::{Pager, Queued};
use crate::space::SpaceMemory;
use crate::table::Place;

/// Pages that are looked at together: one write-protection, one read and one punch serve what leaves of them.
const BLOCK_PAGES: u64 = 8;

/// Pages on their way out. Reused from batch to batch.
#[derive(Default)]
pub struct Eviction {
    pages: Vec<Queued>,
    /// Ranges that hold all of `pages`, and otherwise nothing that a client can see.
    runs: Vec<Run>,
    packed: Vec<(Packing, usize, usize)>,
    bytes: Vec<u8>,
    raw: Vec<u8>,
    packer: Packer,
    /// The run that is being packed, and whether the first half of that is done.
    run: usize,
    half: bool,
    planted: Planted,
}

struct Run {
    memory: Arc<SpaceMemory>,
    first: PageId,
    pages: u64,
    /// How many of `Eviction::pages` lie in it.
    leaving: usize,
}

impl Eviction {
    /// Step 2, a piece of it: write-protects a run of the pages, or reads and packs one that is. False if all are packed.
    /// Called without the machine's lock.
    pub fn pack_next(&mut self) -> bool {
        let Some(run) = self.runs.get(self.run) else { return false };
        let protects = self.planted.has(Bug::PackBeforeProtect) == self.half;
        if protects {
            run.memory.protect(address(run.first), run.pages);
        } else {
            self.raw.resize(run.pages as usize * PAGE, 0);
            run.memory.memfd().read(address(run.first), &mut self.raw);
            let begun = self.packed.len();
            for (page, _) in &self.pages[begun..begun + run.leaving] {
                let at = (page.0 - run.first.0) as usize * PAGE;
                let packed = self.packer.pack(&self.raw[at..at + PAGE]);
                self.packed.push((packed.packing, self.bytes.len(), packed.bytes.len()));
                self.bytes.extend_from_slice(packed.bytes);
            }
        }
        self.run += usize::from(self.half);
        self.half = !self.half;
        true
    }

    /// All of step 2.
    pub fn pack(&mut self) {
        while self.pack_next() {}
    }
}

impl Pager {
    /// Step 1: chooses about `count` pages. Returns how many.
    ///
    /// The oldest page takes its neighbours with it that have not come lately: system calls are dear, and pages
    /// that lie together are mostly of an age.
    pub fn begin_eviction(&mut self, count: usize, batch: &mut Eviction) -> usize {
        batch.pages.clear();
        batch.runs.clear();
        batch.packed.clear();
        batch.bytes.clear();
        (batch.run, batch.half, batch.planted) = (0, false, self.planted);
        let lately = u32::try_from(self.mapped / 2).unwrap_or(u32::MAX);
        while batch.pages.len() < count {
            let Some((oldest, tick)) = self.mapped_queue.pop_front() else { break };
            let entry = self.table.get(oldest);
            if entry.place != Place::Mapped || entry.tick != tick {
                continue;
            }
            let block = PageId(oldest.0 / BLOCK_PAGES * BLOCK_PAGES);
            for page in (0..BLOCK_PAGES).map(|i| offset(block, i)) {
                let entry = self.table.get(page);
                if entry.place == Place::Mapped && (page == oldest || self.age(page) > lately) {
                    self.table.entry(page).place = Place::Evicting;
                    batch.pages.push((page, entry.tick));
                }
            }
        }
        batch.pages.sort_unstable();
        for &(page, _) in &batch.pages {
            if let Some(run) = batch.runs.last_mut() {
                let end = offset(run.first, run.pages);
                let near = page.0 - end.0 < BLOCK_PAGES;
                if near && (end.0..page.0).all(|p| !self.visible(PageId(p))) {
                    run.pages = page.0 - run.first.0 + 1;
                    run.leaving += 1;
                    continue;
                }
            }
            let memory = self.space(SpaceId::of(page)).expect("a mapped page's space is here").clone();
            batch.runs.push(Run { memory, first: page, pages: 1, leaving: 1 });
        }
        batch.pages.len()
    }

    /// Step 3: what was not called back leaves the memfd. Returns how many pages did.
    pub fn finish_eviction(&mut self, batch: &mut Eviction) -> u64 {
        let mut evicted = 0;
        let mut leaving = batch.pages.iter().zip(&batch.packed);
        for run in batch.runs.drain(..) {
            let mut gone = 0;
            for (&(page, tick), &(packing, at, len)) in leaving.by_ref().take(run.leaving) {
                let entry = self.table.get(page);
                let called_back = entry.place != Place::Evicting || entry.tick != tick;
                let ignored = self.planted.has(Bug::CallBackIgnored) && entry.place == Place::Mapped;
                if !called_back || ignored {
                    self.evicted(page, Packed { packing, bytes: &batch.bytes[at..at + len] });
                    gone += 1;
                }
            }
            evicted += gone;
            if gone > 0 {
                self.punch_invisible(run.first, run.pages);
            }
        }
        if !self.planted.has(Bug::EvictedKept) {
            self.budget.give(evicted * PAGE as u64);
        }
        evicted
    }

    /// Whether a client may see the page.
    fn visible(&self, page: PageId) -> bool {
        matches!(self.table.get(page).place, Place::Mapped | Place::Evicting)
    }

    /// Punches what of a range no client may see, in as few calls as that takes.
    fn punch_invisible(&self, first: PageId, pages: u64) {
        let mut start = 0;
        for i in 0..=pages {
            if i == pages || self.visible(offset(first, i)) {
                self.punch(offset(first, start), i - start);
                start = i + 1;
            }
        }
    }

    /// The pages that were stowed longest ago, at most `count`, to be handed to another host.
    pub fn oldest_stowed(&mut self, count: usize, pages: &mut Vec<PageId>) {
        while pages.len() < count {
            let Some((page, tick)) = self.stowed_queue.pop_front() else { break };
            let entry = self.table.get(page);
            if matches!(entry.place, Place::Stowed(..)) && entry.tick == tick {
                pages.push(page);
            }
        }
    }

    /// A page from [`Pager::oldest_stowed`] stays after all.
    pub fn requeue_stowed(&mut self, page: PageId) {
        let entry = self.table.get(page);
        if matches!(entry.place, Place::Stowed(..)) {
            self.stowed_queue.push_back((page, entry.tick));
        }
    }
}
