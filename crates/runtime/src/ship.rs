//! What the two halves of a process say to each other: a deputy and its body over the thread's channel, the home process
//! and a body process over the space's channel (docs/spread.md). Both ends are this program, built alike, on x86-64: the
//! structures go over the wire as they lie in memory.
//!
//! Every message is a [`Head`] and, behind it, `bytes` bytes: the structure that stands at its kind, and after a
//! [`Shipment`] the XSAVE area, after a [`Call`] or a [`Returned`] its freight ([`crate::freight`]).

use crate::frame::{Context, SigInfo, XSAVE_BYTES_MAX};

/// What a message is. The value is its kind on the wire.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Deputy → body: run this. A [`Shipment`] and its XSAVE area.
    Ship = 1,
    /// Body → deputy: it runs; a [`Started`].
    Started = 2,
    /// Body → deputy: a call, as a [`Call`].
    Call = 3,
    /// Deputy → body: its result; a [`Returned`].
    Result = 4,
    /// Deputy → body, in place of a result: the call has not been made, come home.
    ComeHome = 5,
    /// Body → deputy: what is at this address? A [`Query`].
    Query = 6,
    /// Deputy → body: this; an [`Area`].
    Area = 7,
    /// Body → deputy: the thread is yours again. A [`Shipment`] and its XSAVE area.
    Home = 8,
    /// Deputy → body, in place of a result: your host has the queue (`queues.rs`), make the call; a [`Lent`].
    Lent = 9,
    /// Body → deputy: what came back with the result cannot be stored here, do it there. Answered as the call is.
    Store = 10,

    /// Home → body process, and back: who we are; a [`Hello`].
    Hello = 16,
    /// Home → body process: nothing of a span is mapped as it was; a [`Forget`].
    Forget = 17,
    /// Home → body process: membarrier(2); a [`Barrier`].
    Barrier = 18,
    /// Home → body process: send a body home; a [`Recall`]. Not answered.
    Recall = 19,
    /// Body process → home: done; answers `Forget` and `Barrier`.
    Done = 20,
    /// The clocks; a [`Clocks`]. Home → body process, and back; and on a thread's channel, body → deputy, and back.
    Clocks = 21,
    /// Home → body process: a queue is home's again; a [`TakeBack`]. Answered by a [`Waiting`].
    TakeBack = 22,
    /// Home → body process: wake who waits there for a word; a [`Wake`]. Answered by a [`Waiting`].
    Wake = 23,
    /// Body process → home: how many were woken, and whether more wait; a [`Waiting`].
    Waiting = 24,
}

/// What stands before every message.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// A [`Kind`].
    pub kind: u32,
    /// Bytes that follow.
    pub bytes: u32,
}

/// Longest message behind its head.
pub const MESSAGE_BYTES_MAX: usize = size_of::<Shipment>() + XSAVE_BYTES_MAX;

/// A thread on its way. `context.registers.fpstate` says nothing; the XSAVE area follows, `saved_bytes` long.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Shipment {
    /// Its registers. The mask in it is the program's (the deputy's word is what counts).
    pub context: Context,
    /// FS base.
    pub fs: u64,
    /// GS base.
    pub gs: u64,
    /// Length of what follows.
    pub saved_bytes: u64,
    /// In `Home`: a [`Reason`]. In `Ship`: 0.
    pub reason: u64,
    /// In `Home`: CPU time of the body, as in [`Started`]. In `Ship`: 0.
    pub worked: u64,
    /// In `Home` with [`Reason::Fault`]: what the kernel there said.
    pub info: SigInfo,
}

/// Why a body sends its thread home.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// To make a call that has not been made: rip is behind the instruction, rax is the number.
    Call = 1,
    /// A fault of the program's own; nothing of the instruction has happened. `info` tells.
    Fault = 2,
    /// It touched what only the home host's kernel maps; the instruction is to be run again at home.
    Native = 3,
    /// It was recalled, between two instructions.
    Recalled = 4,
    /// It was recalled while it waited in a call on that host: rip is behind the instruction, rax is the number.
    Interrupted = 5,
}

/// See [`Kind::Started`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// The body's tid on its host.
    pub tid: u64,
    /// Nanoseconds of CPU time that the body has used since it was made.
    pub worked: u64,
}

/// See [`Kind::Call`]. rax in the context is the call's number, as at the instruction; rip is behind it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// All registers: some answers look at more than the arguments.
    pub context: Context,
    /// CPU time of the body, as in [`Started`].
    pub worked: u64,
    /// Bytes that the kernel is to read; they follow. 0: they are where the pointer says.
    pub sent: u64,
    /// Room for bytes that it writes, which the body stores. 0: they go where the pointer says.
    pub room: u64,
}

/// See [`Kind::Result`]. What the kernel has written follows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Returned {
    /// For rax.
    pub value: u64,
    /// If the call woke others and its queue is lent to the body's host.
    pub lent: Lent,
}

/// See [`Kind::Lent`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lent {
    /// Which loan this is, from 1; 0: the queue is not lent.
    pub turn: u32,
    /// 1 if somebody may wait in the queue at home, else 0.
    pub others: u32,
}

impl Lent {
    /// It is not.
    pub const NOT: Lent = Lent { turn: 0, others: 0 };
}

/// See [`Kind::Query`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// An address of the space.
    pub address: u64,
}

/// See [`Kind::Area`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// The layout's version when this was true.
    pub version: u64,
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// `PROT_` bits.
    pub prot: u64,
    /// An [`AreaKind`].
    pub kind: u64,
}

/// What an area is to a body.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AreaKind {
    /// Nothing is mapped at the address.
    None = 0,
    /// Pages of the space, zeros at first.
    Space = 1,
    /// Pages of the space that the home agent reads from a file at first.
    FileCopy = 2,
    /// What only the home host's kernel maps.
    Native = 3,
}

/// See [`Kind::Hello`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Hello {
    /// The space.
    pub space: u64,
    /// What the CPU can do ([`cpu_word`] of the sender): threads go only where it is the same.
    pub cpu: u64,
    /// Version of these words: [`VERSION`].
    pub version: u64,
}

/// Version of what is said here.
pub const VERSION: u64 = 4;

/// See [`Kind::Forget`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Forget {
    /// The layout's version from now on.
    pub version: u64,
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
}

/// See [`Kind::Barrier`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Barrier {
    /// membarrier(2)'s command.
    pub command: u64,
    /// Its flags.
    pub flags: u64,
}

/// See [`Kind::Recall`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Recall {
    /// The body's tid on its host.
    pub tid: u64,
}

/// See [`Kind::TakeBack`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TakeBack {
    /// The queue's number.
    pub queue: u64,
    /// Which loan ends, or has ended.
    pub turn: u32,
    /// 1: wake all who wait in it, until nobody does.
    pub empty: u32,
}

/// See [`Kind::Wake`]: arguments of futex(2).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Wake {
    /// The word.
    pub word: u64,
    /// FUTEX_WAKE or FUTEX_WAKE_BITSET, with its flags.
    pub operation: u64,
    /// How many.
    pub count: u64,
    /// Whom.
    pub bitset: u64,
}

/// See [`Kind::Waiting`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// So many were woken.
    pub woken: u64,
    /// 1 if somebody may still wait in the queue there, else 0.
    pub any: u64,
}

/// See [`Kind::Clocks`]. Nanoseconds; the sender of the question fills in nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// CLOCK_REALTIME.
    pub real: u64,
    /// CLOCK_MONOTONIC.
    pub monotonic: u64,
    /// CLOCK_BOOTTIME.
    pub boot: u64,
}

/// Folds what cpuid and xgetbv say of instructions and state that programs choose by into one word (FNV-1a).
pub fn cpu_word(leaves: impl Iterator<Item = u32>) -> u64 {
    leaves
        .flat_map(u32::to_le_bytes)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

const _: () = assert!(size_of::<Head>() == 8);
const _: () = assert!(size_of::<Shipment>() == size_of::<Context>() + 40 + size_of::<SigInfo>());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_cpus_have_different_words() {
        assert_eq!(cpu_word([1, 2].into_iter()), cpu_word([1, 2].into_iter()));
        assert_ne!(cpu_word([1, 2].into_iter()), cpu_word([2, 1].into_iter()));
    }
}
