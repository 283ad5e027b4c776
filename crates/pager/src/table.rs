//! Where each page is on this host.

use coherence::PageId;
use rustc_hash::FxHashMap;

use crate::packed::Packing;
use crate::slab::Slot;

pub(crate) const REGION_PAGES: u64 = 512;

/// A page's place on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Not here.
    Absent,
    /// In the memfd, visible to clients.
    Mapped,
    /// In the memfd, write-protected while the evictor packs it; a touch calls it back.
    Evicting,
    /// Kept by the agent, invisible to clients. `None` for a page of zeros.
    Stowed(Packing, Option<Slot>),
}

/// What is known of one page.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Where it is.
    pub place: Place,
    /// A client waits for it or a prefetch asked for it, and a page of the budget is taken for it.
    pub wanted: bool,
    /// The pager's clock when the page came to its place: an old entry in a queue is known by it, and so is how long
    /// the page has been there.
    pub tick: u32,
}

const ABSENT: Entry = Entry { place: Place::Absent, wanted: false, tick: 0 };

type Region = [Entry; REGION_PAGES as usize];

/// Entries by region of 2 MiB; an absent region's pages are [`Place::Absent`].
#[derive(Debug, Default)]
pub struct Table {
    regions: FxHashMap<u64, Box<Region>>,
}

impl Table {
    /// A page's entry.
    pub fn get(&self, page: PageId) -> Entry {
        self.regions.get(&(page.0 / REGION_PAGES)).map_or(ABSENT, |r| r[(page.0 % REGION_PAGES) as usize])
    }

    /// A page's entry, to change.
    pub fn entry(&mut self, page: PageId) -> &mut Entry {
        let region = self
            .regions
            .entry(page.0 / REGION_PAGES)
            .or_insert_with(|| Box::new([ABSENT; REGION_PAGES as usize]));
        &mut region[(page.0 % REGION_PAGES) as usize]
    }

    /// The entries of a range of whole regions that are not blank, in order.
    #[cfg(feature = "sim")]
    pub fn list(&self, pages: std::ops::Range<PageId>) -> Vec<(PageId, Entry)> {
        let mut out = Vec::new();
        for (number, region) in &self.regions {
            out.extend((number * REGION_PAGES..).map(PageId).zip(region.iter().copied()));
        }
        out.retain(|(page, entry)| pages.contains(page) && (entry.place != Place::Absent || entry.wanted));
        out.sort_unstable_by_key(|&(page, _)| page);
        out
    }

    /// How many pages are wanted.
    pub fn wanted(&self) -> u64 {
        self.regions.values().flat_map(|region| region.iter()).filter(|entry| entry.wanted).count() as u64
    }

    /// Takes all entries of a range of whole regions out of the table.
    pub fn remove(&mut self, pages: std::ops::Range<PageId>) -> Vec<(PageId, Entry)> {
        let regions = pages.start.0 / REGION_PAGES..pages.end.0.div_ceil(REGION_PAGES);
        let gone: Vec<u64> = self.regions.keys().copied().filter(|r| regions.contains(r)).collect();
        let mut out = Vec::new();
        for number in gone {
            let region = self.regions.remove(&number).expect("just listed");
            for (i, entry) in region.iter().enumerate() {
                if entry.place != Place::Absent || entry.wanted {
                    out.push((PageId(number * REGION_PAGES + i as u64), *entry));
                }
            }
        }
        out
    }
}
