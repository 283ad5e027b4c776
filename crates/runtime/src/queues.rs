//! Whose kernel the waiters for a futex word are in (futex(2), private words, spread mode).
//!
//! Words are hashed to *queues*. A queue is at home at first: threads wait for its words in the home host's kernel, bodies through
//! their deputies. A queue that the threads of one other host use and nobody else is *lent* to that host: there they wait in
//! that host's kernel and wake each other, and no message is sent. Home takes it back as soon as anybody else uses it.
//!
//! Whoever waits when a queue changes hands stays where it is. So a wake-up must know of two places:
//!
//! 1. Who waits says for which word *before* it looks whose the queue is, and says so until its wait is over.
//! 2. Whoever changes that, changes it first, and then looks who says that it waits. If anybody does at home when a queue is lent, the
//!    borrower asks home at each wake-up, until home says that nobody does any more; if anybody does on the host that gives
//!    it back, home asks that host likewise.
//!
//! `tests/queues.rs` checks the model: nobody is ever left waiting where nobody wakes, and nobody wakes without being woken.

use core::sync::atomic::{AtomicU32, Ordering};

/// How many there are.
pub const QUEUES: usize = 1 << QUEUES_BITS;
const QUEUES_BITS: u32 = 12;

/// Uses in a row by one host, at first, before a queue is lent to it.
const USES_MIN: u32 = 4;
/// Most that are ever wanted.
const USES_MAX: u32 = 1 << 12;
/// A loan that was shorter should not have been made, in nanoseconds.
const SHORT_NS: u64 = 20_000_000;

/// The private operations of futex(2), without its flags.
const WAIT: u64 = 0;
const WAKE: u64 = 1;
const WAIT_BITSET: u64 = 9;
const WAKE_BITSET: u64 = 10;
/// FUTEX_REQUEUE, FUTEX_CMP_REQUEUE, FUTEX_WAKE_OP, FUTEX_WAIT_REQUEUE_PI, FUTEX_CMP_REQUEUE_PI.
const WITH_SECOND_WORD: [u64; 5] = [3, 4, 5, 11, 12];
const PRIVATE: u64 = 128;
const OPERATION: u64 = 127;

/// What a futex(2) call does, as far as queues are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Waits until it is woken.
    Wait,
    /// Waits for some time at most.
    WaitUntil,
    /// Wakes.
    Wake,
    /// Something that only home can do: with two words, or with priority inheritance.
    Other,
    /// It is about words that several processes share: those have no queue here.
    Shared,
}

impl Use {
    /// Of the call with these arguments.
    pub fn of(arguments: &[u64; 6]) -> Use {
        let [_, operation, _, timeout, ..] = *arguments;
        // The kernel looks at an int.
        let operation = operation & 0xffff_ffff;
        match operation & OPERATION {
            _ if operation & PRIVATE == 0 => Use::Shared,
            WAIT | WAIT_BITSET if timeout == 0 => Use::Wait,
            WAIT | WAIT_BITSET => Use::WaitUntil,
            WAKE | WAKE_BITSET => Use::Wake,
            _ => Use::Other,
        }
    }

    /// Whether the host that has the queue can do it alone.
    pub fn is_simple(self) -> bool {
        matches!(self, Use::Wait | Use::Wake)
    }
}

/// Whether the call names a second word.
pub fn has_second_word(operation: u64) -> bool {
    WITH_SECOND_WORD.contains(&(operation & OPERATION))
}

/// How many are still to be woken of the `count` in futex(2)'s argument, after a call that returned `result`; `None` for nobody.
pub fn rest_to_wake(count: u64, result: i64) -> Option<u64> {
    // The kernel looks at an int, and wakes one where it is 0 or less.
    let rest = i64::from(count as i32).max(1) - result;
    (result >= 0 && rest > 0).then_some(rest as u64)
}

/// The queue of a word.
pub fn queue_of(word: u64) -> usize {
    // Fibonacci hashing; words are four bytes.
    ((word >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - QUEUES_BITS)) as usize
}

/// What home is to do first for who wants to use a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing: the queue is at home.
    Here,
    /// Tell the user that its host has the queue: this loan.
    Yours(u32),
    /// Take it back from the host, and say so with [`Queue::taken_back`].
    TakeBack(Loan),
}

/// A queue that is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Loan {
    /// To this host.
    pub host: u32,
    /// Which of the queue's loans this is, from 1.
    pub turn: u32,
}

/// A queue, as home knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Queue {
    lent_to: Option<u32>,
    turn: u32,
    /// Who used it last, and how often in a row.
    last: u32,
    uses: u32,
    /// Uses in a row that are wanted.
    wanted: u32,
    /// When it was lent, in nanoseconds.
    since: u64,
    /// Threads may wait in it on this host, which had it.
    left_at: Option<u32>,
    stays: bool,
}

impl Queue {
    /// One that nobody has used.
    pub const NEW: Queue = Queue {
        lent_to: None,
        turn: 0,
        last: 0,
        uses: 0,
        wanted: USES_MIN,
        since: 0,
        left_at: None,
        stays: false,
    };

    /// A thread of `host` wants to use it.
    pub fn enter(&mut self, host: u32, simple: bool) -> Entry {
        if self.last != host {
            (self.last, self.uses) = (host, 0);
        }
        self.uses = self.uses.saturating_add(1);
        match self.lent_to {
            None => Entry::Here,
            Some(borrower) if borrower == host && simple => Entry::Yours(self.turn),
            Some(host) => Entry::TakeBack(Loan { host, turn: self.turn }),
        }
    }

    /// Which loan `host` has of it.
    pub fn turn_of(&self, host: u32) -> Option<u32> {
        (self.lent_to == Some(host)).then_some(self.turn)
    }

    /// The borrower has given it back, and threads still wait in it there, or not; `now` in nanoseconds.
    pub fn taken_back(&mut self, waiting: bool, now: u64) {
        self.left_at = self.lent_to.take().filter(|_| waiting);
        self.uses = 0;
        let short = now.saturating_sub(self.since) < SHORT_NS;
        self.wanted = if short { (2 * self.wanted).min(USES_MAX) } else { USES_MIN };
    }

    /// The loan, over or not, in which threads may wait on another host.
    pub fn away(&self) -> Option<Loan> {
        self.lent_to.or(self.left_at).map(|host| Loan { host, turn: self.turn })
    }

    /// None of them waits any more.
    pub fn none_left(&mut self) {
        self.left_at = None;
    }

    /// It is never lent again.
    pub fn stay(&mut self) {
        self.stays = true;
    }

    /// Whether it should be lent to `host`, whose thread has just used it.
    pub fn is_due(&self, host: u32, home: u32) -> bool {
        let used_enough = self.last == host && self.uses >= self.wanted;
        let elsewhere = self.left_at.is_some_and(|left| left != host);
        host != home && used_enough && self.lent_to.is_none() && !elsewhere && !self.stays
    }

    /// Lends it; which of its loans this is.
    pub fn lend(&mut self, host: u32, now: u64) -> u32 {
        (self.lent_to, self.left_at, self.since) = (Some(host), None, now);
        self.turn += 1;
        self.turn
    }
}

/// A queue, as another host knows it: its latest loan, whether the host still has it, and whether others wait at home. A loan and
/// the word that ends it come on different channels, in any order.
#[derive(Debug, Default)]
pub struct Slot(AtomicU32);

const HERE: u32 = 1;
const OTHERS: u32 = 2;
const TURN_SHIFT: u32 = 2;

impl Slot {
    /// Never lent.
    pub const fn new() -> Slot {
        Slot::with(0)
    }

    /// One whose [`Slot::word`] is this.
    pub const fn with(word: u32) -> Slot {
        Slot(AtomicU32::new(word))
    }

    /// What it knows.
    pub fn word(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Whether the queue is here: who waits waits here.
    pub fn is_here(&self) -> bool {
        self.word() & HERE != 0
    }

    /// Whether all who wait in the queue wait here.
    pub fn is_here_alone(&self) -> bool {
        self.word() & (HERE | OTHERS) == HERE
    }

    /// Home has lent it, and others wait there, or no longer.
    pub fn borrow(&self, turn: u32, others: bool) {
        self.set(|known| match known >> TURN_SHIFT {
            old if old < turn => Some(turn << TURN_SHIFT | HERE | if others { OTHERS } else { 0 }),
            // Nobody begins to wait at home while the loan lasts.
            same if same == turn && !others => Some(known & !OTHERS),
            _ => None,
        });
    }

    /// Home takes that loan back.
    pub fn give_back(&self, turn: u32) {
        self.set(|known| (known >> TURN_SHIFT <= turn).then_some(turn << TURN_SHIFT));
    }

    fn set(&self, next: impl Fn(u32) -> Option<u32>) {
        // Refused if it is old news.
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: u32 = 0;

    #[test]
    fn one_host_alone_gets_the_queue() {
        let mut queue = Queue::NEW;
        for host in [1, 2, 1, 2, 0, 0, 0, 0, 0, 1, 1, 1] {
            assert_eq!(queue.enter(host, true), Entry::Here);
            assert!(!queue.is_due(host, HOME));
        }
        queue.enter(1, true);
        assert!(queue.is_due(1, HOME) && !queue.is_due(2, HOME));
        assert_eq!(queue.lend(1, 0), 1);
        assert!(!queue.is_due(1, HOME));
        assert_eq!(queue.enter(1, true), Entry::Yours(1));
        assert_eq!(queue.enter(1, false), Entry::TakeBack(Loan { host: 1, turn: 1 }));
    }

    #[test]
    fn a_short_loan_makes_the_next_one_later() {
        let mut queue = Queue::NEW;
        let mut uses_until_lent = |lasts: u64| {
            let mut uses = 0;
            while !queue.is_due(1, HOME) {
                assert_eq!(queue.enter(1, true), Entry::Here);
                uses += 1;
            }
            queue.lend(1, 0);
            assert!(matches!(queue.enter(0, true), Entry::TakeBack(Loan { host: 1, .. })));
            queue.taken_back(false, lasts);
            uses
        };
        assert_eq!([0; 4].map(&mut uses_until_lent), [4, 8, 16, 32]);
        assert_eq!(uses_until_lent(SHORT_NS), 64);
        assert_eq!(uses_until_lent(0), 4, "it was worth it");
        for _ in 0..20 {
            uses_until_lent(0);
        }
        assert_eq!(uses_until_lent(0), USES_MAX);
        queue.stay();
        (0..2 * USES_MAX).for_each(|_| assert_eq!(queue.enter(1, true), Entry::Here));
        assert!(!queue.is_due(1, HOME));
    }

    #[test]
    fn a_queue_in_which_threads_wait_elsewhere_is_lent_only_there() {
        let mut queue = Queue::NEW;
        queue.lend(1, 0);
        queue.taken_back(true, SHORT_NS);
        assert_eq!(queue.away(), Some(Loan { host: 1, turn: 1 }));
        (0..USES_MIN).for_each(|_| assert_eq!(queue.enter(2, true), Entry::Here));
        assert!(!queue.is_due(2, HOME));
        (0..USES_MIN).for_each(|_| assert_eq!(queue.enter(1, true), Entry::Here));
        assert!(queue.is_due(1, HOME));
        queue.lend(1, 0);
        queue.none_left();
        assert_eq!(queue.away(), Some(Loan { host: 1, turn: 2 }), "it has the queue again");
        queue.taken_back(true, SHORT_NS);
        queue.none_left();
        assert_eq!(queue.away(), None);
        (0..USES_MIN).for_each(|_| assert_eq!(queue.enter(2, true), Entry::Here));
        assert!(queue.is_due(2, HOME));
    }

    #[test]
    fn words_of_loans_may_come_in_any_order() {
        let slot = Slot::new();
        slot.give_back(1);
        slot.borrow(1, false);
        assert!(!slot.is_here() && !slot.is_here_alone(), "the word that ends the loan was faster");
        slot.borrow(2, true);
        slot.borrow(1, false);
        assert!(slot.is_here() && !slot.is_here_alone());
        slot.borrow(2, false);
        slot.borrow(2, true);
        assert!(slot.is_here_alone(), "nobody begins to wait at home");
        slot.give_back(1);
        assert!(slot.is_here(), "an older one");
        slot.give_back(2);
        assert!(!slot.is_here());
    }

    #[test]
    fn uses_are_told_apart() {
        let of = |operation: u64, timeout: u64| Use::of(&[0x1000, operation, 0, timeout, 0, 0]);
        assert_eq!(of(128, 0), Use::Wait);
        assert_eq!(of(128 | 9 | 256, 0), Use::Wait);
        assert_eq!(of(128 | 9 | 256, 0x2000), Use::WaitUntil);
        assert_eq!(of(128 | 1, 77), Use::Wake);
        assert_eq!(of(128 | 10 | 1 << 40, 0), Use::Wake);
        assert_eq!([0, 1, 9].map(|operation| of(operation, 0)), [Use::Shared; 3]);
        assert_eq!(
            [3, 4, 5, 6, 7, 8, 11, 12, 13, 99].map(|operation| of(128 | operation, 0)),
            [Use::Other; 10]
        );
        assert!(has_second_word(128 | 4) && !has_second_word(128 | 1));
    }

    #[test]
    fn what_is_left_to_wake() {
        assert_eq!(rest_to_wake(5, 2), Some(3));
        assert_eq!(
            [(5, 5), (1, 1), (0, 1), (u64::MAX, 1), (5, -22)].map(|(n, r)| rest_to_wake(n, r)),
            [None; 5]
        );
        assert_eq!([0, u64::from(u32::MAX), 1 << 32].map(|n| rest_to_wake(n, 0)), [Some(1); 3]);
        assert_eq!(rest_to_wake(i32::MAX as u64, 7), Some(i32::MAX as u64 - 7));
    }

    #[test]
    fn words_are_spread_over_queues() {
        let used: std::collections::HashSet<_> =
            (0..QUEUES as u64 / 2).map(|n| queue_of(0x7f00_0000_0000 + 40 * n)).collect();
        assert!(used.len() > QUEUES / 3, "{}", used.len());
        assert!((0..1 << 20).all(|n| queue_of(u64::wrapping_mul(n, 0x1234_5678_9abc_def0)) < QUEUES));
    }
}
