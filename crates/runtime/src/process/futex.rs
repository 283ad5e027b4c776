//! futex(2) in spread mode.
//!
//! Where the kernel itself writes a futex word (priority inheritance, FUTEX_WAKE_OP) it does not wait for a page that another host
//! has: it answers EFAULT. Then the page is brought first, and the call is made again.

use megalith_runtime::errno::EFAULT;
use megalith_runtime::sigset::SigSet;
use megalith_runtime::{PAGE, nr, page_down};

use crate::block::Block;
use crate::pass::pass;
use crate::sys::safe_call;
use crate::trap::{Outcome, made};

/// A page that has come stays for a while: seldom is it gone again.
const TRIES: u32 = 100;
const MADV_POPULATE_WRITE: u64 = 23;
/// FUTEX_REQUEUE, FUTEX_CMP_REQUEUE, FUTEX_WAKE_OP, FUTEX_WAIT_REQUEUE_PI, FUTEX_CMP_REQUEUE_PI.
const WITH_SECOND_WORD: [u64; 5] = [3, 4, 5, 11, 12];
const OPERATION: u64 = 127;

/// Makes the call for the program, with its `mask`.
pub fn call(block: &mut Block, arguments: [u64; 6], mask: SigSet) -> Outcome {
    let [first, operation, _, _, second, _] = arguments;
    let two = WITH_SECOND_WORD.contains(&(operation & OPERATION));
    for _ in 0..TRIES {
        let result = pass(block, nr::FUTEX, arguments, mask);
        let refused = result == Some(EFAULT.as_return()) && block.noted.is_none();
        if !refused || !bring(first) || (two && !bring(second)) {
            return made(result);
        }
    }
    Outcome::Done(EFAULT.as_return())
}

/// Brings the page of a word, to be written; false if there is none.
fn bring(word: u64) -> bool {
    safe_call!(nr::MADVISE, page_down(word), PAGE, MADV_POPULATE_WRITE).is_ok()
}
