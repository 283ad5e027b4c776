//! futex(2) in spread mode, at home: a thread's own, or its deputy's.
//!
//! Where the kernel itself writes a futex word (priority inheritance, FUTEX_WAKE_OP) it does not wait for a page that another host
//! has: it answers EFAULT. Then the page is brought first, and the call is made again.

use core::sync::atomic::{AtomicBool, Ordering};

use megalith_runtime::errno::EFAULT;
use megalith_runtime::queues::{Use, has_second_word};
use megalith_runtime::sigset::SigSet;
use megalith_runtime::{PAGE, nr, page_down};

use crate::block::Block;
use crate::pass::pass;
use crate::queues;
use crate::sys::safe_call;
use crate::trap::{Outcome, made};

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
    if let Some(turn) = queues::enter(block, word, what) {
        return Outcome::Elsewhere(turn);
    }
    if what == Use::Other && has_second_word(operation) {
        queues::keep(second);
    }
    let outcome = native(block, arguments, mask);
    match what {
        Use::Wait | Use::WaitUntil => queues::leave(block),
        Use::Wake => block.travel.turn = queues::lend(block, word),
        Use::Other | Use::Shared => {}
    }
    outcome
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
