//! Which addresses of the space hold what.
//!
//! A [`Layout`] is a sorted list of disjoint [`Area`]s, in storage that the caller owns, so it never allocates.
//! Invariants: areas are not empty, page-aligned, below [`crate::SPACE_END`], sorted, disjoint; neighbours that
//! touch differ in something (else they are one area), except native ones, which are never joined.

use crate::errno::{ENOMEM, Errno};

/// A page-aligned range of addresses, end excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
}

impl Span {
    /// `bytes` from `start` on.
    pub const fn new(start: u64, bytes: u64) -> Span {
        Span { start, end: start + bytes }
    }

    /// Length in bytes.
    pub const fn bytes(self) -> u64 {
        self.end - self.start
    }

    /// What both have.
    pub fn clip(self, other: Span) -> Option<Span> {
        let span = Span { start: self.start.max(other.start), end: self.end.min(other.end) };
        (span.start < span.end).then_some(span)
    }

    /// Whether `address` is inside.
    pub const fn contains(self, address: u64) -> bool {
        self.start <= address && address < self.end
    }
}

/// Protection bits, as mmap(2) takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prot(pub u32);

impl Prot {
    /// No access.
    pub const NONE: Prot = Prot(0);
    /// Reading.
    pub const READ: Prot = Prot(1);
    /// Reading and writing.
    pub const READ_WRITE: Prot = Prot(3);

    /// Whether writing is allowed.
    pub const fn writes(self) -> bool {
        self.0 & 2 != 0
    }
}

/// What an area's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In the space: private memory that starts as zeros.
    Anonymous,
    /// In the space: private memory that starts as a file's bytes.
    FileCopy,
    /// In the space: shared memory that starts as zeros (nobody to share with but this process's own kind).
    SharedAnonymous,
    /// Mapped by the kernel alone: shared files, devices, what lies past a file's end.
    Native,
}

impl Kind {
    /// Whether the bytes are in the space, that is, in the memfd at their own address.
    pub const fn in_space(self) -> bool {
        !matches!(self, Kind::Native)
    }
}

/// A run of pages that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Where.
    pub span: Span,
    /// Protection.
    pub prot: Prot,
    /// What its bytes are.
    pub kind: Kind,
    /// Mapped with MAP_NORESERVE: never refused for its size.
    pub unreserved: bool,
    /// The first stack: PROT_GROWSDOWN works on it.
    pub stack: bool,
}

impl Area {
    /// Fills unused storage.
    pub const UNUSED: Area = Area {
        span: Span { start: 0, end: 0 },
        prot: Prot::NONE,
        kind: Kind::Native,
        unreserved: false,
        stack: false,
    };

    /// Whether Linux would count these bytes as committed.
    pub const fn accountable(&self) -> bool {
        matches!(self.kind, Kind::Anonymous | Kind::FileCopy) && self.prot.writes() && !self.unreserved
    }

    fn joins(&self, next: &Area) -> bool {
        self.span.end == next.span.start
            && self.kind != Kind::Native
            && Area { span: next.span, ..*self } == *next
    }
}

/// The sorted list of areas.
#[derive(Debug)]
pub struct Layout<'a> {
    storage: &'a mut [Area],
    used: usize,
}

impl<'a> Layout<'a> {
    /// An empty layout that can hold `storage.len()` areas.
    pub fn new(storage: &'a mut [Area]) -> Layout<'a> {
        Layout { storage, used: 0 }
    }

    /// All areas, in order.
    pub fn areas(&self) -> &[Area] {
        &self.storage[..self.used]
    }

    /// Index of the first area that ends after `address`.
    fn index(&self, address: u64) -> usize {
        self.areas().partition_point(|area| area.span.end <= address)
    }

    /// The area that holds `address`.
    pub fn at(&self, address: u64) -> Option<&Area> {
        self.areas().get(self.index(address)).filter(|area| area.span.contains(address))
    }

    /// The areas inside `span`, clipped to it.
    pub fn pieces(&self, span: Span) -> impl Iterator<Item = Area> + '_ {
        self.areas()[self.index(span.start)..]
            .iter()
            .map_while(move |area| area.span.clip(span).map(|span| Area { span, ..*area }))
    }

    /// Whether nothing is mapped in `span`.
    pub fn is_free(&self, span: Span) -> bool {
        self.pieces(span).next().is_none()
    }

    /// Whether some page of `span` is not mapped.
    pub fn has_hole(&self, span: Span) -> bool {
        let mapped: u64 = self.pieces(span).map(|area| area.span.bytes()).sum();
        mapped != span.bytes()
    }

    /// Fails as Linux does when there would be too many areas: every change splits at most two.
    pub fn room_to_change(&self) -> Result<(), Errno> {
        if self.used + 3 <= self.storage.len() { Ok(()) } else { Err(ENOMEM) }
    }

    /// The highest place for `bytes` inside `within`.
    pub fn gap_below(&self, bytes: u64, within: Span) -> Option<u64> {
        let mut top = within.end;
        let mut next = self.areas().partition_point(|area| area.span.start < within.end);
        loop {
            let floor = if next == 0 { 0 } else { self.storage[next - 1].span.end };
            let floor = floor.max(within.start);
            if top >= floor && top - floor >= bytes {
                return Some(top - bytes);
            }
            if next == 0 || floor == within.start {
                return None;
            }
            next -= 1;
            top = top.min(self.storage[next].span.start);
        }
    }

    /// The lowest place for `bytes` inside `within`.
    pub fn gap_above(&self, bytes: u64, within: Span) -> Option<u64> {
        let mut floor = within.start;
        for area in &self.areas()[self.index(within.start)..] {
            if area.span.start >= within.end {
                break;
            }
            if area.span.start >= floor && area.span.start - floor >= bytes {
                return Some(floor);
            }
            floor = floor.max(area.span.end);
        }
        (within.end >= floor && within.end - floor >= bytes).then_some(floor)
    }

    /// Forgets `span`, splitting what reaches over its edges.
    ///
    /// # Panics
    /// If the storage is full: call [`Layout::room_to_change`] first.
    pub fn remove(&mut self, span: Span) {
        self.split(span.start);
        self.split(span.end);
        let first = self.index(span.start);
        let last = self.areas().partition_point(|area| area.span.start < span.end);
        self.storage.copy_within(last..self.used, first);
        self.used -= last - first;
    }

    /// Adds an area where nothing is mapped, and joins it with its like neighbours.
    ///
    /// # Panics
    /// If the storage is full, or something is mapped there.
    pub fn insert(&mut self, area: Area) {
        assert!(self.is_free(area.span), "an area is added where one is");
        let index = self.index(area.span.start);
        self.storage.copy_within(index..self.used, index + 1);
        self.storage[index] = area;
        self.used += 1;
        self.join(index + 1);
        self.join(index);
    }

    /// Changes the protection of everything mapped in `span`.
    ///
    /// # Panics
    /// If the storage is full.
    pub fn protect(&mut self, span: Span, prot: Prot) {
        self.split(span.start);
        self.split(span.end);
        let first = self.index(span.start);
        let mut index = first;
        while index < self.used && self.storage[index].span.start < span.end {
            self.storage[index].prot = prot;
            index += 1;
        }
        while index > first {
            self.join(index);
            index -= 1;
        }
        self.join(first);
    }

    /// Bytes that RLIMIT_DATA counts: private and writable, the stack excepted.
    pub fn data_bytes(&self) -> u64 {
        let data = |area: &&Area| {
            matches!(area.kind, Kind::Anonymous | Kind::FileCopy) && area.prot.writes() && !area.stack
        };
        self.areas().iter().filter(data).map(|area| area.span.bytes()).sum()
    }

    fn split(&mut self, address: u64) {
        let index = self.index(address);
        if index == self.used || self.storage[index].span.start >= address {
            return;
        }
        self.storage.copy_within(index..self.used, index + 1);
        self.used += 1;
        self.storage[index].span.end = address;
        self.storage[index + 1].span.start = address;
    }

    /// Joins the areas `index - 1` and `index` if they are alike.
    fn join(&mut self, index: usize) {
        if index == 0 || index >= self.used || !self.storage[index - 1].joins(&self.storage[index]) {
            return;
        }
        self.storage[index - 1].span.end = self.storage[index].span.end;
        self.storage.copy_within(index + 1..self.used, index);
        self.used -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PAGE;
    use std::collections::BTreeMap;

    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % limit
        }
    }

    const PAGES: u64 = 64;

    type Pages = BTreeMap<u64, (Prot, Kind)>;

    fn span_of(dice: &mut Dice) -> Span {
        let start = dice.below(PAGES);
        Span::new(start * PAGE, (1 + dice.below(PAGES - start)) * PAGE)
    }

    fn pages_of(span: Span) -> impl Iterator<Item = u64> {
        (span.start..span.end).step_by(PAGE as usize)
    }

    fn check(layout: &Layout, model: &Pages, seed: u64) {
        let mut seen = Pages::new();
        for pair in layout.areas().windows(2) {
            assert!(pair[0].span.end <= pair[1].span.start, "seed {seed}: areas overlap");
            assert!(!pair[0].joins(&pair[1]), "seed {seed}: like neighbours are not joined");
        }
        for area in layout.areas() {
            assert!(area.span.start < area.span.end, "seed {seed}: an empty area");
            seen.extend(pages_of(area.span).map(|page| (page, (area.prot, area.kind))));
        }
        assert_eq!(&seen, model, "seed {seed}");
    }

    fn naive_gap(model: &Pages, bytes: u64, within: Span, highest: bool) -> Option<u64> {
        let fits = |start: &u64| {
            start + bytes <= within.end
                && pages_of(Span::new(*start, bytes)).all(|page| !model.contains_key(&page))
        };
        let mut starts: Vec<u64> = pages_of(within).filter(fits).collect();
        if highest {
            starts.reverse();
        }
        starts.first().copied()
    }

    #[test]
    fn behaves_like_a_map_of_pages() {
        for seed in 1..if cfg!(miri) { 4 } else { 400 } {
            let mut dice = Dice(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed));
            let mut storage = vec![Area::UNUSED; 128];
            let mut layout = Layout::new(&mut storage);
            let mut model = Pages::new();
            for _ in 0..60 {
                let span = span_of(&mut dice);
                let prot = Prot(dice.below(3) as u32);
                let kind = [Kind::Anonymous, Kind::FileCopy, Kind::Native][dice.below(3) as usize];
                match dice.below(4) {
                    0 | 1 => {
                        layout.remove(span);
                        layout.insert(Area { span, prot, kind, unreserved: false, stack: false });
                        model.extend(pages_of(span).map(|page| (page, (prot, kind))));
                    }
                    2 => {
                        layout.remove(span);
                        model.retain(|page, _| !span.contains(*page));
                    }
                    _ => {
                        layout.protect(span, prot);
                        model.range_mut(span.start..span.end).for_each(|(_, value)| value.0 = prot);
                    }
                }
                check(&layout, &model, seed);
                let within = span_of(&mut dice);
                let bytes = (1 + dice.below(8)) * PAGE;
                assert_eq!(
                    layout.gap_below(bytes, within),
                    naive_gap(&model, bytes, within, true),
                    "seed {seed}"
                );
                assert_eq!(
                    layout.gap_above(bytes, within),
                    naive_gap(&model, bytes, within, false),
                    "seed {seed}"
                );
                let holes = pages_of(within).any(|page| !model.contains_key(&page));
                assert_eq!(layout.has_hole(within), holes, "seed {seed}");
                assert_eq!(
                    layout.at(within.start).is_some(),
                    model.contains_key(&within.start),
                    "seed {seed}"
                );
            }
        }
    }

    #[test]
    fn a_full_layout_refuses_before_it_changes() {
        let mut storage = vec![Area::UNUSED; 3];
        let mut layout = Layout::new(&mut storage);
        assert_eq!(layout.room_to_change(), Ok(()));
        let span = Span::new(PAGE, PAGE);
        layout.insert(Area { span, ..Area::UNUSED });
        assert_eq!(layout.room_to_change(), Err(ENOMEM));
    }
}
