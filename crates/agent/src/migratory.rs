//! Pages that hosts read and then write, one after the other: *migratory* ones (Cox and Fowler, ISCA 1993; Stenström, Brorsson and
//! Sandberg, ISCA 1993).
//!
//! Such a page would cost each host two journeys, one to read it and one for the right to write it. Seen is it by what the host
//! does that has it: it asked to read, then it wrote. When the next host asks to read the page, it gets all of it, for the
//! protocol lets an owner do that ("idle"). There the page is shown to be read only, so that its first write is seen, at the
//! price of a fault that stays on the host: a page that is not written is given out to be read from then on.

use coherence::PageId;
use rustc_hash::FxHashMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Asked for, to be read.
    Asked,
    /// It came, and has not been written here.
    Read,
    /// It came to be read, and was written.
    Written,
}

/// What is known of pages that are here, or asked for, in spaces that threads of several hosts use.
#[derive(Debug, Default)]
pub struct Migratory {
    pages: FxHashMap<PageId, Known>,
}

impl Migratory {
    /// A page is asked for, to be read.
    pub fn asked(&mut self, page: PageId) {
        self.pages.insert(page, Known::Asked);
    }

    /// A page has come: whether it is shown to be read only, although it may be written.
    pub fn came(&mut self, page: PageId) -> bool {
        let known = self.pages.get_mut(&page);
        known.is_some_and(|known| std::mem::replace(known, Known::Read) == Known::Asked)
    }

    /// Whether the page came to be read, and has not been written here.
    pub fn is_read_only(&self, page: PageId) -> bool {
        self.pages.get(&page) == Some(&Known::Read)
    }

    /// A page that is here is about to be written.
    pub fn written(&mut self, page: PageId) {
        if let Some(known) = self.pages.get_mut(&page) {
            *known = Known::Written;
        }
    }

    /// Another host asks for a page, or for the right to write it: what was known is over. Whether the page is migratory.
    pub fn taken(&mut self, page: PageId) -> bool {
        self.pages.remove(&page) == Some(Known::Written)
    }

    /// Pages of which something is known.
    #[cfg(feature = "sim")]
    pub fn marked(&self) -> impl Iterator<Item = PageId> + '_ {
        self.pages.keys().copied()
    }

    /// Forgets pages.
    pub fn close(&mut self, gone: impl Fn(PageId) -> bool) {
        self.pages.retain(|page, _| !gone(*page));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: PageId = PageId(7);

    #[test]
    fn what_is_read_and_then_written_is_migratory() {
        let mut pages = Migratory::default();
        pages.asked(PAGE);
        assert!(pages.came(PAGE) && pages.is_read_only(PAGE));
        pages.written(PAGE);
        assert!(!pages.is_read_only(PAGE) && pages.taken(PAGE));
        assert!(!pages.taken(PAGE), "it is no longer here");
    }

    #[test]
    fn what_is_only_read_or_only_written_is_not() {
        let mut pages = Migratory::default();
        pages.asked(PAGE);
        assert!(pages.came(PAGE));
        assert!(!pages.taken(PAGE));
        // It came to be written: nobody asked to read.
        assert!(!pages.came(PAGE));
        pages.written(PAGE);
        assert!(!pages.taken(PAGE));
        // A producer's page, which was read elsewhere and is written here again.
        pages.written(PAGE);
        assert!(!pages.taken(PAGE));
    }

    #[test]
    fn pages_of_a_space_that_is_gone_are_forgotten() {
        let mut pages = Migratory::default();
        (0..10).for_each(|number| pages.asked(PageId(number)));
        pages.close(|page| page.0 >= 5);
        assert_eq!(pages.pages.len(), 5);
    }
}
