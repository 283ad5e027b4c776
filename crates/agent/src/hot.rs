//! The pages that hosts take from each other most often: a Space-Saving counter (Metwally, Agrawal, El Abbadi 2005) that ages.

use coherence::PageId;

/// Pages that are counted at a time.
const PAGES: usize = 64;
/// Pages that are shown.
pub const SHOWN: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Counted {
    page: PageId,
    /// Moves since it is counted: what is shown. It never goes back while the page stays.
    moves: u64,
    /// By this the page keeps its place: it halves at every report, and begins where the page that made room had it.
    score: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Hot {
    pages: Vec<Counted>,
}

impl Hot {
    /// A page that was in use here has gone to another host.
    pub fn moved(&mut self, page: PageId) {
        if let Some(counted) = self.pages.iter_mut().find(|c| c.page == page) {
            counted.moves += 1;
            counted.score += 1;
        } else if self.pages.len() < PAGES {
            self.pages.push(Counted { page, moves: 1, score: 1 });
        } else {
            let least = self.pages.iter_mut().min_by_key(|c| c.score).expect("there are some");
            *least = Counted { page, moves: 1, score: least.score + 1 };
        }
    }

    /// The hottest pages of late, the hottest first: each with its moves.
    pub fn report(&mut self) -> Vec<(PageId, u64)> {
        self.pages.sort_by_key(|c| (std::cmp::Reverse((c.score, c.moves)), c.page));
        let shown = self.pages.iter().take(SHOWN).map(|c| (c.page, c.moves)).collect();
        self.pages.iter_mut().for_each(|c| c.score /= 2);
        shown
    }

    /// Forgets pages.
    pub fn close(&mut self, gone: impl Fn(PageId) -> bool) {
        self.pages.retain(|c| !gone(c.page));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hot_pages_are_found_among_many_and_fade() {
        let mut hot = Hot::default();
        for i in 0..10_000 {
            hot.moved(PageId(1000 + i));
            if i % 10 == 0 {
                hot.moved(PageId(1));
            }
            if i % 20 == 0 {
                hot.moved(PageId(2));
            }
        }
        let shown = hot.report();
        assert_eq!(shown.len(), SHOWN);
        assert_eq!((shown[0].0, shown[1].0), (PageId(1), PageId(2)), "{shown:?}");
        assert!((900..=1000).contains(&shown[0].1), "{shown:?}");
        for _ in 0..20 {
            hot.report();
        }
        hot.moved(PageId(7));
        hot.moved(PageId(7));
        assert_eq!(hot.report()[0], (PageId(7), 2), "what was hot long ago is not");
        hot.close(|page| page == PageId(7));
        assert!(hot.report().iter().all(|&(page, _)| page != PageId(7)));
    }
}
