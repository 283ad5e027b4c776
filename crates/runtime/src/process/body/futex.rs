//! futex(2) of threads that are away: made here if the word's queue is lent to this host (`megalith_runtime::queues`), else asked
//! at home.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use megalith_runtime::errno;
use megalith_runtime::frame::Context;
use megalith_runtime::nr;
use megalith_runtime::queues::{QUEUES, Slot, Use, queue_of};
use megalith_runtime::ship::TakeBack;
use megalith_runtime::sigset::SigSet;

use crate::body::answer::{self, Answer, Said};
use crate::body::fatal;
use crate::body::faults::{self, Reached};
use crate::body::map::Access;
use crate::body::seat::Seat;
use crate::body::thread::RECALL;
use crate::pass::pass;
use crate::sys::{self, safe_call};

const EFAULT: i64 = errno::EFAULT.as_return();
const EINTR: i64 = errno::EINTR.as_return();

static SLOTS: [Slot; QUEUES] = [const { Slot::new() }; QUEUES];
/// The seats of this process: the first of the list.
static SEATS: AtomicPtr<Seat> = AtomicPtr::new(ptr::null_mut());

/// All signals but the order to go home.
const OPEN: SigSet = SigSet::FULL.minus(SigSet::only(RECALL));

/// Adds a seat to the list, where it stays.
pub fn know(seat: &mut Seat) {
    if core::mem::replace(&mut seat.listed, true) {
        return;
    }
    let mut first = SEATS.load(Ordering::Acquire);
    loop {
        seat.next = first;
        match SEATS.compare_exchange_weak(first, seat, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return,
            Err(now) => first = now,
        }
    }
}

/// A call of the thread's.
pub fn call(seat: &mut Seat, context: &Context) -> Answer {
    let r = &context.registers;
    let arguments = [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
    let what = Use::of(&arguments);
    if !what.is_simple() {
        return Answer::Ask;
    }
    let slot = &SLOTS[queue_of(r.rdi)];
    loop {
        if let Some(answer) = here(seat, slot, what, arguments) {
            return answer;
        }
        match answer::ask(seat, context) {
            Said::Result(returned) => {
                if returned.turn != 0 {
                    slot.borrow(returned.turn as u32);
                }
                return Answer::Result(returned.value);
            }
            // Or no longer, when this comes to be read: then it is asked again.
            Said::Lent(turn) => slot.borrow(turn as u32),
            Said::ComeHome => return Answer::GoHome,
        }
    }
}

/// Makes the call if the queue is here.
fn here(seat: &mut Seat, slot: &Slot, what: Use, arguments: [u64; 6]) -> Option<Answer> {
    let word = arguments[0];
    if what == Use::Wake {
        // SAFETY: the kernel judges the program's arguments, and writes nothing.
        return slot.is_here().then(|| Answer::Result(unsafe { sys::raw(nr::FUTEX, arguments) } as u64));
    }
    loop {
        seat.waits_for.store(word, Ordering::SeqCst);
        let result = slot.is_here().then(|| wait(seat, arguments));
        seat.waits_for.store(0, Ordering::SeqCst);
        match result? {
            None => return Some(Answer::Interrupted),
            Some(EFAULT) => match faults::reach(seat, word, Access::Read) {
                Reached::Mapped => {}
                Reached::Wanted => return Some(Answer::GoHome),
                _ => return None,
            },
            Some(value) => return Some(Answer::Result(value as u64)),
        }
    }
}

/// Waits; `None` if it is over because the thread was recalled.
fn wait(seat: &mut Seat, arguments: [u64; 6]) -> Option<i64> {
    // SAFETY: the seat's own; nobody else refers to it but the handler of RECALL, while `pass` lets that in.
    let block = unsafe { &mut *seat.block };
    let result = pass(block, nr::FUTEX, arguments, OPEN);
    let recalled = block.noted.take().is_some();
    if recalled && result.is_some_and(|value| value != EINTR) {
        // It comes once more, when the thread runs on.
        let _ = safe_call!(nr::TGKILL, sys::pid(), seat.tid, RECALL);
        return result;
    }
    result.filter(|_| !recalled)
}

/// Home has a queue again: whoever waits in it here is woken, and asks there.
pub fn give_back(taken: &TakeBack) {
    const ALL_WAITERS: u64 = i32::MAX as u64;
    const WAKE_PRIVATE: u64 = 129;
    let number = taken.queue as usize;
    let Some(slot) = SLOTS.get(number) else { fatal(&[b"home takes back what is no queue"]) };
    slot.give_back(taken.turn as u32);
    loop {
        let mut any = false;
        let mut at = SEATS.load(Ordering::Acquire);
        // SAFETY: seats in the list stay; this reads what is atomic or never changes.
        while let Some(seat) = unsafe { at.as_ref() } {
            let word = seat.waits_for.load(Ordering::SeqCst);
            if word != 0 && queue_of(word) == number {
                any = true;
                // Fails only for what is no address, for which nobody waits.
                let _ = safe_call!(nr::FUTEX, word, WAKE_PRIVATE, ALL_WAITERS);
            }
            at = seat.next;
        }
        if !any {
            return;
        }
        // Who says that it waits and does not yet wait gets on; a page that it looks at may be on its way.
        let _ = safe_call!(nr::SCHED_YIELD);
    }
}
