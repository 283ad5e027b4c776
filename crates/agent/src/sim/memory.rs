//! What the machine's memory must be: for every word the one value that a load may find, or, while its page is being freed,
//! the few.
//!
//! The simulation is one thread, so its order of accesses is the order of the whole machine: a load must find what the last store
//! in that order stored, whichever hosts the two are on. That is linearizability of all words at once, which is more than a
//! program is promised by x86's own memory.
//!
//! A page that is being freed may be found old or initial on other hosts, and what is stored there may go with it. When the call has
//! returned it is initial, or has what was stored meanwhile; the first load after that says which.
//!
//! A page's words: 0 counts ([`COUNTER`]), 1 says what the body is filled with ([`FILL`]), the last two are stored to.

use rustc_hash::FxHashMap;

use super::dice::mix;

/// Words of a page.
pub const WORDS: usize = pager::PAGE / 8;
/// The word that is added to.
pub const COUNTER: usize = 0;
/// The word that says with what the page's body is filled; 0 is nothing.
pub const FILL: usize = 1;
/// The other words that are stored to.
pub const PLAIN: [usize; 2] = [WORDS - 2, WORDS - 1];
/// The words between.
const BODY: std::ops::Range<usize> = 2..WORDS - 2;

/// A page of a space, by the space's place among those of the simulation and by its address.
pub type Page = (usize, u64);

#[derive(Clone, Debug)]
enum Word {
    Known(u64),
    /// While the page is freed, and until it is next looked at. Beside each value, when it came.
    Among(Vec<(u64, u64)>),
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Memory {
    words: FxHashMap<(Page, usize), Word>,
    /// When frees began that are under way.
    freeing: FxHashMap<Page, Vec<u64>>,
    /// Pages whose untouched words are a file's.
    files: FxHashMap<usize, std::ops::Range<u64>>,
    moment: u64,
}

/// What a file has in a word.
pub fn file_word(address: u64, word: usize) -> u64 {
    match word {
        COUNTER => 1000,
        FILL => mix(address) | 1,
        word if BODY.contains(&word) => body_word(mix(address) | 1, word),
        word => mix(address ^ word as u64),
    }
}

fn body_word(fill: u64, word: usize) -> u64 {
    if fill == 0 { 0 } else { mix(fill.wrapping_add(word as u64)) }
}

/// Reads a word.
pub fn get(bytes: &[u8], word: usize) -> u64 {
    u64::from_le_bytes(bytes[word * 8..][..8].try_into().expect("eight bytes"))
}

/// Writes a word.
pub fn set(bytes: &mut [u8], word: usize, value: u64) {
    bytes[word * 8..][..8].copy_from_slice(&value.to_le_bytes());
}

/// Fills a page's body, and says so in its word.
pub fn fill(bytes: &mut [u8], value: u64) {
    set(bytes, FILL, value);
    BODY.for_each(|word| set(bytes, word, body_word(value, word)));
}

/// Whether a page's body is what its word says.
pub fn is_whole(bytes: &[u8]) -> bool {
    let fill = get(bytes, FILL);
    BODY.into_iter().all(|word| get(bytes, word) == body_word(fill, word))
}

impl Memory {
    /// Untouched pages of a range of a space's addresses are a file's.
    pub fn back(&mut self, space: usize, addresses: std::ops::Range<u64>) {
        self.files.insert(space, addresses);
    }

    fn initial(&self, (space, address): Page, word: usize) -> u64 {
        let file = self.files.get(&space).is_some_and(|file| file.contains(&address));
        if file { file_word(address, word) } else { 0 }
    }

    /// Every page that was touched, in order.
    pub fn touched(&self) -> Vec<Page> {
        let mut pages: Vec<Page> = self.words.keys().map(|&(page, _)| page).collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    /// Whether a page is being freed.
    pub fn is_freeing(&self, page: Page) -> bool {
        self.freeing.contains_key(&page)
    }

    /// A load has found a value.
    ///
    /// # Errors
    /// What it should have found.
    pub fn loaded(&mut self, page: Page, word: usize, found: u64) -> Result<(), String> {
        let initial = self.initial(page, word);
        let freeing = self.freeing.contains_key(&page);
        let known = self.words.entry((page, word)).or_insert(Word::Known(initial));
        match known {
            Word::Known(value) if *value == found => Ok(()),
            Word::Known(value) => Err(format!("found {found:#x}, and {value:#x} was stored last")),
            Word::Among(values) if values.iter().any(|&(value, _)| value == found) => {
                if !freeing {
                    *known = Word::Known(found);
                }
                Ok(())
            }
            Word::Among(values) => Err(format!("found {found:#x}, and it was freed: one of {values:x?}")),
        }
    }

    /// A word was stored to.
    pub fn stored(&mut self, page: Page, word: usize, value: u64) {
        self.moment += 1;
        if !self.freeing.contains_key(&page) {
            self.words.insert((page, word), Word::Known(value));
            return;
        }
        let initial = self.initial(page, word);
        let known = self.words.entry((page, word)).or_insert(Word::Among(vec![(initial, u64::MAX)]));
        match known {
            Word::Among(values) => values.push((value, self.moment)),
            Word::Known(_) => unreachable!("the page is being freed"),
        }
    }

    /// A page begins to be freed; the moment.
    pub fn free(&mut self, page: Page) -> u64 {
        self.moment += 1;
        self.freeing.entry(page).or_default().push(self.moment);
        for word in [COUNTER, FILL, PLAIN[0], PLAIN[1]] {
            let initial = self.initial(page, word);
            let known = self.words.entry((page, word)).or_insert(Word::Known(initial));
            if let Word::Known(value) = *known {
                *known = Word::Among(vec![(value, self.moment), (initial, u64::MAX)]);
            }
        }
        self.moment
    }

    /// A free that began at that moment has ended: what was there before it is nowhere.
    pub fn freed(&mut self, page: Page, began: u64) {
        let under_way = self.freeing.get_mut(&page).expect("it was under way");
        under_way.retain(|&moment| moment != began);
        if under_way.is_empty() {
            self.freeing.remove(&page);
        }
        for word in [COUNTER, FILL, PLAIN[0], PLAIN[1]] {
            if let Some(Word::Among(values)) = self.words.get_mut(&(page, word)) {
                values.retain(|&(_, came)| came > began);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: Page = (0, 0x1000);

    #[test]
    fn a_load_finds_the_last_store() {
        let mut memory = Memory::default();
        assert!(memory.loaded(P, FILL, 0).is_ok() && memory.loaded(P, FILL, 1).is_err());
        memory.stored(P, FILL, 7);
        assert!(memory.loaded(P, FILL, 7).is_ok() && memory.loaded(P, FILL, 0).is_err());
        memory.back(0, 0..0x2000);
        assert!(memory.loaded(P, PLAIN[0], file_word(0x1000, PLAIN[0])).is_ok());
    }

    #[test]
    fn what_is_freed_is_old_or_new_and_then_new() {
        let mut memory = Memory::default();
        memory.stored(P, FILL, 7);
        let began = memory.free(P);
        memory.stored(P, FILL, 8);
        assert!([0, 7, 8, 7].iter().all(|&value| memory.loaded(P, FILL, value).is_ok()));
        assert!(memory.loaded(P, FILL, 9).is_err());
        memory.freed(P, began);
        assert!(memory.loaded(P, FILL, 7).is_err(), "old bytes after the call");
        assert!(memory.loaded(P, FILL, 8).is_ok());
        assert!(memory.loaded(P, FILL, 0).is_err(), "it has been seen");
    }

    #[test]
    fn a_page_is_whole_or_not() {
        let mut page = vec![0; pager::PAGE];
        assert!(is_whole(&page));
        fill(&mut page, 5);
        assert!(is_whole(&page));
        set(&mut page, 100, 0);
        assert!(!is_whole(&page));
    }
}
