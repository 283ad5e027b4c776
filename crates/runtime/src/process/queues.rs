//! Home's queues of waiters for futex words (`megalith_runtime::queues` says what they are).
//!
//! A queue's lock is held while the queue changes hands; a wait itself is made without it. What is held then waits for the host that
//! gives the queue back, which waits for nothing of home's.

use core::sync::atomic::Ordering;

use megalith_runtime::nr;
use megalith_runtime::queues::{Entry, Loan, QUEUES, Queue, Use, queue_of};

use crate::block::Block;
use crate::body::clocks::{self, MONOTONIC};
use crate::lock::{Guard, Lock};
use crate::sys::safe_call;
use crate::travel::HOME;
use crate::{hosts, live};

static ALL: [Lock<Queue>; QUEUES] = [const { Lock::new(Queue::NEW) }; QUEUES];
/// How often those who wait are woken before a queue is lent. Who says that it waits and does not yet wait is waited for.
const ROUNDS: u32 = 1000;

/// The thread of `block`, wherever it is, wants to use the queue of `word`. `Some`: its host has this loan of the queue. Else
/// the queue is at home, and a wait is counted until [`leave`].
pub fn enter(block: &Block, word: u64, what: Use) -> Option<u32> {
    let host = block.travel.place().host;
    let number = queue_of(word);
    let mut queue = ALL[number].take();
    match queue.enter(host, what.is_simple()) {
        Entry::Here => {}
        Entry::Yours(turn) => return Some(turn),
        Entry::TakeBack(loan) => take_back(&mut queue, number, loan),
    }
    match what {
        // Not in the list of threads, as a child of vfork(2) is: nobody would wake it.
        Use::Wait | Use::WaitUntil if block.travel.tid == 0 => queue.stay(),
        Use::Wait | Use::WaitUntil => block.travel.waits_for.store(word, Ordering::SeqCst),
        Use::Other => queue.stay(),
        Use::Wake | Use::Shared => {}
    }
    None
}

/// The wait is over.
pub fn leave(block: &Block) {
    block.travel.waits_for.store(0, Ordering::SeqCst);
}

fn take_back(queue: &mut Guard<'_, Queue>, number: usize, loan: Loan) {
    hosts::take_back(loan.host, number, loan.turn);
    queue.taken_back(clocks::own(MONOTONIC));
}

/// The thread of `block` has woken others: lends the queue to its host if it is time. Which loan this is, or 0.
pub fn lend(block: &Block, word: u64) -> u32 {
    let host = block.travel.place().host;
    if host == HOME {
        return 0;
    }
    let number = queue_of(word);
    let mut queue = ALL[number].take();
    if !queue.is_due(host, HOME) {
        return 0;
    }
    for _ in 0..ROUNDS {
        if !wake_all(number) {
            return queue.lend(host, clocks::own(MONOTONIC));
        }
        let _ = safe_call!(nr::SCHED_YIELD);
    }
    // Somebody is about to wait, and does not get on: another time.
    0
}

/// Wakes whoever says that it waits in the queue; whether anybody does.
fn wake_all(number: usize) -> bool {
    const ALL_WAITERS: u64 = i32::MAX as u64;
    const WAKE_PRIVATE: u64 = 129;
    let mut any = false;
    for word in live::list().words().filter(|word| queue_of(*word) == number) {
        any = true;
        // Fails only for what is no address, for which nobody waits.
        let _ = safe_call!(nr::FUTEX, word, WAKE_PRIVATE, ALL_WAITERS);
    }
    any
}

/// The queue of `word` is at home when this returns: the caller wakes.
pub fn bring_home(word: u64) {
    at_home(queue_of(word));
}

/// The queue of `word` is at home from now on, for good.
pub fn keep(word: u64) {
    at_home(queue_of(word)).stay();
}

/// All queues are.
pub fn keep_all() {
    (0..QUEUES).for_each(|number| at_home(number).stay());
}

fn at_home(number: usize) -> Guard<'static, Queue> {
    let mut queue = ALL[number].take();
    if let Entry::TakeBack(loan) = queue.enter(HOME, false) {
        take_back(&mut queue, number, loan);
    }
    queue
}
