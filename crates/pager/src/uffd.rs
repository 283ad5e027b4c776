//! userfaultfd(2): the few calls that we make, on descriptors that a client made and sent us.
//!
//! The numbers are linux/userfaultfd.h's; the structures' sizes, which the kernel encodes in them, are proved at
//! compile time. Results are read from the structures' own signed fields where the kernel puts them there: a
//! partial success returns an error *and* a count.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use coherence::PageId;

use crate::streams::Streams;

#[cfg(feature = "sim")]
use crate::sim::SimSpace;

const PAGE: u64 = client::PAGE_BYTES;

#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

#[repr(C)]
struct ZeroPage {
    range: Range,
    mode: u64,
    zeroed: i64,
}

#[repr(C)]
struct WriteProtect {
    range: Range,
    mode: u64,
}

#[repr(C)]
struct Continue {
    range: Range,
    mode: u64,
    mapped: i64,
}

/// `struct uffd_msg`, of which we read page faults alone: no other event is asked for.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawEvent {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    ptid: u64,
}

const fn iowr<T>(number: u64) -> u64 {
    (3 << 30) | ((size_of::<T>() as u64) << 16) | (0xAA << 8) | number
}
const fn ior<T>(number: u64) -> u64 {
    (2 << 30) | ((size_of::<T>() as u64) << 16) | (0xAA << 8) | number
}

const UFFDIO_WAKE: u64 = ior::<Range>(2);
const UFFDIO_COPY: u64 = iowr::<Copy>(3);
const UFFDIO_ZEROPAGE: u64 = iowr::<ZeroPage>(4);
const UFFDIO_WRITEPROTECT: u64 = iowr::<WriteProtect>(6);
const UFFDIO_CONTINUE: u64 = iowr::<Continue>(7);

// The values that the kernel's own header gives on x86-64.
const _: () = assert!(UFFDIO_WAKE == 0x8010_aa02);
const _: () = assert!(UFFDIO_COPY == 0xc028_aa03);
const _: () = assert!(UFFDIO_ZEROPAGE == 0xc020_aa04);
const _: () = assert!(UFFDIO_WRITEPROTECT == 0xc018_aa06);
const _: () = assert!(UFFDIO_CONTINUE == 0xc020_aa07);
const _: () = assert!(size_of::<RawEvent>() == 32);

const EVENT_PAGEFAULT: u8 = 0x12;
const FAULT_WRITE: u64 = 1 << 0;
const FAULT_WP: u64 = 1 << 1;
const FAULT_MINOR: u64 = 1 << 2;
const COPY_MODE_WP: u64 = 1 << 1;
const WRITEPROTECT_ON: u64 = 1 << 0;
const CONTINUE_MODE_WP: u64 = 1 << 1;

/// A page fault that a thread of a client waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The address, anywhere in the page.
    pub address: u64,
    /// The thread wants to write.
    pub write: bool,
    /// The page is in the memfd but not in this client's page table.
    pub minor: bool,
    /// The thread, as it knows itself (gettid(2)); 0 where the client has not asked for that.
    pub thread: u32,
}

/// How a mapping call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// All the pages are mapped, and who waited for them is awake.
    All,
    /// The first `pages` pages are mapped; the next is in the memfd already.
    Exists {
        /// Pages mapped before the one that stood in the way.
        pages: u64,
    },
    /// Nothing is mapped: some of the range is not (or no longer) the client's.
    Unmapped,
    /// The address space is changing; try again.
    Again {
        /// Pages mapped so far.
        pages: u64,
    },
    /// The client is gone.
    Gone,
}

/// Names a client, among all of this agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(u32);

/// The next client's name. After 2^32 clients names come again: then one may be taken for another in a hint, no more.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// One client's userfaultfd.
#[derive(Debug)]
pub struct Uffd {
    id: ClientId,
    process: Process,
    /// Its walks through pages that it does not see yet and that are here.
    shown: Box<Mutex<Streams>>,
}

#[derive(Debug)]
enum Process {
    Kernel(OwnedFd),
    #[cfg(feature = "sim")]
    /// A space, and the process's place among those that map it.
    Simulated(std::sync::Arc<SimSpace>, usize),
}

impl Uffd {
    /// Takes a descriptor whose `UFFDIO_API` handshake the client has done.
    pub fn new(fd: OwnedFd) -> Self {
        Self::of(Process::Kernel(fd))
    }

    #[cfg(feature = "sim")]
    pub(crate) fn simulated(space: std::sync::Arc<SimSpace>, process: usize) -> Self {
        Self::of(Process::Simulated(space, process))
    }

    fn of(process: Process) -> Self {
        let id = ClientId(NEXT.fetch_add(1, Ordering::Relaxed));
        Self { id, process, shown: Box::new(Mutex::new(Streams::shown())) }
    }

    /// The client's name.
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// A fault at a page that is here: the pages, from it on, that it should be shown, as [`Streams::window`] has it.
    pub(crate) fn window(&self, page: PageId, to_border: u64) -> u64 {
        // What a panic leaves is a guess as good as any.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).window(page, to_border)
    }

    /// For poll(2).
    pub fn raw(&self) -> RawFd {
        match &self.process {
            Process::Kernel(fd) => fd.as_raw_fd(),
            #[cfg(feature = "sim")]
            Process::Simulated(..) => panic!("a simulated process's faults are read where it is simulated"),
        }
    }

    /// Reads the faults that wait, at most 16, without blocking.
    ///
    /// # Errors
    /// Those of read(2), but not `EAGAIN`, which is no fault at all.
    pub fn read(&self, faults: &mut Vec<Fault>) -> io::Result<()> {
        let empty = RawEvent { event: 0, reserved: [0; 7], flags: 0, address: 0, ptid: 0 };
        let mut events = [empty; 16];
        // SAFETY: the buffer is ours, writable, and as long as we say.
        let n = unsafe { libc::read(self.raw(), events.as_mut_ptr().cast(), size_of_val(&events)) };
        if n < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) };
        }
        let count = n as usize / size_of::<RawEvent>();
        for event in events[..count].iter().filter(|e| e.event == EVENT_PAGEFAULT) {
            faults.push(Fault {
                address: event.address,
                write: event.flags & (FAULT_WRITE | FAULT_WP) != 0,
                minor: event.flags & FAULT_MINOR != 0,
                thread: event.ptid as u32,
            });
        }
        Ok(())
    }

    /// Maps `bytes` (whole pages) at `address` and wakes who waits there.
    pub fn copy(&self, address: u64, bytes: &[u8], write_protected: bool) -> Mapped {
        debug_assert!((bytes.len() as u64).is_multiple_of(PAGE) && address.is_multiple_of(PAGE));
        #[cfg(feature = "sim")]
        if let Process::Simulated(space, process) = &self.process {
            return space.copy(*process, address, bytes, write_protected);
        }
        let mut arg = Copy {
            dst: address,
            src: bytes.as_ptr() as u64,
            len: bytes.len() as u64,
            mode: if write_protected { COPY_MODE_WP } else { 0 },
            copied: 0,
        };
        // SAFETY: `arg` is the structure this call takes; the kernel only reads `bytes`, which we borrow.
        let result = unsafe { self.ioctl(UFFDIO_COPY, &mut arg) };
        outcome(result, arg.copied, arg.len)
    }

    /// Maps `pages` pages of zeros at `address` and wakes who waits there.
    pub fn zero(&self, address: u64, pages: u64) -> Mapped {
        #[cfg(feature = "sim")]
        if let Process::Simulated(space, process) = &self.process {
            return space.zero(*process, address, pages);
        }
        let mut arg = ZeroPage { range: Range { start: address, len: pages * PAGE }, mode: 0, zeroed: 0 };
        // SAFETY: `arg` is the structure this call takes.
        let result = unsafe { self.ioctl(UFFDIO_ZEROPAGE, &mut arg) };
        outcome(result, arg.zeroed, pages * PAGE)
    }

    /// Maps `pages` pages that are in the memfd already, and wakes who waits there. One that the process sees already stops it.
    pub fn continue_(&self, address: u64, pages: u64, write_protected: bool) -> Mapped {
        #[cfg(feature = "sim")]
        if let Process::Simulated(space, process) = &self.process {
            return space.continue_(*process, address, pages, write_protected);
        }
        let mut arg = Continue {
            range: Range { start: address, len: pages * PAGE },
            mode: if write_protected { CONTINUE_MODE_WP } else { 0 },
            mapped: 0,
        };
        // SAFETY: `arg` is the structure this call takes.
        let result = unsafe { self.ioctl(UFFDIO_CONTINUE, &mut arg) };
        outcome(result, arg.mapped, pages * PAGE)
    }

    /// Stops (`on`) or allows writing to `pages` pages; allowing wakes who waits to write.
    ///
    /// When it returns with `on`, no write that went before is still on its way: the kernel has flushed the
    /// translations.
    ///
    /// # Errors
    /// `ENOENT` where the client has unmapped some of the range, `ESRCH` where it is gone.
    pub fn write_protect(&self, address: u64, pages: u64, on: bool) -> io::Result<()> {
        #[cfg(feature = "sim")]
        if let Process::Simulated(space, process) = &self.process {
            return space.write_protect(*process, address, pages, on);
        }
        let mut arg = WriteProtect {
            range: Range { start: address, len: pages * PAGE },
            mode: if on { WRITEPROTECT_ON } else { 0 },
        };
        loop {
            // SAFETY: `arg` is the structure this call takes.
            match unsafe { self.ioctl(UFFDIO_WRITEPROTECT, &mut arg) } {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => std::thread::yield_now(),
                other => return other,
            }
        }
    }

    /// Whether a page is still the client's, and registered: not if it has unmapped it, has executed another program, or is dead.
    pub fn is_registered(&self, address: u64) -> bool {
        self.write_protect(address, 1, true).is_ok()
    }

    /// Wakes who waits in these pages, to try again.
    pub fn wake(&self, address: u64, pages: u64) {
        #[cfg(feature = "sim")]
        if let Process::Simulated(space, process) = &self.process {
            return space.wake(*process, address, pages);
        }
        let mut arg = Range { start: address, len: pages * PAGE };
        // SAFETY: `arg` is the structure this call takes. It fails only for ranges that nobody can wait in.
        let _ = unsafe { self.ioctl(UFFDIO_WAKE, &mut arg) };
    }

    /// # Safety
    /// `arg` must be the structure that `request` takes.
    unsafe fn ioctl<T>(&self, request: u64, arg: &mut T) -> io::Result<()> {
        // SAFETY: the caller's promise; the descriptor is open as long as `self`.
        if unsafe { libc::ioctl(self.raw(), request, std::ptr::from_mut(arg)) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

fn outcome(result: io::Result<()>, done: i64, len: u64) -> Mapped {
    let Err(error) = result else {
        debug_assert_eq!(done as u64, len);
        return Mapped::All;
    };
    // `done` is a count when positive, a negated errno when nothing was done.
    let pages = if done > 0 { done as u64 / PAGE } else { 0 };
    match error.raw_os_error() {
        Some(libc::EEXIST) => Mapped::Exists { pages },
        Some(libc::EAGAIN) if (done as u64) == len => Mapped::All,
        Some(libc::EAGAIN) => Mapped::Again { pages },
        Some(libc::ESRCH) => Mapped::Gone,
        // ENOENT: not the client's (any longer). EINVAL: a hole, or not registered.
        _ => Mapped::Unmapped,
    }
}
