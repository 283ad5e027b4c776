//! The runtime's own memory and descriptors.
//!
//! Memory lies from [`FIRST`] up, at addresses that the runtime chooses itself: the kernel's choice may fall into
//! the space when RLIMIT_STACK is large. Descriptors lie at [`filter::OWN_DESCRIPTORS`], out of the program's way.

use core::sync::atomic::{AtomicU64, Ordering};

use megalith_runtime::errno::{EEXIST, EMFILE, ENOMEM, Errno};
use megalith_runtime::filter::OWN_DESCRIPTORS;
use megalith_runtime::layout::Span;
use megalith_runtime::{nr, page_up};

use crate::steward;
use crate::sys::{self, Fd, LIMIT_DESCRIPTORS, Limit, safe_call};

const FIRST: u64 = 0x6100_0000_0000;
const LAST: u64 = 0x6f00_0000_0000;

static NEXT: AtomicU64 = AtomicU64::new(FIRST);

/// The space's memfd.
pub const MEMFD: Fd = OWN_DESCRIPTORS.0 as Fd;
/// The userfaultfd.
pub const UFFD: Fd = MEMFD + 1;
/// The connection to the agent.
pub const SOCKET: Fd = MEMFD + 2;
/// The runtime's own executable (O_PATH).
pub const RUNTIME: Fd = MEMFD + 3;
/// A program without a path, on its way through exec.
pub const PASSED: Fd = MEMFD + 4;

/// The steward's connection to the agent, in spread mode.
pub const STEWARD: Fd = MEMFD + 6;

/// In spread mode, channels to other hosts are kept from here on.
const CHANNELS: Fd = 2000;
const CHANNELS_MAX: usize = 16384;

/// Which of them are channels.
static HELD: [AtomicU64; CHANNELS_MAX / 64] = [const { AtomicU64::new(0) }; CHANNELS_MAX / 64];

/// Whether `fd` is a descriptor that the program must not touch.
pub fn holds(fd: u64) -> bool {
    let fd = fd as u32;
    (MEMFD as u32..=RUNTIME as u32).contains(&fd)
        || (steward::runs() && fd == STEWARD as u32)
        || is_channel(fd)
}

fn is_channel(fd: u32) -> bool {
    let at = fd.wrapping_sub(CHANNELS as u32) as usize;
    HELD.get(at / 64).is_some_and(|word| word.load(Ordering::SeqCst) & 1 << (at % 64) != 0)
}

/// The first descriptor at `fd` or behind it that [`holds`].
pub fn next_held(fd: u32) -> Option<u32> {
    let first = (fd.max(OWN_DESCRIPTORS.0)..OWN_DESCRIPTORS.1).find(|fd| holds(u64::from(*fd)));
    first.or_else(|| {
        let from = (fd.max(CHANNELS as u32) - CHANNELS as u32) as usize;
        (from / 64..HELD.len()).find_map(|at| {
            let passed = if at == from / 64 { from % 64 } else { 0 };
            let word = HELD[at].load(Ordering::SeqCst) & u64::MAX << passed;
            (word != 0).then(|| CHANNELS as u32 + at as u32 * 64 + word.trailing_zeros())
        })
    })
}

/// Moves the channel `fd` to where the program does not see it. The space's lock must be held.
pub fn keep_channel(fd: Fd) -> Result<Fd, Errno> {
    const F_DUPFD_CLOEXEC: u64 = 1030;
    let limit = sys::limit(LIMIT_DESCRIPTORS);
    let wanted = (CHANNELS as usize + CHANNELS_MAX) as u64;
    let raised = limit.soft < wanted;
    if raised {
        // As far as may be: there is room while the number that is found is below it.
        let enough = if limit.hard > CHANNELS as u64 { limit.hard.min(wanted) } else { wanted };
        sys::set_limit(LIMIT_DESCRIPTORS, Limit { soft: enough, hard: limit.hard.max(enough) })?;
    }
    let moved = safe_call!(nr::FCNTL, fd, F_DUPFD_CLOEXEC, CHANNELS);
    if raised {
        sys::set_limit(LIMIT_DESCRIPTORS, limit)?;
    }
    sys::close(fd);
    let moved = moved?;
    let at = moved as usize - CHANNELS as usize;
    let Some(word) = HELD.get(at / 64) else {
        sys::close(moved as Fd);
        return Err(EMFILE);
    };
    word.fetch_or(1 << (at % 64), Ordering::SeqCst);
    Ok(moved as Fd)
}

/// Closes a channel.
pub fn close_channel(fd: Fd) {
    let at = (fd - CHANNELS) as usize;
    sys::close(fd);
    HELD[at / 64].fetch_and(!(1 << (at % 64)), Ordering::SeqCst);
}

/// Moves `fd` to the number `to`.
pub fn keep(fd: Fd, to: Fd, close_on_exec: bool) -> Result<(), Errno> {
    let limit = sys::limit(LIMIT_DESCRIPTORS);
    let wanted = u64::from(OWN_DESCRIPTORS.1);
    let raised = limit.soft < wanted;
    if raised {
        sys::set_limit(LIMIT_DESCRIPTORS, Limit { soft: wanted, hard: limit.hard.max(wanted) })?;
    }
    let moved = safe_call!(nr::DUP3, fd, to, if close_on_exec { 0o2000000 } else { 0 });
    if raised {
        sys::set_limit(LIMIT_DESCRIPTORS, limit)?;
    }
    sys::close(fd);
    moved.map(|_| ())
}

/// New zeroed memory at a multiple of `align`, readable and writable, at least `bytes` long.
pub fn allocate(bytes: u64, align: u64) -> Result<Span, Errno> {
    let bytes = page_up(bytes).ok_or(ENOMEM)?;
    loop {
        let taken = NEXT.fetch_add(bytes + align, Ordering::Relaxed);
        let start = (taken + align - 1) & !(align - 1);
        if start + bytes > LAST {
            return Err(ENOMEM);
        }
        // Private, anonymous, unreserved, and nowhere else.
        match safe_call!(nr::MMAP, start, bytes, 3, 0x10_4022, u64::MAX, 0) {
            Ok(_) => return Ok(Span::new(start, bytes)),
            Err(EEXIST) => continue,
            Err(errno) => return Err(errno),
        }
    }
}

/// Gives memory of [`allocate`] back.
pub fn free(span: Span) {
    // SAFETY: the caller has no reference into it left: it is going away.
    let _ = unsafe { sys::unmap(span) };
}
