//! Agents go first: what an agent does is short, and a thread waits for it.
//!
//! A program that computes on every CPU would else keep the threads that answer faults and messages waiting for a time slice
//! (milliseconds) at every step, and with it the hosts that wait for their answers. Two things help, each alone: a higher
//! priority, which a user may not have (setpriority(2): root, CAP_SYS_NICE, or RLIMIT_NICE), and a shorter time slice, with
//! which a thread that wakes takes the CPU from one with a longer slice at once. That is everybody's right, since Linux 6.12
//! (sched(7); EEVDF, "latency-nice"); older kernels take no notice.
//!
//! With autogroups (sched(7)) priorities count within a session alone, and sessions have one of their own. An agent that leads its session
//! raises that too; one that does not leaves the others in it alone.

use std::sync::OnceLock;

/// So much nicer to itself.
const STEPS: i32 = 10;

/// The shortest slice that Linux grants.
const SLICE_NS: u64 = 100_000;

/// struct sched_attr (sched_setattr(2)).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

static ORIGINAL: OnceLock<i32> = OnceLock::new();

fn original() -> i32 {
    // SAFETY: a plain system call; the calling thread exists, so it cannot fail.
    *ORIGINAL.get_or_init(|| unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) })
}

/// Gives the calling thread a priority, and a slice (0: the kernel's own choice). Async-signal-safe.
fn set(nice: i32, slice_ns: u64) -> bool {
    let size = size_of::<Attributes>() as u32;
    let attributes =
        Attributes { size, policy: libc::SCHED_OTHER as u32, nice, runtime: slice_ns, ..Default::default() };
    // SAFETY: the structure is what the call takes, of the size that it says, and lives on.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) == 0 }
}

/// Raises the calling thread, and the threads that it will make; their process's session too, if it is its own.
pub fn raise() {
    // SAFETY: plain system calls that cannot fail.
    if unsafe { libc::getsid(0) == libc::getpid() } {
        // Where there are no autogroups there is no such file, and without permission it says so: see above.
        let _ = std::fs::write("/proc/self/autogroup", format!("{}", original() - STEPS));
    }
    // The second where the first is not permitted: see above.
    let _ = set(original() - STEPS, SLICE_NS) || set(original(), SLICE_NS);
}

/// What to give [`lower`] between fork and exec.
pub fn programs() -> i32 {
    original()
}

/// Gives the calling thread a program's priority again. Async-signal-safe.
pub fn lower(priority: i32) {
    // Lowering is always permitted.
    set(priority, 0);
}
