//! How much CPU time the program has used, with what its threads have used on other hosts.
//!
//! Every word of a body says how long it has worked; the deputy keeps the sum in its block ([`crate::travel`]). The kernel's own
//! figures are about deputies: here the sums are added to them. Timers on CPU time, `/proc` and limits count the home host alone.

use core::sync::atomic::{AtomicU64, Ordering};

use megalith_runtime::errno::Errno;
use megalith_runtime::frame::Context;
use megalith_runtime::nr;

use crate::block::Block;
use crate::sys::safe_call;
use crate::{files, live, sys, user};

const SECOND_NS: u64 = 1_000_000_000;
/// times(2) counts in these.
const TICK_NS: u64 = SECOND_NS / 100;
const CLOCK_PROCESS: u32 = 2;
const CLOCK_THREAD: u32 = 3;

/// Nanoseconds that threads which have ended had worked away.
static ENDED: AtomicU64 = AtomicU64::new(0);

/// A thread has ended that had worked away for so long.
pub fn ended(worked: u64) {
    ENDED.fetch_add(worked, Ordering::Relaxed);
}

fn of_process() -> u64 {
    // A thread that ends goes from the one to the other while the list is held.
    let list = live::list();
    ENDED.load(Ordering::Relaxed) + list.worked()
}

/// What is to be added to a clock, by its number: those of this process and of its threads.
fn of_clock(block: &Block, clock: u32) -> u64 {
    match clock {
        CLOCK_PROCESS => of_process(),
        CLOCK_THREAD => block.travel.worked(),
        // A process's or a thread's: its number's complement, a bit for threads, two bits for what is counted.
        clock if clock >> 31 != 0 => {
            let id = !((clock as i32) >> 3) as u32;
            match clock & 4 != 0 {
                true if id == 0 => block.travel.worked(),
                true => live::list().find(id).map_or(0, |travel| travel.worked()),
                false if id == 0 || id == sys::pid() => of_process(),
                false => 0,
            }
        }
        _ => 0,
    }
}

/// clock_gettime(2).
pub fn clock(block: &Block, context: &Context) -> Result<u64, Errno> {
    let r = &context.registers;
    let more = of_clock(block, r.rdi as u32);
    if more == 0 {
        return files::native(nr::CLOCK_GETTIME, context);
    }
    let mut time = [0u64; 2];
    safe_call!(nr::CLOCK_GETTIME, r.rdi, time.as_mut_ptr())?;
    // SAFETY: the kernel has written it behind the compiler's back.
    let [seconds, rest] = unsafe { (&raw const time).read_volatile() };
    let sum = seconds * SECOND_NS + rest + more;
    user::write(r.rsi, &[sum / SECOND_NS, sum % SECOND_NS]).map(|()| 0)
}

/// getrusage(2): what was worked away counts as the user's.
pub fn usage(block: &Block, context: &Context) -> Result<u64, Errno> {
    const SELF: i32 = 0;
    const THREAD: i32 = 1;
    const MICROSECOND_NS: u64 = 1000;
    let r = &context.registers;
    let more = match r.rdi as i32 {
        SELF => of_process(),
        THREAD => block.travel.worked(),
        _ => 0,
    };
    let mut usage = [0u64; 18];
    safe_call!(nr::GETRUSAGE, r.rdi, usage.as_mut_ptr())?;
    // SAFETY: the kernel has written it behind the compiler's back.
    let mut usage = unsafe { (&raw const usage).read_volatile() };
    let sum = usage[0] * SECOND_NS + usage[1] * MICROSECOND_NS + more;
    (usage[0], usage[1]) = (sum / SECOND_NS, sum % SECOND_NS / MICROSECOND_NS);
    user::write(r.rsi, &usage).map(|()| 0)
}

/// times(2).
pub fn times(context: &Context) -> Result<u64, Errno> {
    let address = context.registers.rdi;
    let mut times = [0u64; 4];
    let now = safe_call!(nr::TIMES, times.as_mut_ptr())?;
    // SAFETY: the kernel has written it behind the compiler's back.
    let mut times = unsafe { (&raw const times).read_volatile() };
    times[0] += of_process() / TICK_NS;
    if address != 0 {
        user::write(address, &times)?;
    }
    Ok(now)
}
