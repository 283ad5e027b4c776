//! Hosts, a network and memory around the nodes, and what must be true of them. It carries out actions to the
//! letter, and no better: what an action does not ask for is not done.
//!
//! A page's bytes are a [`Content`]: in which incarnation of the machine they were made, by which write, and how many
//! discards had been asked for when they began as initial bytes.

// Each test uses its own part of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use megalith_coherence::{
    Access, Action, After, Bytes, Entry, Epoch, Event, Fault, HostId, Message, Node, PageId, Portrait,
    RegionId,
};

/// The machine's incarnation, and the one before.
pub const EPOCH: Epoch = Epoch(7);
pub const PAST: Epoch = Epoch(6);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Content {
    /// The incarnation in which these bytes were made.
    pub epoch: Epoch,
    /// Discards of the page that had been asked for when this began as initial bytes.
    pub birth: u32,
    /// The last write; 0 if there was none.
    pub version: u32,
}

/// The bytes of a page on a host, and what a client there may do with them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Copied {
    pub content: Content,
    pub access: Option<Access>,
}

/// Messages of one sender to one receiver about one page, or about one region's directory, arrive in order. No
/// other order is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lane {
    Page(PageId),
    Region(RegionId),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Parcel {
    pub message: Message,
    pub content: Option<Content>,
}

/// What is true of a page's history, whoever has it.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct History {
    pub writes: u32,
    pub discards: u32,
    /// The versions that a read may find: the last write, and 0 if the page was or may have been discarded since.
    pub allowed: BTreeSet<u32>,
    /// The host's own last discard, counted by `discards`.
    pub discarded_by: BTreeMap<HostId, u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    Want {
        host: HostId,
        page: PageId,
        access: Access,
    },
    HandOver {
        host: HostId,
        page: PageId,
        to: Option<HostId>,
    },
    Discard {
        host: HostId,
        page: PageId,
    },
    Write {
        host: HostId,
        page: PageId,
    },
    Deliver {
        from: HostId,
        to: HostId,
        lane: Lane,
        idle: bool,
    },
    /// What is about to be delivered is held back, and behind it all that comes to that host about that page.
    Hold {
        from: HostId,
        to: HostId,
        page: PageId,
    },
    /// All that is held back about a page comes now, in order.
    Release {
        host: HostId,
        page: PageId,
        idle: bool,
    },
    /// Something that `from` sent in the incarnation before this one arrives only now; perhaps not for the first time.
    Stray {
        from: HostId,
        to: HostId,
        parcel: Parcel,
    },
}

/// What hosts say to themselves about pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Own {
    /// Is heard at once.
    Now,
    /// Takes its way like what others say (`Node::try_handle_holding`).
    Later,
}

#[derive(Clone, Debug)]
pub struct World {
    pub epoch: Epoch,
    pub nodes: Vec<Arc<Node>>,
    pub copies: BTreeMap<(HostId, PageId), Copied>,
    pub network: BTreeMap<(HostId, HostId, Lane), VecDeque<Parcel>>,
    pub histories: BTreeMap<PageId, History>,
    /// Hand-overs under way, and who promised room.
    pub leaving: BTreeMap<(HostId, PageId), Option<HostId>>,
    /// Pages handed over (from, to, page) that have not been received.
    pub moving: BTreeSet<(HostId, HostId, PageId)>,
    pub own: Own,
    /// Messages that a host holds back about a page, and who sent them. While there is an entry, even an empty one, whatever
    /// comes is put behind it.
    pub held: BTreeMap<(HostId, PageId), VecDeque<(HostId, Parcel)>>,
    /// The page that was last installed with initial bytes.
    pub fresh: Option<(HostId, PageId)>,
    /// An action that could not be carried out, or a message that a node could not accept.
    pub broken: Option<String>,
    /// A message of another incarnation that made a difference.
    pub stirred: Option<String>,
}

pub type Verdict = Result<(), String>;

impl World {
    pub fn new(hosts: u16, pages: &[PageId], epoch: Epoch, fault: Option<Fault>) -> World {
        let node = |host| {
            let mut node = Node::new(HostId(host), hosts, epoch);
            if let Some(fault) = fault {
                node.plant(fault);
            }
            Arc::new(node)
        };
        let fresh = History { allowed: BTreeSet::from([0]), ..History::default() };
        World {
            epoch,
            nodes: (0..hosts).map(node).collect(),
            copies: BTreeMap::new(),
            network: BTreeMap::new(),
            histories: pages.iter().map(|page| (*page, fresh.clone())).collect(),
            leaving: BTreeMap::new(),
            moving: BTreeSet::new(),
            own: Own::Now,
            held: BTreeMap::new(),
            fresh: None,
            broken: None,
            stirred: None,
        }
    }

    /// The same, and hosts hear themselves later.
    pub fn with_own(self, own: Own) -> World {
        World { own, ..self }
    }

    pub fn hosts(&self) -> impl Iterator<Item = HostId> + use<> {
        (0..self.nodes.len() as u16).map(HostId)
    }

    pub fn node(&self, host: HostId) -> &Node {
        &self.nodes[usize::from(host.0)]
    }

    pub fn portrait(&self, host: HostId) -> Portrait {
        let pages: Vec<PageId> = self.histories.keys().copied().collect();
        self.node(host).portrait(&pages)
    }

    pub fn access(&self, host: HostId, page: PageId) -> Option<Access> {
        self.copies.get(&(host, page)).and_then(|copy| copy.access)
    }

    pub fn discarding(&self, page: PageId) -> bool {
        self.nodes.iter().any(|node| node.discarding(page))
    }

    /// Takes a step; says which host's node it changed.
    pub fn step(&mut self, step: Step) -> Option<HostId> {
        match step {
            Step::Want { host, page, access } => {
                self.handle(host, Event::Want { page, access }, None);
                if self.node(host).held(page) < Some(access) && !self.node(host).pending(page) {
                    self.breaks(format!("{host:?} neither has nor awaits {page:?}"));
                }
                Some(host)
            }
            Step::HandOver { host, page, to } => {
                if self.leaving.insert((host, page), to).is_some() {
                    self.breaks("the world hands a page over twice".to_string());
                }
                self.handle(host, Event::HandOver { page, to }, None);
                Some(host)
            }
            Step::Discard { host, page } => {
                let history = self.histories.get_mut(&page).expect("a page of this world");
                history.discards += 1;
                history.allowed.insert(0);
                history.discarded_by.insert(host, history.discards);
                self.handle(host, Event::Discard { page }, None);
                Some(host)
            }
            Step::Write { host, page } => {
                self.write(host, page);
                None
            }
            Step::Deliver { from, to, lane, idle } => {
                let parcel = self.take_parcel(from, to, lane);
                if let Lane::Page(page) = lane
                    && let Some(held) = self.held.get_mut(&(to, page))
                {
                    held.push_back((from, parcel));
                    return None;
                }
                self.receive(to, from, parcel, idle);
                Some(to)
            }
            Step::Hold { from, to, page } => {
                let parcel = self.take_parcel(from, to, Lane::Page(page));
                self.held.entry((to, page)).or_default().push_back((from, parcel));
                None
            }
            Step::Release { host, page, idle } => {
                for (from, parcel) in self.held.remove(&(host, page)).expect("something is held back") {
                    self.receive(host, from, parcel, idle);
                }
                Some(host)
            }
            Step::Stray { from, to, parcel: Parcel { message, content } } => {
                let (before, broken) = (self.portrait(to), self.broken.is_some());
                let stray = Event::Message { from, epoch: PAST, message, idle: true };
                let actions = self.handle(to, stray, content);
                if actions > 0 || self.portrait(to) != before || self.broken.is_some() && !broken {
                    let stirs = || format!("{message:?} of another incarnation, from {from:?}, stirs {to:?}");
                    self.stirred.get_or_insert_with(stirs);
                }
                Some(to)
            }
        }
    }

    /// A client of `host` writes.
    fn write(&mut self, host: HostId, page: PageId) {
        let discarding = self.discarding(page);
        let history = self.histories.get_mut(&page).expect("a page of this world");
        history.writes += 1;
        history.allowed = BTreeSet::from([history.writes]);
        if discarding {
            history.allowed.insert(0);
        }
        let copy = self.copies.get_mut(&(host, page)).expect("a writer has a copy");
        copy.content.version = history.writes;
    }

    fn take_parcel(&mut self, from: HostId, to: HostId, lane: Lane) -> Parcel {
        let channel = self.network.get_mut(&(from, to, lane)).expect("a channel with a message");
        let parcel = channel.pop_front().expect("a channel with a message");
        if channel.is_empty() {
            self.network.remove(&(from, to, lane));
        }
        parcel
    }

    fn receive(&mut self, host: HostId, from: HostId, Parcel { message, content }: Parcel, idle: bool) {
        let epoch = self.epoch;
        self.handle(host, Event::Message { from, epoch, message, idle }, content);
    }

    /// Says how many actions there were.
    fn handle(&mut self, host: HostId, event: Event, mut beside: Option<Content>) -> usize {
        let mut actions = Vec::new();
        let node = Arc::make_mut(&mut self.nodes[usize::from(host.0)]);
        let later = self.own == Own::Later;
        if let Err(violation) = node.try_handle_holding(event, &mut actions, |_| later) {
            self.breaks(violation.to_string());
            return actions.len();
        }
        for action in &actions {
            if let Err(why) = self.act(host, *action, &mut beside) {
                self.breaks(format!("{host:?} cannot carry out {action:?}: {why}"));
            }
        }
        actions.len()
    }

    fn act(&mut self, host: HostId, action: Action, beside: &mut Option<Content>) -> Verdict {
        match action {
            Action::Send { to, message } => {
                ensure(message.carries_page().is_none(), || "the message needs a page".into())?;
                self.post(host, to, Parcel { message, content: None })?;
            }
            Action::SendPage { to, message, page, then } => {
                ensure(message.carries_page().is_some(), || "the message carries no page".into())?;
                let copy = *self.copies.get(&(host, page)).ok_or("no bytes here")?;
                self.post(host, to, Parcel { message, content: Some(copy.content) })?;
                if then == After::Drop {
                    self.copies.remove(&(host, page));
                } else if copy.access == Some(Access::Write) {
                    // Nobody has stopped the writers: one of them writes when the bytes have just been read.
                    self.write(host, page);
                }
            }
            Action::Install { page, access, bytes } => {
                let old = self.copies.get(&(host, page)).map(|copy| copy.content);
                let history = &self.histories[&page];
                let content = match (bytes, old) {
                    (Bytes::Held, Some(content)) => content,
                    (Bytes::Initial, None) => {
                        Content { epoch: self.epoch, birth: history.discards, version: 0 }
                    }
                    (Bytes::Carried, None) => beside.take().ok_or("no bytes beside the message")?,
                    (Bytes::Held, None) => return Err("no bytes here".into()),
                    (Bytes::Initial | Bytes::Carried, Some(_)) => return Err("bytes are here already".into()),
                };
                let own = history.discarded_by.get(&host).copied().unwrap_or(0);
                ensure(content.birth >= own, || "the bytes are older than this host's own discard".into())?;
                self.copies.insert((host, page), Copied { content, access });
                self.fresh = (bytes == Bytes::Initial).then_some((host, page));
            }
            Action::Drop { page } => {
                self.copies.remove(&(host, page)).ok_or("nothing here to drop")?;
            }
            Action::Protect { page } => {
                let copy = self.copies.get_mut(&(host, page)).ok_or("nothing here to protect")?;
                ensure(copy.access == Some(Access::Write), || "it is not writable".into())?;
                copy.access = Some(Access::Read);
            }
            Action::HandedOver { page, to } => {
                ensure(self.leaving.remove(&(host, page)) == Some(Some(to)), || "no such hand-over".into())?;
                ensure(self.moving.insert((host, to, page)), || "handed over twice".into())?;
            }
            Action::KeptAfterAll { page, to } => {
                ensure(self.leaving.remove(&(host, page)) == Some(to), || "no such hand-over".into())?;
            }
            Action::Received { page, from } => {
                ensure(self.moving.remove(&(from, host, page)), || "nobody handed it over".into())?;
            }
        }
        Ok(())
    }

    fn post(&mut self, from: HostId, to: HostId, parcel: Parcel) -> Verdict {
        ensure(from != to || self.own == Own::Later, || "a message to oneself".into())?;
        let lane = match parcel.message.page() {
            Some(page) => Lane::Page(page),
            None => Lane::Region(parcel.message.region()),
        };
        self.network.entry((from, to, lane)).or_default().push_back(parcel);
        Ok(())
    }

    fn breaks(&mut self, why: String) {
        self.broken.get_or_insert(why);
    }

    // What must be true. The names are those in docs/coherence.md.

    /// `actions_can_be_done`: no message was a violation, and every action could be carried out.
    pub fn actions_can_be_done(&self) -> Verdict {
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// `epochs_apart`: what another incarnation's hosts sent changes nothing in a node, and makes it do nothing.
    pub fn epochs_apart(&self) -> Verdict {
        self.stirred.clone().map_or(Ok(()), Err)
    }

    /// `single_writer`: who may write is alone.
    pub fn single_writer(&self, page: PageId) -> Verdict {
        let holders: Vec<_> = self.hosts().filter_map(|host| self.access(host, page)).collect();
        ensure(!holders.contains(&Access::Write) || holders.len() == 1, || {
            format!("{page:?} has a writer and others: {holders:?}")
        })
    }

    /// `reads_see_last_write`: whoever may read finds what was written last. While a discard is under way, others
    /// may find what they find (the program freed the page); not so the host that discarded (see `Install`).
    pub fn reads_see_last_write(&self, page: PageId) -> Verdict {
        if self.discarding(page) {
            return Ok(());
        }
        let copies = self.hosts().filter_map(|host| self.copies.get(&(host, page)));
        let read: Vec<Content> =
            copies.filter(|copy| copy.access.is_some()).map(|copy| copy.content).collect();
        let epoch = self.epoch;
        ensure(read.iter().all(|content| content.epoch == epoch), || {
            format!("{page:?} has bytes of another incarnation: {read:?}")
        })?;
        let versions: BTreeSet<u32> = read.iter().map(|content| content.version).collect();
        let allowed = &self.histories[&page].allowed;
        ensure(versions.len() <= 1 && versions.is_subset(allowed), || {
            format!("{page:?} reads as {versions:?}, and should as one of {allowed:?}")
        })
    }

    /// `last_copy_survives`: what was written last is on some host or on its way to one.
    pub fn last_copy_survives(&self, page: PageId) -> Verdict {
        let allowed = &self.histories[&page].allowed;
        if allowed.contains(&0) || self.discarding(page) {
            return Ok(());
        }
        let here = self.hosts().filter_map(|host| self.copies.get(&(host, page)));
        let under_way = self.network.iter().filter(|((_, _, lane), _)| *lane == Lane::Page(page));
        let sent = under_way.flat_map(|(_, parcels)| parcels.iter().filter_map(|parcel| parcel.content));
        let held = self.held.iter().filter(|((_, held), _)| *held == page);
        let held = held.flat_map(|(_, parcels)| parcels.iter().filter_map(|(_, parcel)| parcel.content));
        let survives = here
            .map(|copy| copy.content)
            .chain(sent)
            .chain(held)
            .any(|content| content.epoch == self.epoch && allowed.contains(&content.version));
        ensure(survives, || format!("{page:?}: versions {allowed:?} are nowhere"))
    }

    /// `held_is_true`: what a node says is held is what clients can do.
    pub fn held_is_true(&self, page: PageId) -> Verdict {
        for host in self.hosts() {
            let (says, is) = (self.node(host).held(page), self.access(host, page));
            ensure(says == is, || format!("{host:?} says {says:?} of {page:?}, and it is {is:?}"))?;
        }
        Ok(())
    }

    pub fn silent(&self) -> bool {
        self.network.is_empty() && self.held.is_empty()
    }

    /// `every_request_ends`: when no message is under way, nobody waits for anything. So no wait can last.
    pub fn every_request_ends(&self) -> Verdict {
        if !self.silent() {
            return Ok(());
        }
        for host in self.hosts() {
            ensure(self.node(host).quiet(), || format!("{host:?} waits, and no message is under way"))?;
        }
        ensure(self.leaving.is_empty(), || format!("hand-overs without end: {:?}", self.leaving))?;
        ensure(self.moving.is_empty(), || format!("handed over and never received: {:?}", self.moving))
    }

    /// `directory_agrees`: when no message is under way, the directory says of a page just what the caches say.
    pub fn directory_agrees(&self, page: PageId) -> Verdict {
        if !self.silent() {
            return Ok(());
        }
        let entries: Vec<Entry> = self.nodes.iter().filter_map(|node| node.entry(page)).collect();
        ensure(entries.len() <= 1, || format!("{page:?} has two entries: {entries:?}"))?;
        let said: BTreeSet<HostId> =
            entries.iter().flat_map(|entry| entry.sharers.iter().copied().chain([entry.owner])).collect();
        let have: BTreeSet<HostId> = self.hosts().filter(|host| self.access(*host, page).is_some()).collect();
        ensure(said == have, || format!("{page:?}: the directory says {said:?} have it; {have:?} do"))
    }

    /// The first property that fails, in the order of [`PROPERTIES`]: of the machine, and of `page` if one is named.
    pub fn failure(&self, page: Option<PageId>) -> Option<(&'static str, String)> {
        PROPERTIES.iter().find_map(|(name, holds)| match holds {
            Holds::OfMachine(holds) => Some((*name, holds(self).err()?)),
            Holds::OfPage(holds) => Some((*name, holds(self, page?).err()?)),
        })
    }

    /// Between discards, when nothing is under way, it is known again whether the last write was discarded.
    pub fn settle_histories(&mut self) {
        if !self.silent() {
            return;
        }
        let hosts: Vec<HostId> = self.hosts().collect();
        for (page, history) in &mut self.histories {
            let copy = hosts.iter().find_map(|host| self.copies.get(&(*host, *page)));
            let version = copy.map_or(0, |copy| copy.content.version);
            if history.allowed.contains(&version) && history.allowed.len() > 1 {
                history.allowed = BTreeSet::from([version]);
            }
        }
    }
}

/// What a property is said of.
pub enum Holds {
    OfMachine(fn(&World) -> Verdict),
    OfPage(fn(&World, PageId) -> Verdict),
}

/// What must be true at every moment. One property more, `silence`, is said of histories: they come to rest.
pub const PROPERTIES: [(&str, Holds); 8] = [
    ("epochs_apart", Holds::OfMachine(World::epochs_apart)),
    ("actions_can_be_done", Holds::OfMachine(World::actions_can_be_done)),
    ("single_writer", Holds::OfPage(World::single_writer)),
    ("reads_see_last_write", Holds::OfPage(World::reads_see_last_write)),
    ("last_copy_survives", Holds::OfPage(World::last_copy_survives)),
    ("held_is_true", Holds::OfPage(World::held_is_true)),
    ("every_request_ends", Holds::OfMachine(World::every_request_ends)),
    ("directory_agrees", Holds::OfPage(World::directory_agrees)),
];

pub const SILENCE: &str = "silence";

pub fn ensure(holds: bool, why: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(why()) }
}
