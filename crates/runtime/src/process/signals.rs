//! The program's signals.
//!
//! The kernel knows one handler for all of them, [`on_signal`], which runs on the thread's block. It builds the
//! frame that the kernel would have built, on the program's stack, and returns into the program's handler with
//! it; that handler's own rt_sigreturn(2) is the kernel's business again. SIGSYS is never blocked: it is how
//! caught calls arrive. In spread mode SIGSTKFLT is treated alike: it is how a thread that runs is told to move.

use core::arch::{asm, naked_asm};

use megalith_runtime::errno::{EFAULT, EINVAL, ENOMEM, EPERM, Errno};
use megalith_runtime::frame::{
    Action, AltStack, CLEARED_FLAGS, Context, Frame, MINSIGSTKSZ, Position, SIG_DFL, SIG_IGN, SS_AUTODISARM,
    SS_DISABLE, SS_ONSTACK, SigInfo, sa,
};
use megalith_runtime::nr;
use megalith_runtime::sigset::{SigSet, own_signals, signal};

use crate::block::Block;
use crate::packing::saved;
use crate::pass;
use crate::sys::{self, safe_call};
use crate::{say, user};

/// What the program wants done for each signal (index: number - 1). Shared by a process's threads.
pub struct Table {
    actions: [Action; signal::COUNT as usize],
}

impl Table {
    /// All default.
    pub const DEFAULT: Table = Table { actions: [Action::DEFAULT; signal::COUNT as usize] };

    /// The same actions, for a new process.
    pub fn copy(&self) -> Table {
        Table { actions: self.actions }
    }

    fn get(&self, number: i32) -> Action {
        self.actions[(number - 1) as usize]
    }

    fn set(&mut self, number: i32, action: Action) {
        self.actions[(number - 1) as usize] = action;
    }

    /// Takes over what the process was started with: ignored signals stay ignored.
    pub fn inherit(&mut self) {
        for number in 1..=signal::COUNT {
            let mut action = Action::DEFAULT;
            let asked = safe_call!(nr::RT_SIGACTION, number, 0, &raw mut action, 8);
            if asked.is_ok() && !action.is_function() {
                self.set(number, action);
            }
        }
    }

    /// Puts every handler back to the default (CLONE_CLEAR_SIGHAND).
    pub fn clear_handlers(&mut self) {
        for number in 1..=signal::COUNT {
            if self.get(number).is_function() {
                self.set(number, Action::DEFAULT);
                if !own_signals().has(number) {
                    let _ = install(number, &Action::DEFAULT);
                }
            }
        }
    }
}

unsafe extern "C" {
    static runtime_text_start: u8;
    static runtime_text_end: u8;
}

/// Whether `address` is an instruction of the runtime's.
pub fn in_runtime(address: u64) -> bool {
    (&raw const runtime_text_start as u64..&raw const runtime_text_end as u64).contains(&address)
}

/// What handlers of the runtime return to.
#[unsafe(naked)]
pub extern "C" fn restore() -> ! {
    naked_asm!("mov eax, 15", "syscall", "ud2")
}

/// Enters a context: the frame's return address is skipped, as a handler's `ret` would.
///
/// # Safety
/// `frame` is complete and right; what is on the current stack is lost.
pub unsafe fn enter(frame: *const Frame) -> ! {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("mov rsp, {}", "mov eax, 15", "syscall", "ud2", in(reg) frame as u64 + 8, options(noreturn))
    }
}

/// Installs the runtime's handler of a signal of its own: of caught calls, or of orders to move.
pub fn catch(
    number: i32,
    handler: unsafe extern "C" fn(i32, *mut SigInfo, *mut Context),
) -> Result<(), Errno> {
    let action = Action {
        handler: handler as usize as u64,
        flags: sa::SIGINFO | sa::ONSTACK | sa::NODEFER | sa::RESTORER,
        restorer: restore as *const () as u64,
        mask: SigSet::FULL,
    };
    safe_call!(nr::RT_SIGACTION, number, &raw const action, 0, 8).map(|_| ())
}

/// The mask that the program starts with: `told`, or the process's own; never with SIGSYS.
pub fn start_with(told: Option<SigSet>) {
    let mut now = SigSet::EMPTY;
    let _ = safe_call!(nr::RT_SIGPROCMASK, 0, 0, &raw mut now, 8);
    let mask = told.unwrap_or(now).catchable();
    let _ = safe_call!(nr::RT_SIGPROCMASK, 2, &raw const mask, 0, 8);
}

/// Tells the kernel what to do for the program's `action`.
fn install(number: i32, action: &Action) -> Result<(), Errno> {
    let mut native = *action;
    if action.is_function() {
        native = Action {
            handler: on_signal as *const () as u64,
            flags: sa::SIGINFO
                | sa::ONSTACK
                | sa::RESTORER
                | action.flags & (sa::RESTART | sa::NODEFER | sa::CHILDREN),
            restorer: restore as *const () as u64,
            mask: action.mask,
        };
    }
    native.mask = native.mask.catchable();
    if own_signals().has(signal::SIGSTKFLT) {
        // An order finds a thread in the program, never here.
        native.mask = native.mask.union(SigSet::only(signal::SIGSTKFLT));
    }
    safe_call!(nr::RT_SIGACTION, number, &raw const native, 0, 8).map(|_| ())
}

/// rt_sigaction(2).
pub fn sigaction(block: &Block, number: i32, new: u64, old: u64, set_bytes: u64) -> Result<u64, Errno> {
    if set_bytes != 8 {
        return Err(EINVAL);
    }
    let wanted = if new == 0 { None } else { Some(user::read::<Action>(new)?) };
    let uncatchable = number == signal::SIGKILL || number == signal::SIGSTOP;
    if !(1..=signal::COUNT).contains(&number) || (wanted.is_some() && uncatchable) {
        return Err(EINVAL);
    }
    let before = {
        let mut table = block.table().take();
        if let Some(mut action) = wanted {
            action.flags &= sa::KNOWN;
            action.mask =
                action.mask.minus(SigSet::only(signal::SIGKILL).union(SigSet::only(signal::SIGSTOP)));
            if !own_signals().has(number) {
                install(number, &action)?;
            }
            let before = table.get(number);
            table.set(number, action);
            before
        } else {
            table.get(number)
        }
    };
    if old != 0 {
        user::write(old, &before)?;
    }
    Ok(0)
}

/// rt_sigprocmask(2): the mask is changed where rt_sigreturn(2) will find it.
pub fn sigprocmask(
    context: &mut Context,
    how: u64,
    new: u64,
    old: u64,
    set_bytes: u64,
) -> Result<u64, Errno> {
    if set_bytes != 8 {
        return Err(EINVAL);
    }
    let before = context.mask;
    if new != 0 {
        let set: SigSet = user::read(new)?;
        context.mask = before.changed(how & 0xffff_ffff, set).ok_or(EINVAL)?;
    }
    if old != 0 {
        user::write(old, &before)?;
    }
    Ok(0)
}

/// sigaltstack(2): the kernel's own is the block's; the program's is remembered.
pub fn sigaltstack(block: &mut Block, rsp: u64, new: u64, old: u64) -> Result<u64, Errno> {
    let wanted = if new == 0 { None } else { Some(user::read::<AltStack>(new)?) };
    let mut before = block.alternate;
    if before.bytes != 0 {
        before.flags = if before.holds(rsp) { SS_ONSTACK } else { 0 };
    }
    if let Some(wanted) = wanted {
        if before.flags & SS_ONSTACK != 0 {
            return Err(EPERM);
        }
        block.alternate = match wanted.flags {
            SS_DISABLE => AltStack::NONE,
            0 | SS_ONSTACK if wanted.bytes < MINSIGSTKSZ => return Err(ENOMEM),
            0 | SS_ONSTACK => AltStack { flags: 0, padding: 0, ..wanted },
            flags if flags & SS_AUTODISARM != 0 => {
                let reason = "its end is not seen";
                return Err(say::refuse(nr::SIGALTSTACK, " with SS_AUTODISARM", reason, EINVAL));
            }
            _ => return Err(EINVAL),
        };
    }
    if old != 0 {
        user::write(old, &before)?;
    }
    Ok(0)
}

/// Every handler of the program, as the kernel sees it.
unsafe extern "C" fn on_signal(number: i32, info: *mut SigInfo, context: *mut Context) {
    let mask = sys::block_all();
    // SAFETY: the kernel runs handlers on the block's stack, and passes a frame that is nobody else's.
    let (block, info, context) = unsafe { (Block::current(), &mut *info, &mut *context) };
    if in_runtime(context.registers.rip) {
        let before = block.interrupted.unwrap_or(mask);
        if pass::note(block, number, info, context, before) {
            block.interrupted = None;
            return;
        }
        // A wrapper that had not yet blocked signals: it goes first, and this signal comes again after it.
        block.interrupted = Some(context.mask);
        context.mask = SigSet::FULL;
        again(number, info);
        return;
    }
    let mask = block.interrupted.take().unwrap_or(mask);
    deliver(block, number, info, context, mask);
}

/// Sends the calling thread a signal once more.
fn again(number: i32, info: &SigInfo) {
    let _ = safe_call!(nr::RT_TGSIGQUEUEINFO, sys::pid(), sys::tid(), number, &raw const *info);
}

/// Arranges that the interrupted `context` goes on in the program's handler, with `mask` blocked.
pub fn deliver(block: &mut Block, number: i32, info: &SigInfo, context: &mut Context, mask: SigSet) {
    let action = {
        let mut table = block.table().take();
        let action = table.get(number);
        if action.is_function() && action.flags & sa::RESETHAND != 0 {
            table.set(number, Action { handler: SIG_DFL, ..action });
            if !own_signals().has(number) {
                let _ = install(number, &Action::DEFAULT);
            }
        }
        action
    };
    match action.handler {
        SIG_IGN => return,
        // The action has changed since the signal came: the kernel does the default now.
        SIG_DFL => return by_default(number, info),
        _ => {}
    }
    let fpstate = context.registers.fpstate;
    // SAFETY: the kernel wrote it on the block's stack, or it lies where the thread came home.
    let saved = unsafe { saved(context) };
    let on_stack = action.flags & sa::ONSTACK != 0;
    let rsp = context.registers.rsp;
    let position = Position::for_handler(rsp, on_stack, &block.alternate, saved.len());
    let built = position.ok_or(EFAULT).and_then(|position| {
        if action.flags & sa::RESTORER == 0 {
            return Err(EFAULT);
        }
        let mut frame = Frame { restorer: action.restorer, context: *context, info: *info };
        frame.context.mask = context.mask.catchable();
        if fpstate != 0 {
            frame.context.registers.fpstate = position.fpstate;
            user::write_bytes(position.fpstate, saved)?;
        }
        // SAFETY: Frame is plain numbers without padding.
        let bytes =
            unsafe { core::slice::from_raw_parts((&raw const frame).cast::<u8>(), size_of::<Frame>()) };
        user::write_bytes(position.frame, bytes)?;
        Ok(position)
    });
    let Ok(position) = built else {
        return cannot_deliver(block, number, context);
    };
    let registers = &mut context.registers;
    registers.rdi = number as u64;
    registers.rsi = position.frame + core::mem::offset_of!(Frame, info) as u64;
    registers.rdx = position.frame + core::mem::offset_of!(Frame, context) as u64;
    registers.rax = 0;
    registers.rsp = position.frame;
    registers.rip = action.handler;
    registers.rflags &= !CLEARED_FLAGS;
    // A handler starts with a clean floating-point state.
    registers.fpstate = 0;
    let own = if own_signals().has(number) && action.flags & sa::NODEFER == 0 {
        action.mask.union(SigSet::only(number))
    } else if own_signals().has(number) {
        action.mask
    } else {
        SigSet::EMPTY
    };
    context.mask = mask.union(own).catchable();
}

fn by_default(number: i32, info: &SigInfo) {
    if own_signals().has(number) {
        let _ = install(number, &Action::DEFAULT);
    }
    again(number, info);
}

/// Delivers the signal that was noted while a call was made.
pub fn deliver_noted(block: &mut Block, context: &mut Context) {
    if let Some(noted) = block.noted.take() {
        deliver(block, noted.number, &noted.info, context, noted.mask);
    }
}

/// Whether a signal is noted whose handler ends a wait that could go on (no SA_RESTART).
pub fn noted_ends_wait(block: &Block) -> bool {
    block.noted.as_ref().is_some_and(|noted| block.table().take().get(noted.number).flags & sa::RESTART == 0)
}

/// Sends the noted signal once more, to come when the mask lets it: something else goes first.
pub fn postpone_noted(block: &mut Block) {
    if let Some(noted) = block.noted.take() {
        again(noted.number, &noted.info);
    }
}

/// Delivers a signal that a fault of the program's has raised elsewhere. As in Linux it cannot be blocked or ignored: then it
/// kills.
pub fn force(block: &mut Block, info: &SigInfo, context: &mut Context) {
    let number = info.signal;
    let deaf = context.mask.has(number) || !block.table().take().get(number).is_function();
    if deaf {
        block.table().take().set(number, Action::DEFAULT);
        let _ = install(number, &Action::DEFAULT);
        context.mask = context.mask.minus(SigSet::only(number));
        return again(number, info);
    }
    let mask = context.mask.union(handler_mask(block, number));
    deliver(block, number, info, context, mask);
}

/// What the kernel would block while the program's handler of `number` runs.
fn handler_mask(block: &Block, number: i32) -> SigSet {
    let action = block.table().take().get(number);
    let own = if action.flags & sa::NODEFER == 0 { SigSet::only(number) } else { SigSet::EMPTY };
    action.mask.union(own)
}

/// There is no room for the frame: SIGSEGV, and the default action if that was the signal already.
fn cannot_deliver(block: &mut Block, number: i32, context: &mut Context) {
    if number == signal::SIGSEGV {
        block.table().take().set(number, Action::DEFAULT);
        let _ = install(number, &Action::DEFAULT);
    }
    context.mask = context.mask.minus(SigSet::only(signal::SIGSEGV));
    let _ = safe_call!(nr::TGKILL, sys::pid(), sys::tid(), signal::SIGSEGV);
}
