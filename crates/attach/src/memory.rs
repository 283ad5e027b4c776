//! The userfaultfd and the mapping.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use client::UFFD_FEATURES;

use crate::{AttachError, check, raw};

const UFFD_API: u64 = 0xAA;
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_WAKE: u64 = 0x8010_aa02;
/// `_IO(USERFAULTFD_IOC, 0x00)` on `/dev/userfaultfd`.
const USERFAULTFD_IOC_NEW: u64 = 0xaa00;
/// Missing pages, write protection, pages that are in the memfd already.
const REGISTER_MODES: u64 = 1 | 2 | 4;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Pages {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: Pages,
    mode: u64,
    ioctls: u64,
}

// The sizes are part of the numbers above.
const _: () =
    assert!(size_of::<Api>() == 0x18 && size_of::<Register>() == 0x20 && size_of::<Pages>() == 0x10);

/// A userfaultfd that serves faults of system calls, too; its handshake is done.
pub fn userfaultfd() -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: a plain system call.
    let fd = match check(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) } as i32) {
        Ok(fd) => fd,
        Err(error) => {
            let Ok(device) = std::fs::File::open("/dev/userfaultfd") else { return Err(error) };
            // SAFETY: the call takes flags and no pointer.
            check(unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, flags) })?
        }
    };
    // SAFETY: the descriptor was just made and is nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut api = Api { api: UFFD_API, features: UFFD_FEATURES, ioctls: 0 };
    // SAFETY: `api` is the structure that this call takes.
    check(unsafe { libc::ioctl(raw(&fd), UFFDIO_API, &raw mut api) })?;
    Ok(fd)
}

/// The range, which is this process's to map, and in which there is nothing.
#[derive(Debug)]
pub struct Range {
    start: u64,
    bytes: u64,
    taken: bool,
}

impl Range {
    /// Takes the range. A process has one, so that it is attached once.
    ///
    /// # Errors
    /// [`AttachError::Taken`] if anything lies there; [`AttachError::Map`].
    pub fn take(start: u64, bytes: u64) -> Result<Self, AttachError> {
        let mut range = Self { start, bytes, taken: false };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: the kernel refuses to replace what is there.
        let at = unsafe { libc::mmap(range.address(), bytes as usize, libc::PROT_NONE, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::EEXIST) => AttachError::Taken { start, bytes },
                _ => AttachError::Map("mmap", error),
            });
        }
        range.taken = true;
        Ok(range)
    }

    fn address(&self) -> *mut libc::c_void {
        ptr::with_exposed_provenance_mut(self.start as usize)
    }

    /// Gives the range back.
    pub fn unmap(&mut self) {
        if std::mem::take(&mut self.taken) {
            // SAFETY: our own range; who attached says that nobody uses it any more.
            unsafe { libc::munmap(self.address(), self.bytes as usize) };
        }
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        self.unmap();
    }
}

/// The range, mapped and registered. It goes before the userfaultfd does.
#[derive(Debug)]
pub struct Mapping {
    range: Range,
    uffd: OwnedFd,
}

impl Mapping {
    /// Maps the memfd in the range.
    pub fn new(range: Range, uffd: OwnedFd, memfd: &OwnedFd) -> Result<Self, AttachError> {
        let failed = |call| move |error| AttachError::Map(call, error);
        let (at, bytes) = (range.address(), range.bytes as usize);
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // Not accessible until it is registered.
        // SAFETY: what is replaced is our own.
        let mapped = unsafe { libc::mmap(at, bytes, libc::PROT_NONE, flags, raw(memfd), range.start as i64) };
        if mapped == libc::MAP_FAILED {
            return Err(AttachError::Map("mmap", io::Error::last_os_error()));
        }
        let mut register = Register {
            range: Pages { start: range.start, len: range.bytes },
            mode: REGISTER_MODES,
            ioctls: 0,
        };
        // SAFETY: `register` is the structure that this call takes; the other calls are about our own mapping.
        unsafe {
            check(libc::ioctl(raw(&uffd), UFFDIO_REGISTER, &raw mut register))
                .map_err(failed("UFFDIO_REGISTER"))?;
            for (advice, name) in
                [(libc::MADV_DONTFORK, "MADV_DONTFORK"), (libc::MADV_DONTDUMP, "MADV_DONTDUMP")]
            {
                check(libc::madvise(at, bytes, advice)).map_err(failed(name))?;
            }
            check(libc::mprotect(at, bytes, libc::PROT_READ | libc::PROT_WRITE))
                .map_err(failed("mprotect"))?;
        }
        Ok(Self { range, uffd })
    }

    /// What ends the space in this process, for as long as the mapping is.
    pub fn ender(&self) -> Ender {
        Ender { uffd: raw(&self.uffd), start: self.range.start, bytes: self.range.bytes }
    }

    /// The range is not this process's, but its parent's.
    pub fn forget(&mut self) {
        self.range.taken = false;
    }
}

/// Ends a space in this process. The mapping outlives it.
#[derive(Clone, Copy, Debug)]
pub struct Ender {
    uffd: i32,
    start: u64,
    bytes: u64,
}

impl Ender {
    /// From now on who touches the range gets SIGBUS, and who sleeps in a fault of it is woken to get it: an empty file takes the place of
    /// the space, in this process alone. Where there can be none, nothing does, and it is SIGSEGV.
    pub fn end(self) {
        let mut pages = Pages { start: self.start, len: self.bytes };
        let at = ptr::with_exposed_provenance_mut(self.start as usize);
        let fixed = libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: plain system calls; what is replaced is our own mapping, and stays one. `pages` is the structure that the call takes.
        unsafe {
            let empty = libc::memfd_create(c"megalith-ended".as_ptr(), libc::MFD_CLOEXEC);
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let mapped = libc::mmap(at, self.bytes as usize, prot, libc::MAP_SHARED | fixed, empty, 0);
            if mapped == libc::MAP_FAILED {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed;
                libc::mmap(at, self.bytes as usize, libc::PROT_NONE, flags, -1, 0);
            }
            libc::close(empty);
            libc::ioctl(self.uffd, UFFDIO_WAKE, &raw mut pages);
        }
    }
}
