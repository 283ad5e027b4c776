//! Mapped → stowed, in three steps, so that the long one runs without the machine's lock:
//!
//! 1. [`Pager::begin_eviction`], under the lock: the oldest mapped pages become [`Place::Evicting`];
//! 2. [`Eviction::pack`], without it: write-protect (which drains writers), read, pack;
//! 3. [`Pager::finish_eviction`], under the lock: pages that nobody called back meanwhile leave the memfd.
//!
//! A thread that writes such a page in between faults, and its fault calls the page back: it is hot. The order is
//! first in, first out with this second chance, and a page once stowed is cheap to bring back: the two queues are
//! S3-FIFO's small and main one in a setting without an accessed bit (Yang et al., SOSP 2023).

use std::sync::Arc;

use coherence::PageId;

use crate::ids::{SpaceId, address, offset};
use crate::packed::{PAGE, Packed, Packer, Packing};
use crate::pager::{Pager, Queued};
use crate::space::SpaceMemory;
use crate::table::Place;

/// Pages on their way out. Reused from batch to batch.
#[derive(Default)]
pub struct Eviction {
    pages: Vec<Queued>,
    runs: Vec<(Arc<SpaceMemory>, PageId, u64)>,
    packed: Vec<(Packing, usize, usize)>,
    bytes: Vec<u8>,
    raw: Vec<u8>,
    packer: Packer,
}

impl Eviction {
    /// Step 2: write-protects, reads and packs the pages. Called without the machine's lock.
    pub fn pack(&mut self) {
        self.packed.clear();
        self.bytes.clear();
        for (memory, first, pages) in &self.runs {
            memory.protect(address(*first), *pages);
            self.raw.resize(*pages as usize * PAGE, 0);
            memory.memfd().read(address(*first), &mut self.raw);
            for page in self.raw.chunks(PAGE) {
                let packed = self.packer.pack(page);
                self.packed.push((packed.packing, self.bytes.len(), packed.bytes.len()));
                self.bytes.extend_from_slice(packed.bytes);
            }
        }
    }
}

impl Pager {
    /// Step 1: chooses up to `count` pages. Returns how many.
    pub fn begin_eviction(&mut self, count: usize, batch: &mut Eviction) -> usize {
        batch.pages.clear();
        batch.runs.clear();
        while batch.pages.len() < count {
            let Some((page, tick)) = self.mapped_queue.pop_front() else { break };
            let entry = self.table.get(page);
            if entry.place == Place::Mapped && entry.tick == tick {
                self.table.entry(page).place = Place::Evicting;
                batch.pages.push((page, tick));
            }
        }
        batch.pages.sort_unstable();
        for &(page, _) in &batch.pages {
            match batch.runs.last_mut() {
                Some((_, first, pages)) if offset(*first, *pages) == page => *pages += 1,
                _ => {
                    let memory =
                        self.space(SpaceId::of(page)).expect("a mapped page's space is here").clone();
                    batch.runs.push((memory, page, 1));
                }
            }
        }
        batch.pages.len()
    }

    /// Step 3: what was not called back leaves the memfd. Returns how many pages did.
    pub fn finish_eviction(&mut self, batch: &mut Eviction) -> u64 {
        let mut evicted = 0;
        let (mut first, mut pages) = (PageId(0), 0);
        let mut punches: Vec<(PageId, u64)> = Vec::with_capacity(batch.runs.len());
        for (&(page, tick), &(packing, at, len)) in batch.pages.iter().zip(&batch.packed) {
            let entry = self.table.get(page);
            if entry.place != Place::Evicting || entry.tick != tick {
                continue;
            }
            self.evicted(page, Packed { packing, bytes: &batch.bytes[at..at + len] });
            evicted += 1;
            if pages > 0 && offset(first, pages) == page {
                pages += 1;
            } else {
                if pages > 0 {
                    punches.push((first, pages));
                }
                (first, pages) = (page, 1);
            }
        }
        if pages > 0 {
            punches.push((first, pages));
        }
        for (first, pages) in punches {
            if let Some(memory) = self.space(SpaceId::of(first)) {
                memory.memfd().punch(address(first), pages);
            }
        }
        self.budget.give(evicted * PAGE as u64);
        batch.runs.clear();
        evicted
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
