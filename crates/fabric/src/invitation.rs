//! What the hosts of a machine agree on before they talk.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use coherence::{Epoch, HostId};

/// Most hosts of one machine.
pub const MEMBERS_MAX: usize = 1024;
/// Longest name of a host.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest `host:port` (a DNS name is at most 253 bytes).
pub const ADDRESS_BYTES_MAX: usize = 320;

/// Longest of the times in [`Settings`].
const TIME_MAX: Duration = Duration::from_secs(3600);

/// A machine, all over its hosts. Written as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MachineId(pub u64);

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Agents of another cluster are refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClusterId(pub [u8; 16]);

/// The id is what strangers lack, so it stays out of logs.
impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterId(…)")
    }
}

/// One host of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name that its agent goes by.
    pub name: String,
    /// Where its agent listens, `host:port`.
    pub address: String,
}

/// Times, the same on all hosts of a machine. They travel in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A host that sent nothing for so long sends a sign of life.
    pub heartbeat: Duration,
    /// A host from which nothing came for so long is lost; at least twice `heartbeat`.
    pub lost_after: Duration,
    /// The full mesh stands within this time, or the machine does not come about.
    pub join_timeout: Duration,
}

/// Makes a host part of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// Which machine.
    pub machine: MachineId,
    /// Its epoch; frames of any other are dropped.
    pub epoch: Epoch,
    /// The host that holds this invitation: its index in `members`.
    pub me: HostId,
    /// All hosts; the first is home.
    pub members: Vec<Member>,
    /// Times.
    pub settings: Settings,
}

/// The host that opens a machine.
pub(crate) const HOME: HostId = HostId(0);

impl Invitation {
    /// The member that `host` is.
    pub(crate) fn member(&self, host: HostId) -> &Member {
        &self.members[usize::from(host.0)]
    }

    /// Number of members.
    pub(crate) fn hosts(&self) -> u16 {
        self.members.len() as u16
    }

    /// Whether there can be such a machine.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn check(&self) -> Result<(), String> {
        if self.members.is_empty() || self.members.len() > MEMBERS_MAX {
            return Err(format!("a machine has 1 to {MEMBERS_MAX} hosts, not {}", self.members.len()));
        }
        if usize::from(self.me.0) >= self.members.len() {
            return Err(format!("host number {} is not among {} members", self.me.0, self.members.len()));
        }
        let mut names = HashSet::new();
        for Member { name, address } in &self.members {
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                return Err(format!("a host's name has 1 to {NAME_BYTES_MAX} bytes, not {}", name.len()));
            }
            if address.is_empty() || address.len() > ADDRESS_BYTES_MAX {
                return Err(format!(
                    "host {name}: an address has 1 to {ADDRESS_BYTES_MAX} bytes, not {}",
                    address.len()
                ));
            }
            if name.chars().chain(address.chars()).any(char::is_control) {
                return Err(format!("host {name:?} at {address:?}: control characters"));
            }
            if !names.insert(name) {
                return Err(format!("two hosts are named {name}"));
            }
        }
        let Settings { heartbeat, lost_after, join_timeout } = self.settings;
        for (what, time) in
            [("heartbeat", heartbeat), ("lost_after", lost_after), ("join_timeout", join_timeout)]
        {
            if time < Duration::from_millis(1) || time > TIME_MAX {
                return Err(format!("{what} is {time:?}; it must be 1 ms to {TIME_MAX:?}"));
            }
        }
        if lost_after < heartbeat * 2 {
            return Err(format!(
                "lost_after ({lost_after:?}) must be at least twice heartbeat ({heartbeat:?})"
            ));
        }
        Ok(())
    }

    /// Whether `other` invites to the same place in the same machine.
    pub(crate) fn agrees(&self, other: &Invitation) -> bool {
        self.machine == other.machine
            && self.epoch == other.epoch
            && self.me == other.me
            && self.members == other.members
    }
}
