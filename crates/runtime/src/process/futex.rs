//! futex(2) at home: in spread mode a thread's own, or its deputy's; in expand mode what the kernel writes.
//!
//! Where the kernel itself writes a futex word (priority inheritance, FUTEX_WAKE_OP) it does not wait for a page that another host
//! has: it answers EFAULT. Then the page is brought first, and the call is made again.

use core::sync::atomic::{AtomicBool, Ordering};

use megalith_runtime::errno::EFAULT;
use megalith_runtime::filter::SEEN;
use megalith_runtime::frame::Context;
use megalith_runtime::queues::{Use, has_second_word, rest_to_wake};
use megalith_runtime::ship::{Lent, Wake};
use megalith_runtime::sigset::SigSet;
use megalith_runtime::{PAGE, nr, page_down};

use crate::block::Block;
use crate::pass::pass;
use crate::sys::safe_call;
use crate::trap::{Outcome, made};
use crate::{hosts, queues};

/// A page that has come stays for a while: seldom is it gone again.
const TRIES: u32 = 100;
const MADV_POPULATE_WRITE: u64 = 23;

/// Makes the call for the program, with its `mask`.
pub fn call(block: &mut Block, arguments: [u64; 6], mask: SigSet) -> Outcome {
    let [word, operation, _, _, second, _] = arguments;
    let what = Use::of(&arguments);
    if what == Use::Shared {
        return native(block, arguments, mask);
    }
    let lent = queues::enter(block, word, what);
    match what {
        Use::Wait | Use::WaitUntil => {
            if let Some(lent) = lent {
                return Outcome::Elsewhere(lent);
            }
            let outcome = native(block, arguments, mask);
            queues::leave(block);
            outcome
        }
        Use::Wake => wake(block, arguments, mask),
        Use::Other | Use::Shared => {
            if has_second_word(operation) {
                queues::keep(second);
            }
            native(block, arguments, mask)
        }
    }
}

/// Wakes who waits at home, and then who was left waiting on another host; but the caller's host does that itself if it has the
/// queue.
fn wake(block: &mut Block, mut arguments: [u64; 6], mask: SigSet) -> Outcome {
    let outcome = native(block, arguments, mask);
    let Outcome::Done(here) = outcome else { return outcome };
    block.travel.lent = queues::lent_after(block, arguments[0]);
    match rest_to_wake(arguments[2], here) {
        Some(rest) if block.travel.lent == Lent::NOT => {
            arguments[2] = rest;
            Outcome::Done(here + queues::wake_away(&arguments) as i64)
        }
        _ => outcome,
    }
}

/// What a body would do that has been told that its host has the queue: wakes who waits there, of those who were to be woken
/// by the call, after `woken` at home. How many.
pub fn wake_rest(host: u32, call: &Context, woken: i64) -> i64 {
    let r = &call.registers;
    let Some(count) = rest_to_wake(r.rdx, woken) else { return 0 };
    hosts::wake(host, &Wake { word: r.rdi, operation: r.rsi, count, bitset: r.r9 }).woken as i64
}

fn native(block: &mut Block, arguments: [u64; 6], mask: SigSet) -> Outcome {
    let [first, operation, _, _, second, _] = arguments;
    let two = has_second_word(operation);
    for _ in 0..TRIES {
        let result = pass(block, nr::FUTEX, arguments, mask);
        let refused = result == Some(EFAULT.as_return()) && block.noted.is_none();
        if !refused || !bring(first) || (two && !bring(second)) {
            return made(result);
        }
    }
    Outcome::Done(EFAULT.as_return())
}

/// In expand mode: brings the pages that the kernel is to write, and has the program make the call again, marked as seen. They have only
/// just come then, and the oldest go first.
pub fn make_ready(context: &mut Context) {
    let registers = &mut context.registers;
    // Where there is no such page the kernel says so.
    bring(registers.rdi);
    if has_second_word(registers.rsi) {
        bring(registers.r8);
    }
    registers.rsi = registers.rsi & 0xffff_ffff | u64::from(SEEN) << 32;
    registers.rax = u64::from(nr::FUTEX);
    // Back to the two bytes of `syscall`.
    registers.rip -= 2;
}

/// futex_waitv(2) and its like, which name their words in other ways: no queue leaves home any more.
pub fn newer_call(block: &mut Block, number: u32, arguments: [u64; 6], mask: SigSet) -> Outcome {
    static KEPT: AtomicBool = AtomicBool::new(false);
    if !KEPT.load(Ordering::Acquire) {
        queues::keep_all();
        KEPT.store(true, Ordering::Release);
    }
    made(pass(block, number, arguments, mask))
}

/// Brings the page of a word, to be written; false if there is none.
fn bring(word: u64) -> bool {
    safe_call!(nr::MADVISE, page_down(word), PAGE, MADV_POPULATE_WRITE).is_ok()
}
