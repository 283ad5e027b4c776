//! Caught calls: the SIGSYS handler, its table, and the filter that raises it.

use megalith_runtime::errno::{EINVAL, ENOSYS, EPERM, Errno};
use megalith_runtime::filter::{self, Filter, Instruction};
use megalith_runtime::frame::{Context, SYS_SECCOMP, SigInfo};
use megalith_runtime::mapping::Request;
use megalith_runtime::nr;

use crate::block::Block;
use crate::files::{self, Opened};
use crate::sys::safe_call;
use crate::{affinity, exec, say, signals, space, threads};

const SECCOMP_SET_MODE_FILTER: u64 = 1;
/// The program is no more adversarial than it was: no speculation barriers on its account.
const SPEC_ALLOW: u64 = 4;
const PR_SET_NO_NEW_PRIVS: u64 = 38;

/// Catches SIGSYS, and installs the filter unless this process has inherited it.
pub fn arm(inherited: bool) -> Result<(), Errno> {
    signals::catch(on_sigsys)?;
    if inherited { Ok(()) } else { install(&filter::build()) }
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
    if let Some(result) = answer(block, info.number as u32, context) {
        context.registers.rax = match result {
            Ok(value) => value,
            Err(errno) => errno.as_return() as u64,
        };
    }
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
        nr::PRCTL if first as u32 == filter::option::SET_MM => {
            say::refuse(number, " of PR_SET_MM", "the space keeps its own layout", EPERM)
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
