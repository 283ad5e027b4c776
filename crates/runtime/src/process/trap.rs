//! Caught calls: the SIGSYS handler, its table, and the filter that raises it.

use core::sync::atomic::{AtomicBool, Ordering};

use megalith_runtime::calls::{self, Class};
use megalith_runtime::errno::{EBADF, EINVAL, ENOSYS, EPERM, Errno};
use megalith_runtime::filter::{self, Filter, Instruction, option};
use megalith_runtime::frame::{Context, Registers, SYS_SECCOMP, SigInfo};
use megalith_runtime::mapping::Request;
use megalith_runtime::nr;
use megalith_runtime::ship::Lent;
use megalith_runtime::sigset::signal;

use crate::block::Block;
use crate::files::{self, Opened};
use crate::pass::{pass, raw};
use crate::sys::safe_call;
use crate::{
    affinity, away, cputime, exec, futex, machine, own, say, signals, space, spread, steward, threads,
};

const SECCOMP_SET_MODE_FILTER: u64 = 1;
/// The program is no more adversarial than it was: no speculation barriers on its account.
const SPEC_ALLOW: u64 = 4;
const PR_SET_NO_NEW_PRIVS: u64 = 38;

/// Whether every call of the program is caught.
static ALL: AtomicBool = AtomicBool::new(false);

/// Filters that a process may have: each catches what the one before it does, and more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caught {
    /// There is none.
    #[default]
    Nothing,
    /// Expand mode's.
    Few,
    /// Spread mode's, of a program of one thread.
    Alone,
    /// Spread mode's.
    All,
}

/// What this process catches, which its successors by exec inherit.
pub fn caught() -> Caught {
    match spread::on() {
        false => Caught::Few,
        true if ALL.load(Ordering::Relaxed) => Caught::All,
        true => Caught::Alone,
    }
}

/// Catches SIGSYS, in spread mode orders too, and installs the mode's filter unless this process has inherited it.
pub fn arm(inherited: Caught) -> Result<(), Errno> {
    signals::catch(signal::SIGSYS, on_sigsys)?;
    if spread::on() {
        signals::catch(signal::SIGSTKFLT, steward::on_order)?;
    }
    ALL.store(inherited == Caught::All, Ordering::Relaxed);
    match caught() {
        needed if inherited >= needed => Ok(()),
        Caught::Alone => install(&filter::build_alone()),
        _ => install(&filter::build()),
    }
}

/// From here on every call of the calling thread is caught, and of those that it will make: it is about to make the program's
/// second. In spread mode.
pub fn catch_all() -> Result<(), Errno> {
    if !ALL.load(Ordering::Relaxed) {
        install(&filter::build_spread())?;
        ALL.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// Installs a filter for this process, for good.
pub fn install(filter: &Filter) -> Result<(), Errno> {
    #[repr(C)]
    struct Program {
        count: u16,
        instructions: *const Instruction,
    }
    let instructions = filter.instructions();
    let program = Program { count: instructions.len() as u16, instructions: instructions.as_ptr() };
    let install = || safe_call!(nr::SECCOMP, SECCOMP_SET_MODE_FILTER, SPEC_ALLOW, &raw const program);
    if install().is_err() {
        safe_call!(nr::PRCTL, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)?;
        install()?;
    }
    Ok(())
}

unsafe extern "C" fn on_sigsys(number: i32, info: *mut SigInfo, context: *mut Context) {
    // SAFETY: the kernel runs handlers on the block's stack, and passes a frame that is nobody else's.
    let (block, info, context) = unsafe { (Block::current(), &mut *info, &mut *context) };
    if info.code != SYS_SECCOMP {
        let mask = context.mask;
        return signals::deliver(block, number, info, context, mask);
    }
    let number = info.number as u32;
    if spread::on() {
        return at_home(block, number, context);
    }
    if let Some(result) = answer(block, number, context) {
        context.registers.rax = raw(result) as u64;
    }
}

/// A call in spread mode, of a thread that is at home: afterwards the thread may leave.
fn at_home(block: &mut Block, number: u32, context: &mut Context) {
    match perform(block, number, context) {
        Outcome::Done(value) => context.registers.rax = value as u64,
        Outcome::NotMade | Outcome::Elsewhere(_) => {
            // Back to the two bytes of `syscall`: it is made again after the signal.
            context.registers.rax = u64::from(number);
            context.registers.rip -= 2;
        }
    }
    if block.noted.is_some() {
        return signals::deliver_noted(block, context);
    }
    away::go(block, context);
}

/// What has become of a call.
pub enum Outcome {
    /// It was made, with this result. If it waited, a signal may be noted that came meanwhile.
    Done(i64),
    /// It was not made, because of the signal that is noted.
    NotMade,
    /// It was not made: the thread's body is to make it, whose host has this loan of the queue ([`crate::queues`]).
    Elsewhere(Lent),
}

/// A call in spread mode, made by the thread at home or by the deputy of one that is away.
pub fn perform(block: &mut Block, number: u32, context: &mut Context) -> Outcome {
    let r = context.registers;
    let arguments = r.arguments();
    let done = |result| Outcome::Done(raw(result));
    match (calls::class(number), number) {
        (_, nr::CLOCK_GETTIME) => done(cputime::clock(block, context)),
        (_, nr::GETRUSAGE) => done(cputime::usage(block, context)),
        (_, nr::TIMES) => done(cputime::times(context)),
        (Class::Machine, _) => done(machine::answer(block, number, context)),
        // For these the runtime has no answer of its own.
        (Class::Local, _) | (_, nr::SET_ROBUST_LIST | nr::GET_ROBUST_LIST) => {
            done(files::native(number, context))
        }
        (Class::Refused, _) if !filter::is_caught(number) => Outcome::Done(ENOSYS.as_return()),
        (Class::Forwarded { .. }, nr::CLOSE | nr::DUP2 | nr::DUP3 | nr::FCNTL) if names_own(number, &r) => {
            Outcome::Done(EBADF.as_return())
        }
        (Class::Forwarded { .. }, nr::CLOSE_RANGE) => done(files::close_range(r.rdi, r.rsi, r.rdx)),
        (Class::Forwarded { .. }, nr::PRCTL) if refuses(r.rdi) => {
            Outcome::Done(refused(number, r.rdi).as_return())
        }
        (Class::Forwarded { .. }, nr::SHMAT) if r.rsi != 0 => {
            Outcome::Done(refused(number, r.rdi).as_return())
        }
        (Class::Forwarded { .. }, _) if calls::path_argument(number).is_some() => {
            files::forward(block, number, arguments, context)
        }
        (Class::Forwarded { .. }, nr::FUTEX) => futex::call(block, arguments, context.mask),
        (Class::Forwarded { .. }, nr::FUTEX_WAITV | nr::FUTEX_WAIT | nr::FUTEX_WAKE | nr::FUTEX_REQUEUE) => {
            futex::newer_call(block, number, arguments, context.mask)
        }
        (Class::Forwarded { may_block: true }, _) => {
            let arguments = files::without_direct(number, arguments);
            made(pass(block, number, arguments, context.mask))
        }
        (Class::Forwarded { may_block: false }, _) => done(files::native(number, context)),
        _ => match answer(block, number, context) {
            Some(result) => done(result),
            None => Outcome::NotMade,
        },
    }
}

/// What [`pass`] returned.
pub fn made(result: Option<i64>) -> Outcome {
    result.map_or(Outcome::NotMade, Outcome::Done)
}

/// Whether the call is about a descriptor that the program does not have.
fn names_own(number: u32, registers: &Registers) -> bool {
    own::holds(registers.rdi) || (matches!(number, nr::DUP2 | nr::DUP3) && own::holds(registers.rsi))
}

/// prctl(2) options that are refused in spread mode. The last would catch the runtime's own calls.
fn refuses(option: u64) -> bool {
    const SET_SYSCALL_USER_DISPATCH: u32 = 59;
    [option::SET_SECCOMP, option::SET_MM, SET_SYSCALL_USER_DISPATCH].contains(&(option as u32))
}

/// The result of a caught call; `None` if the program is to make it again.
fn answer(block: &mut Block, number: u32, context: &mut Context) -> Option<Result<u64, Errno>> {
    let r = context.registers;
    let (a, b, c) = (r.rdi, r.rsi, r.rdx);
    Some(match number {
        nr::MMAP => {
            let request = Request { addr: a, length: b, prot: c, flags: r.r10, offset: r.r9 };
            space::lock().mmap(request, r.r8 as i32)
        }
        nr::MUNMAP => space::lock().munmap(a, b),
        nr::MPROTECT => space::lock().mprotect(a, b, c, None),
        nr::PKEY_MPROTECT => space::lock().mprotect(a, b, c, Some(r.r10)),
        nr::MREMAP => space::lock().mremap(a, b, c, r.r10, r.r8),
        nr::MADVISE => space::lock().madvise(a, b, c),
        nr::BRK => Ok(space::lock().brk(a)),
        nr::MLOCK | nr::MUNLOCK | nr::MLOCK2 => {
            space::lock_flags(number, c).and_then(|()| space::lock().mlock(a, b))
        }
        nr::MLOCKALL | nr::MUNLOCKALL => space::lock_flags(number, a).map(|()| 0),
        nr::OPEN | nr::OPENAT => match files::open(number, context) {
            Opened::Done(result) => result,
            Opened::Again => return None,
        },
        nr::OPENAT2 => files::openat2(context),
        nr::FUTEX => {
            futex::make_ready(context);
            return None;
        }
        nr::READLINK | nr::READLINKAT => files::readlink(number, context),
        nr::CLOSE | nr::DUP2 | nr::DUP3 => files::descriptor(number, context),
        nr::CLOSE_RANGE => files::close_range(a, b, c),
        nr::FCNTL => files::set_flags(context),
        nr::RT_SIGACTION => signals::sigaction(block, a as i32, b, c, r.r10),
        nr::RT_SIGPROCMASK => signals::sigprocmask(context, a, b, c, r.r10),
        nr::SIGALTSTACK => signals::sigaltstack(block, r.rsp, a, b),
        nr::CLONE => threads::clone(block, context),
        nr::CLONE3 => threads::clone3(block, context),
        nr::VFORK => threads::vfork(block, context),
        nr::FORK => Err(threads::fork(number)),
        nr::SCHED_GETAFFINITY => affinity::get(a, b, c),
        nr::SCHED_SETAFFINITY => affinity::set(a, b, c),
        nr::EXIT => threads::exit(block, a),
        nr::SET_TID_ADDRESS => Ok(threads::set_tid_address(block, a)),
        nr::EXECVE => exec::execve(block, context.mask, a, b, c),
        nr::EXECVEAT => {
            let call = exec::Call { at: a as i32, path: b, argv: c, envp: r.r10, flags: r.r8 };
            exec::execveat(block, context.mask, call)
        }
        _ => Err(refused(number, a)),
    })
}

fn refused(number: u32, first: u64) -> Errno {
    match number {
        nr::SECCOMP => say::refuse(number, "", "one filter is enough", EINVAL),
        nr::PRCTL if first as u32 == option::SET_MM => {
            say::refuse(number, " of PR_SET_MM", "the space keeps its own layout", EPERM)
        }
        nr::PRCTL if first as u32 != option::SET_SECCOMP => {
            say::refuse(number, " of PR_SET_SYSCALL_USER_DISPATCH", "calls are caught already", EINVAL)
        }
        nr::PRCTL => say::refuse(number, " of PR_SET_SECCOMP", "one filter is enough", EINVAL),
        nr::IO_URING_SETUP => {
            say::refuse(number, "", "the kernel would use memory behind the space's back", ENOSYS)
        }
        nr::USERFAULTFD => say::refuse(number, "", "the space's pages are served already", ENOSYS),
        nr::VMSPLICE => say::refuse(number, "", "pages in a pipe cannot move", ENOSYS),
        _ => space::refused(number),
    }
}
