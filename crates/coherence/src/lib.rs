//! The coherence protocol: who holds which page, and what must be said to whom when that changes.
//!
//! One [`Node`] runs on each host. It is a pure state machine: an [`Event`] goes in, [`Action`]s come out. It
//! does no I/O and has no clock, threads or randomness, so the very code that runs for real is checked
//! exhaustively (`tests/model.rs`) and simulated (`tests/simulation.rs`). `docs/coherence.md` is the text.
//!
//! Invariants, at every moment and for every page:
//! - one host may write and no other read, or any number may read;
//! - who reads finds what was written last;
//! - the last copy is never dropped: a copy goes only on the directory's word, or because the page is discarded;
//! - every request ends.
//!
//! The modules, from the outside in: [`node`](crate::Node) joins the three roles that a host plays, `cache` (what
//! this host has and wants), `directory` (the entries of the regions that this host leases) and `locator` (who
//! leases a region).

mod cache;
#[cfg(feature = "check")]
mod check;
mod directory;
mod event;
mod fault;
mod frames;
mod hosts;
mod ids;
mod locator;
mod message;
mod node;
mod outbox;
mod wire;

#[cfg(feature = "check")]
pub use check::{Entry, Portrait};
pub use event::{Action, After, Bytes, Event};
#[cfg(feature = "check")]
pub use fault::Fault;
pub use ids::{Access, Epoch, Has, HostId, PageId, REGION_PAGES, RegionId};
pub use message::{Message, Outcome};
pub use node::{Node, Violation};
pub use wire::WireError;
