//! What both kinds of process do in the space.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::common::{Client, value};

pub type Settings = BTreeMap<String, u64>;

/// `name=number name=number …`
pub fn settings(line: &str) -> Settings {
    let pair = |word: &str| {
        let (name, number) = word.split_once('=').expect("name=number");
        (name.to_owned(), number.parse().expect("a number"))
    };
    line.split_whitespace().map(pair).collect()
}

/// Words of each page that are counted in, so that hosts share pages and not only words.
const WORDS: [u64; 4] = [0, 1, 63, 511];

/// Increments words at random: half of them in the `hot` first pages, the others anywhere. Beside it, a thread watches that
/// no word of the hot pages ever goes back. Returns how many increments it made.
pub fn count(client: &Client, s: &Settings, seed: u64) -> u64 {
    let (threads, times, hot, pages) = (s["threads"], s["times"], s["hot"], s["pages"]);
    meet(client, s["hosts"]);
    std::thread::scope(|scope| {
        let counting: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    for i in 0..times {
                        let dice = value(seed << 32 | thread << 24, i);
                        let page = if dice & 1 == 0 { (dice >> 8) % hot } else { (dice >> 8) % pages };
                        let word = WORDS[(dice >> 1 & 3) as usize];
                        client.word(page, word).fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let done = std::sync::atomic::AtomicBool::new(false);
        let done = &*Box::leak(Box::new(done));
        scope.spawn(move || {
            let mut seen: BTreeMap<(u64, u64), u64> = BTreeMap::new();
            while !done.load(Ordering::Relaxed) {
                for (page, word) in (0..hot).flat_map(|page| WORDS.map(|word| (page, word))) {
                    let now = client.word(page, word).load(Ordering::Relaxed);
                    let before = seen.insert((page, word), now).unwrap_or(0);
                    assert!(now >= before, "page {page}, word {word} went from {before} back to {now}");
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        counting.into_iter().for_each(|thread| thread.join().expect("it counts"));
        done.store(true, Ordering::Relaxed);
    });
    threads * times
}

/// Fills pages with noise, so that they do not pack; not the words that are counted in.
pub fn fill(client: &Client, pages: std::ops::Range<u64>) {
    for page in pages {
        for word in (2..510).filter(|word| ![63, 100].contains(word)) {
            client.word(page, word).store(value(page, word), Ordering::Relaxed);
        }
    }
}

/// Waits until so many hosts are here.
fn meet(client: &Client, hosts: u64) {
    let here = client.word(0, 100);
    here.fetch_add(1, Ordering::SeqCst);
    while here.load(Ordering::SeqCst) < hosts {
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
}

/// Increments a word of the first page for some seconds, as fast as it can. Returns how often.
pub fn contend(client: &Client, s: &Settings, host: u64) -> u64 {
    meet(client, s["hosts"]);
    let word = client.word(0, if s["same"] == 1 { 0 } else { host * 64 });
    let begun = std::time::Instant::now();
    let mut times = 0;
    while begun.elapsed() < std::time::Duration::from_secs(s["seconds"]) {
        for _ in 0..16 {
            word.fetch_add(1, Ordering::Relaxed);
        }
        times += 16;
    }
    times
}

/// The sum of all that was counted.
pub fn counted(client: &Client, pages: u64) -> u64 {
    let words = (0..pages).flat_map(|page| WORDS.map(|word| (page, word)));
    words.map(|(page, word)| client.word(page, word).load(Ordering::Relaxed)).sum()
}

/// The sum of some words, one a page.
pub fn sum(client: &Client, s: &Settings) -> u64 {
    let words = s["page"]..s["page"] + s["pages"];
    words.map(|page| client.word(page, s["word"]).load(Ordering::SeqCst)).fold(0, u64::wrapping_add)
}

/// The page whose word the writer writes last; and those that it writes before.
pub const FLAG: u64 = 0;
pub const DATA: [u64; 3] = [1, 2, 515];
/// The page on which hosts say that they have seen something of it.
const SEEN: u64 = 3;

/// Writes `1, 2, …` to the data pages and then to the flag, in plain stores: x86-64 keeps their order. Half-way it waits until every
/// host has looked, however busy the computer is.
pub fn ordered_writer(client: &Client, s: &Settings) {
    for i in 1..=s["times"] {
        while i == s["times"] / 2 && client.word(SEEN, 5).load(Ordering::Relaxed) < s["hosts"] {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        for page in DATA {
            client.word(page, 5).store(i, Ordering::Relaxed);
        }
        client.word(FLAG, 5).store(i, Ordering::Release);
        if i % 8 == 0 {
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    }
}

/// Reads the flag and then the data, until the flag is at its end: the data is never older. Returns how many different flags
/// were seen.
pub fn ordered_reader(client: &Client, s: &Settings) -> u64 {
    let (mut last, mut seen) = (0, 0);
    meet(client, s["hosts"]);
    while last < s["times"] {
        let flag = client.word(FLAG, 5).load(Ordering::Acquire);
        assert!(flag >= last, "the flag went from {last} back to {flag}");
        for page in DATA {
            let data = client.word(page, 5).load(Ordering::Acquire);
            assert!(data >= flag, "page {page} says {data} when the flag says {flag}");
        }
        if flag != last {
            seen += 1;
            if seen == 1 {
                client.word(SEEN, 5).fetch_add(1, Ordering::Relaxed);
            }
        }
        last = flag;
    }
    seen
}
