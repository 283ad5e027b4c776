//! First bytes that are a file's.
//!
//! Only the home host has the files that a program maps. On another host a page of such a range is *filled*: home's agent is asked
//! for the bytes, and until they come all messages about the page wait ([`crate::dwell`]).

use coherence::{HostId, PageId, Violation};
use fabric::Fabric;
use pager::{Bug, PAGE, Packed, SpaceId, offset};

use super::{State, home_of};
use crate::figures::Kind;
use crate::wire;

impl State {
    /// Untouched pages are here to be used.
    pub(super) fn install_initial(&mut self, first: PageId, pages: u64, fabric: &dyn Fabric) {
        let mut asked = Vec::new();
        let client = self.waits_for(first, pages);
        let ask = |page, run| asked.push((page, run));
        if let Err(error) = self.pager.install_initial(first, pages, client, ask) {
            self.unreadable = Some(error);
            return;
        }
        for &(page, run) in &asked {
            self.ask_home(page, run, fabric);
        }
        for page in (0..pages).map(|i| offset(first, i)) {
            if !self.dwell.fills(page) {
                self.answered(page, Kind::FirstTouch);
            }
        }
    }

    /// An untouched page is here, and not to be seen yet.
    pub(super) fn stow_initial(&mut self, page: PageId, fabric: &dyn Fabric) {
        match self.pager.stow_initial(page) {
            Ok(true) => {}
            Ok(false) => self.ask_home(page, 1, fabric),
            Err(error) => self.unreadable = Some(error),
        }
    }

    fn ask_home(&mut self, first: PageId, pages: u64, fabric: &dyn Fabric) {
        let question = self.dwell.fill((0..pages).map(|i| offset(first, i)));
        fabric.send(home_of(SpaceId::of(first)), &[&wire::file_ask(question, first, pages as u16)]);
    }

    /// Another host asks for the first bytes of pages.
    pub fn give_file(
        &mut self,
        to: HostId,
        (question, first, pages): (u32, PageId, u16),
        fabric: &dyn Fabric,
    ) {
        if self.closed.contains(&SpaceId::of(first)) {
            return;
        }
        let mut bytes = vec![0; usize::from(pages) * PAGE];
        if let Err(error) = self.pager.read_initial(first, &mut bytes) {
            self.unreadable = Some(error);
            return;
        }
        for (i, page) in (0..).zip(bytes.chunks(PAGE)) {
            let packed = self.packer.pack(page);
            let head = wire::file_bytes(question, offset(first, i));
            fabric.send(to, &[&head, &packed.header(), packed.bytes]);
        }
    }

    /// Home has sent a page's first bytes.
    ///
    /// # Errors
    /// A [`Violation`] in what had to wait for them.
    pub fn file_bytes(
        &mut self,
        (question, page): (u32, PageId),
        packed: Packed<'_>,
        fabric: &dyn Fabric,
    ) -> Result<(), Violation> {
        // The page may have been discarded meanwhile, and the space may have ended.
        let question = match self.pager.planted.has(Bug::OldAnswer) {
            true => self.dwell.question(page).unwrap_or(question),
            false => question,
        };
        if !self.dwell.filled(page, question) {
            return Ok(());
        }
        match self.node.held(page) {
            Some(access) if self.pager.entry(page).wanted => {
                self.arrive(page, access, Kind::FirstTouch, &packed);
            }
            held => {
                if held.is_some() {
                    self.waiting.remove(&page);
                }
                self.pager.stow(page, packed);
            }
        }
        if self.dwell.holds(page) {
            self.flush_arrived();
            self.release(page, self.clock.now(), fabric)?;
        }
        Ok(())
    }
}
