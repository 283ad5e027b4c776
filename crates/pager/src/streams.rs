//! Fault-around: how many pages to bring for one fault.
//!
//! A fault that goes on where an earlier one left off doubles the window, as the kernel's readahead does
//! (mm/readahead.c); any other fault brings its own page alone.

use coherence::PageId;

const STREAMS: usize = 8;

/// The largest window in pages.
pub const WINDOW_PAGES_MAX: u64 = 64;

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    next: u64,
    window: u64,
    used: u64,
}

/// The sequential walks that were seen last.
#[derive(Debug, Default)]
pub struct Streams {
    streams: [Stream; STREAMS],
    clock: u64,
}

impl Streams {
    /// A fault at `page`: the pages, from it on, that should come.
    pub fn window(&mut self, page: PageId) -> u64 {
        self.clock += 1;
        let clock = self.clock;
        if let Some(s) =
            self.streams.iter_mut().find(|s| s.window > 0 && (s.next..s.next + s.window).contains(&page.0))
        {
            s.window = (s.window * 2).min(WINDOW_PAGES_MAX);
            s.next = page.0 + s.window;
            s.used = clock;
            return s.window;
        }
        let oldest = self.streams.iter_mut().min_by_key(|s| s.used).expect("there are streams");
        *oldest = Stream { next: page.0 + 1, window: 1, used: clock };
        1
    }

    /// The window at `page` went past what is mapped: begin again.
    pub fn cut(&mut self, page: PageId) {
        if let Some(s) = self.streams.iter_mut().find(|s| s.next == page.0 + s.window) {
            s.window = 1;
            s.next = page.0 + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequential_walks_double_and_interleave() {
        let mut streams = Streams::default();
        let (mut a, mut b) = (1000, 900_000);
        let mut windows = Vec::new();
        for _ in 0..9 {
            let w = streams.window(PageId(a));
            a += w;
            windows.push(w);
            b += streams.window(PageId(b));
        }
        assert_eq!(windows, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(b - 900_000, windows.iter().sum::<u64>());
    }

    #[test]
    fn random_faults_bring_one_page() {
        let mut streams = Streams::default();
        assert!((0..1000u64).all(|i| streams.window(PageId((i * 7919) % 100_003 * 16)) == 1));
    }
}
