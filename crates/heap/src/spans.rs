//! Runs of granules of a range: pages, slabs or regions.
//!
//! What is clean is joined with its neighbours; what is kept is not, because it is mostly wanted again as it was.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::{Block, NotGivenOut};

#[derive(Debug)]
pub struct Spans {
    range: Range<u64>,
    granule: u64,
    live: BTreeMap<u64, Live>,
    clean: Clean,
    kept: Kept,
    kept_bytes_max: u64,
}

#[derive(Debug)]
struct Live {
    /// Whole granules.
    span: u64,
    /// What was asked for.
    bytes: u64,
}

impl Spans {
    /// All of it is clean. `start` and `bytes` are whole granules.
    pub fn new(start: u64, bytes: u64, granule: u64, kept_bytes_max: u64) -> Self {
        let mut clean = Clean::default();
        clean.add(start, bytes);
        Self {
            range: start..start + bytes,
            granule,
            live: BTreeMap::new(),
            clean,
            kept: Kept::default(),
            kept_bytes_max,
        }
    }

    pub fn holds(&self, address: u64) -> bool {
        self.range.contains(&address)
    }

    pub fn take(&mut self, bytes: u64, zeros: bool) -> Option<Block> {
        let span = bytes.checked_next_multiple_of(self.granule)?;
        let kept = if zeros { None } else { self.kept.take(span) };
        let block = kept
            .map(|address| Block { address, zeros: false })
            .or_else(|| self.clean.take(span).map(|address| Block { address, zeros: true }))
            .or_else(|| self.kept.take(span).map(|address| Block { address, zeros: false }))?;
        self.live.insert(block.address, Live { span, bytes });
        Some(block)
    }

    pub fn give(&mut self, address: u64) -> Result<Vec<Range<u64>>, NotGivenOut> {
        let Live { span, .. } = self.live.remove(&address).ok_or(NotGivenOut)?;
        if span > self.kept_bytes_max {
            let whole = address..address + span;
            return Ok(vec![whole]);
        }
        self.kept.add(address, span);
        if self.kept.bytes <= self.kept_bytes_max {
            return Ok(Vec::new());
        }
        // A quarter at a time: to give memory back costs a message or more for each range.
        let mut leaving = Vec::new();
        while self.kept.bytes > self.kept_bytes_max / 4 * 3 {
            leaving.extend(self.kept.take_oldest());
        }
        Ok(joined(leaving))
    }

    pub fn discarded(&mut self, range: Range<u64>) {
        self.clean.add(range.start, range.end - range.start);
    }

    pub fn length(&self, address: u64) -> Result<u64, NotGivenOut> {
        self.live.get(&address).map(|live| live.bytes).ok_or(NotGivenOut)
    }

    /// Makes a block longer where it is, if what lies behind it is clean.
    pub fn extend(&mut self, address: u64, bytes: u64) -> Result<bool, NotGivenOut> {
        let live = self.live.get_mut(&address).ok_or(NotGivenOut)?;
        let Some(span) = bytes.checked_next_multiple_of(self.granule) else { return Ok(false) };
        if span > live.span && !self.clean.take_at(address + live.span, span - live.span) {
            return Ok(false);
        }
        live.span = live.span.max(span);
        live.bytes = bytes;
        Ok(true)
    }

    pub fn kept_bytes(&self) -> u64 {
        self.kept.bytes
    }
}

/// In the order of addresses, neighbours as one.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}

/// Runs that nobody has touched.
#[derive(Debug, Default)]
struct Clean {
    /// No two are adjacent.
    length_at: BTreeMap<u64, u64>,
    /// The same, by length, then address.
    by_length: BTreeSet<(u64, u64)>,
}

impl Clean {
    /// The front of the shortest run that is long enough.
    fn take(&mut self, span: u64) -> Option<u64> {
        let &(_, address) = self.by_length.range((span, 0)..).next()?;
        self.take_at(address, span).then_some(address)
    }

    /// From the front of the run that begins there, if it is long enough.
    fn take_at(&mut self, address: u64, span: u64) -> bool {
        let Some(&length) = self.length_at.get(&address) else { return false };
        if length < span {
            return false;
        }
        self.remove(address, length);
        if length > span {
            self.insert(address + span, length - span);
        }
        true
    }

    fn add(&mut self, mut address: u64, mut length: u64) {
        if let Some(&behind) = self.length_at.get(&(address + length)) {
            self.remove(address + length, behind);
            length += behind;
        }
        if let Some((&before, &run)) = self.length_at.range(..address).next_back()
            && before + run == address
        {
            self.remove(before, run);
            address = before;
            length += run;
        }
        self.insert(address, length);
    }

    fn insert(&mut self, address: u64, length: u64) {
        self.length_at.insert(address, length);
        self.by_length.insert((length, address));
    }

    fn remove(&mut self, address: u64, length: u64) {
        self.length_at.remove(&address);
        self.by_length.remove(&(length, address));
    }
}

/// Runs that are free and whose memory is still there.
#[derive(Debug, Default)]
struct Kept {
    bytes: u64,
    /// Address and length, by age: the oldest is the first.
    by_age: BTreeMap<u64, (u64, u64)>,
    /// Length and age: among those of a length the newest is the first, which is likeliest to be on this host.
    by_length: BTreeSet<(u64, Reverse<u64>)>,
    next_age: u64,
}

impl Kept {
    fn add(&mut self, address: u64, length: u64) {
        let age = self.next_age;
        self.next_age += 1;
        self.insert(age, address, length);
    }

    /// The front of the shortest run that is long enough; what remains is as old as it was.
    fn take(&mut self, span: u64) -> Option<u64> {
        let &(_, Reverse(age)) = self.by_length.range((span, Reverse(u64::MAX))..).next()?;
        let (address, length) = self.remove(age);
        if length > span {
            self.insert(age, address + span, length - span);
        }
        Some(address)
    }

    fn take_oldest(&mut self) -> Option<Range<u64>> {
        let (&age, _) = self.by_age.first_key_value()?;
        let (address, length) = self.remove(age);
        Some(address..address + length)
    }

    fn insert(&mut self, age: u64, address: u64, length: u64) {
        self.by_age.insert(age, (address, length));
        self.by_length.insert((length, Reverse(age)));
        self.bytes += length;
    }

    fn remove(&mut self, age: u64) -> (u64, u64) {
        let (address, length) = self.by_age.remove(&age).expect("both maps have it");
        self.by_length.remove(&(length, Reverse(age)));
        self.bytes -= length;
        (address, length)
    }
}
