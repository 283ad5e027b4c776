//! A call that may wait, made for the program as the program would: with its signals let in.
//!
//! ```text
//! all blocked | let the program's mask in ┃ the call ┃ block all | all blocked
//!                            pass_opened ▲          ▲ pass_called      pass_closed
//! ```
//!
//! A signal that comes between the first label and the last one finds [`super::signals`]' handler interrupting the runtime here.
//! It is noted in the block, and nothing else happens to it until the call is over: then it is delivered to the program's
//! context, as if it had interrupted the program. Was the instruction pointer not yet behind the call, or has the kernel put it
//! back there (SA_RESTART), the call has not been made: the handler leads past it, and after the signal the program makes it
//! again. So a signal never comes between the program and a wait that it should have ended.
//!
//! SIGSYS and the order to move stay blocked: they are the runtime's own, and no reason to end a wait.

use core::arch::naked_asm;

use megalith_runtime::errno::{EINTR, Errno};
use megalith_runtime::frame::{Context, SigInfo};
use megalith_runtime::nr;
use megalith_runtime::sigset::{SigSet, own_signals};

use crate::block::Block;
use crate::user;

/// A signal that came while a call was made.
pub struct Noted {
    /// Its number.
    pub number: i32,
    /// What the kernel said of it.
    pub info: SigInfo,
    /// The mask for its handler.
    pub mask: SigSet,
    /// Whether the call was made.
    made: bool,
}

unsafe extern "C" {
    static pass_opened: u8;
    static pass_called: u8;
    static pass_closed: u8;
}

/// Makes a call whose signals are let in; the result is no result if a signal says that the call was not made.
///
/// The block is not used: it is an argument because a signal changes it.
#[unsafe(naked)]
unsafe extern "C" fn gate(
    number: u64,
    arguments: *const [u64; 6],
    open: *const SigSet,
    closed: *const SigSet,
    block: *mut Block,
) -> i64 {
    naked_asm!(
        "push rbx",
        "push r12",
        "push r13",
        "mov rbx, rdi",
        "mov r12, rsi",
        "mov r13, rcx",
        "mov rsi, rdx",
        "mov edi, 2",
        "xor edx, edx",
        "mov r10d, 8",
        "mov eax, 14",
        "syscall",
        ".globl pass_opened",
        "pass_opened:",
        "mov rax, rbx",
        "mov rdi, [r12]",
        "mov rsi, [r12 + 8]",
        "mov rdx, [r12 + 16]",
        "mov r10, [r12 + 24]",
        "mov r8, [r12 + 32]",
        "mov r9, [r12 + 40]",
        ".globl pass_called",
        "pass_called:",
        "syscall",
        "mov rbx, rax",
        "mov edi, 2",
        "mov rsi, r13",
        "xor edx, edx",
        "mov r10d, 8",
        "mov eax, 14",
        "syscall",
        ".globl pass_closed",
        "pass_closed:",
        "mov rax, rbx",
        "pop r13",
        "pop r12",
        "pop rbx",
        "ret",
    )
}

/// Whether `context` was interrupted while signals were let in.
pub fn waits(context: &Context) -> bool {
    (&raw const pass_opened as u64..&raw const pass_closed as u64).contains(&context.registers.rip)
}

/// Notes a signal if `context` was interrupted while signals were let in; whether it was.
pub fn note(block: &mut Block, number: i32, info: &SigInfo, context: &mut Context, mask: SigSet) -> bool {
    let (called, closed) = (&raw const pass_called as u64, &raw const pass_closed as u64);
    if !waits(context) {
        return false;
    }
    let registers = &mut context.registers;
    let mut made = registers.rip > called;
    if registers.rip <= called {
        if registers.rip == called && registers.rax as u32 == nr::RESTART_SYSCALL {
            // A wait that a stop had interrupted was about to go on: in Linux too it ends here.
            made = true;
            registers.rbx = EINTR.as_return() as u64;
        }
        registers.rip = closed;
    }
    context.mask = SigSet::FULL;
    block.noted = Some(Noted { number, info: *info, mask, made });
    true
}

/// Makes a call with the program's `mask`. `None`: it has not been made, and a signal is noted; one may be noted also when it
/// was made.
pub fn pass(block: &mut Block, number: u32, arguments: [u64; 6], mask: SigSet) -> Option<i64> {
    let mut masks = Masks::default();
    let arguments = masks.adjust(number, arguments);
    let (open, closed) = (mask.union(own_signals()), SigSet::FULL);
    // SAFETY: the arguments are the program's, for the kernel to judge, or masks that live here; signals that come find
    // the block as it is.
    let result = unsafe {
        gate(u64::from(number), &raw const arguments, &raw const open, &raw const closed, &raw mut *block)
    };
    match &block.noted {
        Some(noted) if !noted.made => None,
        _ => Some(result),
    }
}

/// Copies of masks that a call takes, with our signals in them.
#[derive(Default)]
struct Masks {
    set: SigSet,
    /// pselect6(2)'s pointer and length.
    pointed: [u64; 2],
}

impl Masks {
    /// The arguments of a call that waits with another mask, so that it blocks our signals. What cannot be read is left for
    /// the kernel to refuse.
    fn adjust(&mut self, number: u32, mut arguments: [u64; 6]) -> [u64; 6] {
        let at = match number {
            nr::RT_SIGSUSPEND | nr::RT_SIGTIMEDWAIT => 0,
            nr::PPOLL => 3,
            nr::EPOLL_PWAIT | nr::EPOLL_PWAIT2 => 4,
            nr::PSELECT6 | nr::IO_PGETEVENTS => {
                if let Ok([set, bytes]) = user::read::<[u64; 2]>(arguments[5])
                    && let Some(copy) = self.copy(number, set)
                {
                    self.pointed = [copy, bytes];
                    arguments[5] = self.pointed.as_ptr() as u64;
                }
                return arguments;
            }
            _ => return arguments,
        };
        if let Some(copy) = self.copy(number, arguments[at]) {
            arguments[at] = copy;
        }
        arguments
    }

    fn copy(&mut self, number: u32, set: u64) -> Option<u64> {
        if set == 0 {
            return None;
        }
        let given = user::read::<SigSet>(set).ok()?;
        // rt_sigtimedwait(2)'s set is of those to take.
        let waits_for = number == nr::RT_SIGTIMEDWAIT;
        self.set = if waits_for { given.minus(own_signals()) } else { given.union(own_signals()) };
        Some(&raw const self.set as u64)
    }
}

/// A raw result for the program's rax.
pub fn raw(result: Result<u64, Errno>) -> i64 {
    match result {
        Ok(value) => value as i64,
        Err(errno) => errno.as_return(),
    }
}
