//! Messages between the hosts of one machine.
//!
//! A *message* is a run of opaque bytes. Between two hosts messages arrive in the order in which they were sent,
//! whole and once, or the host is reported [lost](Inbox::lost). [`Fabric`] is the one seam: [`TcpMesh`] is the
//! network, [`SimNet`] a deterministic stand-in for tests. `docs/fabric.md` draws the bytes and the threads.
//!
//! Lock order (a thread that holds one takes only those below it; [`Inbox`] and [`Host`] are called with none held):
//!
//! ```text
//! registry   machines that this agent knows (Listener)
//! └ phase    who is linked, who is ready, is it closed (one a machine)
//!   └ out    one peer's out-buffer, and who is writing it
//!     └ tls  the state of one connection's TLS
//! ```
#![forbid(unsafe_code)]

mod channel;
mod deadline;
mod error;
mod frame;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod handshake;
mod invitation;
mod link;
mod listener;
mod mesh;
mod phase;
mod reader;
mod registry;
mod relay;
mod sim;
mod strangers;
mod stream;
mod sync;
mod tls;
mod wire;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use channel::TakeChannel;
pub use coherence::{Epoch, HostId};
pub use error::{FabricError, Lost};
pub use frame::{FRAME_HEADER_BYTES, MESSAGE_BYTES_MAX};
pub use invitation::{
    ADDRESS_BYTES_MAX, ClusterId, Invitation, MEMBERS_MAX, MachineId, Member, NAME_BYTES_MAX, Settings,
};
pub use listener::Listener;
pub use mesh::TcpMesh;
pub use sim::{SimFabric, SimNet};
pub use tls::{ANCHORS_FILE, CERTIFICATE_FILE, KEY_FILE, Keys, KeysError, Trouble};
pub use wire::PROTOCOL_VERSION;

/// Sends messages to the other hosts of one machine.
///
/// Sending to oneself, to a host that the machine has not, or more than [`MESSAGE_BYTES_MAX`] is a bug of the
/// caller and panics. Sending to a host that is lost or gone does nothing.
pub trait Fabric: Send + Sync {
    /// This host.
    fn me(&self) -> HostId;
    /// How many hosts the machine has; their ids are `0..hosts`.
    fn hosts(&self) -> u16;
    /// Appends one message (its parts concatenated) to the batch for `to`. Never blocks.
    fn send(&self, to: HostId, parts: &[&[u8]]);
    /// Hands all batches with something in them to the network. Never blocks.
    fn flush(&self);
    /// Bytes (headers included) not yet taken by the network for `to`: bulk producers stop above a limit of theirs.
    fn backlog(&self, to: HostId) -> usize;
    /// Bytes sent and received so far, to and from all hosts, headers and signs of life included.
    fn traffic(&self) -> Traffic;
    /// Says goodbye, closes, joins threads; idempotent. After it returns the [`Inbox`] is not called again, save
    /// by the calling thread itself where that is inside an [`Inbox`] call. Do not hold a lock that an [`Inbox`]
    /// call waits for.
    fn shutdown(&self);
}

/// Receives what the other hosts send. Calls for one host come one at a time; calls for different hosts at once.
/// A call may use the [`Fabric`]; while it lasts, nothing more is read from that host.
///
/// Calls may begin before [`TcpMesh::open`] returns, and on an invited host right after [`Host::joined`].
pub trait Inbox: Send + Sync {
    /// One message. `bytes` lie in the receive buffer and are gone after the call.
    fn message(&self, from: HostId, bytes: &[u8]);
    /// Everything read at once from `from` has been delivered: a good moment to flush answers.
    fn drained(&self, from: HostId);
    /// `host` is gone, not on purpose; nothing more comes from it. At most once a host.
    fn lost(&self, host: HostId, reason: Lost);
    /// `host` closed the machine on purpose; nothing more comes from it.
    fn goodbye(&self, host: HostId) {
        let _ = host;
    }
    /// Whether what is told here is still being handled; found out within about `time`. While it is not, this host gives no
    /// signs of life, so that the others do not wait for it for ever.
    fn gets_on(&self, time: Duration) -> bool {
        let _ = time;
        true
    }
}

/// What an agent does when somebody invites it to a machine that it does not know yet.
pub trait Host: Send + Sync {
    /// The agent's own name; an invitation that calls it otherwise is refused.
    fn name(&self) -> &str;
    /// Makes this host's part of the machine, or says in one line why not (the peer is told).
    fn join(&self, invitation: &Invitation) -> Result<Arc<dyn Inbox>, String>;
    /// The fabric of a machine just joined, before its first message. Whoever drops the last reference shuts it
    /// down. Messages sent before a link stands wait for it.
    fn joined(&self, machine: MachineId, fabric: Arc<TcpMesh>);
    /// Host `from` of a machine that stands asks for a channel ([`TcpMesh::open_channel`]). Returns what takes its
    /// end once the peer has been told, or says in one line why there is to be none (the peer is told).
    fn channel(&self, machine: MachineId, from: HostId, words: [u64; 4]) -> Result<TakeChannel, String> {
        let _ = (machine, from, words);
        Err("this agent takes no channels".into())
    }
    /// Somebody at `address` was not let in, who has not shown that he is of the cluster. Told once a minute for each
    /// address and reason, and only by a listener that has keys.
    fn stranger(&self, address: IpAddr, reason: &str) {
        let _ = (address, reason);
    }
}

/// Bytes moved so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that the network has taken from this host.
    pub sent: u64,
    /// Bytes that this host has read.
    pub received: u64,
}
