//! The few calls on files and descriptors that would show the runtime to the program.

use megalith_runtime::errno::{EBADF, EINVAL, Errno};
use megalith_runtime::filter::SEEN;
use megalith_runtime::frame::Context;
use megalith_runtime::{calls, nr, procfs};

use crate::block::Block;
use crate::pass::{pass, raw};
use crate::sys::{self, safe_call};
use crate::trap::{self, Outcome};
use crate::{own, start, user, view};

const O_DIRECT: u64 = 0x4000;
/// Longer than any path of [`procfs`].
const PATH_BYTES: usize = 40;

/// Whether the string at `address` names this program's executable under `/proc`.
pub fn is_own_executable(address: u64) -> bool {
    let mut buffer = [0; PATH_BYTES];
    let Ok(read) = user::read_some(address, &mut buffer) else { return false };
    let Some(end) = buffer[..read].iter().position(|byte| *byte == 0) else { return false };
    procfs::names_own_executable(&buffer[..end], sys::pid())
}

/// What the handler does with a caught open.
pub enum Opened {
    /// It is done: this is its result.
    Done(Result<u64, Errno>),
    /// The program makes it again, with changed registers.
    Again,
}

/// open(2) and openat(2). The call may block (a FIFO), and must then be interrupted as the program's own: so it
/// is not made here, but again by the program's own instruction, marked as seen.
pub fn open(number: u32, context: &mut Context) -> Opened {
    let registers = &mut context.registers;
    let (path, flags, mode) = match number {
        nr::OPEN => (registers.rdi, &mut registers.rsi, &mut registers.rdx),
        _ => (registers.rsi, &mut registers.rdx, &mut registers.r10),
    };
    if is_own_executable(path) {
        return Opened::Done(safe_call!(
            nr::OPENAT,
            -100i64,
            start::executable_path().as_ptr(),
            *flags & !O_DIRECT,
            *mode
        ));
    }
    // Direct I/O pins pages: one that is pinned cannot be moved to another host rightly.
    if *flags & O_DIRECT != 0 {
        *flags &= !O_DIRECT;
    }
    *mode = *mode & 0xffff_ffff | u64::from(SEEN) << 32;
    registers.rax = u64::from(number);
    // Back to the two bytes of `syscall`.
    registers.rip -= 2;
    Opened::Again
}

/// In spread mode: a call with a path, with the file that the path is to name. It may wait (a FIFO), so its signals are let in.
pub fn forward(block: &mut Block, number: u32, mut arguments: [u64; 6], context: &Context) -> Outcome {
    let path = calls::path_argument(number).unwrap_or(0);
    let opens = matches!(number, nr::OPEN | nr::OPENAT);
    if is_own_executable(arguments[path]) {
        match number {
            nr::READLINK | nr::READLINKAT => return Outcome::Done(raw(readlink(number, context))),
            nr::OPENAT2 => return Outcome::Done(raw(openat2(context))),
            _ if opens => arguments[path] = start::executable_path().as_ptr() as u64,
            _ => {}
        }
    }
    let mut room = [0; view::PATH_BYTES];
    match view::redirected(arguments[path], &mut room) {
        Ok(Some(shown)) => arguments[path] = shown,
        Ok(None) => {}
        Err(errno) => return Outcome::Done(errno.as_return()),
    }
    let mut how = [0u64; 3];
    if opens {
        arguments[path + 1] &= !O_DIRECT;
    } else if number == nr::OPENAT2
        && arguments[3] == size_of_val(&how) as u64
        && let Ok(given) = user::read::<[u64; 3]>(arguments[2])
    {
        how = given;
        how[0] &= !O_DIRECT;
        arguments[2] = how.as_ptr() as u64;
    }
    trap::made(pass(block, number, arguments, context.mask))
}

/// In spread mode: fcntl(2) with F_SETFL does not set O_DIRECT (see [`open`]).
pub fn without_direct(number: u32, mut arguments: [u64; 6]) -> [u64; 6] {
    const F_SETFL: u32 = 4;
    if number == nr::FCNTL && arguments[1] as u32 == F_SETFL {
        arguments[2] &= !O_DIRECT;
    }
    arguments
}

/// openat2(2): rdi directory, rsi path, rdx struct open_how, r10 its length.
pub fn openat2(context: &Context) -> Result<u64, Errno> {
    let registers = &context.registers;
    if is_own_executable(registers.rsi) {
        let flags: u64 = user::read(registers.rdx)?;
        return safe_call!(nr::OPENAT, -100i64, start::executable_path().as_ptr(), flags & !O_DIRECT, 0);
    }
    let flags = user::read::<u64>(registers.rdx);
    if registers.r10 == 24 && flags.is_ok_and(|flags| flags & O_DIRECT != 0) {
        let mut how: [u64; 3] = user::read(registers.rdx)?;
        how[0] &= !O_DIRECT;
        return safe_call!(nr::OPENAT2, registers.rdi, registers.rsi, how.as_ptr(), 24);
    }
    native(nr::OPENAT2, context)
}

/// readlink(2) and readlinkat(2).
pub fn readlink(number: u32, context: &Context) -> Result<u64, Errno> {
    let registers = &context.registers;
    let (path, buffer, bytes) = match number {
        nr::READLINK => (registers.rdi, registers.rsi, registers.rdx),
        _ => (registers.rsi, registers.rdx, registers.r10),
    };
    if !is_own_executable(path) {
        return native(number, context);
    }
    if bytes as i32 <= 0 {
        return Err(EINVAL);
    }
    let target = start::executable_path().to_bytes();
    let bytes = target.len().min(bytes as usize);
    user::write_bytes(buffer, &target[..bytes])?;
    Ok(bytes as u64)
}

/// close, dup2, dup3 on a number of the runtime's: there is no such descriptor.
pub fn descriptor(number: u32, context: &Context) -> Result<u64, Errno> {
    let registers = &context.registers;
    let named = if number == nr::CLOSE { registers.rdi } else { registers.rsi };
    if own::holds(named) { Err(EBADF) } else { native(number, context) }
}

/// close_range(2), around the runtime's descriptors.
pub fn close_range(first: u64, last: u64, flags: u64) -> Result<u64, Errno> {
    let (mut first, last) = (first as u32, last as u32);
    if first > last {
        return Err(EINVAL);
    }
    while let Some(held) = own::next_held(first).filter(|held| *held <= last) {
        if first < held {
            safe_call!(nr::CLOSE_RANGE, first, held - 1, flags)?;
        }
        if held == last {
            return Ok(0);
        }
        first = held + 1;
    }
    safe_call!(nr::CLOSE_RANGE, first, last, flags)
}

/// fcntl(2) with F_SETFL and O_DIRECT.
pub fn set_flags(context: &Context) -> Result<u64, Errno> {
    let registers = &context.registers;
    safe_call!(nr::FCNTL, registers.rdi, registers.rsi, registers.rdx & !O_DIRECT)
}

/// The caught call as it is.
pub fn native(number: u32, context: &Context) -> Result<u64, Errno> {
    let r = &context.registers;
    safe_call!(number, r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9)
}
