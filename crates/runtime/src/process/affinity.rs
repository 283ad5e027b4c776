//! The main thread's CPUs, as the program knows them.
//!
//! While the program has one thread, the agent may keep it on one CPU, the one where its faults are answered (an agent's
//! `affinity.rs` says why). That is no business of the program's: what it asks for it gets, what it has set it reads back,
//! and what it starts, by clone or by exec, starts with that and not with the agent's choice. The agent chooses only
//! while the thread waits in a fault, so never between here and the clone.

use megalith_runtime::errno::Errno;
use megalith_runtime::nr;

use crate::lock::Lock;
use crate::sys::{self, safe_call};
use crate::user;

/// 8192 CPUs: the most that Linux can be built for.
const MASK_BYTES: u64 = 1024;

struct Known {
    /// The main thread, as whose the mask is kept; 0 before [`record`].
    thread: u32,
    bytes: u64,
    mask: [u64; MASK_BYTES as usize / 8],
}

static KNOWN: Lock<Known> = Lock::new(Known { thread: 0, bytes: 0, mask: [0; MASK_BYTES as usize / 8] });

/// Remembers the calling thread's CPUs as the program's. All signals must be blocked.
pub fn record() {
    let mut known = KNOWN.take();
    let pointer = known.mask.as_mut_ptr();
    if let Ok(bytes) = safe_call!(nr::SCHED_GETAFFINITY, 0, MASK_BYTES, pointer) {
        known.bytes = bytes;
        known.thread = sys::tid();
    }
}

/// Gives the calling thread the CPUs that the program knows of, before it makes another thread or process.
pub fn restore() {
    let known = KNOWN.take();
    if known.thread == sys::tid() {
        // Refused only if those CPUs are gone; then the kernel's choice stands.
        let _ = safe_call!(nr::SCHED_SETAFFINITY, 0, known.bytes, known.mask.as_ptr());
    }
}

/// sched_getaffinity(2).
pub fn get(thread: u64, bytes: u64, mask: u64) -> Result<u64, Errno> {
    let known = KNOWN.take();
    let about_known = known.thread == sys::tid() && (thread as u32 == 0 || thread as u32 == known.thread);
    if !about_known {
        drop(known);
        return safe_call!(nr::SCHED_GETAFFINITY, thread, bytes, mask);
    }
    let mut now = [0u64; MASK_BYTES as usize / 8];
    let length = bytes & 0xffff_ffff;
    let copied = safe_call!(nr::SCHED_GETAFFINITY, 0, length.min(MASK_BYTES), now.as_mut_ptr())?;
    // SAFETY: the mask's own bytes, of which the kernel fills no more than it was asked for.
    let own = unsafe { core::slice::from_raw_parts(known.mask.as_ptr().cast::<u8>(), copied as usize) };
    user::write_bytes(mask, own).map(|()| copied)
}

/// sched_setaffinity(2).
pub fn set(thread: u64, bytes: u64, mask: u64) -> Result<u64, Errno> {
    let result = safe_call!(nr::SCHED_SETAFFINITY, thread, bytes, mask)?;
    let me = sys::tid();
    let known = KNOWN.take().thread;
    if known == me && (thread as u32 == 0 || thread as u32 == me) {
        record();
    }
    Ok(result)
}
