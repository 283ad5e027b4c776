//! The memfd that backs one space on one host. A page's place in it is its address.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use client::{PAGE_BYTES, SPACE_END};

#[cfg(feature = "sim")]
use crate::sim::SimSpace;

/// A sparse file in memory, as long as the address space below [`SPACE_END`].
#[derive(Debug)]
pub struct Memfd {
    file: File,
    /// It is empty for good.
    withdrawn: AtomicBool,
}

#[derive(Debug)]
enum File {
    Kernel(OwnedFd),
    #[cfg(feature = "sim")]
    Simulated(std::sync::Arc<SimSpace>),
}

impl Memfd {
    /// Makes one; it takes no memory until pages are mapped.
    ///
    /// # Errors
    /// Those of memfd_create(2) and ftruncate(2).
    pub fn new() -> io::Result<Self> {
        const NAME: &CStr = c"megalith";
        // SAFETY: a constant string and no pointers kept.
        let fd = unsafe { libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: plain call on our descriptor.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), SPACE_END as i64) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { file: File::Kernel(fd), withdrawn: AtomicBool::new(false) })
    }

    #[cfg(feature = "sim")]
    pub(crate) fn simulated(space: std::sync::Arc<SimSpace>) -> Self {
        Self { file: File::Simulated(space), withdrawn: AtomicBool::new(false) }
    }

    /// Takes all pages away from every client, and all addresses: whoever touches one from now on gets SIGBUS, be he registered with a
    /// userfaultfd or not, and a system call that does gets EFAULT.
    pub fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Release);
        let fd = match &self.file {
            File::Kernel(fd) => fd,
            #[cfg(feature = "sim")]
            File::Simulated(space) => return space.withdraw(),
        };
        // SAFETY: a plain system call on our descriptor. Shortening a memfd without seals does not fail.
        unsafe { libc::ftruncate(fd.as_raw_fd(), 0) };
    }

    /// Reads whole pages from `address` on into `bytes`; zeros once the memfd is withdrawn, when nobody is told of them any more.
    ///
    /// # Panics
    /// When the file is shorter than asked: it never is.
    pub fn read(&self, address: u64, bytes: &mut [u8]) {
        let fd = match &self.file {
            File::Kernel(fd) => fd,
            #[cfg(feature = "sim")]
            File::Simulated(space) => return space.pread(address, bytes),
        };
        let mut done = 0;
        while done < bytes.len() {
            let rest = &mut bytes[done..];
            // SAFETY: the buffer is ours, writable, and as long as we say.
            let n = unsafe {
                libc::pread(
                    fd.as_raw_fd(),
                    rest.as_mut_ptr().cast(),
                    rest.len(),
                    (address + done as u64) as i64,
                )
            };
            if n == 0 && self.withdrawn.load(Ordering::Acquire) {
                rest.fill(0);
                return;
            }
            assert!(n > 0, "pread of the space at {address:#x}: {}", io::Error::last_os_error());
            done += n as usize;
        }
    }

    /// Takes pages away from every client and gives their memory back.
    ///
    /// # Panics
    /// When the kernel refuses what it has no reason to refuse.
    pub fn punch(&self, address: u64, pages: u64) {
        let fd = match &self.file {
            File::Kernel(fd) => fd,
            #[cfg(feature = "sim")]
            File::Simulated(space) => return space.punch(address, pages),
        };
        // SAFETY: plain call on our descriptor.
        let result = unsafe {
            libc::fallocate(
                fd.as_raw_fd(),
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                address as i64,
                (pages * PAGE_BYTES) as i64,
            )
        };
        assert!(result == 0, "punching {address:#x}: {}", io::Error::last_os_error());
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.file {
            File::Kernel(fd) => fd.as_fd(),
            #[cfg(feature = "sim")]
            File::Simulated(_) => panic!("no process maps a simulated space"),
        }
    }
}
