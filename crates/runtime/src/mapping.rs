//! mmap(2) and mremap(2): from the arguments to a plan, or to the errno that Linux gives.

use crate::errno::{EEXIST, EINVAL, ENODEV, ENOMEM, EOPNOTSUPP, EOVERFLOW, Errno};
use crate::layout::{Layout, Prot, Span};
use crate::{LOWEST, PAGE, PLACEMENT_TOP, SPACE_END, page_down, page_up};

/// mmap(2) flags.
pub mod flag {
    /// Changes are seen by others.
    pub const SHARED: u64 = 0x01;
    /// Changes are not.
    pub const PRIVATE: u64 = 0x02;
    /// [`SHARED`], and unknown flags are refused.
    pub const SHARED_VALIDATE: u64 = 0x03;
    /// Private, anonymous, and may be dropped under pressure (ours never is).
    pub const DROPPABLE: u64 = 0x08;
    /// The low bits that hold the type.
    pub const TYPE: u64 = 0x0f;
    /// Exactly here.
    pub const FIXED: u64 = 0x10;
    /// No file.
    pub const ANONYMOUS: u64 = 0x20;
    /// In the first 2 GiB.
    pub const LOW: u64 = 0x40;
    /// Grows downwards on faults.
    pub const GROWSDOWN: u64 = 0x100;
    /// Never refused for its size.
    pub const NORESERVE: u64 = 0x4000;
    /// From the huge page pool.
    pub const HUGETLB: u64 = 0x40000;
    /// Synchronous page faults on persistent memory.
    pub const SYNC: u64 = 0x80000;
    /// Exactly here, or not at all.
    pub const FIXED_NOREPLACE: u64 = 0x10_0000;
    /// What MAP_SHARED_VALIDATE lets through (LEGACY_MAP_MASK and MAP_SYNC).
    pub const VALID: u64 = TYPE
        | FIXED
        | ANONYMOUS
        | LOW
        | GROWSDOWN
        | 0x800
        | 0x1000
        | 0x2000
        | NORESERVE
        | 0x8000
        | 0x10000
        | 0x20000
        | HUGETLB
        | SYNC
        | 0x400_0000
        | (0x3f << 26);
}

/// mremap(2) flags.
pub mod remap {
    /// The mapping may move.
    pub const MAYMOVE: u64 = 1;
    /// It moves to the fifth argument.
    pub const FIXED: u64 = 2;
    /// The old addresses stay mapped.
    pub const DONTUNMAP: u64 = 4;
}

/// What the bytes of a new mapping are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Zeros.
    Anonymous {
        /// MAP_SHARED.
        shared: bool,
    },
    /// A file's bytes.
    File {
        /// MAP_SHARED.
        shared: bool,
    },
}

/// Where a new mapping goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Anywhere; here if that is free (0: no wish).
    Anywhere(u64),
    /// In the first 2 GiB; here if that is free (0: no wish).
    Low(u64),
    /// Exactly here, replacing what is there.
    Exactly(u64),
    /// Exactly here, if that is free.
    IfFree(u64),
}

/// A valid mmap(2) call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Length in bytes, whole pages.
    pub bytes: u64,
    /// Protection.
    pub prot: Prot,
    /// What its bytes are.
    pub source: Source,
    /// Where it goes.
    pub place: Place,
    /// MAP_NORESERVE.
    pub unreserved: bool,
}

/// mmap(2)'s arguments, as they stand in the registers.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Wish or order for the address.
    pub addr: u64,
    /// Length in bytes.
    pub length: u64,
    /// Protection bits.
    pub prot: u64,
    /// [`flag`]s.
    pub flags: u64,
    /// Offset into the file.
    pub offset: u64,
}

impl Request {
    /// Checks the arguments in the order in which Linux does. MAP_GROWSDOWN is the caller's to refuse.
    pub fn plan(&self) -> Result<Plan, Errno> {
        let flags = self.flags;
        if !self.offset.is_multiple_of(PAGE) {
            return Err(EINVAL);
        }
        if flags & flag::HUGETLB != 0 && flags & flag::ANONYMOUS != 0 {
            return Err(if self.length == 0 { EINVAL } else { ENOMEM });
        }
        if self.length == 0 {
            return Err(EINVAL);
        }
        let bytes = page_up(self.length).filter(|&bytes| bytes != 0).ok_or(ENOMEM)?;
        (self.offset >> 12).checked_add(bytes >> 12).filter(|&pages| pages >> 52 == 0).ok_or(EOVERFLOW)?;
        let fixed = flags & (flag::FIXED | flag::FIXED_NOREPLACE) != 0;
        if bytes > SPACE_END || (fixed && self.addr > SPACE_END - bytes) {
            return Err(ENOMEM);
        }
        if fixed && !self.addr.is_multiple_of(PAGE) {
            return Err(EINVAL);
        }
        let source = self.source()?;
        let wish = match page_down(self.addr) {
            0 => 0,
            wish => wish.max(LOWEST),
        };
        let place = if flags & flag::FIXED_NOREPLACE != 0 {
            Place::IfFree(self.addr)
        } else if fixed {
            Place::Exactly(self.addr)
        } else if flags & flag::LOW != 0 {
            Place::Low(wish)
        } else {
            Place::Anywhere(wish)
        };
        let unreserved = flags & flag::NORESERVE != 0 || flags & flag::TYPE == flag::DROPPABLE;
        Ok(Plan { bytes, prot: Prot(self.prot as u32 & 7), source, place, unreserved })
    }

    fn source(&self) -> Result<Source, Errno> {
        let anonymous = self.flags & flag::ANONYMOUS != 0;
        match self.flags & flag::TYPE {
            flag::SHARED if anonymous => Ok(Source::Anonymous { shared: true }),
            flag::PRIVATE if anonymous => Ok(Source::Anonymous { shared: false }),
            flag::DROPPABLE if anonymous => Ok(Source::Anonymous { shared: false }),
            flag::SHARED => Ok(Source::File { shared: true }),
            flag::PRIVATE => Ok(Source::File { shared: false }),
            flag::SHARED_VALIDATE if anonymous => Err(EINVAL),
            flag::SHARED_VALIDATE if self.flags & !flag::VALID != 0 => Err(EOPNOTSUPP),
            flag::SHARED_VALIDATE => Ok(Source::File { shared: true }),
            flag::DROPPABLE => Err(ENODEV),
            _ => Err(EINVAL),
        }
    }
}

impl Place {
    /// The address that this place comes to in `layout`.
    pub fn choose(self, layout: &Layout, bytes: u64) -> Result<Span, Errno> {
        let wish_granted = |wish: u64, end: u64| {
            let granted =
                wish != 0 && end >= bytes && wish <= end - bytes && layout.is_free(Span::new(wish, bytes));
            granted.then_some(wish)
        };
        let start = match self {
            Place::Exactly(addr) => Some(addr),
            Place::IfFree(addr) if layout.is_free(Span::new(addr, bytes)) => Some(addr),
            Place::IfFree(_) => return Err(EEXIST),
            Place::Anywhere(wish) => wish_granted(wish, SPACE_END)
                .or_else(|| layout.gap_below(bytes, Span { start: LOWEST, end: PLACEMENT_TOP }))
                .or_else(|| layout.gap_above(bytes, Span { start: PLACEMENT_TOP, end: SPACE_END - PAGE })),
            Place::Low(wish) => wish_granted(wish, 0x8000_0000)
                .or_else(|| layout.gap_above(bytes, Span { start: 0x4000_0000, end: 0x8000_0000 })),
        };
        start.map(|start| Span::new(start, bytes)).ok_or(ENOMEM)
    }
}

/// A valid mremap(2) call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remap {
    /// What moves or changes its size; may be empty (old_size 0).
    pub old: Span,
    /// The new length, whole pages.
    pub bytes: u64,
    /// Whether it may move.
    pub may_move: bool,
    /// Where it must go.
    pub to: Option<u64>,
    /// Whether the old addresses stay mapped.
    pub keep_old: bool,
}

impl Remap {
    /// Checks the arguments in the order in which Linux does.
    pub fn new(addr: u64, old_length: u64, new_length: u64, flags: u64, to: u64) -> Result<Remap, Errno> {
        let may_move = flags & remap::MAYMOVE != 0;
        let fixed = flags & remap::FIXED != 0;
        let keep_old = flags & remap::DONTUNMAP != 0;
        if flags & !(remap::MAYMOVE | remap::FIXED | remap::DONTUNMAP) != 0
            || (fixed && !may_move)
            || (keep_old && (!may_move || old_length != new_length))
            || !addr.is_multiple_of(PAGE)
        {
            return Err(EINVAL);
        }
        let old_bytes = page_up(old_length).ok_or(EINVAL)?;
        let bytes = page_up(new_length).filter(|&bytes| bytes != 0).ok_or(EINVAL)?;
        let end = addr.checked_add(old_bytes).ok_or(EINVAL)?;
        if fixed {
            let overlap = to < end && addr < to.saturating_add(bytes);
            if !to.is_multiple_of(PAGE) || bytes > SPACE_END || to > SPACE_END - bytes || overlap {
                return Err(EINVAL);
            }
        }
        let old = Span { start: addr, end };
        Ok(Remap { old, bytes, may_move, to: fixed.then_some(to), keep_old })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Area, Kind};

    fn request(addr: u64, length: u64, flags: u64) -> Request {
        Request { addr, length, prot: 3, flags, offset: 0 }
    }

    const ANON: u64 = flag::PRIVATE | flag::ANONYMOUS;

    #[test]
    fn bad_arguments_get_linuxs_errno() {
        let errno = |addr, length, flags| request(addr, length, flags).plan().unwrap_err();
        assert_eq!(errno(0, 0, ANON), EINVAL);
        assert_eq!(errno(0, u64::MAX, ANON), ENOMEM);
        assert_eq!(errno(0, SPACE_END + 1, ANON), ENOMEM);
        assert_eq!(errno(1, PAGE, ANON | flag::FIXED), EINVAL);
        assert_eq!(errno(SPACE_END, PAGE, ANON | flag::FIXED), ENOMEM);
        assert_eq!(errno(0, PAGE, flag::ANONYMOUS), EINVAL);
        assert_eq!(errno(0, PAGE, ANON | flag::HUGETLB), ENOMEM);
        assert_eq!(errno(0, PAGE, flag::SHARED_VALIDATE | 1 << 25), EOPNOTSUPP);
        let offset = Request { offset: 1, ..request(0, PAGE, ANON) };
        assert_eq!(offset.plan().unwrap_err(), EINVAL);
        let offset = Request { offset: !(PAGE - 1), ..request(0, PAGE, ANON) };
        assert_eq!(offset.plan().unwrap_err(), EOVERFLOW);
    }

    #[test]
    fn places_are_chosen_as_linux_does() {
        let mut storage = vec![Area::UNUSED; 16];
        let mut layout = Layout::new(&mut storage);
        let first = Place::Anywhere(0).choose(&layout, PAGE).unwrap();
        assert_eq!(first.end, PLACEMENT_TOP);
        layout.insert(Area { span: first, kind: Kind::Anonymous, ..Area::UNUSED });
        assert_eq!(Place::Anywhere(0).choose(&layout, PAGE).unwrap().end, first.start);
        assert_eq!(
            Place::Anywhere(first.start).choose(&layout, PAGE).unwrap().end,
            first.start,
            "a taken wish"
        );
        assert_eq!(Place::Anywhere(0x1234_5000).choose(&layout, PAGE).unwrap().start, 0x1234_5000);
        assert_eq!(Place::IfFree(first.start).choose(&layout, PAGE), Err(EEXIST));
        assert_eq!(Place::Exactly(first.start).choose(&layout, PAGE), Ok(first));
        assert_eq!(Place::Low(0).choose(&layout, PAGE).unwrap().start, 0x4000_0000);
        assert_eq!(Place::Low(0).choose(&layout, 1 << 31), Err(ENOMEM));
        assert_eq!(Place::Anywhere(0).choose(&layout, SPACE_END), Err(ENOMEM));
    }

    #[test]
    fn remap_arguments() {
        let new = Remap::new;
        assert_eq!(new(1, PAGE, PAGE, 0, 0), Err(EINVAL));
        assert_eq!(new(PAGE, PAGE, 0, 0, 0), Err(EINVAL));
        assert_eq!(new(PAGE, PAGE, PAGE, remap::FIXED, 0), Err(EINVAL));
        assert_eq!(new(PAGE, PAGE, PAGE, 8, 0), Err(EINVAL));
        assert_eq!(new(PAGE, PAGE, PAGE, remap::FIXED | remap::MAYMOVE, PAGE), Err(EINVAL), "overlap");
        assert_eq!(new(PAGE, PAGE, 2 * PAGE, remap::DONTUNMAP | remap::MAYMOVE, 0), Err(EINVAL));
        assert_eq!(new(PAGE, PAGE, PAGE, remap::FIXED | remap::MAYMOVE, SPACE_END), Err(EINVAL));
        let moved = new(PAGE, 1, PAGE + 1, remap::FIXED | remap::MAYMOVE, 4 * PAGE).unwrap();
        assert_eq!((moved.old, moved.bytes, moved.to), (Span::new(PAGE, PAGE), 2 * PAGE, Some(4 * PAGE)));
    }
}
