//! How a page of a space is named in the protocol.

use client::PAGE_BYTES;
use coherence::PageId;

/// Pages below [`client::SPACE_END`] need 35 bits; the rest of a [`PageId`] names the space.
const NUMBER_BITS: u32 = 35;

/// A space of a machine. Ids are never used twice in a machine's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpaceId(pub u32);

impl SpaceId {
    /// The largest id that leaves room for the page's number (and for the end of its range).
    pub const MAX: SpaceId = SpaceId((1 << (64 - NUMBER_BITS)) - 2);

    /// The page at `address`.
    pub fn page(self, address: u64) -> PageId {
        debug_assert!(address < client::SPACE_END && self <= Self::MAX);
        PageId((u64::from(self.0) << NUMBER_BITS) | (address / PAGE_BYTES))
    }

    /// All pages of the space.
    pub fn pages(self) -> std::ops::Range<PageId> {
        let first = u64::from(self.0) << NUMBER_BITS;
        PageId(first)..PageId(first + (1 << NUMBER_BITS))
    }

    /// The space of a page.
    pub fn of(page: PageId) -> SpaceId {
        SpaceId((page.0 >> NUMBER_BITS) as u32)
    }
}

/// The address of a page in its space.
pub fn address(page: PageId) -> u64 {
    (page.0 & ((1 << NUMBER_BITS) - 1)) * PAGE_BYTES
}

/// The page `n` further on.
pub fn offset(page: PageId, n: u64) -> PageId {
    PageId(page.0 + n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_one_to_one() {
        for space in [SpaceId(1), SpaceId::MAX] {
            for addr in [0x10000, 0x40_0000, client::SPACE_END - PAGE_BYTES] {
                let page = space.page(addr);
                assert_eq!((SpaceId::of(page), address(page)), (space, addr));
                assert!(space.pages().contains(&page));
            }
        }
    }
}
