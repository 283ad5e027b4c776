//! Copies of pages that other hosts own: they go where no host has room for what is nowhere else.
//!
//! A copy needs no room to leave, so a machine is full only when no host has any. Of all hosts that hold a page all but one, its
//! owner, can drop it. A host that is itself in need does so, and so does one that was asked for room and has none.

use coherence::{Event, PageId, Violation};
use fabric::Fabric;

use super::State;

/// Copies that leave at once.
const COPIES: usize = 256;
/// The oldest of so many times as many are chosen.
const CHOICE: usize = 4;

/// What became of an attempt to drop copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropping {
    /// Some are on their way out now.
    Begun,
    /// Those of an earlier attempt still are.
    UnderWay,
    /// There are none.
    None,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Copies {
    /// Pages that we have asked to be rid of.
    leaving: Vec<PageId>,
    /// The search goes on at this of the node's regions.
    next: usize,
}

impl State {
    /// Drops some old copies of pages of which other hosts are the owners.
    ///
    /// # Errors
    /// A [`Violation`] found on the way.
    pub fn drop_copies(&mut self, fabric: &dyn Fabric) -> Result<Dropping, Violation> {
        let Self { copies, node, pager, .. } = self;
        copies.leaving.retain(|&page| node.is_handing_over(page));
        if !copies.leaving.is_empty() {
            return Ok(Dropping::UnderWay);
        }
        let mut found = Vec::with_capacity(COPIES * CHOICE);
        for (region, page) in node.copies(copies.next) {
            if found.len() == found.capacity() {
                copies.next = region;
                break;
            }
            found.push((pager.age(page), page));
        }
        found.sort_unstable_by_key(|&(age, page)| (std::cmp::Reverse(age), page));
        copies.leaving.extend(found.iter().take(COPIES).map(|&(_, page)| page));
        for &(_, page) in found.iter().take(COPIES) {
            self.tell(Event::HandOver { page, to: None })?;
        }
        self.settle(fabric)?;
        Ok(if found.is_empty() { Dropping::None } else { Dropping::Begun })
    }
}
