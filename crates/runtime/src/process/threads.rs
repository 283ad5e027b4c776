//! clone, clone3, vfork, exit, set_tid_address.
//!
//! A new thread starts on its own block, with all signals blocked, and enters a copy of its creator's frame with
//! rax = 0 and the stack that was asked for. At its end the runtime does what the kernel would: the kernel writes
//! `clear_child_tid` and the robust list from an exiting thread, where userfaultfd serves no faults.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use client::Why;
use megalith_runtime::errno::{EFAULT, EINVAL, ENOSYS, Errno};
use megalith_runtime::frame::{Context, FXSAVE_BYTES, Frame, Position, saved_bytes};
use megalith_runtime::nr;

use crate::block::{self, BLOCK_BYTES, Block};
use crate::live::Left;
use crate::lock::Lock;
use crate::sys::{self, safe_call};
use crate::travel::{HOME, Place};
use crate::{affinity, away, live, machine, own, queues, say, signals, space, spread, steward, trap, user};

mod flag {
    pub const VM: u64 = 0x100;
    pub const SIGHAND: u64 = 0x800;
    pub const VFORK: u64 = 0x4000;
    pub const THREAD: u64 = 0x1_0000;
    pub const CHILD_CLEARTID: u64 = 0x20_0000;
    pub const CHILD_SETTID: u64 = 0x100_0000;
    pub const CLEAR_SIGHAND: u64 = 0x1_0000_0000;
}

/// Whether the program has made a second thread.
static MANY: AtomicBool = AtomicBool::new(false);

/// Whether the program has made a second thread: before, in spread mode, the first one does not leave.
pub fn are_many() -> bool {
    MANY.load(Ordering::Relaxed)
}

/// struct clone_args, in its present length.
type CloneArgs = [u64; 11];
const FLAGS: usize = 0;
const CHILD_TID: usize = 2;
const STACK: usize = 5;
const STACK_BYTES: usize = 6;

/// clone(2)'s arguments.
struct Request {
    flags: u64,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
}

/// clone(2).
pub fn clone(parent: &Block, context: &Context) -> Result<u64, Errno> {
    let r = &context.registers;
    let request = Request { flags: r.rdi, stack: r.rsi, parent_tid: r.rdx, child_tid: r.r10, tls: r.r8 };
    clone_as(parent, context, &request)
}

/// vfork(2). The child finds the registers as they are: glibc keeps its return address in one.
pub fn vfork(parent: &Block, context: &Context) -> Result<u64, Errno> {
    const SIGCHLD: u64 = 17;
    let flags = flag::VM | flag::VFORK | SIGCHLD;
    clone_as(parent, context, &Request { flags, stack: 0, parent_tid: 0, child_tid: 0, tls: 0 })
}

fn clone_as(parent: &Block, context: &Context, request: &Request) -> Result<u64, Errno> {
    let child = prepare(parent, context, request.flags, request.child_tid, request.stack)?;
    let kernel_flags = for_kernel(request.flags);
    finish(child, request.flags, |stack, tid| {
        // SAFETY: the stack and the word are the new block's; the rest are the program's numbers.
        unsafe { start(nr::CLONE, kernel_flags, stack, request.parent_tid, tid, request.tls) }
    })
}

/// clone3(2): rdi points to the arguments, rsi is their length.
pub fn clone3(parent: &Block, context: &Context) -> Result<u64, Errno> {
    let (address, bytes) = (context.registers.rdi, context.registers.rsi as usize);
    let mut arguments: CloneArgs = [0; 11];
    if bytes > size_of::<CloneArgs>() {
        return Err(megalith_runtime::errno::E2BIG);
    }
    if bytes < 64 {
        return Err(EINVAL);
    }
    // SAFETY: the array's own bytes.
    let raw = unsafe { core::slice::from_raw_parts_mut(arguments.as_mut_ptr().cast::<u8>(), bytes) };
    if user::read_some(address, raw)? != bytes {
        return Err(EFAULT);
    }
    let flags = arguments[FLAGS];
    if (arguments[STACK] == 0) != (arguments[STACK_BYTES] == 0) {
        return Err(EINVAL);
    }
    let rsp = arguments[STACK].checked_add(arguments[STACK_BYTES]).ok_or(EINVAL)?;
    let child = prepare(parent, context, flags, arguments[CHILD_TID], rsp)?;
    arguments[FLAGS] = for_kernel(flags) & !flag::CLEAR_SIGHAND;
    finish(child, flags, |stack, tid| {
        arguments[CHILD_TID] = tid;
        arguments[STACK] = stack & !(BLOCK_BYTES - 1);
        arguments[STACK_BYTES] = stack % BLOCK_BYTES;
        // SAFETY: the stack and the word are the new block's; the rest are the program's numbers.
        unsafe { start(nr::CLONE3, arguments.as_ptr() as u64, bytes as u64, 0, 0, 0) }
    })
}

/// fork(2), and clone(2) that copies the address space.
pub fn fork(number: u32) -> Errno {
    say::refuse(
        number,
        if number == nr::FORK { "" } else { " without CLONE_VM" },
        "it would copy the space",
        ENOSYS,
    )
}

/// The kernel's own child_tid is the block's word.
fn for_kernel(flags: u64) -> u64 {
    flags | flag::CHILD_CLEARTID | flag::CHILD_SETTID
}

/// A child that does not run yet.
struct Unborn {
    block: *mut Block,
    /// Its first stack pointer; the word there is the address of the frame that it will enter.
    stack: u64,
}

/// A block whose stack holds the frame that the child will enter.
fn prepare(parent: &Block, context: &Context, flags: u64, child_tid: u64, rsp: u64) -> Result<Unborn, Errno> {
    if flags & flag::VM == 0 {
        return Err(fork(nr::CLONE));
    }
    // What a child of vfork(2) makes stays at home: the rest of the process does not know that it is no longer alone.
    let may_leave = spread::on() && flags & flag::THREAD != 0 && !parent.borrowed;
    if may_leave {
        trap::catch_all()?;
    }
    let taken = block::take()?;
    // SAFETY: freshly taken: ours alone until the child starts.
    let child = unsafe { &mut *taken };
    if flags & flag::CHILD_CLEARTID != 0 {
        child.clear_tid = child_tid;
    }
    if flags & flag::CHILD_SETTID != 0 {
        child.set_tid = child_tid;
    }
    child.borrowed = flags & flag::VFORK != 0;
    child.clear_handlers = flags & flag::CLEAR_SIGHAND != 0;
    if flags & (flag::VM | flag::VFORK) != flag::VM {
        child.alternate = parent.alternate;
    }
    child.table = if flags & flag::SIGHAND != 0 {
        parent.table
    } else {
        child.own_table = Lock::new(parent.table().take().copy());
        &raw const child.own_table
    };
    child.travel.cpus = parent.travel.cpus;
    if may_leave {
        steward::ensure();
        MANY.store(true, Ordering::Relaxed);
        child.travel.may_leave = true;
        child.travel.set_wish(machine::start(&parent.travel.cpus));
    }
    Ok(Unborn { block: taken, stack: write_frame(child, context, rsp) })
}

fn write_frame(child: &Block, context: &Context, rsp: u64) -> u64 {
    let fpstate = context.registers.fpstate;
    let mut copy = *context;
    copy.registers.rax = 0;
    copy.stack = child.kernel_stack();
    if rsp != 0 {
        copy.registers.rsp = rsp;
    }
    let mut position = Position::below(child.stack().end, 0);
    if fpstate != 0 {
        // SAFETY: the kernel wrote it on this thread's block, with its length in the legacy area.
        let saved = saved_bytes(unsafe { &*(fpstate as *const [u8; FXSAVE_BYTES]) });
        position = Position::below(child.stack().end, saved);
        copy.registers.fpstate = position.fpstate;
        // SAFETY: from there, `saved` bytes long, to the child's stack, which is longer.
        unsafe { core::ptr::copy_nonoverlapping(fpstate as *const u8, position.fpstate as *mut u8, saved) };
    }
    // SAFETY: the child's stack, aligned by Position; info is never read.
    unsafe {
        let frame = position.frame as *mut Frame;
        (&raw mut (*frame).context).write(copy);
    }
    // The child finds its frame where its stack starts.
    let word = (position.frame - 64) & !63;
    // SAFETY: the child's stack.
    unsafe { (word as *mut u64).write(position.frame) };
    word
}

fn finish(child: Unborn, flags: u64, start: impl FnOnce(u64, u64) -> i64) -> Result<u64, Errno> {
    let Unborn { block: child, stack } = child;
    // SAFETY: the child does not run yet.
    let tid = unsafe { (*child).kernel_tid.as_ptr() as u64 };
    affinity::restore();
    // A thread is listed before it can be asked for, or end: it takes the list to do so.
    let mut live = (spread::on() && flags & flag::THREAD != 0).then(live::list);
    let started = Errno::check(start(stack, tid));
    if let (Some(list), Ok(tid)) = (&mut live, started) {
        // SAFETY: the child's block, which it gives up only after it has taken the list.
        unsafe { list.add(child, tid as u32) };
        // SAFETY: as above. One that starts elsewhere says so itself.
        if unsafe { (*child).travel.wish() } == HOME {
            steward::placed(tid as u32, Place::HOME, Why::Started as u64);
        }
    }
    drop(live);
    let ended = flags & flag::VFORK != 0;
    if let (Ok(tid), true) = (started, ended) {
        // A child that was killed may have died with a lock, and as a zombie it would look alive to a waiter.
        space::SPACE.expect_free_of(tid as u32);
        live::expect_free_of(tid as u32);
        block::expect_free_of(tid as u32);
    }
    if started.is_err() || ended {
        // SAFETY: no child was made, or it has left this memory for ever (vfork).
        unsafe {
            if let Some(span) = (*child).scratch.take() {
                own::free(span);
            }
            (*child).kernel_tid.store(0, Ordering::Release);
            block::retire(child);
        }
    }
    started
}

/// Makes the call; the child goes to [`started`] on its own stack.
#[unsafe(naked)]
unsafe extern "C" fn start(number: u32, a: u64, b: u64, c: u64, d: u64, e: u64) -> i64 {
    naked_asm!(
        "mov eax, edi",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "mov rdx, rcx",
        "mov r10, r8",
        "mov r8, r9",
        "syscall",
        "test rax, rax",
        "jz 2f",
        "ret",
        "2:",
        "xor ebp, ebp",
        "mov rdi, [rsp]",
        "call {started}",
        "ud2",
        started = sym started,
    )
}

/// The first steps of a new thread, on its block's stack; all signals are blocked.
unsafe extern "C" fn started(frame: *mut Frame) -> ! {
    // SAFETY: this thread runs on its block.
    let block = unsafe { Block::current() };
    if let Err(errno) = block.use_stack() {
        say::fatal(&[b"a thread has no signal stack: ", errno.name().as_bytes()]);
    }
    if block.clear_handlers {
        block.table().take().clear_handlers();
    }
    if block.set_tid != 0 {
        // As in the kernel, a bad address is the program's own loss.
        let _ = user::write(block.set_tid, &sys::tid());
    }
    if block.travel.wish() != HOME {
        // SAFETY: the creator has completed the frame, and it is this thread's.
        away::go(block, unsafe { &mut (*frame).context });
    }
    // SAFETY: as above.
    unsafe { signals::enter(frame) }
}

/// set_tid_address(2).
pub fn set_tid_address(block: &mut Block, address: u64) -> u64 {
    block.clear_tid = address;
    u64::from(sys::tid())
}

/// exit(2), of one thread.
pub fn exit(block: &mut Block, code: u64) -> ! {
    if block.travel.may_leave {
        // Before anybody hears of the end, and makes the next thread.
        away::close(block);
    }
    release_robust_list();
    let address = block.clear_tid;
    if address != 0 && user::write(address, &0u32).is_ok() {
        wake(address);
    }
    if block.travel.may_leave {
        steward::placed(sys::tid(), Place::HOME, Why::Ended as u64);
        if let Left::Nobody(code) = live::remove(block, code)
            && steward::runs()
        {
            // The steward is no thread of the program's: the process ends with the last one that is.
            sys::exit(code as i32);
        }
    }
    if !block.borrowed {
        // SAFETY: nothing of the header is used from here on; the kernel clears `kernel_tid` when the thread is
        // gone.
        unsafe { block::retire(block) };
    }
    loop {
        let _ = safe_call!(nr::EXIT, code);
    }
}

/// FUTEX_WAKE of one waiter, shared and private: the waiter may have used either.
fn wake(address: u64) {
    let _ = safe_call!(nr::FUTEX, address, 1, 1);
    if spread::on() {
        queues::wake_one(address);
    } else {
        let _ = safe_call!(nr::FUTEX, address, 129, 1);
    }
}

const ROBUST_MAX: usize = 2048;
const OWNER_DIED: u32 = 0x4000_0000;
const WAITERS: u32 = 0x8000_0000;
const TID_MASK: u32 = 0x3fff_ffff;

/// Marks the mutexes that this thread still holds (set_robust_list(2)), as exit_robust_list() in the kernel does.
fn release_robust_list() {
    let (mut head, mut bytes) = (0u64, 0u64);
    if safe_call!(nr::GET_ROBUST_LIST, 0, &raw mut head, &raw mut bytes).is_err() || head == 0 {
        return;
    }
    let _ = safe_call!(nr::SET_ROBUST_LIST, 0, 24);
    let Ok([first, offset, pending]) = user::read::<[u64; 3]>(head) else { return };
    let mut entry = first;
    for _ in 0..ROBUST_MAX {
        if entry & !1 == head {
            break;
        }
        let next = user::read::<u64>(entry & !1);
        if entry & !1 != pending & !1 {
            owner_died((entry & !1).wrapping_add(offset), entry & 1 != 0, false);
        }
        let Ok(next) = next else { break };
        entry = next;
    }
    if pending & !1 != 0 {
        owner_died((pending & !1).wrapping_add(offset), pending & 1 != 0, true);
    }
}

fn owner_died(address: u64, inherits_priority: bool, pending: bool) {
    let Ok(mut value) = user::read::<u32>(address) else { return };
    if !address.is_multiple_of(4) {
        return;
    }
    if pending && !inherits_priority && value == 0 {
        return wake(address);
    }
    // SAFETY: readable, aligned; the program shares it by atomic instructions only.
    let word = unsafe { AtomicU32::from_ptr(address as *mut u32) };
    while value & TID_MASK == sys::tid() {
        match word.compare_exchange(value, value & WAITERS | OWNER_DIED, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => {
                if !inherits_priority && value & WAITERS != 0 {
                    wake(address);
                }
                return;
            }
            Err(now) => value = now,
        }
    }
}
