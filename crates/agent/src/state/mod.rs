//! One machine's state on one host: protocol and pager, and what passes between them. Under the machine's lock.
//!
//! Everything that happens ends in the same way: the protocol is given an event, and says what to do ([`Action`]);
//! [`State::settle`] does it, neighbouring pages in one system call where they go the same way.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | faults, discards, hand-overs, room |
//! | `messages.rs` | messages, and those that are held back |
//! | `copies.rs` | copies that go where no host has room |
//! | `settle.rs` | what the protocol said is done |
//! | `files.rs` | first bytes that the home host reads from files |
//! | `spaces.rs` | spaces: spread over hosts, and ended |
//! | `sweeps.rs` | ranges that are freed on all hosts |
//! | `rest.rs` | what simulations may ask |

mod copies;
mod files;
mod messages;
#[cfg(feature = "sim")]
mod rest;
mod room;
mod settle;
mod spaces;
mod sweeps;

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use coherence::{Access, Action, Epoch, Event, HostId, Message, Node, PageId, RegionId, Violation};
use fabric::Fabric;
use pager::{Budget, Bug, ClientId, Fault, PAGE, Packer, Pager, Place, SpaceId, Streams, offset};
use parking_lot::Condvar;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::clock::Clock;
use crate::dwell::Dwell;
use copies::Copies;
pub use copies::Dropping;
use settle::Arrived;
pub use spaces::{first_space, home_of};
use sweeps::Sweeps;

use crate::fetches::{Fetched, Fetches};
use crate::figures::{Counters, Kind};
use crate::hot::Hot;
use crate::migratory::Migratory;
use crate::rooms::{Given, Rooms};

const REGION_PAGES: u64 = 512;

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// It is answered, or will be when an answer comes.
    Done,
    /// There is no room for the page yet; the caller waits for some, then tries again.
    NoRoom,
}

/// A thread that waits for a page: of all that do, the first.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// When it began to.
    since: Instant,
    thread: u32,
    client: ClientId,
}

/// See the module's text.
pub struct State {
    /// The protocol.
    pub node: Node,
    /// The mechanism.
    pub pager: Pager,
    /// Promises of room.
    pub rooms: Rooms,
    /// What is counted.
    pub counters: Counters,
    /// The figures that other hosts sent last, by host.
    pub others: Vec<Option<serde_json::Value>>,
    /// The CPU time in milliseconds of threads of body processes, as their hosts said last, by host.
    pub body_times: Vec<FxHashMap<u64, u64>>,
    /// And how long they have waited for pages.
    pub body_fetches: Vec<FxHashMap<u64, Fetched>>,
    /// Pages that leave here again and again.
    pub hot: Hot,
    /// How often each has sent some.
    pub figures_heard: Vec<u64>,
    /// Why a file that backs a page could not be read. Who waits for the page gets no answer: the machine must end.
    pub unreadable: Option<std::io::Error>,
    me: HostId,
    clock: Clock,
    budget: Arc<Budget>,
    epoch: Epoch,
    streams: FxHashMap<SpaceId, Streams>,
    /// Walks that write pages which are here to be read.
    writes: FxHashMap<SpaceId, Streams>,
    closed: FxHashSet<SpaceId>,
    /// Pages that are on their way, and the first thread that waits for each.
    waiting: FxHashMap<PageId, Waiting>,
    /// How long threads have waited for pages, by the host from which these came.
    pub fetches: Fetches,
    actions: Vec<Action>,
    /// What this host has said to itself and not yet heard.
    own: VecDeque<Message>,
    message: Vec<u8>,
    arrived: Arrived,
    packer: Packer,
    /// Spaces that threads of several hosts use, or may.
    spread: FxHashSet<SpaceId>,
    spread_flags: FxHashMap<SpaceId, Arc<AtomicBool>>,
    /// Spaces whose life is the machine's: ordinary processes map them.
    shared: FxHashSet<SpaceId>,
    /// The machine has ended, and nobody finds anything in them any more.
    withdrawn: bool,
    dwell: Dwell,
    migratory: Migratory,
    sweeps: Sweeps,
    copies: Copies,
    given: Given,
    /// Signalled when something held back is due earlier than what was.
    due: Arc<Condvar>,
}

impl State {
    /// Nothing held yet.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn new(
        me: HostId,
        hosts: u16,
        epoch: Epoch,
        budget: Arc<Budget>,
        clock: Clock,
        due: Arc<Condvar>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            node: Node::new(me, hosts, epoch),
            pager: Pager::new(budget.clone())?,
            rooms: Rooms::new(me, hosts),
            counters: Counters::default(),
            others: vec![None; usize::from(hosts)],
            body_times: vec![FxHashMap::default(); usize::from(hosts)],
            body_fetches: vec![FxHashMap::default(); usize::from(hosts)],
            hot: Hot::default(),
            figures_heard: vec![0; usize::from(hosts)],
            unreadable: None,
            me,
            clock,
            budget,
            epoch,
            streams: FxHashMap::default(),
            writes: FxHashMap::default(),
            closed: FxHashSet::default(),
            waiting: FxHashMap::default(),
            fetches: Fetches::default(),
            actions: Vec::new(),
            own: VecDeque::new(),
            message: Vec::new(),
            arrived: Arrived::default(),
            packer: Packer::default(),
            spread: FxHashSet::default(),
            spread_flags: FxHashMap::default(),
            shared: FxHashSet::default(),
            withdrawn: false,
            dwell: Dwell::default(),
            migratory: Migratory::default(),
            sweeps: Sweeps::default(),
            copies: Copies::default(),
            given: Given::default(),
            due,
        })
    }

    /// A thread of `client` waits at an address.
    ///
    /// # Errors
    /// A [`Violation`] found on the way.
    pub fn fault(
        &mut self,
        space: SpaceId,
        client: ClientId,
        fault: Fault,
        since: Instant,
        fabric: &dyn Fabric,
    ) -> Result<Served, Violation> {
        if self.closed.contains(&space) {
            return Ok(Served::Done);
        }
        let page = space.page(fault.address);
        let entry = self.pager.entry(page);
        let held = self.node.held(page);
        match entry.place {
            Place::Mapped | Place::Evicting => {
                match held {
                    Some(Access::Read) if fault.write => {
                        if let Entry::Vacant(first) = self.waiting.entry(page) {
                            first.insert(Waiting { since, thread: fault.thread, client });
                            self.dwell.wants_back(page, since);
                        }
                        self.tell(Event::Want { page, access: Access::Write })?;
                        self.write_on(space, client, page)?;
                        self.settle(fabric)?;
                    }
                    // A page that is mapped and not held is on its way to more access: who waits is woken then.
                    None => {}
                    Some(_) => {
                        if fault.write {
                            self.migratory.written(page);
                        }
                        if fault.minor || !fault.write {
                            let (node, migratory) = (&self.node, &self.migratory);
                            let everything = self.pager.planted.has(Bug::ShowWritable);
                            let may = |page| match node.held(page)? {
                                Access::Read => Some(everything),
                                Access::Write => Some(everything || !migratory.is_read_only(page)),
                            };
                            let shown = may(page);
                            self.pager.show(page, shown == Some(true), client, |next| may(next) == shown);
                        } else {
                            self.pager.allow_write(page, 1, Some(client));
                            self.write_on(space, client, page)?;
                            self.settle(fabric)?;
                        }
                        let now = self.clock.now();
                        self.counters.fault(Kind::Minor, now - since);
                        self.got(page, now);
                    }
                }
                Ok(Served::Done)
            }
            Place::Stowed(..) => match held {
                Some(held) => self.unstow(space, held, client, fault, since, fabric),
                None => Ok(Served::Done),
            },
            Place::Absent => self.fetch(space, client, fault, since, fabric),
        }
    }

    /// Brings a stowed page back, and those after it that a sequential walk will want next.
    fn unstow(
        &mut self,
        space: SpaceId,
        held: Access,
        client: ClientId,
        fault: Fault,
        since: Instant,
        fabric: &dyn Fabric,
    ) -> Result<Served, Violation> {
        let page = space.page(fault.address);
        let window = self.window(space, page);
        let mut pages = 0;
        while pages < window {
            let next = offset(page, pages);
            let alike = matches!(self.pager.entry(next).place, Place::Stowed(..))
                && self.node.held(next) == Some(held);
            if !alike || !self.budget.try_take(PAGE as u64) {
                break;
            }
            pages += 1;
        }
        if pages == 0 {
            return Ok(Served::NoRoom);
        }
        self.pager.unstow(page, pages, held == Access::Write, Some(client));
        for page in (0..pages).map(|i| offset(page, i)) {
            self.waiting.remove(&page);
        }
        let now = self.clock.now();
        self.counters.fault(Kind::Local, now - since);
        self.got(page, now);
        if fault.write && held == Access::Read {
            self.waiting.entry(page).or_insert(Waiting { since, thread: fault.thread, client });
            self.tell(Event::Want { page, access: Access::Write })?;
            self.write_on(space, client, page)?;
            self.settle(fabric)?;
        }
        Ok(Served::Done)
    }

    /// A thread writes a page that is here to be read. A walk that goes on writing will want to write those after it, too: the right to
    /// is asked for, or used where this host has it.
    fn write_on(&mut self, space: SpaceId, client: ClientId, page: PageId) -> Result<(), Violation> {
        let walks = self.writes.entry(space).or_insert_with(Streams::brought);
        let window = walks.window(page, REGION_PAGES - page.0 % REGION_PAGES);
        let mut allowed = offset(page, 1)..offset(page, 1);
        for next in (1..window).map(|i| offset(page, i)) {
            if self.pager.entry(next).place != Place::Mapped {
                break;
            }
            match self.node.held(next) {
                Some(Access::Read) if self.pager.planted.has(Bug::WriteUnasked) => {}
                Some(Access::Read) => {
                    self.tell(Event::Want { page: next, access: Access::Write })?;
                    continue;
                }
                Some(Access::Write) => self.migratory.written(next),
                None => continue,
            }
            if allowed.end != next {
                self.allow_write(&allowed, client);
                allowed.start = next;
            }
            allowed.end = offset(next, 1);
        }
        self.allow_write(&allowed, client);
        Ok(())
    }

    fn allow_write(&mut self, pages: &std::ops::Range<PageId>, client: ClientId) {
        let count = pages.end.0 - pages.start.0;
        if count > 0 {
            self.pager.allow_write(pages.start, count, Some(client));
        }
    }

    /// Asks for a page that is not here, and for those after it that a sequential walk will want next.
    fn fetch(
        &mut self,
        space: SpaceId,
        client: ClientId,
        fault: Fault,
        since: Instant,
        fabric: &dyn Fabric,
    ) -> Result<Served, Violation> {
        let page = space.page(fault.address);
        let access = if fault.write { Access::Write } else { Access::Read };
        let waiting = Waiting { since, thread: fault.thread, client };
        if self.pager.entry(page).wanted {
            self.waiting.entry(page).or_insert(waiting);
            return Ok(Served::Done);
        }
        if !self.budget.try_take(PAGE as u64) {
            return Ok(Served::NoRoom);
        }
        self.pager.want(page);
        self.waiting.insert(page, waiting);
        let spread = self.is_spread(space);
        if spread && access == Access::Read {
            self.migratory.asked(page);
        }
        self.tell(Event::Want { page, access })?;
        for i in 1..self.window(space, page) {
            let next = offset(page, i);
            let entry = self.pager.entry(next);
            if entry.place != Place::Absent || entry.wanted || !self.budget.try_take(PAGE as u64) {
                break;
            }
            self.pager.want(next);
            if spread {
                self.migratory.asked(next);
            }
            self.tell(Event::Want { page: next, access: Access::Read })?;
        }
        self.settle(fabric)?;
        Ok(Served::Done)
    }

    /// Pages to bring for a fault; never past the region, which may be somebody else's.
    fn window(&mut self, space: SpaceId, page: PageId) -> u64 {
        let streams = self.streams.entry(space).or_insert_with(Streams::brought);
        streams.window(page, REGION_PAGES - page.0 % REGION_PAGES)
    }

    /// The program has freed pages: those of a range that lie in one region. Those of which other hosts may still find the
    /// old bytes are added to `going`.
    ///
    /// # Errors
    /// A [`Violation`] found on the way.
    pub fn discard(
        &mut self,
        region: RegionId,
        pages: &std::ops::Range<PageId>,
        going: &mut Vec<PageId>,
        fabric: &dyn Fabric,
    ) -> Result<(), Violation> {
        let mut touched = Vec::new();
        self.node.touched(region, pages, &mut touched);
        for &page in &touched {
            self.waiting.remove(&page);
            self.tell(Event::Discard { page })?;
        }
        self.settle(fabric)?;
        going.extend(touched.into_iter().filter(|&page| self.node.discarding(page)));
        Ok(())
    }
}

impl Drop for State {
    /// What was promised to the machine's hosts is the host's again.
    fn drop(&mut self) {
        self.budget.give(self.given.pages * PAGE as u64);
    }
}

#[cfg(test)]
mod tests {
    use fabric::SimNet;

    use crate::rooms::ROOM_PAGES;

    use super::*;

    fn some_client() -> ClientId {
        pager::Uffd::new(std::fs::File::open("/dev/null").unwrap().into()).id()
    }

    /// An agent serves one machine after the other. Each once left behind what it had promised and what its clients still
    /// had, until there was no room for the next.
    #[test]
    fn what_a_machine_takes_is_given_back_with_it() {
        let budget = Arc::new(Budget::new(16 << 20));
        let client = some_client();
        let fabric = SimNet::new(2, 1).fabric(HostId(0));
        for _ in 0..20 {
            let me = HostId(0);
            let due = Arc::default();
            let mut state = State::new(me, 2, Epoch(1), budget.clone(), Clock::default(), due).unwrap();
            state.give_room(HostId(1), ROOM_PAGES, &*fabric).unwrap();
            assert_eq!(budget.held(), u64::from(ROOM_PAGES) * PAGE as u64);
            let fault = Fault { address: 0x7000, write: true, minor: false, thread: 1 };
            // The region's locator may be the other host: then the page stays wanted.
            for space in 1..10 {
                assert_eq!(
                    state.fault(SpaceId(space), client, fault, Instant::now(), &*fabric),
                    Ok(Served::Done)
                );
            }
            assert!(budget.held() > u64::from(ROOM_PAGES) * PAGE as u64);
            drop(state);
            assert_eq!(budget.held(), 0);
        }
    }

    /// A space may end while its pages are on their way to another host: what was promised for them was once promised for ever.
    #[test]
    fn promises_outlive_spaces() {
        let budget = Arc::new(Budget::new(16 << 20));
        let client = some_client();
        let (net, me, other) = (SimNet::new(2, 1), HostId(0), HostId(1));
        let fabric = net.fabric(me);
        let mut state =
            State::new(me, 2, Epoch(1), budget.clone(), Clock::default(), Arc::default()).unwrap();
        state.give_room(other, 4, &*fabric).unwrap();
        let fault = Fault { address: 0x7000, write: true, minor: false, thread: 1 };
        // A space of which the other host locates the regions, and keeps the directory.
        let space = (1..).map(SpaceId).find(|&space| {
            state.fault(space, client, fault, Instant::now(), &*fabric).unwrap();
            state.node.held(space.page(0x7000)).is_none()
        });
        let space = space.expect("half of them are");
        let page = space.page(0x7000);
        let located = Message::Located { region: page.region(), directory: Some(other) };
        let grant = Message::Grant { page, access: Access::Write, bytes: coherence::Bytes::Initial, acks: 0 };
        for message in [located, grant] {
            state.message(other, message, None, &*fabric).unwrap();
        }
        state.rooms.promised(other, 10, Instant::now());
        // The pages of the spaces that were tried first are this host's own, and go at once.
        state.hand_over(10, &*fabric).unwrap();
        assert!(state.node.is_handing_over(page));
        let gone = u32::from(state.counters.handed_over_pages as u16);
        assert_eq!(state.rooms.best().map_or(0, |(_, promised)| promised), 10 - gone - 1);
        let given = state.given.pages;
        state.shut_space(space);
        assert_eq!(state.rooms.best(), Some((other, 10 - gone)), "the page did not go");
        let give = Message::Give { page, directory: other };
        state.message(other, give, Some(pager::Packed::ZERO), &*fabric).unwrap();
        assert_eq!(state.given.pages, given - 1, "a page that comes too late uses what it was promised");
        state.room_back(given as u32 - 1);
        assert_eq!(state.given.pages, 0);
        let violation = state.message(other, give, Some(pager::Packed::ZERO), &*fabric);
        assert_eq!(violation.map_err(|v| v.from), Err(other), "no room was promised");
    }
}
