//! Where the space's bytes are: with the agent, or, in bare mode, in this process's own memfd.

use client::{Op, Reply, Request, UFFD_FEATURES, VERSION};
use megalith_runtime::errno::{EPERM, EPROTO, Errno};
use megalith_runtime::layout::Span;
use megalith_runtime::{SPACE_END, nr};

use crate::sys::{self, Fd, safe_call};
use crate::{message, own, say};

/// Who holds the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// This process alone, for tests and for measuring the runtime by itself.
    Bare,
    /// The agent, over [`own::SOCKET`].
    Agent,
}

const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const USERFAULTFD_IOC_NEW: u64 = 0xaa00;
/// MISSING, WP and MINOR.
const REGISTER_MODES: u64 = 7;
const CLOEXEC_NONBLOCK: u64 = 0o2004000;
const PUNCH_HOLE_KEEP_SIZE: u64 = 3;

/// Opens a space of this process alone; returns the bytes that the machine has.
pub fn open_bare() -> Result<u64, Errno> {
    let memfd = safe_call!(nr::MEMFD_CREATE, c"megalith".as_ptr(), 1)? as Fd;
    own::keep(memfd, own::MEMFD, true)?;
    safe_call!(nr::FTRUNCATE, own::MEMFD, SPACE_END)?;
    let mut info = [0u64; 14];
    safe_call!(nr::SYSINFO, info.as_mut_ptr())?;
    // totalram and totalswap, in units of the low half of word 13.
    let unit = (info[13] & 0xffff_ffff).max(1);
    Ok(info[4].saturating_add(info[8]).saturating_mul(unit))
}

/// Opens a space at the agent behind `socket_path`; returns its number and the bytes that the machine has.
pub fn open(socket_path: &[u8], machine: u64) -> (u64, u64) {
    let uffd = match userfaultfd() {
        Ok(uffd) => uffd,
        Err(EPERM) => {
            say::fatal(&[b"userfaultfd is not permitted; `sysctl vm.unprivileged_userfaultfd=1` mends it"])
        }
        Err(errno) => say::fatal(&[b"no userfaultfd with the needed features: ", errno.name().as_bytes()]),
    };
    let kept = connect(socket_path).and_then(|socket| {
        own::keep(socket, own::SOCKET, true)?;
        own::keep(uffd, own::UFFD, true)
    });
    if let Err(errno) = kept {
        say::fatal(&[b"no connection to the agent at ", socket_path, b": ", errno.name().as_bytes()]);
    }
    let (reply, memfd) = ask(Op::Hello, [VERSION, machine, 0, 0], Some(own::UFFD));
    match (Errno::check(reply.status), memfd) {
        (Err(EPROTO), _) => say::fatal(&[b"the agent speaks another version than this runtime"]),
        (Err(errno), _) => say::fatal(&[b"the agent refuses a space: ", errno.name().as_bytes()]),
        (Ok(_), None) => say::fatal(&[b"the agent sent no memory"]),
        (Ok(_), Some(memfd)) => {
            if let Err(errno) = own::keep(memfd, own::MEMFD, true) {
                say::fatal(&[b"the space's memory cannot be kept: ", errno.name().as_bytes()]);
            }
        }
    }
    (reply.values[0], reply.values[1])
}

/// A userfaultfd with the features that the agent wants, by either of the ways to get one.
pub fn userfaultfd() -> Result<Fd, Errno> {
    let direct = safe_call!(nr::USERFAULTFD, CLOEXEC_NONBLOCK);
    let fd = match direct {
        Ok(fd) => fd as Fd,
        Err(errno) => {
            let device = safe_call!(nr::OPENAT, -100i64, c"/dev/userfaultfd".as_ptr(), 0o2000002)
                .map_err(|_| errno)?;
            let fd = safe_call!(nr::IOCTL, device, USERFAULTFD_IOC_NEW, CLOEXEC_NONBLOCK);
            sys::close(device as Fd);
            fd? as Fd
        }
    };
    let mut api = [0xaa, UFFD_FEATURES, 0];
    safe_call!(nr::IOCTL, fd, UFFDIO_API, api.as_mut_ptr())?;
    if api[1] & UFFD_FEATURES != UFFD_FEATURES {
        return Err(megalith_runtime::errno::EINVAL);
    }
    Ok(fd)
}

/// A connection to the agent behind `path`.
pub fn connect(path: &[u8]) -> Result<Fd, Errno> {
    let mut address = [0u8; 110];
    address[0] = 1;
    address[2..]
        .get_mut(..path.len())
        .filter(|_| path.len() < 108)
        .ok_or(megalith_runtime::errno::ENAMETOOLONG)?
        .copy_from_slice(path);
    let socket = safe_call!(nr::SOCKET, 1, 5 | 0o2000000, 0)? as Fd;
    safe_call!(nr::CONNECT, socket, address.as_ptr(), 110)?;
    Ok(socket)
}

fn lost() -> ! {
    say::fatal(&[b"the agent of this host is gone"])
}

/// Asks the agent; ends the process if the agent is gone. The lock that guards the connection must be held: the
/// space's, and in a body process that of its map.
pub fn ask(op: Op, args: [u64; 4], fd: Option<Fd>) -> (Reply, Option<Fd>) {
    if !message::send(own::SOCKET, &Request { op: op as u64, args }, fd) {
        lost();
    }
    // Ends with the agent: its death closes the socket, and a lost host kills the clients.
    message::receive(own::SOCKET, Reply { status: 0, values: [0; 4] }).unwrap_or_else(|| lost())
}

impl Backing {
    /// Makes the agent see the faults of `span`, which is mapped from the memfd.
    pub fn register(self, span: Span) -> Result<(), Errno> {
        if self == Backing::Bare {
            return Ok(());
        }
        let mut register = [span.start, span.bytes(), REGISTER_MODES, 0];
        safe_call!(nr::IOCTL, own::UFFD, UFFDIO_REGISTER, register.as_mut_ptr()).map(|_| ())
    }

    /// Forgets the bytes of `span`: the next touch finds zeros.
    pub fn clear(self, span: Span) {
        match self {
            Backing::Bare => punch(span),
            Backing::Agent => expect(ask(Op::Clear, [span.start, span.bytes(), 0, 0], None).0),
        }
    }

    /// Forgets the bytes of `span`: the next touch finds what a first touch would. In bare mode there is nobody
    /// who could read the file again, so private file pages stay as they are.
    pub fn discard(self, span: Span, file: bool) {
        match self {
            Backing::Bare if file => {}
            Backing::Bare => punch(span),
            Backing::Agent => expect(ask(Op::Discard, [span.start, span.bytes(), 0, 0], None).0),
        }
    }

    /// The next touch of a page in `span` finds the bytes of `fd` from `offset` on. `span` is mapped and may be
    /// read and written by the runtime; in bare mode it is filled at once.
    pub fn fill(self, span: Span, fd: Fd, offset: u64) -> Result<(), Errno> {
        if self == Backing::Agent {
            return Errno::check(ask(Op::Back, [span.start, span.bytes(), offset, 0], Some(fd)).0.status)
                .map(|_| ());
        }
        // SAFETY: the span is mapped from the memfd, readable and writable, and the program is not told of it yet.
        let bytes = unsafe { core::slice::from_raw_parts_mut(span.start as *mut u8, span.bytes() as usize) };
        sys::read_at(fd, bytes, offset).map(|_| ())
    }
}

fn expect(reply: Reply) {
    if let Err(errno) = Errno::check(reply.status) {
        say::fatal(&[b"the agent could not forget memory: ", errno.name().as_bytes()]);
    }
}

fn punch(span: Span) {
    if let Err(errno) = safe_call!(nr::FALLOCATE, own::MEMFD, PUNCH_HOLE_KEEP_SIZE, span.start, span.bytes())
    {
        say::fatal(&[b"memory cannot be given back: ", errno.name().as_bytes()]);
    }
}
