//! A shared space in the calling process, which may be any: a Python interpreter, a worker (docs/python.md).
//!
//! [`Attachment::open`] maps the space at its one address, registered with a userfaultfd that the host's agent serves. All of it is one
//! mapping, which a child made by fork(2) does not have, and which no core dump holds.
//!
//! | file | what |
//! |---|---|
//! | `lib.rs` | the attachment |
//! | `socket.rs` | packets to and from the agent |
//! | `memory.rs` | the userfaultfd and the mapping |
//! | `word.rs` | atomic operations on its memory |
//! | `space_heap.rs` | blocks of its memory for who allocates often: numpy |
//! | `watch.rs` | the end of the space: the thread that hears of it, and the line that a process says when it touches it then |
//!
//! Invariants:
//! - the range is not accessible before it is registered, and is unmapped before the userfaultfd is closed: no thread ever finds
//!   what the memfd happens to hold;
//! - once the agent has hung up, whoever touches the range gets SIGBUS (a system call: EFAULT), and whoever sleeps in a fault of it is
//!   woken to find that.

mod memory;
mod socket;
mod space_heap;
mod watch;
mod word;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use client::{HELD_BYTES_MAX, Op, PAGE_BYTES, SHARED_BYTES, SHARED_START};

use memory::{Mapping, Range};
use socket::Socket;
pub use space_heap::SpaceHeap;
use watch::Watch;
pub use watch::say_when_touched;

/// Pages that [`Attachment::touch`] touches before it asks again whether it shall go on.
const TOUCHED_AT_ONCE: u64 = 1024;

/// Why a process could not attach.
#[derive(Debug)]
pub enum AttachError {
    /// No agent is there, or it takes no connection.
    Agent(io::Error),
    /// The agent refused, with an errno.
    Refused(io::Error),
    /// The agent speaks another version of the protocol: its, and ours.
    Version(u64, u64),
    /// This process may make no userfaultfd that serves faults of system calls.
    Userfaultfd(io::Error),
    /// Something else of this process lies in the range.
    Taken {
        /// The range's first address.
        start: u64,
        /// The range's length in bytes.
        bytes: u64,
    },
    /// The range cannot be mapped: what failed, and why.
    Map(&'static str, io::Error),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(error) => write!(f, "this host's agent cannot be reached: {error}"),
            Self::Refused(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                f.write_str("the machine or its shared space has ended, or was never there")
            }
            Self::Refused(error) => write!(f, "this host's agent refuses: {error}"),
            Self::Version(theirs, ours) => {
                write!(
                    f,
                    "this host's agent speaks version {theirs} of the clients' protocol, this process version {ours}"
                )
            }
            Self::Userfaultfd(error) => {
                write!(f, "no userfaultfd(2) can be had ({error}); see: megalith doctor")
            }
            Self::Taken { start, bytes } => write!(
                f,
                "something else of this process lies in the machine's addresses, {start:#x} to {:#x}: attach before it is loaded",
                start + bytes
            ),
            Self::Map(call, error) => write!(f, "the machine's memory cannot be mapped: {call}: {error}"),
        }
    }
}

impl std::error::Error for AttachError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Agent(e) | Self::Refused(e) | Self::Userfaultfd(e) | Self::Map(_, e) => Some(e),
            Self::Version(..) | Self::Taken { .. } => None,
        }
    }
}

/// A shared space in this process.
#[derive(Debug)]
pub struct Attachment {
    number: u32,
    hosts: u64,
    start: u64,
    bytes: u64,
    /// The process that attached; a child has copies of the descriptors, and nothing else.
    process: u32,
    /// Taken by [`Attachment::close`]. Whoever touches the mapping here holds it, maybe asleep in a fault.
    open: RwLock<Option<Open>>,
    /// The agent has hung up.
    ended: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Open {
    // In the order in which they go.
    watch: Watch,
    mapping: Mapping,
    socket: Arc<Socket>,
}

impl Attachment {
    /// Attaches this process to space `number` of `machine`, through the agent whose `client.sock` this is.
    ///
    /// # Errors
    /// [`AttachError`]; then nothing is mapped.
    pub fn open(client_socket: &Path, machine: u64, number: u32) -> Result<Self, AttachError> {
        // First: the agent takes a process that asks for one that is not attached.
        let range = Range::take(SHARED_START, SHARED_BYTES)?;
        let socket = Arc::new(Socket::connect(client_socket).map_err(AttachError::Agent)?);
        let uffd = memory::userfaultfd().map_err(AttachError::Userfaultfd)?;
        let args = [client::VERSION, machine, u64::from(number), 0];
        let (reply, memfd) =
            socket.exchange(Op::Attach, args, Some(uffd.as_fd())).map_err(AttachError::Agent)?;
        let memfd = match (reply.status, memfd) {
            (0, Some(memfd)) => memfd,
            (0, None) => return Err(AttachError::Agent(io::Error::other("it sent no memory"))),
            (status, _) if status == -i64::from(libc::EPROTO) => {
                return Err(AttachError::Version(reply.values[0], client::VERSION));
            }
            (status, _) => {
                return Err(AttachError::Refused(io::Error::from_raw_os_error(-status as i32)));
            }
        };
        let [start, bytes, hosts, _] = reply.values;
        if (start, bytes) != (SHARED_START, SHARED_BYTES) {
            return Err(AttachError::Agent(io::Error::other("its space lies elsewhere")));
        }
        let mapping = Mapping::new(range, uffd, &memfd)?;
        let ended = Arc::new(AtomicBool::new(false));
        let watch =
            Watch::start(&socket, &mapping, &ended).map_err(|e| AttachError::Map("pthread_create", e))?;
        let open = RwLock::new(Some(Open { watch, mapping, socket }));
        Ok(Self { number, hosts, start, bytes, process: std::process::id(), open, ended })
    }

    /// The space's number in its machine.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How many hosts the machine has.
    pub fn hosts(&self) -> u64 {
        self.hosts
    }

    /// The first address.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Bytes of addresses.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The process that attached.
    pub fn process(&self) -> u32 {
        self.process
    }

    /// Whether the space can be touched in this process.
    pub fn is_open(&self) -> bool {
        !self.has_ended() && self.socket().is_ok()
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Frees whole pages on all hosts: when it returns, none finds the old bytes, and the next touch finds zeros. Threads that use the
    /// pages meanwhile find either. At the space's home host alone.
    ///
    /// # Errors
    /// `EBADF` if the attachment is closed or a parent's; `EINVAL` for a range that is not of whole pages of the space, `EPERM` on another
    /// host, `EPIPE` or `EIO` if the machine has ended.
    pub fn discard(&self, address: u64, bytes: u64) -> io::Result<()> {
        self.ask(Op::Discard, [address, bytes, 0, 0]).map(drop)
    }

    /// Starts a worker process on a host of the machine: the connection with it. At the space's home host alone.
    ///
    /// # Errors
    /// `EBADF` and `EPERM` as for [`Attachment::discard`]; `EINVAL` for a host that is not there, `ECONNREFUSED` or `EHOSTUNREACH` where
    /// there can be no worker.
    pub fn start_worker(&self, host: u64) -> io::Result<OwnedFd> {
        let worker = self.ask(Op::Worker, [host, 0, 0, 0])?;
        worker.ok_or_else(|| io::Error::other("the agent sent no connection"))
    }

    /// What this host has of the whole pages of a range: a byte for each, 0 nothing, 1 a copy, 2 the page itself. No page moves.
    /// They are looked at one after the other, so it is no picture of one moment.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL` and `EPIPE` as for [`Attachment::discard`].
    pub fn held(&self, address: u64, bytes: u64) -> io::Result<Vec<u8>> {
        let mut found = Vec::with_capacity((bytes / PAGE_BYTES) as usize);
        let mut at = 0;
        while at < bytes {
            let part = (bytes - at).min(HELD_BYTES_MAX);
            let file = self.ask(Op::Held, [address + at, part, 0, 0])?;
            let file = file.ok_or_else(|| io::Error::other("the agent sent no file"))?;
            let before = found.len();
            found.resize(before + (part / PAGE_BYTES) as usize, 0);
            File::from(file).read_exact_at(&mut found[before..], 0)?;
            at += part;
        }
        Ok(found)
    }

    /// Touches the whole pages of a range, one after the other, so that they come to this host: to read, or to write. Their bytes
    /// stay as they are. It ends early, with the number of pages that it has touched, when `stop` says so, which is asked from time to
    /// time.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL` and `EPIPE` as for [`Attachment::load`]; a machine that ends in the middle is SIGBUS.
    pub fn touch(
        &self,
        address: u64,
        bytes: u64,
        write: bool,
        mut stop: impl FnMut() -> bool,
    ) -> io::Result<u64> {
        let pages = bytes / PAGE_BYTES;
        for page in 0..pages {
            if page % TOUCHED_AT_ONCE == 0 && stop() {
                return Ok(page);
            }
            let word = address + page * PAGE_BYTES;
            if write { self.fetch_add(word, 0).map(drop)? } else { self.load(word).map(drop)? }
        }
        Ok(pages)
    }

    /// Hangs up on an agent that does not answer (it is stopped, say). The memory ends as if the agent had died, and so does every wait for
    /// it in here: whoever sleeps in a fault gets SIGBUS, whoever asks for something `EPIPE`.
    pub fn hang_up(&self) {
        if let Ok(socket) = self.socket() {
            socket.shut_down();
        }
    }

    /// Unmaps the space and leaves it, once. In a child of the process that attached, the copies of the descriptors are closed.
    pub fn close(&self) {
        let open = self.open.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Open { mut watch, mut mapping, socket }) = open {
            if self.process == std::process::id() {
                watch.stop();
            } else {
                watch.forget();
                mapping.forget();
            }
            drop(mapping);
            // Behind the mapping: who hangs up and still maps the space is killed.
            drop(socket);
        }
    }

    fn socket(&self) -> io::Result<Arc<Socket>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let own = self.process == std::process::id();
        let socket = open.as_ref().filter(|_| own).map(|open| open.socket.clone());
        socket.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    fn ask(&self, op: Op, args: [u64; 4]) -> io::Result<Option<OwnedFd>> {
        let (reply, descriptor) = self.socket()?.exchange(op, args, None)?;
        match reply.status {
            0 => Ok(descriptor),
            status => Err(io::Error::from_raw_os_error(-status as i32)),
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.close();
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn raw(fd: &impl AsRawFd) -> i32 {
    fd.as_raw_fd()
}
