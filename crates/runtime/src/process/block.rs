//! Each thread's own block of runtime memory: its alternate signal stack, and what the runtime knows of it.
//!
//! ```text
//! low   Block (header) | guard page | stack, downwards from the top                     high
//!       ▲ a multiple of BLOCK_BYTES
//! ```
//!
//! All of the runtime runs on these stacks, so a thread's block is found by masking the stack pointer; the
//! program may use FS and GS as it likes.
//!
//! Life of a block: taken ([`take`]) → its thread starts → its thread gives it up ([`retire`]) and ends → the
//! kernel clears `kernel_tid` → taken again.

use core::arch::asm;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use megalith_runtime::errno::Errno;
use megalith_runtime::frame::AltStack;
use megalith_runtime::layout::{Prot, Span};
use megalith_runtime::sigset::SigSet;
use megalith_runtime::{PAGE, nr};

use crate::live::Links;
use crate::lock::Lock;
use crate::own;
use crate::pass::Noted;
use crate::signals::Table;
use crate::sys::{self, safe_call};
use crate::travel::Travel;

/// Bytes of a block.
pub const BLOCK_BYTES: u64 = 128 << 10;
const HEADER_BYTES: u64 = 2 * PAGE;

/// What the runtime knows of a thread. Only the thread itself uses it, but for `kernel_tid`, `next` and
/// what [`Travel`] says of itself.
#[repr(C)]
pub struct Block {
    /// Next in the list of blocks given up; guarded by [`RETIRED`].
    next: *mut Block,
    /// Cleared by the kernel once the thread no longer runs.
    pub kernel_tid: AtomicU32,
    /// Where the program wants a 0 when the thread ends, or 0 (set_tid_address(2)).
    pub clear_tid: u64,
    /// Where the program wants the new thread's id, or 0 (CLONE_CHILD_SETTID).
    pub set_tid: u64,
    /// The program's alternate stack.
    pub alternate: AltStack,
    /// The mask of a signal wrapper that was itself interrupted before it could block signals.
    pub interrupted: Option<SigSet>,
    /// The signal table of the thread's process.
    pub table: *const Lock<Table>,
    /// That table, if the process has its own (the first process, and vfork(2) children).
    pub own_table: Lock<Table>,
    /// A vfork(2) child: its parent gives the block up.
    pub borrowed: bool,
    /// CLONE_CLEAR_SIGHAND: handlers go back to the default when the thread starts.
    pub clear_handlers: bool,
    /// Memory for the arguments of an exec that succeeded, to be freed by the vfork(2) parent.
    pub scratch: Option<Span>,
    /// Spread mode: a signal that came while the thread waited in a call.
    pub noted: Option<Noted>,
    /// Spread mode: where the thread is and is to be.
    pub travel: Travel,
    /// Spread mode: its neighbours in the list of threads.
    pub links: Links,
}

struct List {
    first: *mut Block,
    last: *mut Block,
}

static RETIRED: Lock<List> = Lock::new(List { first: ptr::null_mut(), last: ptr::null_mut() });

impl Block {
    /// The calling thread's block.
    ///
    /// # Safety
    /// The caller runs on a block's stack, and makes no second reference from it.
    pub unsafe fn current<'a>() -> &'a mut Block {
        let rsp: u64;
        // SAFETY: reads a register.
        unsafe { asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags)) };
        // SAFETY: the caller's promise: a block starts at the multiple below.
        unsafe { &mut *((rsp & !(BLOCK_BYTES - 1)) as *mut Block) }
    }

    /// The block's stack.
    pub fn stack(&self) -> Span {
        let start = self as *const Block as u64;
        Span { start: start + HEADER_BYTES + PAGE, end: start + BLOCK_BYTES - 64 }
    }

    /// The block's stack, as sigaltstack(2) takes it.
    pub fn kernel_stack(&self) -> AltStack {
        let stack = self.stack();
        AltStack { base: stack.start, flags: 0, padding: 0, bytes: stack.bytes() }
    }

    /// Tells the kernel to run this thread's handlers on the block's stack.
    pub fn use_stack(&self) -> Result<(), Errno> {
        let stack = self.kernel_stack();
        safe_call!(nr::SIGALTSTACK, &raw const stack, 0).map(|_| ())
    }

    /// The signal table of the thread's process.
    pub fn table(&self) -> &'static Lock<Table> {
        // SAFETY: set when the block is taken, to a table that lives as long as its process.
        unsafe { &*self.table }
    }
}

const _: () = assert!(size_of::<Block>() as u64 <= HEADER_BYTES);

/// A block for a new thread. Its table is the caller's to set.
pub fn take() -> Result<*mut Block, Errno> {
    let reused = {
        let mut list = RETIRED.take();
        let first = list.first;
        // SAFETY: blocks in the list are alive; the first one's thread is gone if the kernel has said so.
        if !first.is_null() && unsafe { (*first).kernel_tid.load(Ordering::Acquire) } == 0 {
            // SAFETY: as above.
            list.first = unsafe { (*first).next };
            if list.first.is_null() {
                list.last = ptr::null_mut();
            }
            first
        } else {
            ptr::null_mut()
        }
    };
    let (block, parcel) = if reused.is_null() {
        (fresh()?, None)
    } else {
        // SAFETY: as above; it was written when it was taken first.
        (reused, unsafe { (*reused).travel.parcel })
    };
    // SAFETY: the block is nobody else's now.
    unsafe {
        block.write(Block {
            next: ptr::null_mut(),
            kernel_tid: AtomicU32::new(1),
            clear_tid: 0,
            set_tid: 0,
            alternate: AltStack::NONE,
            interrupted: None,
            table: ptr::null(),
            own_table: Lock::new(Table::DEFAULT),
            borrowed: false,
            clear_handlers: false,
            scratch: None,
            noted: None,
            travel: Travel::new(parcel),
            links: Links::NONE,
        });
    }
    Ok(block)
}

fn fresh() -> Result<*mut Block, Errno> {
    let span = own::allocate(BLOCK_BYTES, BLOCK_BYTES)?;
    // SAFETY: fresh memory of the runtime's own.
    unsafe { sys::protect(Span::new(span.start + HEADER_BYTES, PAGE), u64::from(Prot::NONE.0), None)? };
    Ok(span.start as *mut Block)
}

/// Gives a block up: it is taken again once the kernel has cleared `kernel_tid`.
///
/// # Safety
/// Nobody uses the block's header any more; its thread may still run on its stack until the kernel clears
/// `kernel_tid`.
pub unsafe fn retire(block: *mut Block) {
    let mut list = RETIRED.take();
    // SAFETY: the caller's promise; `last` is in the list and alive.
    unsafe {
        (*block).next = ptr::null_mut();
        match list.last.as_mut() {
            Some(last) => last.next = block,
            None => list.first = block,
        }
    }
    list.last = block;
}

/// See [`Lock::expect_free_of`].
pub fn expect_free_of(tid: u32) {
    RETIRED.expect_free_of(tid);
}
