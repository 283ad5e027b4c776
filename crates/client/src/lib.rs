//! The words that a client process and its host's agent exchange.
//!
//! A *client* is any process that maps a space: the runtime inside an unmodified program today, a Python
//! worker or a hypervisor later. It connects to the agent's `client.sock` (a Unix `SOCK_SEQPACKET` socket),
//! sends one [`Request`] a packet, and reads one [`Reply`] a packet. File descriptors travel beside a packet
//! as `SCM_RIGHTS` (unix(7)). The agent learns who is calling from the socket (`SO_PEERCRED`), never from a
//! field.
//!
//! The crate is `no_std` and has no dependency, because one end of it is the freestanding runtime.
//!
//! ```text
//! client                                     agent
//!   Hello + userfaultfd            ─────▶
//!                                  ◀─────    space, machine's bytes + memfd
//!   Back(addr, len, offset) + file ─────▶     pages not yet touched read the file
//!   Discard / Clear (addr, len)    ─────▶     bytes are forgotten
//!                                  ◀─────    0 or -errno, once the range reads as new
//!   (close)                        ─────▶     the space is freed
//! ```
//!
//! In spread mode (docs/spread.md) there is more:
//!
//! ```text
//! home process                               home agent
//!   Channel(host, kind)            ─────▶     dials that host's agent, which hands the other end to its body process
//!                                  ◀─────    0 + connected TCP socket, or -EHOSTUNREACH, -ECONNREFUSED
//! steward, on a connection of its own
//!   Steward(version, machine, space) ───▶
//!                                  ◀─────    0
//!   Placed(tid, host, tid there, why) ──▶     (no answer)
//!                                  ◀─────    Request Move(tid, host)      (no answer)
//!
//! body process                               agent of its host
//!   Join(version, machine, space) + uffd ▶
//!                                  ◀─────    0 + memfd
//!   BackFromHome / Unback (addr, len) ──▶     0
//! and on its door, a SOCK_SEQPACKET socket that it inherits:
//!                                  ◀─────    Request Channel(kind) + connected TCP socket   (no answer)
//! ```
//!
//! A *shared* space (docs/python.md) is opened by the machine's owner and mapped by ordinary processes:
//!
//! ```text
//! any process, on any host                   agent of its host
//!   Attach(version, machine, space) + uffd ▶
//!                                  ◀─────    0, range, hosts + memfd
//!   Worker(host)                   ─────▶     starts a worker process there (home alone)
//!                                  ◀─────    0 + connected stream socket, the other end of which the worker has
//!   Discard(addr, len)             ─────▶     (home alone)
//!   Held(addr, len)                ─────▶
//!                                  ◀─────    0 + memfd: what this host has of each page
//!   (unmap, close)                 ─────▶     the process is forgotten; the space stays
//!                                  (close)    the space has ended: it cannot be touched any more
//! ```
#![no_std]

/// Version of this protocol; the agent refuses any other with `EPROTO` and its own version in `values[0]`.
pub const VERSION: u64 = 2;

/// Bytes of a page: the unit of coherence.
pub const PAGE_BYTES: u64 = 4096;

/// First address that belongs to the runtime and the kernel. Every address below it is the program's and lies
/// in the space, so a page's place in the memfd is its address: there is no translation.
pub const SPACE_END: u64 = 0x6000_0000_0000;

/// First address of a shared space: the same in every process of every host. Below the program's usual places (position-independent
/// executables at `0x5555…`, libraries and stacks at `0x7fff…`), above those of other allocators' hints (at most `0x1e00…`).
pub const SHARED_START: u64 = 0x2000_0000_0000;

/// Addresses of a shared space: 16 TiB, of which what is not touched costs nothing.
pub const SHARED_BYTES: u64 = 0x1000_0000_0000;

/// What a client asks. The operands' meaning stands at each variant, as `args[0]`, `args[1]`, ….
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Opens a space: `VERSION`, machine id. Carries the userfaultfd (UFFDIO_API done, features
    /// [`UFFD_FEATURES`]). The reply's values are the space's id, the machine's memory in bytes (the sum
    /// of the hosts' budgets) and how many hosts it has; it carries the space's memfd, [`SPACE_END`] bytes long
    /// and sparse.
    Hello = 1,
    /// Forgets the bytes of `[args[0], args[0] + args[1])`, whole pages: the next touch finds what a first
    /// touch would find (zeros, or the file given by [`Op::Back`]).
    Discard = 2,
    /// [`Op::Discard`], and forgets the file as well: the next touch finds zeros.
    Clear = 3,
    /// [`Op::Clear`], then: pages of `[args[0], args[0] + args[1])` read the file that this packet carries,
    /// from its byte `args[2]` on (a multiple of the page), when first touched; zeros past its end.
    Back = 4,
    /// Opens a space that another host's process has opened, as its body process here: `VERSION`, machine id,
    /// space. Carries the userfaultfd, the reply the memfd. Of the other operations only [`Op::BackFromHome`] and
    /// [`Op::Unback`] may follow.
    Join = 5,
    /// Pages of `[args[0], args[0] + args[1])` are read from a file by the home agent when first touched.
    BackFromHome = 6,
    /// Pages of `[args[0], args[0] + args[1])` are zeros again when first touched.
    Unback = 7,
    /// Connects the home process with its body process on host `args[0]`, which is started if there is none yet;
    /// `args[1]` is a [`ChannelKind`]. The reply carries the connected socket. On a body process's door: here is the
    /// other end, of kind `args[0]`.
    Channel = 8,
    /// The connection is the steward's: `VERSION`, machine id, space.
    Steward = 9,
    /// Agent to steward: thread `args[0]` (its tid at home) is to go to host `args[1]`.
    Move = 10,
    /// Steward's connection, from any thread of the process: thread `args[0]` is now on host `args[1]`, where its tid
    /// is `args[2]`; `args[3]` is a [`Why`].
    Placed = 11,
    /// Maps a shared space: `VERSION`, machine id, space. Carries the userfaultfd; the reply's values are the first address of the
    /// space, its length in bytes, and how many hosts the machine has; it carries the memfd.
    Attach = 12,
    /// Attached processes at home: starts a worker process on host `args[0]`. The reply carries a stream socket; the worker has the
    /// other end.
    Worker = 13,
    /// Attached processes: what their host has of the pages of `[args[0], args[0] + args[1])`, at most [`HELD_BYTES_MAX`]. The
    /// reply carries a memfd with a byte for each page: 0 nothing, 1 a copy, 2 the page itself. None of them moves for it.
    Held = 14,
}

/// The most that one [`Op::Held`] may ask about.
pub const HELD_BYTES_MAX: u64 = 256 << 20;

/// What a channel between the home process and a body process is for.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// The space's: one a body process, and the first.
    Space = 0,
    /// One thread's.
    Thread = 1,
    /// A worker process's, which is started for it. No body process has such a one.
    Worker = 2,
}

/// Why a thread is where it is.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was made so.
    Started = 0,
    /// It was told to ([`Op::Move`], `sched_setaffinity`).
    Ordered = 1,
    /// A signal or a fault brought it home.
    Signal = 2,
    /// A call that only the thread at home can make.
    Call = 3,
    /// It touched what only the home host's kernel maps.
    Native = 4,
    /// It has ended.
    Ended = 5,
}

/// One packet from client to agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// An [`Op`] as a number.
    pub op: u64,
    /// Operands; unused ones are 0.
    pub args: [u64; 4],
}

/// One packet from agent to client.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 0, or a negative errno.
    pub status: i64,
    /// Results; unused ones are 0.
    pub values: [u64; 4],
}

/// userfaultfd features that a client must have asked for: MISSING_SHMEM, MINOR_SHMEM,
/// PAGEFAULT_FLAG_WP, WP_HUGETLBFS_SHMEM, EXACT_ADDRESS, THREAD_ID (linux/userfaultfd.h).
pub const UFFD_FEATURES: u64 = (1 << 5) | (1 << 10) | (1 << 0) | (1 << 12) | (1 << 11) | (1 << 8);

/// What the runtime finds in its environment; it removes these before the program sees them.
pub mod env {
    /// Path of the agent's `client.sock`.
    pub const SOCKET: &str = "MEGALITH_CLIENT_SOCKET";
    /// The machine's id, 16 lower-case hexadecimal digits.
    pub const MACHINE: &str = "MEGALITH_MACHINE";
    /// The program to load (a path; `argv` is the program's own, untouched).
    pub const PROGRAM: &str = "MEGALITH_PROGRAM";
    /// Spread mode: numbers of hosts, separated by commas; the program's n-th new thread starts on the n-th, and so round
    /// again. Home is 0. Absent in expand mode.
    pub const SPREAD: &str = "MEGALITH_SPREAD";
    /// Spread mode: how many CPUs each host has, by number, separated by commas.
    pub const CPUS: &str = "MEGALITH_CPUS";
    /// Spread mode: a folder whose `proc/…` and `sys/…` show the whole machine in place of the home host's.
    pub const VIEW: &str = "MEGALITH_VIEW";
    /// A body process: its space, in decimal. Set by an agent alone.
    pub const BODY: &str = "MEGALITH_BODY";
    /// A worker process: the shared space that it may attach to, in decimal. Set by an agent alone.
    pub const SPACE: &str = "MEGALITH_SPACE";
    /// The descriptor of a body process's door.
    pub const DOOR: i32 = 1005;
}
