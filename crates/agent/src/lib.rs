//! One agent a host: it owns the pager, the fabric and the spaces, and wires the layers together.
//!
//! Data flows one way: a client's fault ([`clients`]) → [`machine`] → [`state`], where the protocol and the pager meet
//! → the fabric → another host's [`machine`] → and back. [`evictor`] makes room; [`control`] is where Python speaks
//! to us.

mod affinity;
mod agent;
mod clients;
mod control;
mod evictor;
mod figures;
mod machine;
mod rooms;
mod state;
mod wire;

pub use agent::{Agent, AgentError, BUDGET_BYTES_MIN, Config, cluster_id, serve};
pub use fabric::PROTOCOL_VERSION;
