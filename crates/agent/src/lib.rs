//! One agent a host: it owns the pager, the fabric and the spaces, and wires the layers together.
//!
//! Data flows one way: a client's fault ([`clients`]) → [`machine`] → [`state`], where the protocol and the pager meet
//! → the fabric → another host's [`machine`] → and back. [`evictor`] makes room; [`control`] is where Python speaks
//! to us. For threads on several hosts (docs/spread.md) there are [`bodies`], and [`dwell`], which lets a page stay where it
//! came to.
//!
//! With the feature `sim` the same agents run in a simulation ([`sim`], docs/simulation.md).

mod affinity;
mod agent;
mod bodies;
mod clients;
mod clock;
mod control;
mod credentials;
mod dwell;
mod evictor;
mod fetches;
mod figures;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod hot;
mod machine;
mod migratory;
mod places;
mod priority;
mod procfs;
mod rooms;
mod rtt;
#[cfg(feature = "sim")]
pub mod sim;
mod state;
mod told;
mod wire;
mod workers;

pub use agent::{Agent, AgentError, BUDGET_BYTES_MIN, Config, MACHINES_MAX, cluster_id, serve};
pub use fabric::PROTOCOL_VERSION;
