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
#![no_std]

/// Version of this protocol; the agent refuses any other with `EPROTO` and its own version in `values[0]`.
pub const VERSION: u64 = 1;

/// Bytes of a page: the unit of coherence.
pub const PAGE_BYTES: u64 = 4096;

/// First address that belongs to the runtime and the kernel. Every address below it is the program's and lies
/// in the space, so a page's place in the memfd is its address: there is no translation.
pub const SPACE_END: u64 = 0x6000_0000_0000;

/// What a client asks. The operands' meaning stands at each variant, as `args[0]`, `args[1]`, ….
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Opens a space: `VERSION`, machine id. Carries the userfaultfd (UFFDIO_API done, features
    /// [`UFFD_FEATURES`]). The reply's values are the space's id and the machine's memory in bytes (the sum
    /// of the hosts' budgets); it carries the space's memfd, [`SPACE_END`] bytes long and sparse.
    Hello = 1,
    /// Forgets the bytes of `[args[0], args[0] + args[1])`, whole pages: the next touch finds what a first
    /// touch would find (zeros, or the file given by [`Op::Back`]).
    Discard = 2,
    /// [`Op::Discard`], and forgets the file as well: the next touch finds zeros.
    Clear = 3,
    /// [`Op::Clear`], then: pages of `[args[0], args[0] + args[1])` read the file that this packet carries,
    /// from its byte `args[2]` on (a multiple of the page), when first touched; zeros past its end.
    Back = 4,
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
/// PAGEFAULT_FLAG_WP, WP_HUGETLBFS_SHMEM, EXACT_ADDRESS (linux/userfaultfd.h).
pub const UFFD_FEATURES: u64 = (1 << 5) | (1 << 10) | (1 << 0) | (1 << 12) | (1 << 11);

/// What the runtime finds in its environment; it removes these before the program sees them.
pub mod env {
    /// Path of the agent's `client.sock`.
    pub const SOCKET: &str = "MEGALITH_CLIENT_SOCKET";
    /// The machine's id, 16 lower-case hexadecimal digits.
    pub const MACHINE: &str = "MEGALITH_MACHINE";
    /// The program to load (a path; `argv` is the program's own, untouched).
    pub const PROGRAM: &str = "MEGALITH_PROGRAM";
}
