//! How far a machine's mesh has come: linked, ready, standing, closed.
//!
//! 1. *Linking*: `links[h]` goes Absent → (Taken, while the listener's side answers) → Linked, for every other host.
//! 2. *Ready*: a member whose links all stand tells home; home notes it in `ready`.
//! 3. *Stands*: home has all of them, and tells all.
//! 4. *Closed*: from any of these, for good.

use std::collections::HashSet;
use std::thread::ThreadId;

use coherence::HostId;

use crate::error::FabricError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    Absent,
    Taken,
    Linked,
}

pub(crate) struct Phase {
    pub(crate) links: Vec<LinkState>,
    pub(crate) ready: Vec<bool>,
    /// Why the machine does not come about (home only).
    pub(crate) failure: Option<FabricError>,
    pub(crate) stands: bool,
    pub(crate) closed: bool,
    /// Reader threads that have not ended.
    pub(crate) readers: HashSet<ThreadId>,
}

impl Phase {
    pub(crate) fn new(hosts: u16, me: HostId) -> Phase {
        let mut links = vec![LinkState::Absent; usize::from(hosts)];
        let mut ready = vec![false; usize::from(hosts)];
        links[usize::from(me.0)] = LinkState::Linked;
        ready[usize::from(me.0)] = true;
        Phase { links, ready, failure: None, stands: false, closed: false, readers: HashSet::new() }
    }

    pub(crate) fn all_linked(&self) -> bool {
        self.links.iter().all(|link| *link == LinkState::Linked)
    }

    pub(crate) fn all_ready(&self) -> bool {
        self.all_linked() && self.ready.iter().all(|ready| *ready)
    }

    /// The first host that keeps the machine from standing, and what it did not do.
    pub(crate) fn laggard(&self) -> Option<(HostId, &'static str)> {
        let unlinked = self.links.iter().position(|link| *link != LinkState::Linked);
        let unready = || self.ready.iter().position(|ready| !ready);
        unlinked
            .map(|host| (host, "did not finish the handshake"))
            .or_else(|| {
                unready().map(|host| (host, "is linked with this host, but did not link with all others"))
            })
            .map(|(host, step)| (HostId(host as u16), step))
    }
}
