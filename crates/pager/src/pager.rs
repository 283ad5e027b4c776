//! All pages of a host's part of one machine: the mechanism, under the machine's one lock.
//!
//! Nothing here knows the protocol. Who may hold what is decided by `coherence`; this module makes it so.
//!
//! Invariants:
//! - a page that is `Mapped` or `Evicting` is in its space's memfd, and one page of the budget is taken for it;
//! - a page that is `Stowed` is not in the memfd; the slab's spans are taken from the budget;
//! - a `wanted` page that is not yet here has one page of the budget taken for it;
//! - what a client can write, no other host can read: `protect` comes before `take`.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use coherence::PageId;
use rustc_hash::FxHashMap;

use crate::budget::Budget;
use crate::bug::{Bug, Planted};
use crate::ids::{SpaceId, address, offset};
use crate::packed::{PAGE, Packed, Packer, Packing};
use crate::slab::Slab;
use crate::space::{Backings, Reads, Source, SpaceMemory};
use crate::table::{Entry, Place, REGION_PAGES, Table};
use crate::uffd::{ClientId, Mapped, Uffd};

/// How often a mapping call is tried again while the client's address space changes.
const AGAIN_MAX: u32 = 10_000;

struct Space {
    memory: Arc<SpaceMemory>,
    backings: Backings,
}

/// A queue entry: the page, and its tick when it was put there.
pub(crate) type Queued = (PageId, u32);

/// The pages of one machine on this host.
pub struct Pager {
    pub(crate) budget: Arc<Budget>,
    spaces: FxHashMap<SpaceId, Space>,
    pub(crate) table: Table,
    pub(crate) slab: Slab,
    /// Oldest first. Entries whose tick is no longer the page's are skipped when met.
    pub(crate) mapped_queue: VecDeque<Queued>,
    pub(crate) stowed_queue: VecDeque<Queued>,
    /// Counts the pages that came to a place.
    pub(crate) clock: u32,
    packer: Packer,
    page: Box<[u8]>,
    run: Vec<u8>,
    pub(crate) mapped: u64,
    stowed: u64,
    /// The bug planted in this host, in simulations.
    pub planted: Planted,
}

/// What the pager holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Pages that clients can see.
    pub mapped_pages: u64,
    /// Pages that the agent keeps packed.
    pub stowed_pages: u64,
    /// Bytes that those take.
    pub stowed_bytes: u64,
}

impl Pager {
    /// An empty pager.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn new(budget: Arc<Budget>) -> io::Result<Self> {
        Ok(Self {
            slab: Slab::new(budget.clone())?,
            budget,
            spaces: FxHashMap::default(),
            table: Table::default(),
            mapped_queue: VecDeque::new(),
            stowed_queue: VecDeque::new(),
            clock: 0,
            packer: Packer::default(),
            page: vec![0; PAGE].into(),
            run: Vec::new(),
            mapped: 0,
            stowed: 0,
            planted: Planted::default(),
        })
    }

    /// What is held.
    pub fn holdings(&self) -> Holdings {
        Holdings { mapped_pages: self.mapped, stowed_pages: self.stowed, stowed_bytes: self.slab.held() }
    }

    /// Makes a space on this host.
    pub fn open(&mut self, id: SpaceId, memory: Arc<SpaceMemory>) {
        self.spaces.insert(id, Space { memory, backings: Backings::default() });
    }

    /// Forgets a space and all that is held of it.
    pub fn close(&mut self, id: SpaceId) {
        for (_, entry) in self.table.remove(id.pages()) {
            self.forget(entry);
        }
        self.spaces.remove(&id);
    }

    /// A space's memory, if a process here maps it.
    pub fn space(&self, id: SpaceId) -> Option<&Arc<SpaceMemory>> {
        self.spaces.get(&id).map(|s| &s.memory)
    }

    /// Untouched pages of `[start, start + len)` read `source` from now on, or zeros.
    pub fn back(&mut self, id: SpaceId, start: u64, len: u64, source: Option<Source>) {
        let Some(space) = self.spaces.get_mut(&id) else { return };
        match source {
            Some(source) => space.backings.insert(start, len, source),
            None => space.backings.remove(start, len),
        }
    }

    /// What this host would give untouched pages, from `first` on: the bytes of a file, zeros where it knows of none.
    ///
    /// # Errors
    /// Those of reading the file.
    pub fn read_initial(&self, first: PageId, bytes: &mut [u8]) -> io::Result<()> {
        bytes.fill(0);
        let Some(space) = self.spaces.get(&SpaceId::of(first)) else { return Ok(()) };
        let pages = (bytes.len() / PAGE) as u64;
        let mut at = 0;
        while at < pages {
            let from = address(offset(first, at));
            let (run, _) = space.backings.run(from, pages - at);
            space.backings.read(from, &mut bytes[at as usize * PAGE..][..run as usize * PAGE])?;
            at += run;
        }
        Ok(())
    }

    /// The pages that are here, or wanted, of a space.
    #[cfg(feature = "sim")]
    pub fn entries(&self, id: SpaceId) -> Vec<(PageId, Entry)> {
        self.table.list(id.pages())
    }

    /// What is known of a page.
    pub fn entry(&self, page: PageId) -> Entry {
        self.table.get(page)
    }

    /// How many pages have come to a place since this one did.
    pub fn age(&self, page: PageId) -> u32 {
        self.clock.wrapping_sub(self.table.get(page).tick)
    }

    /// Marks a page as wanted; the caller has taken a page of the budget for it.
    pub fn want(&mut self, page: PageId) {
        let entry = self.table.entry(page);
        debug_assert!(!entry.wanted && entry.place == Place::Absent);
        entry.wanted = true;
    }

    /// Maps `pages` untouched pages, of which those that are wanted (for `client`, if that is known); the others are stowed. Those
    /// whose bytes the home host has are told to `ask`, as runs, and stay as they are until [`Pager::install_bytes`].
    ///
    /// # Errors
    /// Those of reading the file that backs them; the pages that it would give stay wanted then.
    pub fn install_initial(
        &mut self,
        first: PageId,
        pages: u64,
        client: Option<ClientId>,
        mut ask: impl FnMut(PageId, u64),
    ) -> io::Result<()> {
        let mut at = 0;
        while at < pages {
            let page = offset(first, at);
            let space = self.spaces.get(&SpaceId::of(page));
            let (run, reads) =
                space.map_or((pages - at, Reads::Zeros), |s| s.backings.run(address(page), pages - at));
            let run = run.min(crate::streams::WINDOW_PAGES_MAX);
            if reads == Reads::Home {
                ask(page, run);
            } else if reads == Reads::File {
                let mut bytes = std::mem::take(&mut self.run);
                bytes.resize(run as usize * PAGE, 0);
                let space = space.expect("it has a file");
                let read = space.backings.read(address(page), &mut bytes);
                if read.is_ok() {
                    self.install_bytes(page, &bytes, true, client);
                }
                self.run = bytes;
                read?;
            } else {
                self.install_zeros(page, run, client);
            }
            at += run;
        }
        Ok(())
    }

    /// Keeps an untouched page packed, as a first touch would find it. False if the home host has its bytes: then
    /// nothing is done.
    ///
    /// # Errors
    /// Those of reading the file that backs it.
    pub fn stow_initial(&mut self, page: PageId) -> io::Result<bool> {
        let space = self.spaces.get(&SpaceId::of(page));
        match space.map_or(Reads::Zeros, |s| s.backings.run(address(page), 1).1) {
            Reads::Home => return Ok(false),
            Reads::Zeros => self.stow(page, Packed::ZERO),
            Reads::File => {
                let mut bytes = std::mem::take(&mut self.page);
                let read = self.read_initial(page, &mut bytes);
                if read.is_ok() {
                    self.pack_and_stow(page, &bytes);
                }
                self.page = bytes;
                read?;
            }
        }
        Ok(true)
    }

    fn install_zeros(&mut self, first: PageId, pages: u64, client: Option<ClientId>) {
        let mut at = 0;
        while at < pages {
            let page = offset(first, at);
            let wanted = self.wanted_run(page, pages - at);
            let done = self.map_wanted(page, wanted, client, &|uffd, from, n| {
                uffd.zero(address(page) + from * PAGE as u64, n)
            });
            self.now_mapped(page, done);
            at += done;
            if done < wanted || wanted == 0 {
                // Nobody's, or no (longer) the clients': keep it for who maps the address next.
                self.stow(offset(first, at), Packed::ZERO);
                at += 1;
            }
        }
    }

    /// Puts whole pages here: mapped where wanted (for `client`, if that is known), stowed where not.
    pub fn install_bytes(&mut self, first: PageId, bytes: &[u8], writable: bool, client: Option<ClientId>) {
        let pages = (bytes.len() / PAGE) as u64;
        let mut at = 0;
        while at < pages {
            let page = offset(first, at);
            let wanted = self.wanted_run(page, pages - at);
            let run = &bytes[at as usize * PAGE..][..wanted as usize * PAGE];
            let done = self.map_wanted(page, wanted, client, &|uffd, from, n| {
                let bytes = &run[from as usize * PAGE..][..n as usize * PAGE];
                uffd.copy(address(page) + from * PAGE as u64, bytes, !writable)
            });
            self.now_mapped(page, done);
            at += done;
            if done < wanted || wanted == 0 {
                self.pack_and_stow(offset(first, at), &bytes[at as usize * PAGE..][..PAGE]);
                at += 1;
            }
        }
    }

    /// How many of so many pages are wanted, up to the first that is not.
    fn wanted_run(&self, first: PageId, pages: u64) -> u64 {
        (0..pages).take_while(|&i| self.table.get(offset(first, i)).wanted).count() as u64
    }

    /// Keeps a page packed, as another host handed it over.
    pub fn stow(&mut self, page: PageId, packed: Packed<'_>) {
        let tick = self.tick();
        let slot = (packed.packing != Packing::Zero).then(|| self.slab.put(packed.bytes));
        let entry = self.table.entry(page);
        debug_assert_eq!(entry.place, Place::Absent, "stowing {page:?}");
        let was_wanted = std::mem::take(&mut entry.wanted);
        entry.place = Place::Stowed(packed.packing, slot);
        entry.tick = tick;
        let queued = (page, entry.tick);
        self.stowed_queue.push_back(queued);
        self.stowed += 1;
        self.compact_stowed();
        if was_wanted {
            self.budget.give(PAGE as u64);
            self.wake(page, 1);
        }
    }

    fn pack_and_stow(&mut self, page: PageId, bytes: &[u8]) {
        let mut packer = std::mem::take(&mut self.packer);
        self.stow(page, packer.pack(bytes));
        self.packer = packer;
    }

    /// Maps stowed pages, `pages` of them from `first` on, for `client` if that is known; the caller has taken a page of the budget
    /// for each.
    pub fn unstow(&mut self, first: PageId, pages: u64, writable: bool, client: Option<ClientId>) {
        let mut bytes = std::mem::take(&mut self.run);
        bytes.resize(pages as usize * PAGE, 0);
        for (i, page) in bytes.chunks_mut(PAGE).enumerate() {
            let id = offset(first, i as u64);
            let Place::Stowed(packing, slot) = self.table.get(id).place else {
                unreachable!("{id:?} is stowed")
            };
            let packed = Packed { packing, bytes: slot.map_or(&[], |slot| self.slab.get(slot)) };
            packed.unpack(page).expect("the slab keeps what the packer made");
            if let Some(slot) = slot {
                self.slab.free(slot);
            }
            self.stowed -= 1;
            let entry = self.table.entry(id);
            entry.place = Place::Absent;
            entry.wanted = true;
        }
        self.install_bytes(first, &bytes, writable, client);
        self.run = bytes;
    }

    /// Stops writers of a page that is here. Its bytes stay.
    pub fn protect(&mut self, page: PageId) {
        if matches!(self.table.get(page).place, Place::Mapped | Place::Evicting)
            && let Some(memory) = self.space(SpaceId::of(page))
        {
            memory.protect(address(page), 1);
        }
    }

    /// Lets that client, or all, write `pages` mapped pages, those of them that it sees; the first, if it is on its way out, stays.
    pub fn allow_write(&mut self, first: PageId, pages: u64, client: Option<ClientId>) {
        self.call_back(first);
        if let Some(memory) = self.space(SpaceId::of(first)) {
            memory.allow_write(address(first), pages, client);
        }
    }

    /// Maps a page that is in the memfd for a client that does not see it yet, and wakes who waits there. It is shown those
    /// after it, too, that are in the memfd and `alike` (to be written or not, as the page), as many as it will want next.
    pub fn show(&mut self, page: PageId, writable: bool, client: ClientId, alike: impl Fn(PageId) -> bool) {
        if !self.planted.has(Bug::ShowLeaving) {
            self.call_back(page);
        }
        let Some(memory) = self.space(SpaceId::of(page)) else { return };
        let may_be_shown = |page: PageId| {
            let place = self.table.get(page).place;
            // Who writes a page that is on its way out must call it back; who merely walks by leaves it there.
            (place == Place::Mapped || place == Place::Evicting && self.planted.has(Bug::ShowLeaving))
                && alike(page)
        };
        memory.each_client(Some(client), |client| {
            let window = client.window(page, REGION_PAGES - page.0 % REGION_PAGES);
            let pages = 1 + (1..window).take_while(|&i| may_be_shown(offset(page, i))).count() as u64;
            let mut shown = client.continue_(address(page), pages, !writable);
            if shown == Mapped::Unmapped && pages > 1 {
                // Some of them lie outside the client's mapping.
                shown = client.continue_(address(page), 1, !writable);
            }
            match shown {
                // What stopped it, if anything did, is found when the client comes there.
                Mapped::All | Mapped::Again { pages: 1.. } | Mapped::Exists { pages: 1.. } => {}
                // EEXIST: it was mapped meanwhile. The protection must still be what the protocol says.
                _ => {
                    let _ = client.write_protect(address(page), 1, !writable);
                    client.wake(address(page), 1);
                }
            }
        });
    }

    fn call_back(&mut self, page: PageId) {
        let tick = self.tick();
        let entry = self.table.entry(page);
        if entry.place == Place::Evicting {
            entry.place = Place::Mapped;
            entry.tick = tick;
            let queued = (page, entry.tick);
            self.mapped_queue.push_back(queued);
        }
    }

    /// Gives the bytes of a page to `f`, packed; with `keep` the page stays, else it is gone from here.
    ///
    /// The caller has made sure by the protocol that the page is here, and with `keep` that nobody can write it any more
    /// ([`Pager::protect`]).
    pub fn take<R>(&mut self, page: PageId, keep: bool, f: impl FnOnce(Packed<'_>) -> R) -> R {
        let result = match self.table.get(page).place {
            Place::Stowed(packing, slot) => {
                f(Packed { packing, bytes: slot.map_or(&[], |slot| self.slab.get(slot)) })
            }
            Place::Mapped | Place::Evicting => {
                let memory = &self.spaces[&SpaceId::of(page)].memory;
                let late = self.planted.has(Bug::CopyWhileWritten);
                if !keep && !late {
                    memory.protect(address(page), 1);
                }
                memory.memfd().read(address(page), &mut self.page);
                if !keep && late {
                    memory.protect(address(page), 1);
                }
                f(self.packer.pack(&self.page))
            }
            Place::Absent => unreachable!("{page:?} is not here"),
        };
        if !keep {
            self.remove(page, 1);
        }
        result
    }

    /// Takes pages away from clients and frees them, wherever they are; nobody is left waiting in them.
    pub fn remove(&mut self, first: PageId, pages: u64) {
        let mut punch = 0;
        for i in 0..pages {
            let page = offset(first, i);
            let entry = self.table.get(page);
            if matches!(entry.place, Place::Mapped | Place::Evicting) {
                punch += 1;
            } else {
                self.punch(offset(first, i - punch), punch);
                punch = 0;
            }
            if entry.place != Place::Absent || entry.wanted {
                self.forget(entry);
                let tick = self.tick();
                *self.table.entry(page) = Entry { place: Place::Absent, wanted: false, tick };
            }
        }
        self.punch(offset(first, pages - punch), punch);
        if !self.planted.has(Bug::WakeForgotten) {
            self.wake(first, pages);
        }
    }

    fn tick(&mut self) -> u32 {
        self.clock = self.clock.wrapping_add(1);
        self.clock
    }

    pub(crate) fn punch(&self, first: PageId, pages: u64) {
        if pages > 0
            && let Some(memory) = self.space(SpaceId::of(first))
        {
            memory.memfd().punch(address(first), pages);
        }
    }

    /// Wakes who waits in a page, to fault again.
    pub fn wake_page(&self, page: PageId) {
        self.wake(page, 1);
    }

    fn wake(&self, first: PageId, pages: u64) {
        if let Some(memory) = self.space(SpaceId::of(first)) {
            memory.wake(address(first), pages);
        }
    }

    /// Gives back what an entry takes; the entry itself is the caller's to replace.
    fn forget(&mut self, entry: Entry) {
        match entry.place {
            Place::Mapped | Place::Evicting => {
                self.mapped -= 1;
                self.budget.give(PAGE as u64);
            }
            Place::Stowed(_, slot) => {
                self.stowed -= 1;
                if let Some(slot) = slot {
                    self.slab.free(slot);
                }
            }
            Place::Absent => {}
        }
        if entry.wanted {
            self.budget.give(PAGE as u64);
        }
    }

    fn now_mapped(&mut self, first: PageId, pages: u64) {
        for i in 0..pages {
            let page = offset(first, i);
            let tick = self.tick();
            let entry = self.table.entry(page);
            entry.wanted = false;
            entry.place = Place::Mapped;
            entry.tick = tick;
            let queued = (page, entry.tick);
            self.mapped_queue.push_back(queued);
        }
        self.mapped += pages;
        compact(&mut self.mapped_queue, self.mapped, |page, tick| {
            let entry = self.table.get(page);
            entry.place == Place::Mapped && entry.tick == tick
        });
    }

    /// Maps `pages` pages that are wanted with a mapping call, which gets a client and which of the pages. Returns how many of the
    /// first ones are mapped.
    fn map_wanted(
        &self,
        first: PageId,
        pages: u64,
        client: Option<ClientId>,
        call: &dyn Fn(&Uffd, u64, u64) -> Mapped,
    ) -> u64 {
        let Some(memory) = self.space(SpaceId::of(first)).filter(|_| pages > 0) else { return 0 };
        memory.map((address(first), pages), client, |uffd, begun| {
            self.map_run(first, begun..pages, &|from, n| call(uffd, from, n))
        })
    }

    /// Runs a mapping call over a range of the pages from `first` on and returns how many of the range's first ones are mapped.
    fn map_run(&self, first: PageId, range: Range<u64>, call: &dyn Fn(u64, u64) -> Mapped) -> u64 {
        let (mut done, mut chunk, mut again) = (range.start, range.end - range.start, 0);
        while done < range.end {
            let n = chunk.min(range.end - done);
            match call(done, n) {
                Mapped::All => done += n,
                // What stands there came past the protocol (a client touched the address in the instant before it
                // was registered), so it is nobody's: the bytes that we were given are the page's.
                Mapped::Exists { pages: some } => {
                    done += some;
                    self.punch(offset(first, done), 1);
                    again += 1;
                    assert!(again < AGAIN_MAX, "page {:?} cannot be replaced", offset(first, done));
                }
                Mapped::Again { .. } if self.planted.has(Bug::HalfIsAll) => done += n,
                Mapped::Again { pages: some } => {
                    done += some;
                    again += 1;
                    assert!(again < AGAIN_MAX, "the address space of a client never comes to rest");
                    std::thread::yield_now();
                }
                // Some of the run lies outside the client's mapping: find how far it goes.
                Mapped::Unmapped if n > 1 => chunk = n.div_ceil(2),
                Mapped::Unmapped | Mapped::Gone => break,
            }
        }
        done - range.start
    }

    pub(crate) fn evicted(&mut self, page: PageId, packed: Packed<'_>) {
        let tick = self.tick();
        let slot = (packed.packing != Packing::Zero).then(|| self.slab.put(packed.bytes));
        let entry = self.table.entry(page);
        entry.place = Place::Stowed(packed.packing, slot);
        entry.tick = tick;
        let queued = (page, entry.tick);
        self.stowed_queue.push_back(queued);
        self.mapped -= 1;
        self.stowed += 1;
        self.compact_stowed();
    }

    fn compact_stowed(&mut self) {
        compact(&mut self.stowed_queue, self.stowed, |page, tick| {
            let entry = self.table.get(page);
            matches!(entry.place, Place::Stowed(..)) && entry.tick == tick
        });
    }
}

impl Drop for Pager {
    /// What the machine had is the host's again; the slab gives back its own.
    fn drop(&mut self) {
        self.budget.give((self.mapped + self.table.wanted()) * PAGE as u64);
    }
}

/// Old entries of a queue are skipped when they are met; where nothing is ever evicted none is met, so they are
/// swept out when they outnumber those that count.
fn compact(queue: &mut VecDeque<Queued>, pages: u64, counts: impl Fn(PageId, u32) -> bool) {
    if queue.len() as u64 > 2 * pages + 4096 {
        queue.retain(|&(page, tick)| counts(page, tick));
    }
}
