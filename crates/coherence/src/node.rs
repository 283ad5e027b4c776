//! One host's part in the protocol.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::ops::Range;

use crate::cache::{Cache, Forward};
use crate::directory::{Ask, Directory, Request};
use crate::fault::{Fault, Planted};
use crate::locator::Locator;
use crate::outbox::Outbox;
use crate::{Access, Action, Epoch, Event, Has, HostId, Message, PageId, REGION_PAGES, RegionId};

/// A message that no host that follows the protocol could have sent now: a bug here or there. The node must not
/// be used any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Violation {
    /// Who sent it.
    pub from: HostId,
    /// The message.
    pub message: Message,
    /// Why it cannot be.
    pub why: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {} sent {:?}, but {}", self.from.0, self.message, self.why)
    }
}

impl std::error::Error for Violation {}

/// One host's part in the protocol: the locator of some regions, the directory of others, and a cache.
#[derive(Clone, Debug)]
pub struct Node {
    me: HostId,
    epoch: Epoch,
    pub(crate) locator: Locator,
    pub(crate) directory: Directory,
    pub(crate) cache: Cache,
    /// Messages to this host itself; empty between two events.
    local: VecDeque<Message>,
    pub(crate) planted: Planted,
}

impl Node {
    /// Host `me` of a machine of `hosts` hosts.
    ///
    /// # Panics
    /// If `me` is not one of them.
    pub fn new(me: HostId, hosts: u16, epoch: Epoch) -> Node {
        assert!(me.0 < hosts, "host {} of {hosts}", me.0);
        let (locator, directory, local, planted) = Default::default();
        Node { me, epoch, locator, directory, cache: Cache::new(me, hosts), local, planted }
    }

    /// Takes an event; appends what must be done to `out`.
    ///
    /// # Panics
    /// On a [`Violation`].
    pub fn handle(&mut self, event: Event, out: &mut Vec<Action>) {
        if let Err(violation) = self.try_handle(event, out) {
            panic!("{violation}");
        }
    }

    /// [`Node::handle`] for an embedding that must outlive the machine.
    ///
    /// # Errors
    /// On a [`Violation`]: this node must not be used any more.
    pub fn try_handle(&mut self, event: Event, out: &mut Vec<Action>) -> Result<(), Violation> {
        self.try_handle_holding(event, out, |_| false)
    }

    /// [`Node::try_handle`] for an embedding that holds messages back, and not only those of other hosts. Of what this host
    /// says to itself about a page, that for which `later` is true, and what follows it about the same page, comes out as
    /// [`Action::Send`] to this host; it is to be delivered like any other message, in the same order. While one about a page
    /// is undelivered, `later` must be true of every other about that page.
    ///
    /// # Errors
    /// On a [`Violation`]: this node must not be used any more.
    pub fn try_handle_holding(
        &mut self,
        event: Event,
        out: &mut Vec<Action>,
        later: impl Fn(&Message) -> bool,
    ) -> Result<(), Violation> {
        let mut outbox = Outbox { me: self.me, local: &mut self.local, actions: out };
        // What the embedding says of the page holds for the messages about it that this host sends itself, too.
        let mut idle_page = None;
        let heeds_epoch = !self.planted.has(Fault::EpochIgnored);
        match event {
            Event::Want { page, access } => {
                let (me, directory) = (self.me, &mut self.directory);
                self.cache.want(page, access, &mut outbox, || directory.first_touch(page, me));
            }
            Event::HandOver { page, to } => self.cache.hand_over(page, to, &mut outbox),
            Event::Discard { page } => self.cache.discard(page, &mut outbox),
            Event::Message { epoch, .. } if heeds_epoch && epoch != self.epoch => {}
            Event::Message { from, message, idle, .. } => {
                idle_page = message.page().filter(|_| idle);
                self.message(from, message, idle, out)?;
            }
        }
        let mut held_back = Vec::new();
        while let Some(message) = self.local.pop_front() {
            if let Some(page) = message.page()
                && (held_back.contains(&page) || later(&message))
            {
                held_back.push(page);
                out.push(Action::Send { to: self.me, message });
                continue;
            }
            let idle = idle_page.is_some() && idle_page == message.page();
            self.message(self.me, message, idle, out)?;
        }
        Ok(())
    }

    /// What this host may do with the page now; `None` if it is absent or on its way.
    pub fn held(&self, page: PageId) -> Option<Access> {
        self.cache.hold(page).access()
    }

    /// What this host has of the pages of a region, in order; `None`: nothing of any.
    pub fn has(&self, region: RegionId) -> Option<impl Iterator<Item = Has> + '_> {
        self.cache.has(region)
    }

    /// The pages of which this host has a copy, another is the owner, and nothing is asked for: an [`Event::HandOver`] to
    /// nobody frees them. Beside each, the number of its region in an order of this node's; from the region `first` on and
    /// round to it again. The order may change when an event is handled.
    pub fn copies(&self, first: usize) -> impl Iterator<Item = (usize, PageId)> + '_ {
        self.cache.copies(first)
    }

    /// An [`Event::HandOver`] of the page has not ended yet.
    pub fn is_handing_over(&self, page: PageId) -> bool {
        self.cache.is_handing_over(page)
    }

    /// An [`Event::Want`] of the page has not been answered yet.
    pub fn pending(&self, page: PageId) -> bool {
        self.cache.wants(page)
    }

    /// An [`Event::Discard`] of this host has not reached every host yet. Who tells the program that a range is
    /// free, while threads of it run on other hosts, must wait until this is false for all its pages.
    pub fn discarding(&self, page: PageId) -> bool {
        self.cache.hollow(page)
    }

    /// The regions of which [`Node::touched`] may name pages of a range, in order.
    pub fn touched_regions(&self, pages: Range<PageId>) -> Vec<RegionId> {
        let first = pages.start.region();
        let last = PageId(pages.end.0.saturating_sub(1)).region();
        let known = || self.cache.regions().chain(self.directory.regions());
        // A range is mostly short, and the regions that are known many.
        if last.0 - first.0 < 64 {
            return (first.0..=last.0).map(RegionId).collect();
        }
        let within: BTreeSet<RegionId> = known().filter(|region| (first..=last).contains(region)).collect();
        within.into_iter().collect()
    }

    /// The pages of a range within a region that this host has to do with, in order: it holds them, waits for
    /// them, or keeps their directory entries. What a program frees, it frees by ranges; of these pages alone an
    /// [`Event::Discard`] can make a difference here.
    pub fn touched(&self, region: RegionId, pages: &Range<PageId>, out: &mut Vec<PageId>) {
        let of_region = (0..REGION_PAGES).map(|index| region.page(index));
        out.extend(
            of_region.filter(|page| {
                pages.contains(page) && (self.cache.knows(*page) || self.directory.knows(*page))
            }),
        );
    }

    /// The pages of a range of which this host keeps the directory entries, because they are touched or asked for. Whoever
    /// frees a range that several hosts use has each of them discard these: of every page that is anywhere, or on its way,
    /// somebody keeps the entry.
    pub fn kept(&self, pages: &Range<PageId>) -> Vec<PageId> {
        let (first, last) = (pages.start.region(), PageId(pages.end.0.saturating_sub(1)).region());
        let regions: BTreeSet<RegionId> =
            self.directory.regions().filter(|region| (first..=last).contains(region)).collect();
        let of_regions = regions.into_iter().flat_map(|r| (0..REGION_PAGES).map(move |index| r.page(index)));
        of_regions.filter(|page| pages.contains(page) && self.directory.knows(*page)).collect()
    }

    /// Whose room the hand-overs of these pages that have not ended yet would use: a host once for each page.
    pub fn receivers(&self, pages: &Range<PageId>) -> Vec<HostId> {
        self.cache.receivers().filter(|(page, _)| pages.contains(page)).map(|(_, to)| to).collect()
    }

    /// A space has ended: forgets every trace of these pages, and of the regions that lie in them whole.
    ///
    /// Every host of the machine is told so by the embedding, and from then on the embedding keeps events and
    /// messages about these pages to itself. No word comes any more of hand-overs that were under way: the room that was
    /// promised for them is not used ([`Node::receivers`]), but where [`Message::Give`] is on its way; there who
    /// promised it hears that.
    pub fn close(&mut self, pages: Range<PageId>) {
        let gone = |page: PageId| pages.contains(&page);
        let region_gone = |region: RegionId| gone(region.page(0)) && gone(region.page(REGION_PAGES - 1));
        self.locator.close(region_gone);
        self.directory.close(gone);
        self.cache.close(gone, region_gone);
    }

    /// Hands a message to the role that it is for.
    fn message(
        &mut self,
        from: HostId,
        message: Message,
        idle: bool,
        out: &mut Vec<Action>,
    ) -> Result<(), Violation> {
        let (cache, directory) = (&mut self.cache, &mut self.directory);
        let out = &mut Outbox { me: self.me, local: &mut self.local, actions: out };
        let handled = match message {
            Message::Locate { region, claim } => {
                let directory = self.locator.locate(region, from, claim);
                out.send(from, Message::Located { region, directory });
                Ok(())
            }
            Message::Located { region, directory: Some(directory) } => cache.learn(region, directory, out),
            Message::Located { region, directory: None } => cache.located_nowhere(region, out),

            Message::Request { page, access } => {
                ask((cache, directory), page, Request { from, ask: Ask::Access(access) }, out)
            }
            Message::HandOver { page, to } => {
                ask((cache, directory), page, Request { from, ask: Ask::HandOver(to) }, out)
            }
            Message::Discard { page } => {
                ask((cache, directory), page, Request { from, ask: Ask::Discard }, out)
            }
            Message::Done { page, outcome } => directory.done(page, from, outcome, out),
            Message::Dropped { page } => directory.dropped(page, out),

            Message::Forward { page, into, access, requester, alone, acks } => {
                cache.forward(page, Forward { into, access, requester, alone, acks }, idle, out)
            }
            Message::Invalidate { page, requester } => cache.invalidate(page, requester, out),
            Message::Ack { page } => cache.ack(page, out),
            Message::Grant { page, access, bytes, acks } => cache.grant(page, access, bytes, acks, out),
            Message::Relinquish { page, to } => cache.relinquish(page, to, out),
            Message::Give { page, directory } => cache.give(page, from, directory, out),
            Message::Promote { page } => cache.promote(page),
            Message::Release { page } => cache.release(page, out),
            Message::Moot { page } => cache.moot(page, out),
            Message::Drop { page } => cache.drop_discarded(page, from, out),
            Message::Discarded { page } => cache.discarded(page, out),
        };
        handled.map_err(|why| Violation { from, message, why })
    }
}

/// A request to this host as a directory. That it comes here says that the locator named this host, even if the
/// locator's own word to this host is still on its way.
fn ask(
    node: (&mut Cache, &mut Directory),
    page: PageId,
    request: Request,
    out: &mut Outbox<'_>,
) -> Result<(), &'static str> {
    let (cache, directory) = node;
    cache.learn(page.region(), out.me, out)?;
    directory.ask(page, request, out)
}
