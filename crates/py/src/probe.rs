//! Whether this process could make a userfaultfd that serves faults raised inside system calls (userfaultfd(2)).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What was found.
pub struct Found {
    /// A userfaultfd can be had.
    pub available: bool,
    /// …that serves faults raised in the kernel as well.
    pub kernel_faults: bool,
    /// The features that the kernel offers (linux/userfaultfd.h), 0 when none can be had.
    pub features: u64,
    /// Why not.
    pub error: Option<String>,
    /// How: `"syscall"` or `"device"`.
    pub via: Option<&'static str>,
}

const UFFD_API: u64 = 0xAA;
const UFFDIO_API: u64 = 0xc018_aa3f;
/// `_IO(USERFAULTFD_IOC, 0x00)` on `/dev/userfaultfd`.
const USERFAULTFD_IOC_NEW: u64 = 0xaa00;
const UFFD_USER_MODE_ONLY: i32 = 1;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// Tries the system call, then the device, then what is left without privilege.
pub fn userfaultfd() -> Found {
    let none = Found { available: false, kernel_faults: false, features: 0, error: None, via: None };
    let first = match by_syscall(0) {
        Ok(fd) => return with_features(&fd, true, "syscall"),
        Err(error) => error,
    };
    if let Ok(fd) = by_device() {
        return with_features(&fd, true, "device");
    }
    match by_syscall(UFFD_USER_MODE_ONLY) {
        Ok(fd) => Found { error: Some(first.to_string()), ..with_features(&fd, false, "syscall") },
        Err(_) => Found { error: Some(first.to_string()), ..none },
    }
}

fn by_syscall(flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call.
    owned(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK | flags) })
}

fn by_device() -> io::Result<OwnedFd> {
    let device = std::fs::File::open("/dev/userfaultfd")?;
    // SAFETY: the call takes flags and no pointer.
    owned(i64::from(unsafe {
        libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, libc::O_CLOEXEC | libc::O_NONBLOCK)
    }))
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn with_features(fd: &OwnedFd, kernel_faults: bool, via: &'static str) -> Found {
    let mut api = Api { api: UFFD_API, features: 0, ioctls: 0 };
    // SAFETY: `api` is the structure that this call takes.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut api) };
    let error = (result < 0).then(|| io::Error::last_os_error().to_string());
    Found { available: result == 0, kernel_faults, features: api.features, error, via: Some(via) }
}
