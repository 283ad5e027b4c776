//! What is held back: messages about a page that has just come to a client here, or whose bytes are still to come.
//!
//! *Dwell.* A page that a client waited for stays at least [`DWELL`], so that the access that brought it is made, whatever
//! other hosts want: `Forward` and `Invalidate` of it wait until then, and behind the first of them every later message about
//! the page, in order.
//!
//! *Back-off.* A writer is disturbed by hosts that only look on: a thread that polls a word takes the right to write from it at every
//! look. If a host that lost it so wants it back at once, with no other writer in between, the page stays twice as long the next
//! time, up to [`STEPS_MAX`], and shorter again when it does not.
//!
//! *Filling.* A page whose first bytes the home host reads from a file is held according to the protocol, but not here
//! yet: all messages about it wait until the bytes have come.
//!
//! Neither can make two hosts wait for each other. A dwell ends with time alone, and the bytes of a file come from an agent that
//! needs nobody's page for reading them. And within that time nothing waits that could go on: `Forward` and `Invalidate`
//! reach a page's owner or sharer in a transaction that is another host's, and the directory serves no second one of the page until
//! this one has ended; so none of this host's own operations on the page is being served, whose `Grant`, `Ack`,
//! `Relinquish`, `Discarded` could be what is held behind. (A grant that comes *before* them is never held.)
//!
//! Messages of this host to itself are held back alike (`Node::try_handle_holding`): where the directory is on the owner's
//! host, its `Forward` would else take the page in the same step that brought it.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use coherence::{HostId, Message, PageId};
use pager::{Packed, Packing};
use rustc_hash::FxHashMap;

/// How long a page stays that a client waited for. Waking a thread and letting it make its access takes 20–100 µs where
/// CPUs are idle; a page that two hosts write to in turn then changes hands some thousand times a second at most.
pub const DWELL: Duration = Duration::from_micros(200);

/// The dwell of a page that others poll is doubled so often at most: what a poller sees is no older than 1.6 ms.
const STEPS_MAX: u32 = 3;
/// A writer that was not disturbed for so long is forgotten.
const FORGET: Duration = Duration::from_millis(50);

/// A message held back, with the page that came beside it.
#[derive(Debug)]
pub struct Held {
    /// Who sent it.
    pub from: HostId,
    /// The message.
    pub message: Message,
    page: Option<(Packing, Box<[u8]>)>,
}

impl Held {
    /// The page beside the message.
    pub fn page(&self) -> Option<Packed<'_>> {
        self.page.as_ref().map(|(packing, bytes)| Packed { packing: *packing, bytes })
    }
}

#[derive(Clone, Copy, Debug)]
struct Writer {
    lost: Instant,
    /// Its dwell is doubled so often.
    steps: u32,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Dwell {
    /// Until when pages dwell; entries that are past count for nothing.
    until: FxHashMap<PageId, Instant>,
    /// The same, oldest first.
    order: VecDeque<(Instant, PageId)>,
    /// Pages that this host wrote, and whose right to write it lost to readers.
    writers: FxHashMap<PageId, Writer>,
    /// The same, oldest first.
    losses: VecDeque<(Instant, PageId)>,
    /// And which question for their bytes is the one that counts.
    filling: FxHashMap<PageId, u32>,
    questions: u32,
    queues: FxHashMap<PageId, VecDeque<Held>>,
    /// Pages whose queue begins with a message that waits for a moment.
    due: BTreeSet<(Instant, PageId)>,
}

impl Dwell {
    /// A client here has got the page. What has begun to wait for it waits no longer for that.
    pub fn got(&mut self, page: PageId, now: Instant) {
        while let Some(&(until, page)) = self.order.front().filter(|&&(until, _)| until <= now) {
            self.order.pop_front();
            if self.until.get(&page) == Some(&until) {
                self.until.remove(&page);
            }
        }
        if !self.queues.contains_key(&page) {
            let until = now + self.length(page);
            self.until.insert(page, until);
            self.order.push_back((until, page));
        }
    }

    fn length(&self, page: PageId) -> Duration {
        DWELL * (1 << self.writers.get(&page).map_or(0, |writer| writer.steps))
    }

    /// This host may no longer write the page, because another one reads it.
    pub fn lost_to_reader(&mut self, page: PageId, now: Instant) {
        while let Some(&(lost, page)) = self.losses.front().filter(|&&(lost, _)| lost + FORGET <= now) {
            self.losses.pop_front();
            if self.writers.get(&page).is_some_and(|writer| writer.lost == lost) {
                self.writers.remove(&page);
            }
        }
        self.losses.push_back((now, page));
        self.writers.entry(page).or_insert(Writer { lost: now, steps: 0 }).lost = now;
    }

    /// This host, which can still read the page, wants to write it.
    pub fn wants_back(&mut self, page: PageId, now: Instant) {
        let length = self.length(page);
        if let Some(writer) = self.writers.get_mut(&page) {
            let disturbed = now.saturating_duration_since(writer.lost) < length;
            writer.steps =
                if disturbed { STEPS_MAX.min(writer.steps + 1) } else { writer.steps.saturating_sub(1) };
        }
    }

    /// Another host writes the page.
    pub fn lost_to_writer(&mut self, page: PageId) {
        self.writers.remove(&page);
    }

    /// The bytes of pages are about to be asked for; the question's number.
    pub fn fill(&mut self, pages: impl Iterator<Item = PageId>) -> u32 {
        self.questions = self.questions.wrapping_add(1);
        self.filling.extend(pages.map(|page| (page, self.questions)));
        self.questions
    }

    /// The page's bytes are on their way.
    pub fn fills(&self, page: PageId) -> bool {
        !self.filling.is_empty() && self.filling.contains_key(&page)
    }

    /// The question for the page's bytes that counts.
    pub fn question(&self, page: PageId) -> Option<u32> {
        self.filling.get(&page).copied()
    }

    /// The page's bytes have come, in answer to a question; false if nobody waits for that answer (any more).
    pub fn filled(&mut self, page: PageId, question: u32) -> bool {
        let waits = self.filling.get(&page) == Some(&question);
        if waits {
            self.filling.remove(&page);
        }
        waits
    }

    /// The page is no longer here, and the bytes that are on their way are void. True if something is due earlier than
    /// before.
    pub fn unfill(&mut self, page: PageId, now: Instant) -> bool {
        self.fills(page) && {
            self.filling.remove(&page);
            self.schedule(page, now)
        }
    }

    /// Messages about the page are held back, or would be.
    pub fn holds(&self, page: PageId) -> bool {
        self.fills(page) || (!self.queues.is_empty() && self.queues.contains_key(&page))
    }

    /// No page dwells or fills: whatever comes may be handled.
    pub fn is_quiet(&self) -> bool {
        self.until.is_empty() && self.filling.is_empty() && self.queues.is_empty()
    }

    /// Whether a message about the page may be handled now.
    pub fn admits(&self, message: &Message, page: PageId, now: Instant) -> bool {
        !self.holds(page) && self.wait(message, page, now).is_none()
    }

    /// Until when the message waits for the page to have dwelled.
    fn wait(&self, message: &Message, page: PageId, now: Instant) -> Option<Instant> {
        if !takes(message) {
            return None;
        }
        self.until.get(&page).copied().filter(|&until| until > now)
    }

    /// How many messages about the page are held back.
    pub fn held(&self, page: PageId) -> usize {
        self.queues.get(&page).map_or(0, VecDeque::len)
    }

    /// Holds a message back. True if something is due earlier than before.
    pub fn hold(
        &mut self,
        (from, message): (HostId, Message),
        page: PageId,
        beside: Option<Packed<'_>>,
        now: Instant,
    ) -> bool {
        let copied = beside.map(|p| (p.packing, p.bytes.into()));
        self.queues.entry(page).or_default().push_back(Held { from, message, page: copied });
        self.schedule(page, now)
    }

    /// Notes when the first of a page's messages is due. True if that is earlier than all others.
    fn schedule(&mut self, page: PageId, now: Instant) -> bool {
        if self.fills(page) {
            return false;
        }
        let Some(first) = self.queues.get(&page).and_then(VecDeque::front) else { return false };
        let due = self.wait(&first.message, page, now).unwrap_or(now);
        let before = self.next();
        self.due.insert((due, page)) && before.is_none_or(|before| due < before)
    }

    /// When something is due.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|&(due, _)| due)
    }

    /// A page of whose messages the first is due.
    pub fn due(&mut self, now: Instant) -> Option<PageId> {
        let &(_, page) = self.due.first().filter(|&&(due, _)| due <= now)?;
        self.due.pop_first();
        Some(page)
    }

    /// Takes the first of a page's messages, if it need not wait; the next one's time is noted.
    pub fn release(&mut self, page: PageId, now: Instant) -> Option<Held> {
        if self.fills(page) {
            return None;
        }
        let queue = self.queues.get(&page)?;
        if queue.front().is_none_or(|first| self.wait(&first.message, page, now).is_some()) {
            self.schedule(page, now);
            return None;
        }
        let queue = self.queues.get_mut(&page).expect("just seen");
        let held = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&page);
        }
        held
    }

    /// What is held back or to come, in words.
    #[cfg(feature = "sim")]
    pub fn half_done(&self) -> Option<String> {
        let some = !self.filling.is_empty() || !self.queues.is_empty();
        some.then(|| format!("first bytes to come: {:x?}; held back: {:?}", self.filling, self.queues))
    }

    /// Forgets pages, and what is held back about them. How many pages were among that which other hosts had handed over.
    pub fn close(&mut self, gone: impl Fn(PageId) -> bool) -> u64 {
        let held = self.queues.iter().filter(|(page, _)| gone(**page)).flat_map(|(_, queue)| queue);
        let given = held.filter(|held| matches!(held.message, Message::Give { .. })).count() as u64;
        self.until.retain(|&page, _| !gone(page));
        self.order.retain(|&(_, page)| !gone(page));
        self.writers.retain(|&page, _| !gone(page));
        self.losses.retain(|&(_, page)| !gone(page));
        self.filling.retain(|&page, _| !gone(page));
        self.queues.retain(|&page, _| !gone(page));
        self.due.retain(|&(_, page)| !gone(page));
        given
    }
}

/// Whether the message would take the page away, or the right to write it.
pub fn takes(message: &Message) -> bool {
    matches!(message, Message::Forward { .. } | Message::Invalidate { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DWELL_MAX: Duration = Duration::from_micros(200 << STEPS_MAX);
    const PAGE: PageId = PageId(7);
    const OTHER: HostId = HostId(1);
    const TAKE: Message = Message::Invalidate { page: PAGE, requester: OTHER };
    const ACK: Message = Message::Ack { page: PAGE };

    #[test]
    fn a_page_dwells_and_order_is_kept() {
        let mut dwell = Dwell::default();
        let now = Instant::now();
        assert!(dwell.is_quiet() && dwell.admits(&TAKE, PAGE, now));
        dwell.got(PAGE, now);
        assert!(!dwell.admits(&TAKE, PAGE, now) && dwell.admits(&TAKE, PAGE, now + DWELL));
        assert!(dwell.admits(&ACK, PAGE, now) && dwell.admits(&TAKE, PageId(8), now));
        assert!(dwell.hold((OTHER, TAKE), PAGE, None, now), "the timer must know");
        assert!(!dwell.admits(&ACK, PAGE, now + DWELL), "behind it");
        assert!(!dwell.hold((OTHER, ACK), PAGE, Some(Packed::ZERO), now));
        dwell.got(PAGE, now + DWELL / 2);
        assert_eq!((dwell.next(), dwell.due(now)), (Some(now + DWELL), None), "no longer for a new access");
        assert!(dwell.release(PAGE, now).is_none(), "not yet");
        assert_eq!(dwell.due(now + DWELL), Some(PAGE));
        let first = dwell.release(PAGE, now + DWELL).unwrap();
        assert!(first.message == TAKE && first.page().is_none());
        let second = dwell.release(PAGE, now + DWELL).unwrap();
        assert_eq!((second.message, second.page().map(|p| p.packing)), (ACK, Some(Packing::Zero)));
        assert!(!dwell.holds(PAGE) && dwell.release(PAGE, now + DWELL).is_none());
    }

    #[test]
    fn dwells_that_are_past_leave_nothing_behind() {
        let mut dwell = Dwell::default();
        let now = Instant::now();
        for n in 0..100 {
            dwell.got(PageId(n), now + n as u32 * DWELL);
        }
        assert!(dwell.until.len() <= 2 && dwell.order.len() <= 2);
    }

    #[test]
    fn a_writer_that_is_polled_keeps_its_page_longer() {
        let mut dwell = Dwell::default();
        let mut now = Instant::now();
        let mut disturb = |dwell: &mut Dwell, after| {
            dwell.lost_to_reader(PAGE, now);
            dwell.wants_back(PAGE, now + after);
            now += after;
            dwell.got(PAGE, now);
            let lengths = (0..=STEPS_MAX).map(|steps| DWELL * (1 << steps));
            let length = lengths.into_iter().find(|&length| dwell.admits(&TAKE, PAGE, now + length));
            now += DWELL_MAX;
            length.expect("no longer than the longest")
        };
        let soon = DWELL / 2;
        assert_eq!([(); 4].map(|()| disturb(&mut dwell, soon)), [2, 4, 8, 8].map(|times| times * DWELL));
        assert_eq!(disturb(&mut dwell, DWELL_MAX), 4 * DWELL, "it was not in a hurry");
        dwell.lost_to_writer(PAGE);
        assert_eq!(disturb(&mut dwell, soon), 2 * DWELL, "forgotten");
        assert_eq!(disturb(&mut dwell, FORGET), DWELL, "long ago");
    }

    #[test]
    fn writers_of_long_ago_are_forgotten() {
        let mut dwell = Dwell::default();
        let now = Instant::now();
        (0..100).for_each(|n| dwell.lost_to_reader(PageId(n), now + n as u32 * FORGET / 2));
        assert!(dwell.writers.len() <= 3 && dwell.losses.len() <= 3);
    }

    #[test]
    fn nothing_passes_a_page_that_fills() {
        let mut dwell = Dwell::default();
        let now = Instant::now();
        let old = dwell.fill([PAGE].into_iter());
        assert!(!dwell.unfill(PAGE, now), "nothing waits for it");
        let question = dwell.fill([PAGE, PageId(8)].into_iter());
        assert!(!dwell.filled(PAGE, old), "another question");
        assert!(!dwell.admits(&ACK, PAGE, now));
        assert!(!dwell.hold((OTHER, ACK), PAGE, None, now), "time does not release it");
        dwell.hold((OTHER, TAKE), PAGE, None, now);
        assert!(dwell.next().is_none() && dwell.release(PAGE, now).is_none());
        assert!(dwell.filled(PAGE, question) && !dwell.filled(PAGE, question));
        let released: Vec<_> = std::iter::from_fn(|| dwell.release(PAGE, now)).map(|h| h.message).collect();
        assert_eq!(released, [ACK, TAKE]);
        let question = dwell.fill([PAGE].into_iter());
        dwell.hold((OTHER, ACK), PAGE, None, now);
        assert!(dwell.unfill(PAGE, now), "what waited is due at once");
        assert_eq!(dwell.due(now), Some(PAGE));
        dwell.close(|page| page == PAGE || page == PageId(8));
        assert!(!dwell.filled(PAGE, question) && !dwell.holds(PAGE) && dwell.is_quiet());
    }
}
