//! A body: one thread's place on this host.
//!
//! Its life: made by the [`door`](super::door) with its channel → waits for a shipment → runs it → sends it home → waits for
//! the next … → home closes the channel → ends. Between shipments and during calls it is in here, with all signals
//! blocked; it leaves by `rt_sigreturn` into the program's context, and comes back by a signal of [`ADMITTED`].

use core::arch::asm;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use megalith_runtime::errno::Errno;
use megalith_runtime::frame::{Action, Context, FXSAVE_BYTES, SigInfo, sa, saved_bytes};
use megalith_runtime::nr;
use megalith_runtime::ship::{Kind, Reason, Shipment, Started};
use megalith_runtime::sigset::{SigSet, signal};

use crate::block;
use crate::body::channel::{Ended, Part};
use crate::body::seat::Seat;
use crate::body::{answer, clocks, fatal, faults, futex};
use crate::packing::{SET_FS, SET_GS, saved, shipment};
use crate::pass;
use crate::signals::{enter, in_runtime, restore};
use crate::spawn::spawn;
use crate::sys::{self, Fd, safe_call};

/// Bus error.
const SIGBUS: i32 = 7;
/// Breakpoint, single step.
const SIGTRAP: i32 = 5;
/// Arithmetic.
const SIGFPE: i32 = 8;
/// The order to go home. By default it does nothing, so that a late one harms nobody.
pub const RECALL: i32 = 23;

const FAULTS: [i32; 5] = [signal::SIGSEGV, SIGBUS, SIGFPE, signal::SIGILL, SIGTRAP];

/// Let in while a body runs the program's code.
pub const ADMITTED: SigSet = synchronous().union(SigSet::only(signal::SIGSYS)).union(SigSet::only(RECALL));

const fn synchronous() -> SigSet {
    let (mut set, mut at) = (SigSet::EMPTY, 0);
    while at < FAULTS.len() {
        set = set.union(SigSet::only(FAULTS[at]));
        at += 1;
    }
    set
}

/// How long this kernel's XSAVE areas are.
static SAVED_BYTES: AtomicUsize = AtomicUsize::new(0);

type Handler = unsafe extern "C" fn(i32, *mut SigInfo, *mut Context);

/// Installs the handlers, and finds out how long an XSAVE area is.
pub fn catch() -> Result<(), Errno> {
    for number in FAULTS {
        handle(number, faults::on_fault)?;
    }
    handle(signal::SIGSYS, answer::on_call)?;
    handle(RECALL, on_recall)?;
    // The frame of this one tells.
    let open = SigSet::FULL.minus(SigSet::only(RECALL));
    safe_call!(nr::RT_SIGPROCMASK, 2, &raw const open, 0, 8)?;
    safe_call!(nr::TGKILL, sys::pid(), sys::tid(), RECALL)?;
    sys::block_all();
    Ok(())
}

fn handle(number: i32, handler: Handler) -> Result<(), Errno> {
    let action = Action {
        handler: handler as usize as u64,
        // A fault inside a handler is a bug, which can be told of only if the signal comes.
        flags: sa::SIGINFO | sa::ONSTACK | sa::RESTORER | sa::NODEFER,
        restorer: restore as *const () as u64,
        mask: SigSet::FULL.minus(synchronous()),
    };
    safe_call!(nr::RT_SIGACTION, number, &raw const action, 0, 8).map(|_| ())
}

/// A new body for the thread at the other end of `socket`.
pub fn make(socket: Fd) -> Result<(), Errno> {
    let taken = block::take()?;
    let seat = Seat::of(taken);
    // SAFETY: freshly taken: ours alone until the thread starts. The large areas are written before they are read; the stack
    // lies below the seat.
    unsafe {
        (&raw mut (*seat).block).write(taken);
        (&raw mut (*seat).socket).write(socket);
        spawn(taken, seat as u64, started)
    }
}

/// The first steps of a body, on its block; all signals are blocked.
unsafe extern "C" fn started() -> ! {
    const PR_SET_NAME: u64 = 15;
    // SAFETY: this thread runs on its block.
    let seat = unsafe { Seat::current() };
    seat.tid = sys::tid();
    futex::know(seat);
    let _ = safe_call!(nr::PRCTL, PR_SET_NAME, c"body".as_ptr());
    let stack = seat.stack();
    if let Err(errno) = safe_call!(nr::SIGALTSTACK, &raw const stack, 0) {
        fatal(&[b"a body has no signal stack: ", errno.name().as_bytes()]);
    }
    // SAFETY: as above.
    unsafe { wait() }
}

/// Waits for a shipment, and runs it.
unsafe extern "C" fn wait() -> ! {
    // SAFETY: this thread runs on its block, whose stack holds nothing else.
    let seat = unsafe { Seat::current() };
    match seat.receive() {
        Ok((kind, bytes)) if kind == Kind::Ship as u32 => board(seat, bytes),
        Ok(_) => fatal(&[b"home speaks to a body that has no thread"]),
        Err(Ended) => end(seat),
    }
}

fn board(seat: &mut Seat, bytes: usize) -> ! {
    let shipment = &seat.shipment;
    let saved = shipment.saved_bytes as usize;
    if bytes < size_of::<Shipment>() || bytes - size_of::<Shipment>() != saved {
        fatal(&[b"a shipment is not as long as it says"]);
    }
    if saved > SAVED_BYTES.load(Ordering::Relaxed) {
        fatal(&[b"a thread has registers that this host's kernel does not save"]);
    }
    let (fs, gs) = (shipment.fs, shipment.gs);
    let mut context = shipment.context;
    context.registers.fpstate = if saved == 0 { 0 } else { seat.saved.as_ptr() as u64 };
    context.stack = seat.stack();
    context.mask = SigSet::FULL.minus(ADMITTED);
    // SAFETY: the seat's own; the rest of the frame is never read.
    unsafe { (&raw mut seat.frame.context).write(context) };
    withdraw_recalls();
    let said = seat.send(Kind::Started, [Part::of(&Started { tid: u64::from(seat.tid), worked: worked() })]);
    if said.is_err() {
        end(seat);
    }
    for (code, base) in [(SET_FS, fs), (SET_GS, gs)] {
        if safe_call!(nr::ARCH_PRCTL, code, base).is_err() {
            fatal(&[b"a shipment has no such FS or GS"]);
        }
    }
    // SAFETY: complete, for this kernel's rt_sigreturn.
    unsafe { enter(&raw const seat.frame) }
}

/// Orders to go home that have come for an earlier stay: one for this stay is not given before home knows that it has begun.
fn withdraw_recalls() {
    let (recalls, now) = (SigSet::only(RECALL), [0u64; 2]);
    // Fails when there is none, which is the usual case.
    let _ = safe_call!(nr::RT_SIGTIMEDWAIT, &raw const recalls, 0, now.as_ptr(), 8);
}

/// CPU time of the calling thread, in nanoseconds.
pub fn worked() -> u64 {
    const CLOCK_THREAD: u64 = 3;
    clocks::own(CLOCK_THREAD)
}

/// Sends the thread, as it was interrupted, home, and waits for the next shipment.
pub fn go_home(seat: &mut Seat, context: &Context, reason: Reason, info: &SigInfo) -> ! {
    // SAFETY: the kernel wrote it on this thread's block.
    let saved = unsafe { saved(context) };
    let shipment = shipment(context, saved, reason as u64, worked(), info);
    if seat.send(Kind::Home, [Part::of(&shipment), Part::bytes(saved)]).is_err() {
        end(seat);
    }
    // SAFETY: nothing on this stack is needed any more.
    unsafe {
        asm!("mov rsp, {}", "xor ebp, ebp", "call {wait}", "ud2", in(reg) seat.stack_top(), wait = sym wait,
            options(noreturn))
    }
}

/// Home has closed the channel: the thread is at home for good, or has ended.
pub fn end(seat: &mut Seat) -> ! {
    sys::close(seat.socket);
    // SAFETY: nothing of the header is used from here on; the kernel clears `kernel_tid` when the thread is gone.
    unsafe { block::retire(ptr::from_mut(&mut *seat.block)) };
    loop {
        let _ = safe_call!(nr::EXIT, 0);
    }
}

/// The order to go home.
unsafe extern "C" fn on_recall(number: i32, info: *mut SigInfo, context: *mut Context) {
    // SAFETY: the kernel passes a frame that is nobody else's.
    let (info, context) = unsafe { (&*info, &mut *context) };
    if pass::waits(context) {
        // SAFETY: only a body waits so, and it runs on its block.
        let block = unsafe { &mut *Seat::current().block };
        pass::note(block, number, info, context, SigSet::FULL);
        return;
    }
    if in_runtime(context.registers.rip) {
        // Only once: see `catch`.
        // SAFETY: the kernel wrote it, with its length in the legacy area.
        let legacy = unsafe { &*(context.registers.fpstate as *const [u8; FXSAVE_BYTES]) };
        return SAVED_BYTES.store(saved_bytes(legacy), Ordering::Relaxed);
    }
    // SAFETY: this thread runs on its block.
    go_home(unsafe { Seat::current() }, context, Reason::Recalled, info)
}
