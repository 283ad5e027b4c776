//! Fault-around: how many pages to bring, or to show, for one fault.
//!
//! A fault that goes on where an earlier one left off doubles the window, as the kernel's readahead does
//! (mm/readahead.c). Any other fault brings its own page alone, which may be all that is wanted of another host; of pages
//! that are here already it shows a few, as the kernel does with a file's (`fault_around_bytes`).

use coherence::PageId;

const STREAMS: usize = 8;

/// At most so many pages are mapped, or asked for, in one go.
pub const WINDOW_PAGES_MAX: u64 = 64;

/// The first window of pages that are brought, and the largest.
const BROUGHT_PAGES: (u64, u64) = (1, 256);

/// The first window of pages that are here already, and the largest: that is no more than what lies in one of the kernel's page tables.
const SHOWN_PAGES: (u64, u64) = (16, 512);

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    next: u64,
    window: u64,
    used: u64,
}

/// The sequential walks that were seen last.
#[derive(Debug)]
pub struct Streams {
    streams: [Stream; STREAMS],
    clock: u64,
    first: u64,
    most: u64,
}

impl Streams {
    /// Of pages that are brought.
    pub fn brought() -> Self {
        Self::between(BROUGHT_PAGES.0, BROUGHT_PAGES.1)
    }

    /// Of pages that are here already, and are shown to a process.
    pub fn shown() -> Self {
        Self::between(SHOWN_PAGES.0, SHOWN_PAGES.1)
    }

    fn between(first: u64, most: u64) -> Self {
        Self { streams: Default::default(), clock: 0, first, most }
    }

    /// A fault at `page`: the pages, from it on, that should come; at most so many as there are up to some border, behind which a
    /// walk goes on.
    pub fn window(&mut self, page: PageId, to_border: u64) -> u64 {
        self.clock += 1;
        let clock = self.clock;
        if let Some(s) =
            self.streams.iter_mut().find(|s| s.window > 0 && (s.next..s.next + s.window).contains(&page.0))
        {
            s.window = (s.window * 2).min(self.most);
            let pages = s.window.min(to_border);
            s.next = page.0 + pages;
            s.used = clock;
            return pages;
        }
        let oldest = self.streams.iter_mut().min_by_key(|s| s.used).expect("there are streams");
        let pages = self.first.min(to_border);
        *oldest = Stream { next: page.0 + pages, window: self.first, used: clock };
        pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequential_walks_double_and_interleave() {
        let mut streams = Streams::brought();
        let (mut a, mut b) = (1000, 900_000);
        let mut windows = Vec::new();
        for _ in 0..11 {
            let w = streams.window(PageId(a), 512);
            a += w;
            windows.push(w);
            b += streams.window(PageId(b), 512);
        }
        assert_eq!(windows, [1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256]);
        assert_eq!(b - 900_000, windows.iter().sum::<u64>());
    }

    #[test]
    fn random_faults_bring_one_page() {
        let mut streams = Streams::brought();
        assert!((0..1000u64).all(|i| streams.window(PageId((i * 7919) % 100_003 * 16), 512) == 1));
    }

    #[test]
    fn walks_go_on_behind_a_border() {
        let mut streams = Streams::shown();
        let (mut at, mut windows) = (1000u64, Vec::new());
        while at < 3 * 512 {
            let pages = streams.window(PageId(at), 512 - at % 512);
            at += pages;
            windows.push(pages);
        }
        assert_eq!(windows, [16, 8, 64, 128, 256, 64]);
        assert_eq!(streams.window(PageId(at), 512), 512);
    }
}
