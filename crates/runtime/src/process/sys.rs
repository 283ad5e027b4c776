//! System calls, made from the runtime's text: the filter lets them pass.

use core::arch::asm;

use megalith_runtime::errno::Errno;
use megalith_runtime::layout::{Prot, Span};
use megalith_runtime::nr;
use megalith_runtime::sigset::SigSet;

/// A file descriptor.
pub type Fd = i32;

/// Makes a system call.
///
/// # Safety
/// Whatever the call does to memory must be sound.
pub unsafe fn call(number: u32, a: [u64; 6]) -> Result<u64, Errno> {
    // SAFETY: the caller's promise.
    Errno::check(unsafe { raw(number, a) })
}

/// [`call`], with the kernel's own result.
///
/// # Safety
/// As for [`call`].
pub unsafe fn raw(number: u32, a: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: the caller's promise; the kernel clobbers rcx and r11 only.
    unsafe {
        asm!("syscall", inlateout("rax") i64::from(number) => result, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
            in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// A call whose arguments are numbers or valid pointers to the runtime's own objects.
macro_rules! safe_call {
    ($number:expr $(, $argument:expr)* $(,)?) => {{
        let mut arguments = [0u64; 6];
        let given = [$($argument as u64),*];
        arguments[..given.len()].copy_from_slice(&given);
        // SAFETY: the arguments are numbers, or point to live objects of the runtime of the length they are given
        // with; memory mappings are changed only by functions that are unsafe themselves or that own the range.
        unsafe { $crate::sys::call($number, arguments) }
    }};
}
pub(crate) use safe_call;

/// mmap(2) at exactly `span`.
///
/// # Safety
/// Nothing of Rust's may live there.
pub unsafe fn map_at(span: Span, prot: Prot, flags: u64, fd: Fd, offset: u64) -> Result<(), Errno> {
    let arguments = [span.start, span.bytes(), u64::from(prot.0), flags | 0x10, fd as u64, offset];
    // SAFETY: the caller's promise.
    unsafe { call(nr::MMAP, arguments) }.map(|_| ())
}

/// munmap(2).
///
/// # Safety
/// Nothing of Rust's may live there.
pub unsafe fn unmap(span: Span) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { call(nr::MUNMAP, [span.start, span.bytes(), 0, 0, 0, 0]) }.map(|_| ())
}

/// mprotect(2).
///
/// # Safety
/// Nothing of Rust's may live there.
pub unsafe fn protect(span: Span, prot: u64, key: Option<u64>) -> Result<(), Errno> {
    let (number, key) = key.map_or((nr::MPROTECT, 0), |key| (nr::PKEY_MPROTECT, key));
    // SAFETY: the caller's promise.
    unsafe { call(number, [span.start, span.bytes(), prot, key, 0, 0]) }.map(|_| ())
}

/// close(2); the descriptor is gone whatever it returns.
pub fn close(fd: Fd) {
    let _ = safe_call!(nr::CLOSE, fd);
}

/// getpid(2); not remembered, because a vfork(2) child shares all memory with its parent.
pub fn pid() -> u32 {
    safe_call!(nr::GETPID).unwrap_or(0) as u32
}

/// gettid(2).
pub fn tid() -> u32 {
    safe_call!(nr::GETTID).unwrap_or(0) as u32
}

/// exit_group(2).
pub fn exit(code: i32) -> ! {
    loop {
        let _ = safe_call!(nr::EXIT_GROUP, code);
    }
}

/// Blocks every signal and returns the mask before.
pub fn block_all() -> SigSet {
    let (all, mut before) = (SigSet::FULL, SigSet::EMPTY);
    // Cannot fail: valid pointers and size.
    let _ = safe_call!(nr::RT_SIGPROCMASK, 2, &raw const all, &raw mut before, 8);
    before
}

/// Signals that wait until they are let in (rt_sigpending(2)).
pub fn pending() -> SigSet {
    let mut set = SigSet::EMPTY;
    // Cannot fail: a valid pointer and size.
    let _ = safe_call!(nr::RT_SIGPENDING, &raw mut set, 8);
    // SAFETY: the kernel has written it behind the compiler's back.
    unsafe { (&raw const set).read_volatile() }
}

/// A soft and a hard limit.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Limit {
    /// In force.
    pub soft: u64,
    /// Its bound.
    pub hard: u64,
}

/// RLIMIT_DATA.
pub const LIMIT_DATA: u32 = 2;
/// RLIMIT_STACK.
pub const LIMIT_STACK: u32 = 3;
/// RLIMIT_NOFILE.
pub const LIMIT_DESCRIPTORS: u32 = 7;

/// getrlimit(2).
pub fn limit(which: u32) -> Limit {
    let mut limit = Limit { soft: u64::MAX, hard: u64::MAX };
    // Cannot fail for oneself with a known resource.
    let _ = safe_call!(nr::PRLIMIT64, 0, which, 0, &raw mut limit);
    limit
}

/// setrlimit(2).
pub fn set_limit(which: u32, limit: Limit) -> Result<(), Errno> {
    safe_call!(nr::PRLIMIT64, 0, which, &raw const limit, 0).map(|_| ())
}

/// The parts of struct stat that the runtime reads.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Stat {
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    links: u64,
    /// Type and permissions.
    pub mode: u32,
    owner: [u32; 2],
    padding: u32,
    /// Device number of a special file.
    pub special: u64,
    /// Bytes.
    pub size: u64,
    rest: [u64; 11],
}

const _: () = assert!(size_of::<Stat>() == 144);

impl Stat {
    /// A regular file.
    pub fn is_regular(&self) -> bool {
        self.mode & 0o170000 == 0o100000
    }

    /// /dev/zero.
    pub fn is_zero_device(&self) -> bool {
        self.mode & 0o170000 == 0o020000 && self.special == 0x105
    }
}

/// fstat(2).
pub fn stat(fd: Fd) -> Result<Stat, Errno> {
    // SAFETY: Stat is plain numbers.
    let mut stat: Stat = unsafe { core::mem::zeroed() };
    safe_call!(nr::FSTAT, fd, &raw mut stat)?;
    Ok(stat)
}

/// pread(2) until the buffer is full or the file ends; returns the bytes read.
pub fn read_at(fd: Fd, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        let read = safe_call!(nr::PREAD64, fd, rest.as_mut_ptr(), rest.len(), offset + done as u64)? as usize;
        if read == 0 {
            break;
        }
        done += read;
    }
    Ok(done)
}
