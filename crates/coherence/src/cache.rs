//! What this host has of each page, and what it is waiting for.
//!
//! A page is asked for by at most one *operation* at a time (a want, a hand-over, or a discard); what is asked
//! meanwhile is remembered and started when the operation ends. While a discard is remembered or under way the
//! page is *hollow*: whatever bytes arrive are old and are not taken, and if the directory still sends somebody
//! here for them, he is told that the page is initial.

use rustc_hash::FxHashMap;

use crate::directory::Ask;
use crate::fault::{Fault, Planted};
use crate::locator::locator_of;
use crate::outbox::Outbox;
use crate::{Access, Action, After, Bytes, Has, HostId, Message, Outcome, PageId, REGION_PAGES, RegionId};

/// What is here of a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub(crate) enum Hold {
    /// Nothing.
    Absent,
    /// The bytes, but other hosts may still have copies: nobody may look.
    Arriving,
    /// A copy to read; somebody else is the owner.
    Shared,
    /// The authoritative copy, to read; others may have copies.
    Owned,
    /// The only copy, to write.
    Exclusive,
}

impl Hold {
    pub(crate) fn access(self) -> Option<Access> {
        match self {
            Hold::Absent | Hold::Arriving => None,
            Hold::Shared | Hold::Owned => Some(Access::Read),
            Hold::Exclusive => Some(Access::Write),
        }
    }
}

/// The operation of a page that is under way, and what comes after it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Pending {
    pub(crate) op: Ask,
    /// Of a want: the grant, once it is here.
    granted: Option<Access>,
    /// Of a want: acks to come. Below zero while acks overtake the grant.
    acks: i32,
    /// A discard is to follow.
    discard: bool,
    /// A want is to follow (after the discard).
    want: Option<Access>,
}

impl Pending {
    fn new(op: Ask) -> Pending {
        Pending { op, granted: None, acks: 0, discard: false, want: None }
    }

    fn hollow(&self) -> bool {
        self.discard || self.op == Ask::Discard
    }

    fn wants(&self) -> bool {
        self.want.is_some() || matches!(self.op, Ask::Access(_))
    }

    fn want(&mut self, access: Access) {
        self.want = self.want.max(Some(access));
    }
}

/// What this host knows of a region's directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Route {
    Unknown,
    /// The locator was asked.
    Asked,
    Known(HostId),
}

#[derive(Clone, Debug)]
struct Region {
    route: Route,
    holds: [Hold; REGION_PAGES],
    /// Places of the pages whose operation waits until the route is known.
    waiting: Vec<u16>,
    /// How many of those waited already when the locator was asked. To the others an answer that nobody leases
    /// the region says nothing: somebody may have leased it between the answer and them.
    covered: usize,
}

impl Region {
    fn is_blank(&self) -> bool {
        self.route == Route::Unknown
            && self.waiting.is_empty()
            && self.holds.iter().all(|hold| *hold == Hold::Absent)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Cache {
    me: HostId,
    hosts: u16,
    regions: FxHashMap<RegionId, Box<Region>>,
    pending: FxHashMap<PageId, Pending>,
    planted: Planted,
}

type Handled = Result<(), &'static str>;

impl Cache {
    pub(crate) fn new(me: HostId, hosts: u16) -> Cache {
        let (regions, pending, planted) = Default::default();
        Cache { me, hosts, regions, pending, planted }
    }

    #[cfg(feature = "check")]
    pub(crate) fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    pub(crate) fn hold(&self, page: PageId) -> Hold {
        self.regions.get(&page.region()).map_or(Hold::Absent, |region| region.holds[page.index()])
    }

    /// See [`Node::has`](crate::Node::has).
    pub(crate) fn has(&self, region: RegionId) -> Option<impl Iterator<Item = Has> + '_> {
        self.regions.get(&region).map(|region| {
            region.holds.iter().map(|hold| match hold {
                // What is arriving may still be elsewhere, too.
                Hold::Absent | Hold::Arriving => Has::Nothing,
                Hold::Shared => Has::Copy,
                Hold::Owned | Hold::Exclusive => Has::Page,
            })
        })
    }

    pub(crate) fn wants(&self, page: PageId) -> bool {
        self.pending.get(&page).is_some_and(Pending::wants)
    }

    pub(crate) fn hollow(&self, page: PageId) -> bool {
        self.pending.get(&page).is_some_and(Pending::hollow)
    }

    /// See [`Node::copies`](crate::Node::copies).
    pub(crate) fn copies(&self, first: usize) -> impl Iterator<Item = (usize, PageId)> + '_ {
        let regions = || self.regions.iter().enumerate();
        regions().skip(first).chain(regions().take(first)).flat_map(|(number, (id, region))| {
            let shared = region.holds.iter().enumerate().filter(|(_, hold)| **hold == Hold::Shared);
            shared
                .map(|(index, _)| id.page(index))
                .filter(|page| !self.pending.contains_key(page))
                .map(move |page| (number, page))
        })
    }

    pub(crate) fn is_handing_over(&self, page: PageId) -> bool {
        self.pending.get(&page).is_some_and(|pending| matches!(pending.op, Ask::HandOver(_)))
    }

    /// See [`Node::receivers`](crate::Node::receivers).
    pub(crate) fn receivers(&self) -> impl Iterator<Item = (PageId, HostId)> + '_ {
        self.pending.iter().filter_map(|(page, pending)| match pending.op {
            Ask::HandOver(Some(to)) => Some((*page, to)),
            _ => None,
        })
    }

    /// Regions of which pages are here or asked for.
    pub(crate) fn regions(&self) -> impl Iterator<Item = RegionId> + '_ {
        self.regions.keys().copied().chain(self.pending.keys().map(|page| page.region()))
    }

    /// Whether the page is here or asked for.
    pub(crate) fn knows(&self, page: PageId) -> bool {
        self.hold(page) != Hold::Absent || self.pending.contains_key(&page)
    }

    // What happens on this host.

    /// A page is needed. `first_touch` asks the directory of this very host whether the page is free to take.
    pub(crate) fn want(
        &mut self,
        page: PageId,
        access: Access,
        out: &mut Outbox<'_>,
        first_touch: impl FnOnce() -> bool,
    ) {
        if let Some(pending) = self.pending.get_mut(&page) {
            let suffices = match pending.op {
                Ask::Access(asked) => !pending.discard && asked >= access,
                Ask::HandOver(_) | Ask::Discard => false,
            };
            if !suffices && self.hold(page).access() < Some(access) {
                self.pending.get_mut(&page).expect("just seen").want(access);
            }
            return;
        }
        let me = self.me;
        let region = self.region_mut(page.region());
        let hold = &mut region.holds[page.index()];
        if hold.access() >= Some(access) {
            return;
        }
        if region.route == Route::Known(me) && *hold == Hold::Absent && first_touch() {
            *hold = Hold::Exclusive;
            out.act(Action::Install { page, access: Some(Access::Write), bytes: Bytes::Initial });
            return;
        }
        self.start(page, Pending::new(Ask::Access(access)), out);
    }

    pub(crate) fn hand_over(&mut self, page: PageId, to: Option<HostId>, out: &mut Outbox<'_>) {
        if to == Some(self.me) || self.pending.contains_key(&page) || self.hold(page) == Hold::Absent {
            out.act(Action::KeptAfterAll { page, to });
            return;
        }
        if self.planted.has(Fault::DropUnasked) {
            self.drop_copy(page, out);
        }
        self.start(page, Pending::new(Ask::HandOver(to)), out);
    }

    pub(crate) fn discard(&mut self, page: PageId, out: &mut Outbox<'_>) {
        self.drop_copy(page, out);
        match self.pending.get_mut(&page) {
            Some(pending) => {
                // A client that waits for the page must get it all the same: with the initial bytes.
                if let (Ask::Access(asked), false) = (pending.op, pending.discard) {
                    pending.want(asked);
                }
                pending.discard = true;
            }
            None => self.start(page, Pending::new(Ask::Discard), out),
        }
    }

    // What the locator says.

    /// The region's directory is known now: whatever waited for it goes on.
    pub(crate) fn learn(&mut self, region_id: RegionId, directory: HostId, out: &mut Outbox<'_>) -> Handled {
        let region = self.region_mut(region_id);
        if let Route::Known(known) = region.route {
            return if known == directory { Ok(()) } else { Err("another host leases the region") };
        }
        region.route = Route::Known(directory);
        region.covered = 0;
        for index in std::mem::take(&mut region.waiting) {
            let page = region_id.page(usize::from(index));
            let pending = self.pending.get(&page).ok_or("a page waited without an operation")?;
            out.send(directory, request(page, pending.op));
        }
        Ok(())
    }

    /// Nobody leased the region when the locator answered: there was nothing to discard.
    pub(crate) fn located_nowhere(&mut self, id: RegionId, out: &mut Outbox<'_>) -> Handled {
        let region = self.region_mut(id);
        if region.route != Route::Asked {
            // A message from the directory itself, or a page that was handed over, was faster.
            return Ok(());
        }
        let covered = std::mem::take(&mut region.covered);
        let waiting = std::mem::take(&mut region.waiting);
        let (mut ended, mut again, mut claim) = (Vec::new(), Vec::new(), false);
        let believes = self.planted.has(Fault::BelieveOldAnswer);
        for (number, index) in waiting.into_iter().enumerate() {
            let page = id.page(usize::from(index));
            let op = self.pending.get(&page).ok_or("a page waited without an operation")?.op;
            if op == Ask::Discard && (number < covered || believes) {
                ended.push(page);
            } else {
                again.push(index);
                claim |= op != Ask::Discard;
            }
        }
        let hosts = self.hosts;
        let region = self.region_mut(id);
        region.route = if again.is_empty() { Route::Unknown } else { Route::Asked };
        region.covered = again.len();
        if !again.is_empty() {
            out.send(locator_of(id, hosts), Message::Locate { region: id, claim });
        }
        region.waiting = again;
        for page in ended {
            self.finish(page, out);
        }
        if self.regions.get(&id).is_some_and(|region| region.is_blank()) {
            self.regions.remove(&id);
        }
        Ok(())
    }

    // What the directory and other holders say.

    pub(crate) fn forward(
        &mut self,
        page: PageId,
        forward: Forward,
        idle: bool,
        out: &mut Outbox<'_>,
    ) -> Handled {
        let Forward { into, access, requester, alone, acks } = forward;
        if requester == self.me {
            return Err("this host would answer itself");
        }
        let grant = |access, bytes| Message::Grant { page: into, access, bytes, acks };
        match self.hold(page) {
            Hold::Absent if self.hollow(page) => {
                let access = if alone { Access::Write } else { access };
                out.send(requester, grant(access, Bytes::Initial));
            }
            Hold::Owned | Hold::Exclusive
                if access == Access::Write || (alone && idle && !self.wants(page)) =>
            {
                out.send_page(requester, grant(Access::Write, Bytes::Carried), page, After::Drop);
                self.set_hold(page, Hold::Absent);
                if self.planted.has(Fault::StealBack) && !self.pending.contains_key(&page) {
                    self.start(page, Pending::new(Ask::Access(Access::Write)), out);
                }
            }
            hold @ (Hold::Owned | Hold::Exclusive) => {
                let protects = hold == Hold::Exclusive && !self.planted.has(Fault::NoProtect);
                let late = self.planted.has(Fault::CopyBeforeProtect);
                if protects {
                    self.set_hold(page, Hold::Owned);
                }
                if protects && !late {
                    out.act(Action::Protect { page });
                }
                out.send_page(requester, grant(Access::Read, Bytes::Carried), page, After::Keep);
                if protects && late {
                    out.act(Action::Protect { page });
                }
            }
            Hold::Absent | Hold::Arriving | Hold::Shared => return Err("this host is not the owner"),
        }
        Ok(())
    }

    pub(crate) fn invalidate(&mut self, page: PageId, requester: HostId, out: &mut Outbox<'_>) -> Handled {
        if self.planted.has(Fault::AckUndropped) {
            self.set_hold(page, Hold::Absent);
        }
        self.drop_copy(page, out);
        if !self.planted.has(Fault::NoAck) {
            out.send(requester, Message::Ack { page });
        }
        Ok(())
    }

    pub(crate) fn drop_discarded(&mut self, page: PageId, from: HostId, out: &mut Outbox<'_>) -> Handled {
        self.drop_copy(page, out);
        out.send(from, Message::Dropped { page });
        Ok(())
    }

    pub(crate) fn promote(&mut self, page: PageId) -> Handled {
        match self.hold(page) {
            Hold::Shared => self.set_hold(page, Hold::Owned),
            Hold::Absent if self.hollow(page) => {}
            _ => return Err("this host is not a sharer"),
        }
        Ok(())
    }

    pub(crate) fn grant(
        &mut self,
        page: PageId,
        access: Access,
        bytes: Bytes,
        acks: u16,
        out: &mut Outbox<'_>,
    ) -> Handled {
        let resurrect = self.planted.has(Fault::ResurrectDiscarded);
        let hasty = self.planted.has(Fault::NoWaitForAcks);
        let pending = self.pending.get_mut(&page).ok_or("this host has asked for nothing")?;
        if !matches!(pending.op, Ask::Access(_)) || pending.granted.is_some() {
            return Err("this host does not wait for a grant");
        }
        pending.granted = Some(access);
        pending.acks += i32::from(acks);
        if pending.acks > 0 && bytes != Bytes::Held && !pending.hollow() && !hasty {
            self.set_hold(page, Hold::Arriving);
            out.act(Action::Install { page, access: None, bytes });
            return Ok(());
        }
        if pending.acks <= 0 || hasty {
            let hollow = pending.hollow() && !resurrect;
            self.settle(page, access, (!hollow).then_some(bytes), out)?;
        }
        Ok(())
    }

    pub(crate) fn ack(&mut self, page: PageId, out: &mut Outbox<'_>) -> Handled {
        if self.planted.has(Fault::NoWaitForAcks) {
            return Ok(());
        }
        let pending = self.pending.get_mut(&page).ok_or("this host has asked for nothing")?;
        pending.acks -= 1;
        match pending.granted {
            Some(access) if pending.acks == 0 => {
                let hollow = pending.hollow();
                self.settle(page, access, (!hollow).then_some(Bytes::Held), out)
            }
            Some(_) if pending.acks < 0 => Err("all acks were in"),
            _ => Ok(()),
        }
    }

    pub(crate) fn relinquish(&mut self, page: PageId, to: HostId, out: &mut Outbox<'_>) -> Handled {
        if self.expect_hand_over(page)? != Some(to) {
            return Err("this host is handing the page over to another");
        }
        let directory = self.directory(page)?;
        if self.hollow(page) {
            out.send(directory, Message::Done { page, outcome: Outcome::Unchanged });
            out.act(Action::KeptAfterAll { page, to: Some(to) });
        } else {
            out.send_page(to, Message::Give { page, directory }, page, After::Drop);
            self.set_hold(page, Hold::Absent);
            out.act(Action::HandedOver { page, to });
        }
        self.finish(page, out);
        Ok(())
    }

    pub(crate) fn give(
        &mut self,
        page: PageId,
        from: HostId,
        directory: HostId,
        out: &mut Outbox<'_>,
    ) -> Handled {
        self.learn(page.region(), directory, out)?;
        if self.hold(page) != Hold::Absent {
            return Err("this host has a copy of the page");
        }
        if !self.hollow(page) {
            self.set_hold(page, Hold::Exclusive);
            out.act(Action::Install { page, access: Some(Access::Write), bytes: Bytes::Carried });
        }
        out.act(Action::Received { page, from });
        out.send(directory, Message::Done { page, outcome: Outcome::Exclusive });
        Ok(())
    }

    pub(crate) fn release(&mut self, page: PageId, out: &mut Outbox<'_>) -> Handled {
        let to = self.expect_hand_over(page)?;
        self.drop_copy(page, out);
        if !self.planted.has(Fault::ReleaseUnconfirmed) {
            out.send(self.directory(page)?, Message::Dropped { page });
        }
        out.act(Action::KeptAfterAll { page, to });
        self.finish(page, out);
        Ok(())
    }

    pub(crate) fn moot(&mut self, page: PageId, out: &mut Outbox<'_>) -> Handled {
        let to = self.expect_hand_over(page)?;
        out.act(Action::KeptAfterAll { page, to });
        self.finish(page, out);
        Ok(())
    }

    pub(crate) fn discarded(&mut self, page: PageId, out: &mut Outbox<'_>) -> Handled {
        if self.pending.get(&page).is_none_or(|pending| pending.op != Ask::Discard) {
            return Err("this host is not discarding the page");
        }
        if !self.planted.has(Fault::DiscardUnconfirmed) {
            out.send(self.directory(page)?, Message::Done { page, outcome: Outcome::Unchanged });
        }
        self.finish(page, out);
        Ok(())
    }

    /// Forgets the pages that `gone` accepts, and the regions that `region_gone` accepts.
    pub(crate) fn close(&mut self, gone: impl Fn(PageId) -> bool, region_gone: impl Fn(RegionId) -> bool) {
        self.pending.retain(|page, _| !gone(*page));
        self.regions.retain(|id, region| {
            if region_gone(*id) {
                return false;
            }
            for (index, hold) in region.holds.iter_mut().enumerate() {
                if gone(id.page(index)) {
                    *hold = Hold::Absent;
                }
            }
            let mut number = 0;
            let covered = region.covered;
            region.waiting.retain(|index| {
                let stays = !gone(id.page(usize::from(*index)));
                region.covered -= usize::from(!stays && number < covered);
                number += 1;
                stays
            });
            true
        });
    }

    // Steps that several of the above share.

    /// The want is fulfilled: the grant and all acks are here. `bytes` is `None` if the page is hollow.
    fn settle(
        &mut self,
        page: PageId,
        access: Access,
        bytes: Option<Bytes>,
        out: &mut Outbox<'_>,
    ) -> Handled {
        if let Some(bytes) = bytes {
            let hold = match (access, self.hold(page)) {
                (Access::Write, _) => Hold::Exclusive,
                (Access::Read, Hold::Owned) => Hold::Owned,
                (Access::Read, _) => Hold::Shared,
            };
            self.set_hold(page, hold);
            out.act(Action::Install { page, access: Some(access), bytes });
        }
        let outcome = match access {
            Access::Read => Outcome::Shared,
            Access::Write => Outcome::Exclusive,
        };
        out.send(self.directory(page)?, Message::Done { page, outcome });
        self.finish(page, out);
        Ok(())
    }

    /// The operation is over; what was asked meanwhile is its turn.
    fn finish(&mut self, page: PageId, out: &mut Outbox<'_>) {
        let Some(Pending { discard, want, .. }) = self.pending.remove(&page) else { return };
        if discard {
            self.start(page, Pending { want, ..Pending::new(Ask::Discard) }, out);
        } else if let Some(access) = want
            && self.hold(page).access() < want
        {
            self.start(page, Pending::new(Ask::Access(access)), out);
        }
    }

    /// Sends the operation to the directory; asks for the directory first if need be.
    fn start(&mut self, page: PageId, pending: Pending, out: &mut Outbox<'_>) {
        let op = pending.op;
        self.pending.insert(page, pending);
        let (id, hosts) = (page.region(), self.hosts);
        let region = self.region_mut(id);
        match region.route {
            Route::Known(directory) => out.send(directory, request(page, op)),
            Route::Asked => region.waiting.push(page.index() as u16),
            Route::Unknown => {
                region.route = Route::Asked;
                region.waiting.push(page.index() as u16);
                region.covered = 1;
                let claim = op != Ask::Discard;
                out.send(locator_of(id, hosts), Message::Locate { region: id, claim });
            }
        }
    }

    fn expect_hand_over(&self, page: PageId) -> Result<Option<HostId>, &'static str> {
        match self.pending.get(&page).map(|pending| pending.op) {
            Some(Ask::HandOver(to)) => Ok(to),
            _ => Err("this host is not handing the page over"),
        }
    }

    fn directory(&self, page: PageId) -> Result<HostId, &'static str> {
        match self.regions.get(&page.region()).map(|region| region.route) {
            Some(Route::Known(directory)) => Ok(directory),
            _ => Err("this host does not know the region's directory"),
        }
    }

    fn drop_copy(&mut self, page: PageId, out: &mut Outbox<'_>) {
        if self.hold(page) != Hold::Absent {
            self.set_hold(page, Hold::Absent);
            out.act(Action::Drop { page });
        }
    }

    fn set_hold(&mut self, page: PageId, hold: Hold) {
        self.region_mut(page.region()).holds[page.index()] = hold;
    }

    fn region_mut(&mut self, region: RegionId) -> &mut Region {
        let blank = || Region {
            route: Route::Unknown,
            holds: [Hold::Absent; REGION_PAGES],
            waiting: Vec::new(),
            covered: 0,
        };
        self.regions.entry(region).or_insert_with(|| Box::new(blank()))
    }
}

/// The fields of [`Message::Forward`] beside the page.
pub(crate) struct Forward {
    pub(crate) into: PageId,
    pub(crate) access: Access,
    pub(crate) requester: HostId,
    pub(crate) alone: bool,
    pub(crate) acks: u16,
}

fn request(page: PageId, op: Ask) -> Message {
    match op {
        Ask::Access(access) => Message::Request { page, access },
        Ask::HandOver(to) => Message::HandOver { page, to },
        Ask::Discard => Message::Discard { page },
    }
}

#[cfg(feature = "check")]
impl Cache {
    pub(crate) fn routes(&self) -> impl Iterator<Item = (RegionId, Route, (&[u16], usize))> + '_ {
        self.regions
            .iter()
            .map(|(id, region)| (*id, region.route, (region.waiting.as_slice(), region.covered)))
    }

    pub(crate) fn pending(&self) -> impl Iterator<Item = (PageId, &Pending)> + '_ {
        self.pending.iter().map(|(page, pending)| (*page, pending))
    }
}
