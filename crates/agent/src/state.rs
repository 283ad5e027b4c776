//! One machine's state on one host: protocol and pager, and what passes between them. Under the machine's lock.
//!
//! Everything that happens ends in the same way: the protocol is given an event, and says what to do ([`Action`]);
//! [`State::settle`] does it, neighbouring pages in one system call where they go the same way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coherence::{
    Access, Action, After, Bytes, Epoch, Event, HostId, Message, Node, PageId, RegionId, Violation,
};
use fabric::Fabric;
use pager::{Budget, Fault, PAGE, Packed, Pager, Place, SpaceId, Streams, offset};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::figures::{Counters, Kind};
use crate::rooms::{ROOM_PAGES, Rooms};
use crate::wire;

const REGION_PAGES: u64 = 512;

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// It is answered, or will be when an answer comes.
    Done,
    /// There is no room for the page yet; the caller waits for some, then tries again.
    NoRoom,
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
    /// How often each has sent some.
    pub figures_heard: Vec<u64>,
    /// Why a file that backs a page could not be read. Who waits for the page gets no answer: the machine must end.
    pub unreadable: Option<std::io::Error>,
    budget: Arc<Budget>,
    epoch: Epoch,
    streams: FxHashMap<SpaceId, Streams>,
    closed: FxHashSet<SpaceId>,
    /// When a thread began to wait for a page that is on its way.
    waiting: FxHashMap<PageId, Instant>,
    actions: Vec<Action>,
    message: Vec<u8>,
    arrived: Arrived,
}

/// Consecutive pages that arrived for somebody who waits, to be mapped at once.
#[derive(Default)]
struct Arrived {
    first: u64,
    writable: bool,
    bytes: Vec<u8>,
}

impl State {
    /// Nothing held yet.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn new(me: HostId, hosts: u16, epoch: Epoch, budget: Arc<Budget>) -> std::io::Result<Self> {
        Ok(Self {
            node: Node::new(me, hosts, epoch),
            pager: Pager::new(budget.clone())?,
            rooms: Rooms::new(me, hosts),
            counters: Counters::default(),
            others: vec![None; usize::from(hosts)],
            figures_heard: vec![0; usize::from(hosts)],
            unreadable: None,
            budget,
            epoch,
            streams: FxHashMap::default(),
            closed: FxHashSet::default(),
            waiting: FxHashMap::default(),
            actions: Vec::new(),
            message: Vec::new(),
            arrived: Arrived::default(),
        })
    }

    /// A thread of a client waits at an address.
    ///
    /// # Errors
    /// A [`Violation`] found on the way.
    pub fn fault(
        &mut self,
        space: SpaceId,
        fault: Fault,
        since: Instant,
        fabric: &dyn Fabric,
    ) -> Result<Served, Violation> {
        if self.closed.contains(&space) {
            return Ok(Served::Done);
        }
        let page = space.page(fault.address);
        let access = if fault.write { Access::Write } else { Access::Read };
        let entry = self.pager.entry(page);
        let held = self.node.held(page);
        match entry.place {
            Place::Mapped | Place::Evicting => {
                match held {
                    Some(Access::Read) if fault.write => {
                        self.waiting.entry(page).or_insert(since);
                        self.want(page, access, fabric)?;
                    }
                    // A page that is mapped and not held is on its way to more access: who waits is woken then.
                    None => {}
                    Some(held) => {
                        if fault.minor || !fault.write {
                            self.pager.show(page, held == Access::Write);
                        } else {
                            self.pager.allow_write(page);
                        }
                        self.counters.fault(Kind::Minor, since.elapsed());
                    }
                }
                Ok(Served::Done)
            }
            Place::Stowed(..) => match held {
                Some(held) => self.unstow(space, page, held, fault.write, since, fabric),
                None => Ok(Served::Done),
            },
            Place::Absent => self.fetch(space, page, access, since, fabric),
        }
    }

    /// Brings a stowed page back, and those after it that a sequential walk will want next.
    fn unstow(
        &mut self,
        space: SpaceId,
        page: PageId,
        held: Access,
        write: bool,
        since: Instant,
        fabric: &dyn Fabric,
    ) -> Result<Served, Violation> {
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
        self.pager.unstow(page, pages, held == Access::Write);
        self.counters.fault(Kind::Local, since.elapsed());
        if write && held == Access::Read {
            self.waiting.entry(page).or_insert(since);
            self.want(page, Access::Write, fabric)?;
        }
        Ok(Served::Done)
    }

    /// Asks for a page that is not here, and for those after it that a sequential walk will want next.
    fn fetch(
        &mut self,
        space: SpaceId,
        page: PageId,
        access: Access,
        since: Instant,
        fabric: &dyn Fabric,
    ) -> Result<Served, Violation> {
        if self.pager.entry(page).wanted {
            self.waiting.entry(page).or_insert(since);
            return Ok(Served::Done);
        }
        if !self.budget.try_take(PAGE as u64) {
            return Ok(Served::NoRoom);
        }
        self.pager.want(page);
        self.waiting.insert(page, since);
        self.node.try_handle(Event::Want { page, access }, &mut self.actions)?;
        for i in 1..self.window(space, page) {
            let next = offset(page, i);
            let entry = self.pager.entry(next);
            if entry.place != Place::Absent || entry.wanted || !self.budget.try_take(PAGE as u64) {
                break;
            }
            self.pager.want(next);
            self.node.try_handle(Event::Want { page: next, access: Access::Read }, &mut self.actions)?;
        }
        self.settle(None, fabric);
        Ok(Served::Done)
    }

    /// Pages to bring for a fault; never past the region, which may be somebody else's.
    fn window(&mut self, space: SpaceId, page: PageId) -> u64 {
        let streams = self.streams.entry(space).or_default();
        streams.window(page).min(REGION_PAGES - page.0 % REGION_PAGES)
    }

    fn want(&mut self, page: PageId, access: Access, fabric: &dyn Fabric) -> Result<(), Violation> {
        self.node.try_handle(Event::Want { page, access }, &mut self.actions)?;
        self.settle(None, fabric);
        Ok(())
    }

    /// A message of the protocol arrived, and perhaps a page beside it.
    ///
    /// # Errors
    /// A [`Violation`]: no host that follows the protocol could have sent this now.
    pub fn message(
        &mut self,
        from: HostId,
        message: Message,
        page: Option<Packed<'_>>,
        fabric: &dyn Fabric,
    ) -> Result<(), Violation> {
        if self.closed.contains(&SpaceId::of(PageId(message.region().0 * REGION_PAGES))) {
            return Ok(());
        }
        let idle = message
            .page()
            .is_none_or(|page| !matches!(self.pager.entry(page).place, Place::Mapped | Place::Evicting));
        let event = Event::Message { from, epoch: self.epoch, message, idle };
        self.node.try_handle(event, &mut self.actions)?;
        self.settle(page, fabric);
        Ok(())
    }

    /// The program has freed pages: those of a range that lie in one region.
    ///
    /// # Errors
    /// A [`Violation`] found on the way.
    pub fn discard(
        &mut self,
        region: RegionId,
        pages: &std::ops::Range<PageId>,
        fabric: &dyn Fabric,
    ) -> Result<(), Violation> {
        let mut touched = Vec::new();
        self.node.touched(region, pages, &mut touched);
        for page in touched {
            self.waiting.remove(&page);
            self.node.try_handle(Event::Discard { page }, &mut self.actions)?;
        }
        self.settle(None, fabric);
        Ok(())
    }

    /// Hands stowed pages to the host with most promised room. Returns how many went on their way.
    ///
    /// # Errors
    /// A [`Violation`] found on the way.
    pub fn hand_over(&mut self, count: usize, fabric: &dyn Fabric) -> Result<usize, Violation> {
        self.ask_for_room(fabric);
        let Some((to, promised)) = self.rooms.best() else { return Ok(0) };
        let mut pages = Vec::new();
        self.pager.oldest_stowed(count.min(promised as usize), &mut pages);
        for &page in &pages {
            self.rooms.use_one(to);
            self.node.try_handle(Event::HandOver { page, to }, &mut self.actions)?;
        }
        self.settle(None, fabric);
        Ok(pages.len())
    }

    /// Asks hosts for room where promises run low.
    pub fn ask_for_room(&mut self, fabric: &dyn Fabric) {
        for host in self.rooms.ask(Instant::now()) {
            fabric.send(host, &[&wire::room_ask(ROOM_PAGES)]);
        }
    }

    /// Promises a host as many pages as it asks for and we can spare.
    pub fn give_room(&mut self, to: HostId, asked: u32, fabric: &dyn Fabric) {
        let spare = self.budget.high_watermark().saturating_sub(self.budget.held()) / PAGE as u64;
        let mut pages = u64::from(asked.min(ROOM_PAGES)).min(spare / u64::from(fabric.hosts()).max(1));
        while pages > 0 && !self.budget.try_take(pages * PAGE as u64) {
            pages /= 2;
        }
        fabric.send(to, &[&wire::room(pages as u32)]);
    }

    /// A space has ended, here or elsewhere.
    pub fn close_space(&mut self, space: SpaceId) {
        if self.closed.insert(space) {
            self.flush_arrived();
            self.pager.close(space);
            self.node.close(space.pages());
            self.streams.remove(&space);
            self.waiting.retain(|page, _| SpaceId::of(*page) != space);
        }
    }

    /// Maps pages that arrived and were held back to go in one call. Before the lock is released.
    pub fn flush_arrived(&mut self) {
        if self.arrived.bytes.is_empty() {
            return;
        }
        let arrived = std::mem::take(&mut self.arrived);
        self.pager.install_bytes(PageId(arrived.first), &arrived.bytes, arrived.writable);
        for i in 0..(arrived.bytes.len() / PAGE) as u64 {
            self.answered(PageId(arrived.first + i), Kind::Remote);
        }
        self.arrived = Arrived {
            bytes: {
                let mut b = arrived.bytes;
                b.clear();
                b
            },
            ..arrived
        };
    }

    /// Does what the protocol said. `carried` is the page beside the message that led to it.
    fn settle(&mut self, carried: Option<Packed<'_>>, fabric: &dyn Fabric) {
        let actions = std::mem::take(&mut self.actions);
        let mut i = 0;
        while i < actions.len() {
            let action = actions[i];
            let mut run = 1;
            match action {
                Action::Install { page, access: Some(access), bytes: Bytes::Carried }
                    if self.pager.entry(page).wanted =>
                {
                    self.hold_back(page, access, carried.as_ref());
                }
                _ => {
                    self.flush_arrived();
                    run = self.act(&actions[i..], carried.as_ref(), fabric);
                }
            }
            i += run;
        }
        self.actions = actions;
        self.actions.clear();
    }

    fn hold_back(&mut self, page: PageId, access: Access, carried: Option<&Packed<'_>>) {
        let writable = access == Access::Write;
        let pages = (self.arrived.bytes.len() / PAGE) as u64;
        if pages > 0
            && (self.arrived.first + pages != page.0
                || self.arrived.writable != writable
                || pages == pager::WINDOW_PAGES_MAX)
        {
            self.flush_arrived();
        }
        if self.arrived.bytes.is_empty() {
            self.arrived.first = page.0;
            self.arrived.writable = writable;
        }
        let start = self.arrived.bytes.len();
        self.arrived.bytes.resize(start + PAGE, 0);
        carried
            .expect("the protocol asks only for bytes that came")
            .unpack(&mut self.arrived.bytes[start..])
            .expect("checked when the message was read");
    }

    /// Does the first of `actions`, and those after it that go with it. Returns how many.
    fn act(&mut self, actions: &[Action], carried: Option<&Packed<'_>>, fabric: &dyn Fabric) -> usize {
        match actions[0] {
            Action::Send { to, message } => {
                wire::coherence(&message, &mut self.message);
                fabric.send(to, &[&self.message]);
            }
            Action::SendPage { to, message, page, then } => {
                wire::coherence(&message, &mut self.message);
                let head = &self.message;
                self.pager.take(page, then == After::Keep, |packed| {
                    fabric.send(to, &[head, &packed.header(), packed.bytes]);
                });
            }
            Action::Install { page, access: Some(_), bytes: Bytes::Initial } => {
                let run = run_length(actions, page, |a| {
                    matches!(a, Action::Install { access: Some(_), bytes: Bytes::Initial, .. })
                });
                if let Err(error) = self.pager.install_initial(page, run as u64) {
                    self.unreadable = Some(error);
                    return run;
                }
                for i in 0..run as u64 {
                    self.answered(offset(page, i), Kind::FirstTouch);
                }
                return run;
            }
            Action::Install { page, access: None, bytes: Bytes::Initial } => {
                self.pager.stow(page, Packed::ZERO);
            }
            Action::Install { page, bytes: Bytes::Carried, .. } => {
                self.pager.stow(page, *carried.expect("the protocol asks only for bytes that came"));
            }
            Action::Install { page, access, bytes: Bytes::Held } => match self.pager.entry(page).place {
                Place::Mapped | Place::Evicting => {
                    if access == Some(Access::Write) {
                        self.pager.allow_write(page);
                    }
                    self.answered(page, Kind::Write);
                }
                // Who waits for it faults again and finds it held.
                _ => self.pager.wake_page(page),
            },
            Action::Drop { page } => {
                let run = run_length(actions, page, |a| matches!(a, Action::Drop { .. }));
                self.pager.remove(page, run as u64);
                return run;
            }
            Action::Protect { page } => self.pager.protect(page),
            Action::HandedOver { .. } => self.counters.handed_over_pages += 1,
            Action::KeptAfterAll { page, to } => {
                self.rooms.unused(to);
                self.pager.requeue_stowed(page);
            }
            Action::Received { .. } => {
                self.budget.give(PAGE as u64);
                self.counters.received_pages += 1;
            }
        }
        1
    }

    fn answered(&mut self, page: PageId, kind: Kind) {
        if let Some(since) = self.waiting.remove(&page) {
            self.counters.fault(kind, Duration::min(since.elapsed(), Duration::from_secs(3600)));
        }
    }
}

/// How many of the first actions are alike and about consecutive pages from `first` on.
fn run_length(actions: &[Action], first: PageId, alike: impl Fn(&Action) -> bool) -> usize {
    let page_of = |action: &Action| match *action {
        Action::Install { page, .. } | Action::Drop { page } => Some(page),
        _ => None,
    };
    (0u64..).zip(actions).take_while(|&(i, a)| alike(a) && page_of(a) == Some(offset(first, i))).count()
}
