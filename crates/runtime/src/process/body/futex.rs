//! futex(2) of threads that are away: made here if the word's queue is lent to this host (`megalith_runtime::queues`), else asked
//! at home.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use megalith_runtime::errno;
use megalith_runtime::frame::Context;
use megalith_runtime::nr;
use megalith_runtime::queues::{QUEUES, Slot, Use, queue_of, rest_to_wake};
use megalith_runtime::ship::{Lent, TakeBack, Waiting, Wake};
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
    let arguments = r.arguments();
    let slot = &SLOTS[queue_of(r.rdi)];
    match Use::of(&arguments) {
        Use::Wait => wait_for(seat, context, slot, arguments),
        Use::Wake => wake_from(seat, context, slot, arguments),
        _ => Answer::Ask,
    }
}

fn wait_for(seat: &mut Seat, context: &Context, slot: &Slot, arguments: [u64; 6]) -> Answer {
    loop {
        if let Some(answer) = wait_here(seat, slot, arguments) {
            return answer;
        }
        match answer::ask(seat, context) {
            // Or no longer, when it comes to be looked at: then it is asked again.
            Said::Lent(lent) => slot.borrow(lent.turn, lent.others != 0),
            Said::Result(returned) => return Answer::Result(returned.value),
            Said::ComeHome => return Answer::GoHome,
        }
    }
}

/// Waits if the queue is here.
fn wait_here(seat: &mut Seat, slot: &Slot, arguments: [u64; 6]) -> Option<Answer> {
    let word = arguments[0];
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

/// Wakes who waits at home, if anybody may, and then who waits here.
fn wake_from(seat: &mut Seat, context: &Context, slot: &Slot, mut arguments: [u64; 6]) -> Answer {
    let mut woken = 0;
    if !slot.is_here_alone() {
        let returned = match answer::ask(seat, context) {
            Said::Result(returned) => returned,
            Said::ComeHome => return Answer::GoHome,
            Said::Lent(_) => fatal(&[b"home lends a queue to who wakes"]),
        };
        if returned.lent != Lent::NOT {
            slot.borrow(returned.lent.turn, returned.lent.others != 0);
        }
        woken = returned.value as i64;
        match rest_to_wake(arguments[2], woken) {
            Some(rest) if returned.lent != Lent::NOT => arguments[2] = rest,
            _ => return Answer::Result(returned.value),
        }
    }
    // SAFETY: the kernel judges the program's arguments, and writes nothing.
    let here = unsafe { sys::raw(nr::FUTEX, arguments) };
    Answer::Result(if here < 0 && woken > 0 { woken } else { here + woken } as u64)
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

/// Home has a queue again; who waits in it here.
pub fn give_back(taken: &TakeBack) -> Waiting {
    const ALL_WAITERS: u64 = i32::MAX as u64;
    const WAKE_PRIVATE: u64 = 129;
    let number = taken.queue as usize;
    let Some(slot) = SLOTS.get(number) else { fatal(&[b"home takes back what is no queue"]) };
    slot.give_back(taken.turn);
    loop {
        let mut any = false;
        for word in words(number) {
            any = true;
            if taken.empty != 0 {
                // Fails only for what is no address, for which nobody waits.
                let _ = safe_call!(nr::FUTEX, word, WAKE_PRIVATE, ALL_WAITERS);
            }
        }
        if !any || taken.empty == 0 {
            return Waiting { woken: 0, any: u64::from(any) };
        }
        // Who says that it waits and does not yet wait gets on; a page that it looks at may be on its way.
        let _ = safe_call!(nr::SCHED_YIELD);
    }
}

/// A thread elsewhere wakes who waits here.
pub fn wake(wake: &Wake) -> Waiting {
    let woken = safe_call!(nr::FUTEX, wake.word, wake.operation, wake.count, 0, 0, wake.bitset).unwrap_or(0);
    Waiting { woken, any: u64::from(words(queue_of(wake.word)).next().is_some()) }
}

/// The words of a queue for which threads say that they wait here.
fn words(number: usize) -> impl Iterator<Item = u64> {
    let mut at = SEATS.load(Ordering::Acquire);
    core::iter::from_fn(move || {
        // SAFETY: seats in the list stay; this reads what is atomic or never changes.
        let seat = unsafe { at.as_ref() }?;
        at = seat.next;
        Some(seat.waits_for.load(Ordering::SeqCst))
    })
    .filter(move |word| *word != 0 && queue_of(*word) == number)
}
