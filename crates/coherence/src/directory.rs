//! The directory: the entries of the regions that this host leases.
//!
//! An entry serves one request at a time and queues the others in order of arrival: it is *busy* until the
//! transaction's last message (`Done`, or the last `Dropped`) is in. So at most one transaction per page is
//! anywhere in the machine, and the entry, written at its end, is the truth between two transactions.

use std::collections::VecDeque;
use std::mem;

use rustc_hash::FxHashMap;

use crate::fault::{Fault, Planted};
use crate::frames::{Frame, FrameIndex, Frames};
use crate::outbox::Outbox;
use crate::{Access, Bytes, HostId, Message, Outcome, PageId, REGION_PAGES, RegionId};

/// What a host asks of the directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Ask {
    Access(Access),
    /// To whom, if anybody has room.
    HandOver(Option<HostId>),
    Discard,
}

/// A request, and whose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Request {
    pub(crate) from: HostId,
    pub(crate) ask: Ask,
}

/// What a busy entry waits for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Stage {
    /// The `Done` of the host that gets the page, or got rid of it.
    Done,
    /// So many `Dropped`; then the entry is untouched, and `discarder` is told.
    Discarding { left: u16, discarder: HostId },
    /// The `Dropped` of the holder that hands over.
    Releasing,
}

/// The transaction under way, and who waits behind it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Busy {
    pub(crate) stage: Stage,
    pub(crate) queue: VecDeque<Request>,
}

type Table = [FrameIndex; REGION_PAGES];

#[derive(Clone, Default, Debug)]
pub(crate) struct Directory {
    tables: FxHashMap<RegionId, Box<Table>>,
    frames: Frames,
    busy: FxHashMap<PageId, Busy>,
    planted: Planted,
}

impl Directory {
    #[cfg(feature = "check")]
    pub(crate) fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// The first touch of a page by this very host, which leases its region: no message is needed. False if the
    /// page is touched, or somebody is about to touch it.
    pub(crate) fn first_touch(&mut self, page: PageId, me: HostId) -> bool {
        if !self.busy.is_empty() && self.busy.contains_key(&page) {
            return false;
        }
        let entry = &mut self.tables.entry(page.region()).or_insert_with(empty_table)[page.index()];
        if *entry != FrameIndex::NONE {
            return false;
        }
        *entry = self.frames.make(me);
        true
    }

    /// A request has come.
    ///
    /// # Errors
    /// Why its sender cannot have sent it now.
    pub(crate) fn ask(
        &mut self,
        page: PageId,
        request: Request,
        out: &mut Outbox<'_>,
    ) -> Result<(), &'static str> {
        if let Some(busy) = self.busy.get_mut(&page)
            && !self.planted.has(Fault::ServeWhileBusy)
        {
            // So at most three of each host wait.
            let kind = mem::discriminant(&request.ask);
            let alike = |other: &Request| other.from == request.from && mem::discriminant(&other.ask) == kind;
            if busy.queue.iter().any(alike) {
                return Err("its last request for the page still waits");
            }
            busy.queue.push_back(request);
        } else if let Some(stage) = self.serve(page, request, out) {
            self.busy.insert(page, Busy { stage, queue: VecDeque::new() });
        }
        Ok(())
    }

    /// The host that got the page, or got rid of it, says what came of it.
    pub(crate) fn done(
        &mut self,
        page: PageId,
        from: HostId,
        outcome: Outcome,
        out: &mut Outbox<'_>,
    ) -> Result<(), &'static str> {
        if self.busy.get(&page).is_none_or(|busy| busy.stage != Stage::Done) {
            return Err("no transaction of the page waits for it");
        }
        let forgets = self.planted.has(Fault::ForgetSharer);
        match (outcome, self.frame_mut(page)) {
            (Outcome::Exclusive, Some(frame)) => {
                frame.owner = from;
                frame.sharers.clear();
            }
            (Outcome::Exclusive, None) => {
                let index = self.frames.make(from);
                self.tables.entry(page.region()).or_insert_with(empty_table)[page.index()] = index;
            }
            (Outcome::Shared, Some(frame)) => {
                if frame.owner != from && !forgets {
                    frame.sharers.insert(from);
                }
            }
            (Outcome::Shared, None) => return Err("nobody has a page that it says it shares"),
            (Outcome::Unchanged, _) => {}
        }
        self.next(page, out);
        Ok(())
    }

    /// A holder that was told to drop its copy has done so.
    pub(crate) fn dropped(&mut self, page: PageId, out: &mut Outbox<'_>) -> Result<(), &'static str> {
        let Some(busy) = self.busy.get_mut(&page) else {
            return Err("no transaction of the page is under way");
        };
        match &mut busy.stage {
            Stage::Releasing => self.next(page, out),
            Stage::Discarding { left, discarder } => {
                *left -= 1;
                if *left == 0 {
                    let discarder = *discarder;
                    match self.forget(page, discarder, out) {
                        Some(stage) => self.busy.get_mut(&page).expect("it is busy").stage = stage,
                        None => self.next(page, out),
                    }
                }
            }
            Stage::Done => return Err("nobody was told to drop the page"),
        }
        Ok(())
    }

    /// Forgets the pages that `gone` accepts.
    pub(crate) fn close(&mut self, gone: impl Fn(PageId) -> bool) {
        self.busy.retain(|page, _| !gone(*page));
        self.tables.retain(|region, table| {
            let mut left = 0;
            for (index, entry) in
                table.iter_mut().enumerate().filter(|(_, entry)| **entry != FrameIndex::NONE)
            {
                if gone(region.page(index)) {
                    self.frames.release(*entry);
                    *entry = FrameIndex::NONE;
                } else {
                    left += 1;
                }
            }
            left > 0
        });
    }

    pub(crate) fn frame(&self, page: PageId) -> Option<&Frame> {
        self.frames.get(self.tables.get(&page.region())?[page.index()])
    }

    /// The end of a transaction: serves the requests that waited, until one of them takes time.
    fn next(&mut self, page: PageId, out: &mut Outbox<'_>) {
        while let Some(request) = self.busy.get_mut(&page).and_then(|busy| busy.queue.pop_front()) {
            if let Some(stage) = self.serve(page, request, out) {
                self.busy.get_mut(&page).expect("it was busy").stage = stage;
                return;
            }
        }
        self.busy.remove(&page);
    }

    /// Begins a transaction; says what it waits for, `None` if it is over already.
    fn serve(&mut self, page: PageId, request: Request, out: &mut Outbox<'_>) -> Option<Stage> {
        match request.ask {
            Ask::Access(access) => self.serve_access(page, request.from, access, out),
            Ask::HandOver(to) => self.serve_hand_over(page, request.from, to, out),
            Ask::Discard => self.serve_discard(page, request.from, out),
        }
    }

    fn serve_access(
        &self,
        page: PageId,
        requester: HostId,
        access: Access,
        out: &mut Outbox<'_>,
    ) -> Option<Stage> {
        let grant = |access, bytes, acks| Message::Grant { page, access, bytes, acks };
        let Some(frame) = self.frame(page) else {
            out.send(requester, grant(Access::Write, Bytes::Initial, 0));
            return Some(Stage::Done);
        };
        let owns = frame.owner == requester;
        let shares = frame.sharers.contains(requester);
        let alone = frame.sharers.is_empty();
        match access {
            Access::Read if owns && alone => out.send(requester, grant(Access::Write, Bytes::Held, 0)),
            Access::Read if owns || shares => out.send(requester, grant(Access::Read, Bytes::Held, 0)),
            Access::Read => {
                let into = page;
                out.send(frame.owner, Message::Forward { page, into, access, requester, alone, acks: 0 });
            }
            Access::Write => {
                let mut acks = 0;
                let mut invalidate = |host| {
                    acks += 1;
                    out.send(host, Message::Invalidate { page, requester });
                };
                frame.sharers.iter().filter(|host| *host != requester).for_each(&mut invalidate);
                if shares {
                    // The requester has the bytes: the owner's copy is one more to be dropped.
                    invalidate(frame.owner);
                }
                if owns || shares {
                    out.send(requester, grant(access, Bytes::Held, acks));
                } else {
                    let into = page;
                    out.send(frame.owner, Message::Forward { page, into, access, requester, alone, acks });
                }
            }
        }
        Some(Stage::Done)
    }

    fn serve_hand_over(
        &mut self,
        page: PageId,
        holder: HostId,
        to: Option<HostId>,
        out: &mut Outbox<'_>,
    ) -> Option<Stage> {
        let planted = self.planted;
        let Some(frame) = self.frame_mut(page) else {
            out.send(holder, Message::Moot { page });
            return None;
        };
        if frame.owner == holder {
            let Some(first) = frame.sharers.iter().next() else {
                let Some(to) = to else {
                    if planted.has(Fault::ReleaseLast) {
                        out.send(holder, Message::Release { page });
                        return Some(Stage::Releasing);
                    }
                    out.send(holder, Message::Moot { page });
                    return None;
                };
                out.send(holder, Message::Relinquish { page, to });
                return Some(Stage::Done);
            };
            let heir = to.filter(|to| frame.sharers.contains(*to)).unwrap_or(first);
            frame.sharers.remove(heir);
            frame.owner = heir;
            if !planted.has(Fault::PromoteUnsaid) {
                out.send(heir, Message::Promote { page });
            }
        } else if frame.sharers.contains(holder) {
            frame.sharers.remove(holder);
        } else {
            out.send(holder, Message::Moot { page });
            return None;
        }
        out.send(holder, Message::Release { page });
        (!planted.has(Fault::ReleaseUnconfirmed)).then_some(Stage::Releasing)
    }

    fn serve_discard(&mut self, page: PageId, discarder: HostId, out: &mut Outbox<'_>) -> Option<Stage> {
        let mut left = 0;
        if let Some(frame) = self.frame(page) {
            let holders = frame.sharers.iter().chain([frame.owner]);
            for host in holders.filter(|host| *host != discarder) {
                left += 1;
                out.send(host, Message::Drop { page });
            }
        }
        if left > 0 { Some(Stage::Discarding { left, discarder }) } else { self.forget(page, discarder, out) }
    }

    /// Nobody has a copy of a discarded page any more. The discarder must confirm that it knows: it takes a page
    /// that comes for an old one until then, and the next transaction might send it a new one.
    fn forget(&mut self, page: PageId, discarder: HostId, out: &mut Outbox<'_>) -> Option<Stage> {
        if let Some(entry) = self.entry_mut(page) {
            let index = std::mem::replace(entry, FrameIndex::NONE);
            self.frames.release(index);
        }
        out.send(discarder, Message::Discarded { page });
        (!self.planted.has(Fault::DiscardUnconfirmed)).then_some(Stage::Done)
    }

    /// Regions of which pages are touched or asked for.
    pub(crate) fn regions(&self) -> impl Iterator<Item = RegionId> + '_ {
        self.tables.keys().copied().chain(self.busy.keys().map(|page| page.region()))
    }

    /// Whether anybody has the page, or asks for it.
    pub(crate) fn knows(&self, page: PageId) -> bool {
        self.tables.get(&page.region()).is_some_and(|table| table[page.index()] != FrameIndex::NONE)
            || self.busy.contains_key(&page)
    }

    fn entry_mut(&mut self, page: PageId) -> Option<&mut FrameIndex> {
        Some(&mut self.tables.get_mut(&page.region())?[page.index()])
    }

    fn frame_mut(&mut self, page: PageId) -> Option<&mut Frame> {
        let index = *self.entry_mut(page)?;
        self.frames.get_mut(index)
    }
}

fn empty_table() -> Box<Table> {
    Box::new([FrameIndex::NONE; REGION_PAGES])
}

#[cfg(feature = "check")]
impl Directory {
    pub(crate) fn busy(&self) -> impl Iterator<Item = (PageId, &Busy)> + '_ {
        self.busy.iter().map(|(page, busy)| (*page, busy))
    }
}
