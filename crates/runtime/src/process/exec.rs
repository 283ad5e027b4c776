//! execve and execveat: the runtime is executed again in the program's place, so that a whole tree of processes
//! runs on the machine. What can fail is tried first, so that the caller gets the errno and goes on.

use megalith_runtime::errno::{EFAULT, EINVAL, Errno};
use megalith_runtime::sigset::SigSet;
use megalith_runtime::{PAGE, nr, procfs};

use crate::block::Block;
use crate::load::Program;
use crate::sys::{self, Fd, safe_call};
use crate::{affinity, own, start, user};

const AT_FDCWD: i32 = -100;
const AT_EMPTY_PATH: u64 = 0x1000;
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const PATH_BYTES: usize = 4096;
const ENVIRONMENT_MAX: u64 = 1 << 20;

/// execveat(2)'s arguments.
pub struct Call {
    /// Directory, or the program itself.
    pub at: Fd,
    /// Path.
    pub path: u64,
    /// Arguments.
    pub argv: u64,
    /// Environment.
    pub envp: u64,
    /// `AT_` flags.
    pub flags: u64,
}

/// execve(2). Returns only if it fails. `mask` is the program's.
pub fn execve(block: &mut Block, mask: SigSet, path: u64, argv: u64, envp: u64) -> Result<u64, Errno> {
    execveat(block, mask, Call { at: AT_FDCWD, path, argv, envp, flags: 0 })
}

/// execveat(2). Returns only if it fails.
pub fn execveat(block: &mut Block, mask: SigSet, call: Call) -> Result<u64, Errno> {
    if call.flags & !(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(EINVAL);
    }
    let mut variables = start::Variables::new(mask, &block.travel.cpus);
    let passed = {
        let scratch = own::allocate(4 * PATH_BYTES as u64, PAGE)?;
        let passed = choose_program(scratch.start, &call, &mut variables);
        own::free(scratch);
        passed?
    };
    let result = execute(block, call.argv, call.envp, &variables);
    if passed {
        sys::close(own::PASSED);
    }
    result
}

/// Finds the program and checks it; puts its path among the variables. Whether [`own::PASSED`] carries it.
fn choose_program(scratch: u64, call: &Call, variables: &mut start::Variables) -> Result<bool, Errno> {
    let (at, flags) = (call.at, call.flags);
    // SAFETY: the scratch memory of the caller, four paths long, used here alone.
    let scratch = unsafe { core::slice::from_raw_parts_mut(scratch as *mut u8, 4 * PATH_BYTES) };
    let (given, rest) = scratch.split_at_mut(PATH_BYTES);
    let (full, link) = rest.split_at_mut(PATH_BYTES);
    let given = user::read_string(call.path, given)?;
    let own_executable = procfs::names_own_executable(given, sys::pid());
    let descriptor = match procfs::descriptor(given) {
        None if given.is_empty() && flags & AT_EMPTY_PATH != 0 => Some(at),
        other => other,
    };
    let chosen: &[u8] = if own_executable {
        start::executable_path().to_bytes()
    } else if let Some(fd) = descriptor {
        match path_of(fd, link)? {
            Some(path) => path,
            None => return pass(fd, variables).map(|()| true),
        }
    } else if at != AT_FDCWD && !given.starts_with(b"/") {
        join(at, given, full)?
    } else {
        given
    };
    variables.set_program(chosen)?;
    Program::open(variables.program())?.check()?;
    Ok(false)
}

/// `/proc/self/fd/AT/GIVEN`, resolved as far as `at` goes: the descriptor may be closed by the exec.
fn join<'a>(at: Fd, given: &[u8], full: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let used = start::link_of(at, full)?;
    let end = used + 1 + given.len();
    let room = full.get_mut(used..end).ok_or(megalith_runtime::errno::ENAMETOOLONG)?;
    room[0] = b'/';
    room[1..].copy_from_slice(given);
    Ok(&full[..end])
}

/// The path of an open file, if it still leads to that file.
fn path_of(fd: Fd, link: &mut [u8]) -> Result<Option<&[u8]>, Errno> {
    let stat = sys::stat(fd)?;
    let used = start::link_of(fd, link)?;
    if used + 1 >= link.len() {
        return Ok(None);
    }
    link[used] = 0;
    let opened = safe_call!(nr::OPENAT, AT_FDCWD as i64, link.as_ptr(), 0o12000000);
    let Ok(other) = opened else { return Ok(None) };
    let same =
        sys::stat(other as Fd).is_ok_and(|other| (other.device, other.inode) == (stat.device, stat.inode));
    sys::close(other as Fd);
    Ok(same.then_some(&link[..used]))
}

/// A file without a path goes through exec as a descriptor.
fn pass(fd: Fd, variables: &mut start::Variables) -> Result<(), Errno> {
    let copy = safe_call!(nr::FCNTL, fd, 0, 0)? as Fd;
    own::keep(copy, own::PASSED, false)?;
    variables.set_passed();
    variables.set_program(start::PASSED_PATH)?;
    let checked = Program::open(variables.program()).and_then(|program| program.check());
    if checked.is_err() {
        sys::close(own::PASSED);
    }
    checked
}

/// Replaces the process: the program's own argv, and its environment with ours behind it.
fn execute(block: &mut Block, argv: u64, envp: u64, variables: &start::Variables) -> Result<u64, Errno> {
    let count = count_strings(envp)?;
    let bytes = (count + 16) * 8;
    let span = own::allocate(bytes, PAGE)?;
    // SAFETY: fresh memory of that size.
    let pointers = unsafe { core::slice::from_raw_parts_mut(span.start as *mut u64, (count + 16) as usize) };
    let mut kept = 0;
    for index in 0..count {
        if let Ok(pointer) = user::read::<u64>(envp + index * 8) {
            pointers[kept] = pointer;
            kept += 1;
        }
    }
    for variable in variables.pointers() {
        pointers[kept] = variable;
        kept += 1;
    }
    pointers[kept] = 0;
    // If it succeeds in a vfork(2) child, the parent frees this.
    block.scratch = Some(span);
    let empty = c"".as_ptr();
    affinity::restore();
    let result = safe_call!(nr::EXECVEAT, own::RUNTIME, empty, argv, span.start, AT_EMPTY_PATH);
    block.scratch = None;
    own::free(span);
    result
}

fn count_strings(list: u64) -> Result<u64, Errno> {
    if list == 0 {
        return Ok(0);
    }
    for count in 0..ENVIRONMENT_MAX {
        if user::read::<u64>(list + count * 8).map_err(|_| EFAULT)? == 0 {
            return Ok(count);
        }
    }
    Err(megalith_runtime::errno::E2BIG)
}
