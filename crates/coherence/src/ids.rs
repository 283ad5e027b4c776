//! The names of things: hosts, pages, regions, incarnations.

/// A host of the machine: its place in the machine's list of members; 0 is the home host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostId(pub u16);

/// A page of a space. The embedding packs the space and the number of the page in it into these 64 bits; here
/// only `page / 512` has a meaning: the page's [`RegionId`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageId(pub u64);

/// 512 consecutive pages (2 MiB), aligned: the unit of placing the directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RegionId(pub u64);

/// Incarnation of the machine. A message of another incarnation comes from a dead past and is dropped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Epoch(pub u32);

/// What a host may do with a page. The order is that of might: `Read < Write`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Access {
    /// Read only; other hosts may be reading too.
    Read,
    /// Read and write; no other host may do either.
    Write,
}

/// What a host has of a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Has {
    /// No bytes of it, or none that are its own yet.
    Nothing = 0,
    /// A copy to read, while another host has the page.
    Copy = 1,
    /// The page itself.
    Page = 2,
}

/// Pages of a region.
pub const REGION_PAGES: usize = 1 << REGION_SHIFT;

const REGION_SHIFT: u32 = 9;

impl PageId {
    /// The region in which the page lies.
    #[inline]
    pub fn region(self) -> RegionId {
        RegionId(self.0 >> REGION_SHIFT)
    }

    /// The page's place in its region, below [`REGION_PAGES`].
    #[inline]
    pub fn index(self) -> usize {
        (self.0 as usize) & (REGION_PAGES - 1)
    }
}

impl RegionId {
    /// The page at `index` of the region.
    ///
    /// # Panics
    /// If `index` is not below [`REGION_PAGES`].
    #[inline]
    pub fn page(self, index: usize) -> PageId {
        assert!(index < REGION_PAGES, "a region has {REGION_PAGES} pages, asked for {index}");
        PageId(self.0 << REGION_SHIFT | index as u64)
    }
}
