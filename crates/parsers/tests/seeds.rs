//! The bytes that are kept: one folder a parser, made by hand, or found by `make fuzz` and kept because they were once too much.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use megalith_parsers::{PARSERS, feed};

fn fuzz(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(folder)
}

/// The names in a folder, without what is behind a dot.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let stem = |path: PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    entries.filter_map(|entry| stem(entry.expect("it can be listed").path())).collect()
}

#[test]
fn every_parser_has_seeds_and_a_target() {
    let known: BTreeSet<String> = PARSERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz("seeds")), known);
    assert_eq!(names(&fuzz("fuzz_targets")), known);
    for name in &known {
        assert!(!names(&fuzz("seeds").join(name)).is_empty(), "{name} has no seed");
    }
}

/// Each seed as it is, cut anywhere, and with each of its bytes changed.
#[test]
fn seeds_and_what_is_near_them_do_no_harm() {
    for (name, _) in PARSERS {
        let mut fed = 0;
        for entry in fs::read_dir(fuzz("seeds").join(name)).expect("it is there") {
            let path = entry.expect("it can be listed").path();
            let bytes = fs::read(&path).expect("it can be read");
            // If it panics, this is the line that says of what.
            println!("{}", path.display());
            feed(name, &bytes);
            for at in 0..bytes.len() {
                feed(name, &bytes[..at]);
                for flip in [0x01, 0x80, 0xFF] {
                    let mut changed = bytes.clone();
                    changed[at] ^= flip;
                    feed(name, &changed);
                }
                fed += 4;
            }
        }
        assert!(fed > 0, "{name}");
    }
}

/// Rounds for each parser, unless `PARSERS_ROUNDS` says how many.
const ROUNDS: u64 = 2_000;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ word >> 31) % limit.max(1) as u64) as usize
    }

    /// Changes bytes by a few steps: a byte, a number, a piece doubled or taken out, the end of another seed.
    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let length = self.below((bytes.len() - at).min(16) + 1);
            match self.below(6) {
                _ if bytes.is_empty() => bytes.push(self.below(256) as u8),
                0 => bytes[at] = self.below(256) as u8,
                1 => bytes[at] ^= 1 << self.below(8),
                2 => {
                    let extreme = [0, 1, 0x7F, 0x80, 0xFF][self.below(5)];
                    bytes[at..at + length].fill(extreme);
                }
                3 => {
                    let piece = bytes[at..at + length].to_vec();
                    bytes.splice(at..at, piece);
                }
                4 => drop(bytes.drain(at..at + length)),
                _ => {
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[self.below(other.len())..]);
                }
            }
        }
    }
}

/// Says of what it was that a parser panicked.
struct Trying {
    name: &'static str,
    round: u64,
    bytes: Vec<u8>,
}

impl Drop for Trying {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}, round {}: {:02x?}", self.name, self.round, self.bytes);
        }
    }
}

/// What `make fuzz` does at length and with more wit, for a moment and with any compiler.
#[test]
fn changed_seeds_do_no_harm() {
    let rounds = std::env::var("PARSERS_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("a number"));
    for (name, _) in PARSERS {
        let entries = fs::read_dir(fuzz("seeds").join(name)).expect("it is there");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
        paths.sort();
        let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).expect("it can be read")).collect();
        for round in 0..rounds {
            let mut dice = Dice(round);
            let mut bytes = seeds[dice.below(seeds.len())].clone();
            let other = dice.below(seeds.len());
            dice.change(&mut bytes, &seeds[other]);
            let trying = Trying { name, round, bytes };
            feed(name, &trying.bytes);
        }
    }
}
