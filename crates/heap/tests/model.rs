//! Long random lives of a heap, beside a memory whose every byte has a last user. A failure names its seed and step.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use megalith_heap::{ALIGNMENT, Heap, NotGivenOut, PAGE_BYTES, REGION_BYTES};

const START: u64 = 64 * REGION_BYTES;
const BYTES: u64 = 64 * REGION_BYTES;
const STEPS: usize = 8_000;
const SEEDS: u64 = 8;
const BLOCKS_MAX: usize = 600;

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// Mostly small; all sizes, and the ones beside the borders.
    fn bytes(&mut self) -> u64 {
        let borders = [0, 1, 64, 1024, 4096, 16 << 10, (16 << 10) + 1, REGION_BYTES - 1, REGION_BYTES];
        match self.below(10) {
            0 => borders[self.below(borders.len() as u64) as usize],
            1 => self.below(5 * REGION_BYTES),
            2..4 => self.below(256 << 10),
            _ => self.below(4096),
        }
    }
}

/// What the heap says, held against what it has said before.
struct World {
    heap: Heap,
    dice: Dice,
    kept_bytes_max: u64,
    /// Start to end of the blocks that are given out.
    live: BTreeMap<u64, u64>,
    /// Pages that somebody has had since they were given back.
    touched: BTreeSet<u64>,
    leaving: Vec<Range<u64>>,
    seen: Seen,
}

#[derive(Debug, Default)]
struct Seen {
    zeros: u64,
    old: u64,
    discards: u64,
    extended: u64,
    refused: u64,
}

fn pages(range: Range<u64>) -> impl Iterator<Item = u64> {
    (range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES)).map(|page| page * PAGE_BYTES)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let kept_bytes_max = [0, 100 << 10, 8 << 20, BYTES][dice.below(4) as usize];
        Self {
            heap: Heap::new(START, BYTES, kept_bytes_max),
            dice,
            kept_bytes_max,
            live: BTreeMap::new(),
            touched: BTreeSet::new(),
            leaving: Vec::new(),
            seen: Seen::default(),
        }
    }

    fn enter(&mut self, block: Range<u64>) {
        assert!(block.start >= START && block.end <= START + BYTES, "in the range: {block:x?}");
        if let Some((_, &end)) = self.live.range(..block.end).next_back() {
            assert!(end <= block.start, "disjoint: {block:x?}");
        }
        for range in &self.leaving {
            assert!(range.end <= block.start || block.end <= range.start, "not what is leaving: {block:x?}");
        }
        self.live.insert(block.start, block.end);
    }

    fn touch(&mut self, block: Range<u64>) {
        self.touched.extend(pages(block));
    }

    fn take(&mut self) {
        let (bytes, zeros) = (self.dice.bytes(), self.dice.below(2) == 0);
        let Some(block) = self.heap.take(bytes, zeros) else {
            self.seen.refused += 1;
            return;
        };
        assert!(block.address.is_multiple_of(ALIGNMENT));
        if bytes > 16 << 10 {
            assert!(block.address.is_multiple_of(PAGE_BYTES));
        }
        if bytes >= REGION_BYTES {
            assert!(block.address.is_multiple_of(REGION_BYTES));
        }
        let length = self.heap.length(block.address).unwrap();
        assert!(length >= bytes.max(1));
        let range = block.address..block.address + length;
        if block.zeros {
            self.seen.zeros += 1;
            // Blocks that share a page are told apart by the test of bytes below; of the others no page was ever touched.
            let own =
                pages(range.clone()).filter(|&page| page >= range.start && page + PAGE_BYTES <= range.end);
            for page in own {
                assert!(!self.touched.contains(&page), "zeros: {range:x?}");
            }
        } else {
            self.seen.old += 1;
        }
        self.enter(range.clone());
        self.touch(range);
    }

    fn give(&mut self) {
        let Some(address) = self.any() else { return };
        let end = self.live.remove(&address).unwrap();
        let leaving = self.heap.give(address).unwrap();
        assert_eq!(self.heap.give(address), Err(NotGivenOut), "twice");
        for range in &leaving {
            assert!(range.start.is_multiple_of(PAGE_BYTES) && range.end.is_multiple_of(PAGE_BYTES));
            let live = self.live.range(..range.end).next_back();
            assert!(live.is_none_or(|(_, &end)| end <= range.start), "{address:x}..{end:x} takes {range:x?}");
        }
        self.seen.discards += leaving.len() as u64;
        self.leaving.extend(leaving);
    }

    fn resize(&mut self) {
        let Some(address) = self.any() else { return };
        let bytes = self.dice.bytes().max(1);
        let before = self.live[&address];
        if self.heap.resize(address, bytes).unwrap() {
            self.live.remove(&address);
            let length = self.heap.length(address).unwrap();
            assert!(length >= bytes);
            self.enter(address..address + length);
            self.seen.extended += u64::from(address + length > before);
            self.touch(address..address + length);
        } else {
            assert_eq!(before, address + self.heap.length(address).unwrap(), "as it was");
        }
    }

    fn discard(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let at = self.dice.below(self.leaving.len() as u64) as usize;
        let range = self.leaving.swap_remove(at);
        for page in pages(range.clone()) {
            self.touched.remove(&page);
        }
        self.heap.discarded(range);
    }

    fn stray(&mut self) {
        let address = START + self.dice.below(BYTES);
        if !self.live.contains_key(&address) {
            assert_eq!(self.heap.give(address), Err(NotGivenOut));
            assert_eq!(self.heap.length(address), Err(NotGivenOut));
            assert_eq!(self.heap.resize(address, 100), Err(NotGivenOut));
        }
    }

    fn any(&mut self) -> Option<u64> {
        let from = START + self.dice.below(BYTES);
        self.live.range(from..).next().or_else(|| self.live.first_key_value()).map(|(&address, _)| address)
    }

    fn step(&mut self) {
        match self.dice.below(20) {
            0..9 if self.live.len() < BLOCKS_MAX => self.take(),
            0..16 => self.give(),
            16 => self.resize(),
            17..19 => self.discard(),
            _ => self.stray(),
        }
        assert_eq!(self.heap.blocks(), self.live.len());
        assert!(self.heap.kept_bytes() <= self.kept_bytes_max, "{} are kept", self.heap.kept_bytes());
    }

    /// When all is given back and nothing is kept any more, the longest block is to be had again.
    fn end(mut self) -> Seen {
        while !self.live.is_empty() {
            self.give();
        }
        while !self.leaving.is_empty() {
            self.discard();
        }
        if self.kept_bytes_max == 0 {
            let bytes = BYTES / 8 * 6;
            let block = self.heap.take(bytes, true).expect("all regions are free and in one piece");
            assert!(block.zeros);
        }
        self.seen
    }
}

#[test]
fn lives() {
    let mut all = Seen::default();
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for step in 0..STEPS {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.step()));
            if let Err(why) = outcome {
                eprintln!("seed {seed}, step {step}");
                std::panic::resume_unwind(why);
            }
        }
        let seen = world.end();
        all.zeros += seen.zeros;
        all.old += seen.old;
        all.discards += seen.discards;
        all.extended += seen.extended;
        all.refused += seen.refused;
    }
    println!("{all:?}");
    let Seen { zeros, old, discards, extended, refused } = all;
    for (what, count) in [(zeros, "zeros"), (old, "old"), (discards, "discards"), (extended, "extended")] {
        assert!(what > 10, "too few {count}: {what}");
    }
    assert!(refused > 0, "it was never full");
}

/// Small blocks share pages: a byte that somebody has had is never said to be zeros.
#[test]
fn small_blocks_that_are_zeros_are_new() {
    let mut heap = Heap::new(START, BYTES, 0);
    let mut dice = Dice(1);
    let mut had = vec![false; (BYTES / 8) as usize];
    let mut live: Vec<(u64, u64)> = Vec::new();
    let (mut fresh, mut old) = (0, 0);
    for _ in 0..30_000 {
        if dice.below(2) == 0 && live.len() < 400 {
            let block = heap.take(1 + dice.below(3000), true).unwrap();
            let bytes = heap.length(block.address).unwrap();
            let place = (block.address - START) as usize;
            let slots = &mut had[place / 64..(place + bytes as usize) / 64];
            if block.zeros {
                fresh += 1;
                assert!(!slots.contains(&true), "{:x}", block.address);
            } else {
                old += 1;
            }
            slots.fill(true);
            live.push((block.address, bytes));
        } else if !live.is_empty() {
            let at = dice.below(live.len() as u64) as usize;
            let (address, _) = live.swap_remove(at);
            for range in heap.give(address).unwrap() {
                let (from, to) = (range.start - START, range.end - START);
                had[from as usize / 64..to as usize / 64].fill(false);
                heap.discarded(range);
            }
        }
    }
    assert!(fresh > 10 && old > 10, "{fresh}, {old}");
}

#[test]
fn what_was_freed_last_is_given_out_first() {
    let mut heap = Heap::new(START, BYTES, 32 << 20);
    let blocks: Vec<u64> = (0..3).map(|_| heap.take(REGION_BYTES, false).unwrap().address).collect();
    for &block in &blocks {
        assert_eq!(heap.give(block), Ok(Vec::new()));
    }
    let again = heap.take(REGION_BYTES, false).unwrap();
    assert_eq!((again.address, again.zeros), (blocks[2], false));
    let zeros = heap.take(REGION_BYTES, true).unwrap();
    assert!(zeros.zeros && !blocks.contains(&zeros.address), "zeros are taken where nobody has been");
}

#[test]
fn neighbours_leave_as_one() {
    let mut heap = Heap::new(START, BYTES, 8 * (8 << 20));
    let blocks: Vec<u64> = (0..64).map(|_| heap.take(256 << 10, false).unwrap().address).collect();
    let leaving: Vec<_> = blocks.iter().flat_map(|&block| heap.give(block).unwrap()).collect();
    assert!(!leaving.is_empty());
    for range in leaving {
        assert!(range.end - range.start >= 2 << 20, "{range:x?}");
    }
}

#[test]
fn what_no_address_is_left_for_is_refused() {
    let mut heap = Heap::new(START, BYTES, 0);
    assert_eq!(heap.take(u64::MAX, false), None);
    assert_eq!(heap.take(BYTES, true), None);
    let mut blocks = Vec::new();
    while let Some(block) = heap.take(100 << 10, false) {
        blocks.push(block.address);
    }
    assert!(blocks.len() as u64 * (100 << 10) > BYTES / 8 * 9 / 10);
    let address = blocks.pop().unwrap();
    assert_eq!(heap.give(address).map(|leaving| leaving.len()), Ok(1));
    assert_eq!(heap.take(100 << 10, false), None, "it is still leaving");
    heap.discarded(address..address + (100 << 10));
    assert_eq!(heap.take(100 << 10, false).map(|block| block.address), Some(address));
}
