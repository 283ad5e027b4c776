//! The half of Megalith that lives inside the program's process: what of it is pure.
//!
//! The freestanding executable `megalith-runtime` (`src/process/`) loads an unmodified program into a space and
//! answers the system calls that concern the space, threads and signals. Everything that can be said without
//! making a system call is said here, and tested under `std`:
//!
//! | module | what |
//! |---|---|
//! | [`layout`] | which addresses hold what; where the next mapping goes |
//! | [`mapping`] | mmap(2) and mremap(2): from arguments to a plan or an errno |
//! | [`elf`], [`script`] | what an executable file asks for |
//! | [`ship`] | what a deputy and its body say to each other |
//! | [`startup`] | the first bytes of a program's stack: argv, envp, auxv |
//! | [`frame`], [`sigset`] | signal frames and masks, as the kernel lays them out |
//! | [`calls`] | in spread mode: who makes which call of a thread that is away |
//! | [`freight`] | … and which bytes travel with it |
//! | [`filter`] | the seccomp program that decides which calls are caught |
//! | [`word`] | the word of a lock |
//! | [`procfs`] | paths under `/proc` that would show the runtime instead of the program |
#![cfg_attr(not(any(test, loom)), no_std)]

pub mod calls;
pub mod elf;
pub mod errno;
pub mod filter;
pub mod frame;
pub mod freight;
pub mod layout;
pub mod mapping;
pub mod nr;
pub mod procfs;
pub mod queues;
pub mod script;
pub mod ship;
pub mod sigset;
pub mod startup;
pub mod word;

/// Bytes of a page.
pub const PAGE: u64 = client::PAGE_BYTES;

/// First address that is not the program's.
pub const SPACE_END: u64 = client::SPACE_END;

/// Default placements go downwards from here; the executable, its heap and the stack live above.
pub const PLACEMENT_TOP: u64 = 0x5000_0000_0000;

/// Where a position-independent executable is loaded: where Linux loads it without randomisation.
pub const EXECUTABLE_BASE: u64 = 0x5555_5555_4000;

/// One past the program's first stack.
pub const STACK_TOP: u64 = 0x5fff_ffff_0000;

/// Lowest address that a mapping gets unasked (`vm.mmap_min_addr`'s usual value).
pub const LOWEST: u64 = 0x1_0000;

/// `value` rounded down to a page.
pub const fn page_down(value: u64) -> u64 {
    value & !(PAGE - 1)
}

/// `value` rounded up to a page; `None` on overflow.
pub const fn page_up(value: u64) -> Option<u64> {
    match value.checked_add(PAGE - 1) {
        Some(sum) => Some(page_down(sum)),
        None => None,
    }
}
