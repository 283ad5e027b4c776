//! What the tests of this crate may see of a node and do to it.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::cache::{Hold, Route};
use crate::fault::Planted;
use crate::{Fault, HostId, Node, PageId};

/// A directory entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The host that has the authoritative copy.
    pub owner: HostId,
    /// The other hosts that have a copy.
    pub sharers: Vec<HostId>,
}

/// Everything that a node's future depends on, as numbers in a canonical order: equal portraits behave alike.
pub type Portrait = Vec<u64>;

impl Node {
    /// Makes the node break a rule.
    pub fn plant(&mut self, fault: Fault) {
        let planted = Planted::new(Some(fault));
        self.planted = planted;
        self.locator.plant(planted);
        self.directory.plant(planted);
        self.cache.plant(planted);
    }

    /// The directory entry that this host keeps of the page; `None` if it keeps none or nobody touched the page.
    pub fn entry(&self, page: PageId) -> Option<Entry> {
        let frame = self.directory.frame(page)?;
        Some(Entry { owner: frame.owner, sharers: frame.sharers.iter().collect() })
    }

    /// Nothing is under way at this host: no operation, no transaction, no route asked for.
    pub fn quiet(&self) -> bool {
        let waits = |route| route == Route::Asked;
        self.cache.pending().next().is_none()
            && self.directory.busy().next().is_none()
            && !self.cache.routes().any(|(_, route, waiting)| waits(route) || !waiting.0.is_empty())
    }

    /// See [`Portrait`]. `pages` are all that the node has ever heard of, or all that matter.
    pub fn portrait(&self, pages: &[PageId]) -> Portrait {
        let mut lines: Vec<[u64; 3]> = Vec::new();
        for page in pages {
            let (hold, frame) = (self.cache.hold(*page), self.directory.frame(*page));
            if hold != Hold::Absent || frame.is_some() {
                lines.push([1, page.0, digest((hold, frame))]);
            }
        }
        lines.extend(self.cache.pending().map(|(page, pending)| [2, page.0, digest(pending)]));
        lines.extend(self.cache.routes().map(|(id, route, waiting)| [3, id.0, digest((route, waiting))]));
        lines.extend(self.directory.busy().map(|(page, busy)| [4, page.0, digest(busy)]));
        lines.extend(self.locator.leases().map(|(region, host)| [5, region.0, u64::from(host.0)]));
        lines.sort_unstable();
        lines.into_flattened()
    }
}

fn digest(part: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    part.hash(&mut hasher);
    hasher.finish()
}
