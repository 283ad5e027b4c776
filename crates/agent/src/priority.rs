//! Agents go first: what an agent does is short, and a thread waits for it.
//!
//! A program that computes on every CPU would else keep the threads that answer faults and messages waiting for a time slice
//! (milliseconds) at every step, and with it the hosts that wait for their answers. A user who may not raise a priority
//! (setpriority(2): root, CAP_SYS_NICE, or RLIMIT_NICE) goes without.

use std::sync::OnceLock;

/// So much nicer to itself.
const STEPS: i32 = 10;

static ORIGINAL: OnceLock<i32> = OnceLock::new();

fn original() -> i32 {
    // SAFETY: a plain system call; the calling thread exists, so it cannot fail.
    *ORIGINAL.get_or_init(|| unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) })
}

/// Raises the calling thread, and the threads that it will make.
pub fn raise() {
    // SAFETY: a plain system call. Refused where it is not permitted: see above.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, original() - STEPS) };
}

/// What to give [`lower`] between fork and exec.
pub fn programs() -> i32 {
    original()
}

/// Gives the calling thread a program's priority again. Async-signal-safe.
pub fn lower(priority: i32) {
    // SAFETY: a plain system call; lowering is always permitted.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, priority) };
}
