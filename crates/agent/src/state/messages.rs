//! Messages of the protocol: those that may be handled, and those that are held back ([`crate::dwell`]).

use std::time::Instant;

use coherence::{Access, Event, HostId, Message, PageId, REGION_PAGES, Violation};
use fabric::Fabric;
use pager::{Bug, Packed, Place, SpaceId};

use super::State;
use crate::dwell::takes;

/// Messages about one page that are held back, for each host that could have sent some. Each waits for an answer to most of
/// what it says about a page before it says more.
const HELD_MAX: usize = 16;

impl State {
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
        if matches!(message, Message::Give { .. }) && self.given.pages == 0 {
            return Err(Violation { from, message, why: "no room was promised for the page" });
        }
        if self.closed.contains(&SpaceId::of(PageId(message.region().0 * REGION_PAGES as u64))) {
            // It would have used room that we promised.
            if matches!(message, Message::Give { .. }) {
                self.take_back(1);
            }
            return Ok(());
        }
        self.hear(from, message, page, fabric)?;
        self.deliver_own(fabric)
    }

    /// What is due of what was held back is handled.
    ///
    /// # Errors
    /// As [`State::message`].
    pub fn deliver_due(&mut self, now: Instant, fabric: &dyn Fabric) -> Result<(), Violation> {
        while let Some(page) = self.dwell.due(now) {
            if self.pager.planted.has(Bug::NeverDue) {
                continue;
            }
            self.release(page, now, fabric)?;
        }
        self.flush_arrived();
        Ok(())
    }

    /// When there is something to [deliver](State::deliver_due).
    pub fn next_due(&self) -> Option<Instant> {
        self.dwell.next()
    }

    /// A client here has got a page that it waited for.
    pub(super) fn got(&mut self, page: PageId, now: Instant) {
        if !self.spread.is_empty() && self.is_spread(SpaceId::of(page)) {
            self.dwell.got(page, now);
        }
    }

    /// Gives the protocol an event.
    pub(super) fn tell(&mut self, event: Event) -> Result<(), Violation> {
        let Self { node, actions, spread, dwell, own, .. } = self;
        // What this host says to itself about a page that may be here for a client is held back like what others say.
        let later = |message: &Message| {
            let Some(page) = message.page().filter(|_| !spread.is_empty()) else { return false };
            let waits = dwell.holds(page) || own.iter().any(|own| own.page() == Some(page));
            waits || (takes(message) && spread.contains(&SpaceId::of(page)))
        };
        node.try_handle_holding(event, actions, later)
    }

    /// Hears what this host has said to itself.
    pub(super) fn deliver_own(&mut self, fabric: &dyn Fabric) -> Result<(), Violation> {
        while let Some(message) = self.own.pop_front() {
            self.hear(self.me, message, None, fabric)?;
        }
        Ok(())
    }

    /// Handles the messages held back about a page, as far as they need not wait any more.
    pub(super) fn release(
        &mut self,
        page: PageId,
        now: Instant,
        fabric: &dyn Fabric,
    ) -> Result<(), Violation> {
        while let Some(held) = self.dwell.release(page, now) {
            self.see_arrived(&held.message);
            self.handle(held.from, held.message, held.page(), fabric)?;
            self.deliver_own(fabric)?;
        }
        Ok(())
    }

    /// Handles a message, or holds it back.
    fn hear(
        &mut self,
        from: HostId,
        message: Message,
        beside: Option<Packed<'_>>,
        fabric: &dyn Fabric,
    ) -> Result<(), Violation> {
        self.see_arrived(&message);
        if let Some(page) = message.page().filter(|_| !self.dwell.is_quiet()) {
            let now = self.clock.now();
            let overtakes = self.pager.planted.has(Bug::OvertakesHeld) && self.dwell.holds(page);
            if !overtakes && !self.dwell.admits(&message, page, now) {
                self.counters.dwelled += u64::from(takes(&message) && !self.dwell.holds(page));
                if self.dwell.held(page) >= HELD_MAX * usize::from(fabric.hosts()) {
                    let why = "more is held back about the page than hosts that keep to the protocol say";
                    return Err(Violation { from, message, why });
                }
                if self.dwell.hold((from, message), page, beside, now) {
                    self.due.notify_one();
                }
                return Ok(());
            }
        }
        self.handle(from, message, beside, fabric)
    }

    /// Maps a page that has just arrived before a message about it is looked at: it dwells, and it is not idle.
    fn see_arrived(&mut self, message: &Message) {
        if self.pager.planted.has(Bug::ArrivedLate) {
            return;
        }
        if !self.arrived.is_empty() && message.page().is_some_and(|page| self.arrived.has(page)) {
            self.flush_arrived();
        }
    }

    fn handle(
        &mut self,
        from: HostId,
        message: Message,
        beside: Option<Packed<'_>>,
        fabric: &dyn Fabric,
    ) -> Result<(), Violation> {
        let idle = message
            .page()
            .is_none_or(|page| !matches!(self.pager.entry(page).place, Place::Mapped | Place::Evicting));
        if !idle {
            self.count_taking(&message);
        }
        let migratory = takes(&message) && message.page().is_some_and(|page| self.migratory.taken(page));
        self.tell(Event::Message { from, epoch: self.epoch, message, idle: idle || migratory })?;
        self.carry_out(from, beside, fabric);
        Ok(())
    }

    /// Counts a message that takes a page in use here, or the right to write it.
    fn count_taking(&mut self, message: &Message) {
        match *message {
            Message::Forward { page, access, .. } => {
                self.counters.forwarded_pages += 1;
                if access == Access::Write {
                    self.hot.moved(page);
                }
            }
            Message::Invalidate { page, .. } => {
                self.counters.invalidated_pages += 1;
                self.hot.moved(page);
            }
            _ => {}
        }
    }
}
