//! Threads of the runtime's own: the steward and bodies. They run on a block, with all signals blocked, and are none of the
//! program's.

use core::arch::naked_asm;
use core::sync::atomic::Ordering;

use megalith_runtime::errno::Errno;

use crate::block::{self, Block};

/// What it begins with.
pub type Entry = unsafe extern "C" fn() -> !;

/// Starts a thread on `taken`, at `entry`, with the stack pointer `stack`. All signals must be blocked. If there is none, the
/// block is given up.
///
/// # Safety
/// The block is freshly taken, `stack` lies in it and is a multiple of 16, and `entry` may run there.
pub unsafe fn spawn(taken: *mut Block, stack: u64, entry: Entry) -> Result<(), Errno> {
    // VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, CHILD_CLEARTID, CHILD_SETTID.
    const FLAGS: u64 = 0x125_0f00;
    // SAFETY: the caller's promise: the block is ours until the thread starts.
    let tid = unsafe { (*taken).kernel_tid.as_ptr() as u64 };
    // SAFETY: the stack and the word are the block's.
    let started = Errno::check(unsafe { clone(FLAGS, stack, tid, entry) });
    if started.is_err() {
        // SAFETY: no thread was made.
        unsafe {
            (*taken).kernel_tid.store(0, Ordering::Release);
            block::retire(taken);
        }
    }
    started.map(|_| ())
}

/// clone(2); the new thread goes to `entry`, which a system call leaves in r9.
#[unsafe(naked)]
unsafe extern "C" fn clone(flags: u64, stack: u64, tid: u64, entry: Entry) -> i64 {
    naked_asm!(
        "mov r9, rcx",
        "mov r10, rdx",
        "xor edx, edx",
        "xor r8d, r8d",
        "mov eax, 56",
        "syscall",
        "test rax, rax",
        "jz 2f",
        "ret",
        "2:",
        "xor ebp, ebp",
        "call r9",
        "ud2",
    )
}
