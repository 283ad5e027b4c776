//! Home's queues of waiters for futex words (`megalith_runtime::queues` says what they are).
//!
//! A queue's lock is held while the queue changes hands and while another host is asked about it, which waits for nothing of
//! home's; a wait itself is made without it.

use core::sync::atomic::Ordering;

use megalith_runtime::nr;
use megalith_runtime::queues::{Entry, Loan, QUEUES, Queue, Use, queue_of};
use megalith_runtime::ship::{Lent, TakeBack, Wake};

use crate::block::Block;
use crate::body::clocks::{self, MONOTONIC};
use crate::lock::{Guard, Lock};
use crate::sys::safe_call;
use crate::travel::HOME;
use crate::{hosts, live};

static ALL: [Lock<Queue>; QUEUES] = [const { Lock::new(Queue::NEW) }; QUEUES];

/// The thread of `block`, wherever it is, wants to use the queue of `word`. `Some`: its host has this loan of the queue. Else
/// the queue is at home, and a wait is counted until [`leave`].
pub fn enter(block: &Block, word: u64, what: Use) -> Option<Lent> {
    let host = block.travel.place().host;
    let number = queue_of(word);
    let mut queue = ALL[number].take();
    match queue.enter(host, what.is_simple()) {
        Entry::Here => {}
        Entry::Yours(turn) => return Some(lent(number, turn)),
        Entry::TakeBack(loan) => take_back(&mut queue, number, loan),
    }
    match what {
        // Not in the list of threads, as a child of vfork(2) is: nobody would see that it waits.
        Use::Wait | Use::WaitUntil if block.travel.tid == 0 => keep_queue(&mut queue, number),
        Use::Wait | Use::WaitUntil => block.travel.waits_for.store(word, Ordering::SeqCst),
        Use::Other => keep_queue(&mut queue, number),
        Use::Wake | Use::Shared => {}
    }
    None
}

/// The wait is over.
pub fn leave(block: &Block) {
    block.travel.waits_for.store(0, Ordering::SeqCst);
}

/// A loan of a queue, and whether anybody may wait in it at home.
fn lent(number: usize, turn: u32) -> Lent {
    let others = live::list().words().any(|word| queue_of(word) == number);
    Lent { turn, others: u32::from(others) }
}

fn take_back(queue: &mut Guard<'_, Queue>, number: usize, loan: Loan) {
    let what = TakeBack { queue: number as u64, turn: loan.turn, empty: 0 };
    let waiting = hosts::take_back(loan.host, &what);
    queue.taken_back(waiting.any != 0, clocks::own(MONOTONIC));
}

/// Wakes who waits on the host that had the queue last, or has got it since the caller entered; how many. With the arguments of
/// the call.
pub fn wake_away(arguments: &[u64; 6]) -> u64 {
    let [word, operation, count, _, _, bitset] = *arguments;
    let mut queue = ALL[queue_of(word)].take();
    let Some(loan) = queue.away() else { return 0 };
    let waiting = hosts::wake(loan.host, &Wake { word, operation, count, bitset });
    if waiting.any == 0 {
        queue.none_left();
    }
    waiting.woken
}

/// The thread of `block` has woken who waits at home: lends the queue to its host if it is time. What its host has of it.
pub fn lent_after(block: &Block, word: u64) -> Lent {
    let host = block.travel.place().host;
    let number = queue_of(word);
    let mut queue = ALL[number].take();
    if let Some(turn) = queue.turn_of(host) {
        return lent(number, turn);
    }
    if !queue.is_due(host, HOME) {
        return Lent::NOT;
    }
    let turn = queue.lend(host, clocks::own(MONOTONIC));
    lent(number, turn)
}

/// Wakes one who waits for the word, wherever it is: the runtime itself does, at a thread's end.
pub fn wake_one(word: u64) {
    const WAKE_PRIVATE: u64 = 129;
    drop(at_home(queue_of(word)));
    if wake_away(&[word, WAKE_PRIVATE, 1, 0, 0, 0]) == 0 {
        let _ = safe_call!(nr::FUTEX, word, WAKE_PRIVATE, 1);
    }
}

/// The queue of `word` is at home from now on, for good, with all who wait in it.
pub fn keep(word: u64) {
    let number = queue_of(word);
    keep_queue(&mut at_home(number), number);
}

/// All queues are.
pub fn keep_all() {
    (0..QUEUES).for_each(|number| keep_queue(&mut at_home(number), number));
}

/// Who waits elsewhere is woken without cause, which futex(2) allows: it looks at its word, and waits again, at home.
fn keep_queue(queue: &mut Guard<'_, Queue>, number: usize) {
    queue.stay();
    if let Some(loan) = queue.away() {
        hosts::take_back(loan.host, &TakeBack { queue: number as u64, turn: loan.turn, empty: 1 });
        queue.none_left();
    }
}

fn at_home(number: usize) -> Guard<'static, Queue> {
    let mut queue = ALL[number].take();
    if let Entry::TakeBack(loan) = queue.enter(HOME, false) {
        take_back(&mut queue, number, loan);
    }
    queue
}
