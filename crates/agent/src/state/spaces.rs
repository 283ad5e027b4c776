//! Spaces: whose they are, whether several hosts use them, and their end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coherence::{HostId, PageId};
use pager::{Bug, SpaceId, SpaceMemory};

use super::State;

/// Every host makes its own ids, from here on.
const PER_HOST_BITS: u32 = 18;

/// The first id that a host gives.
pub fn first_space(host: HostId) -> u32 {
    u32::from(host.0) << PER_HOST_BITS | 1
}

/// The host whose process opened the space.
pub fn home_of(space: SpaceId) -> HostId {
    HostId((space.0 >> PER_HOST_BITS) as u16)
}

impl State {
    /// Threads of several hosts use the space from now on, or may.
    pub fn spread(&mut self, space: SpaceId) {
        self.spread.insert(space);
        self.spread_flags.entry(space).or_default().store(true, Ordering::Relaxed);
    }

    /// [`State::is_spread`] for who asks at every fault, without the lock.
    pub fn watch_spread(&mut self, space: SpaceId) -> Arc<AtomicBool> {
        self.spread_flags.entry(space).or_default().clone()
    }

    /// Whether threads of several hosts use the space.
    pub fn is_spread(&self, space: SpaceId) -> bool {
        self.spread.contains(&space)
    }

    /// Ordinary processes may map the space here from now on, which is this host's own or another's.
    ///
    /// # Errors
    /// Those of making its memfd.
    pub fn share(&mut self, space: SpaceId) -> io::Result<Arc<SpaceMemory>> {
        if let Some(memory) = self.pager.space(space) {
            return Ok(memory.clone());
        }
        let memory = Arc::new(SpaceMemory::new()?);
        self.pager.open(space, memory.clone());
        self.shared.insert(space);
        self.spread(space);
        Ok(memory)
    }

    /// Whether ordinary processes map the space, or may.
    pub fn is_shared(&self, space: SpaceId) -> bool {
        self.shared.contains(&space)
    }

    /// The machine has ended: what is in shared spaces is seen by nobody any more, here or on other hosts.
    pub fn withdraw_shared(&mut self) {
        for memory in self.shared.iter().filter_map(|&space| self.pager.space(space)) {
            memory.withdraw();
            self.withdrawn = true;
        }
    }

    /// Whether the space has ended.
    pub fn is_closed(&self, space: SpaceId) -> bool {
        self.closed.contains(&space)
    }

    /// A space has ended, here or elsewhere: nothing is heard of it any more.
    pub fn shut_space(&mut self, space: SpaceId) {
        if self.closed.insert(space) {
            self.flush_arrived();
            for to in self.node.receivers(&space.pages()) {
                self.rooms.unused(to);
            }
            if !self.pager.planted.has(Bug::EndForgotten) {
                self.node.close(space.pages());
            }
            self.streams.remove(&space);
            self.writes.remove(&space);
            let gone = |page: PageId| SpaceId::of(page) == space;
            self.waiting.retain(|&page, _| !gone(page));
            let given = self.dwell.close(gone);
            self.take_back(given);
            self.hot.close(gone);
            self.migratory.close(gone);
        }
    }

    /// Nobody here maps the space any more, which has ended: frees what is held of it.
    pub fn free_space(&mut self, space: SpaceId) {
        if self.shared.remove(&space)
            && let Some(memory) = self.pager.space(space)
        {
            memory.withdraw();
        }
        self.pager.close(space);
        self.spread.remove(&space);
        self.spread_flags.remove(&space);
    }
}
