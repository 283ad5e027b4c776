//! Faults become requests, answers become mapped pages, and memory that is not needed leaves.
//!
//! The mechanism that keeps a host's part of a machine's memory: a memfd per space that client processes map, their
//! userfaultfds, and a *stow* of packed pages that no client sees. The policy (what to evict, when, whereto) and the
//! protocol are `agent`'s.
//!
//! The kernel's part of a space can be simulated (feature `sim`): then the processes' threads, their page tables and the memfd are
//! [`sim::SimSpace`], which answers the same calls in the same way; everything else is what runs for real.
//!
//! Lock order: the machine's lock (around [`Pager`]) before a space's list of clients. System calls on a client's
//! userfaultfd are made with either; none of them waits for a client.

mod budget;
mod bug;
mod evict;
mod ids;
mod memfd;
mod packed;
mod pager;
mod reserve;
#[cfg(feature = "sim")]
pub mod sim;
mod slab;
mod space;
mod streams;
mod table;
mod uffd;

pub use budget::Budget;
pub use bug::{Bug, Planted};
pub use evict::Eviction;
pub use ids::{SpaceId, address, offset};
pub use memfd::Memfd;
pub use packed::{Malformed, PAGE, Packed, Packer, Packing};
pub use pager::{Holdings, Pager};
pub use slab::{Slab, Slot};
pub use space::{Reads, Source, SpaceMemory};
pub use streams::{Streams, WINDOW_PAGES_MAX};
pub use table::{Entry, Place};
pub use uffd::{ClientId, Fault, Mapped, Uffd};
