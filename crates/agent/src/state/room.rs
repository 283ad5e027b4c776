//! Pages go where there is room, and only under a promise of it: see [`crate::rooms`].

use coherence::{Event, HostId, Violation};
use fabric::Fabric;
use pager::{Bug, PAGE};

use super::State;
use crate::rooms::ROOM_PAGES;
use crate::wire;

impl State {
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
            if !self.pager.planted.has(Bug::RoomUsedTwice) {
                self.rooms.use_one(to);
            }
            self.tell(Event::HandOver { page, to: Some(to) })?;
        }
        self.settle(fabric)?;
        Ok(pages.len())
    }

    /// Asks hosts for room where promises run low.
    pub fn ask_for_room(&mut self, fabric: &dyn Fabric) {
        for host in self.rooms.ask(self.clock.now()) {
            fabric.send(host, &[&wire::room_ask(ROOM_PAGES)]);
        }
    }

    /// Promises a host as many pages as it asks for and we can spare. Makes room for the next time if there are none.
    ///
    /// # Errors
    /// A [`Violation`] found on the way.
    pub fn give_room(&mut self, to: HostId, asked: u32, fabric: &dyn Fabric) -> Result<(), Violation> {
        let spare = self.budget.high_watermark().saturating_sub(self.budget.held()) / PAGE as u64;
        let mut pages = u64::from(asked.min(ROOM_PAGES)).min(spare / u64::from(fabric.hosts()).max(1));
        while pages > 0 && !self.budget.try_take(pages * PAGE as u64) {
            pages /= 2;
        }
        if self.pager.planted.has(Bug::RoomUnreserved) {
            self.budget.give(pages * PAGE as u64);
        }
        self.given.pages += pages;
        fabric.send(to, &[&wire::room(pages as u32)]);
        if pages == 0 {
            self.drop_copies(fabric)?;
        }
        Ok(())
    }

    /// Of the room that other hosts were promised so many pages are used, or will not be.
    pub(super) fn take_back(&mut self, pages: u64) {
        let pages = self.given.take_back(pages);
        self.budget.give(pages * PAGE as u64);
    }

    /// Recalls what other hosts were promised and have not used, unless that was done just now. False if there is nothing to wait for.
    pub fn recall_room(&mut self, fabric: &dyn Fabric) -> bool {
        let others = (0..fabric.hosts()).map(HostId).filter(|&host| host != fabric.me());
        if self.given.recall(others.clone().count(), self.clock.now()) {
            for host in others {
                fabric.send(host, &[&wire::GIVE_ROOM_BACK]);
            }
        }
        self.given.answers > 0
    }

    /// Gives back to a host what it has promised and we have not used.
    pub fn give_room_back(&mut self, to: HostId, fabric: &dyn Fabric) {
        fabric.send(to, &[&wire::room_back(self.rooms.give_back(to))]);
    }

    /// A host has given back so many pages.
    pub fn room_back(&mut self, pages: u32) {
        self.given.answers = self.given.answers.saturating_sub(1);
        self.take_back(u64::from(pages));
    }
}
