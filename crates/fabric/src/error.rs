//! What goes wrong between hosts, as data; each error reads as one line that says what, where, and what to do.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::tls::Trouble;

/// Why a machine's fabric did not come about.
#[derive(Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields say it")]
pub enum FabricError {
    /// This agent cannot listen.
    Bind { address: String, source: io::Error },
    /// The invitation contradicts itself or a machine that is already here.
    Invitation { reason: String },
    /// No agent answers.
    Unreachable { host: String, address: String, source: io::Error },
    /// Its agent speaks another version of the protocol.
    Version { host: String, ours: u32, theirs: u32 },
    /// Its agent belongs to another cluster.
    Cluster { host: String },
    /// Its agent does not want to join.
    Refused { host: String, reason: String },
    /// The agent at `host`'s address goes by another name.
    Name { host: String, expected: String, actual: String },
    /// The keys of the two do not fit.
    Keys { host: String, trouble: Trouble },
    /// A step of the joining did not end in time.
    Timeout { host: String, address: String, after: Duration, step: &'static str },
    /// Host `by` cannot link with `host`; `kind` is as [`FabricError::kind`].
    Between { by: String, host: String, kind: &'static str, detail: String },
    /// The host joined and was then lost, before the machine stood.
    Lost { host: String, reason: Lost },
}

/// The kinds of failure that travel between hosts; a kind's place is its number on the wire.
pub(crate) const KINDS: [&str; 7] =
    ["unreachable", "version", "cluster", "refused", "name", "timeout", "keys"];

impl FabricError {
    /// The class of failure: `"unreachable"`, `"version"`, `"cluster"`, `"refused"`, `"name"`, `"timeout"`,
    /// `"keys"`, or `"bind"` (of [`Listener::bind`](crate::Listener::bind) only).
    pub fn kind(&self) -> &'static str {
        match self {
            FabricError::Bind { .. } => "bind",
            FabricError::Unreachable { .. } | FabricError::Lost { .. } => "unreachable",
            FabricError::Version { .. } => "version",
            FabricError::Cluster { .. } => "cluster",
            FabricError::Refused { .. } | FabricError::Invitation { .. } => "refused",
            FabricError::Name { .. } => "name",
            FabricError::Keys { .. } => "keys",
            FabricError::Timeout { .. } => "timeout",
            FabricError::Between { kind, .. } => kind,
        }
    }

    /// The host that it is about.
    pub fn host(&self) -> Option<&str> {
        match self {
            FabricError::Bind { .. } | FabricError::Invitation { .. } => None,
            FabricError::Unreachable { host, .. }
            | FabricError::Version { host, .. }
            | FabricError::Cluster { host }
            | FabricError::Refused { host, .. }
            | FabricError::Name { host, .. }
            | FabricError::Keys { host, .. }
            | FabricError::Timeout { host, .. }
            | FabricError::Between { host, .. }
            | FabricError::Lost { host, .. } => Some(host),
        }
    }
}

impl fmt::Display for FabricError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FabricError::Bind { address, source } => {
                write!(f, "cannot listen at {address}: {source}; give the agent a free address of this host")
            }
            FabricError::Invitation { reason } => write!(f, "the machine cannot be opened: {reason}"),
            FabricError::Unreachable { host, address, source } => write!(
                f,
                "host {host}: no agent answers at {address}: {source}; start its agent, or mend its address in the hosts file"
            ),
            FabricError::Version { host, ours, theirs } => write!(
                f,
                "host {host}: its agent speaks protocol {theirs}, this one {ours}; install the same Megalith on both"
            ),
            FabricError::Cluster { host } => {
                write!(
                    f,
                    "host {host}: its agent belongs to another cluster; give both agents the same cluster key"
                )
            }
            FabricError::Refused { host, reason } => {
                write!(f, "host {host}: its agent refused to join: {reason}")
            }
            FabricError::Name { host, expected, actual } => write!(
                f,
                "host {host}: the agent at its address is named {actual}, not {expected}; mend the hosts file or the agent's name"
            ),
            FabricError::Keys { host, trouble } => write!(f, "host {host}: {trouble}"),
            FabricError::Timeout { host, address, after, step } => write!(
                f,
                "host {host} ({address}): {step} within {} ms; see whether its agent is stopped or a firewall drops packets",
                after.as_millis()
            ),
            FabricError::Between { by, detail, .. } => write!(f, "host {by} reports: {detail}"),
            FabricError::Lost { host, reason } => {
                write!(f, "host {host} was lost while the machine was made: {reason}; see its agent's log")
            }
        }
    }
}

impl Error for FabricError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // The message has the source in it already.
            FabricError::Bind { source, .. } | FabricError::Unreachable { source, .. } => source.source(),
            _ => None,
        }
    }
}

/// Why a host is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lost {
    /// The stream ended without a goodbye: its process or its kernel ended.
    Closed,
    /// The stream broke.
    Broken(io::ErrorKind),
    /// Nothing came for this long.
    Silent(Duration),
    /// It sent bytes that are no frame (the word that was none).
    Garbage(u32),
    /// What came is not what was sent, or it ended TLS; what of it.
    Tls(String),
    /// More bytes than this wait for it to take them.
    Overrun(usize),
    /// The machine did not stand within this time.
    NotJoined(Duration),
    /// It closed the machine before it stood.
    Withdrawn,
}

impl From<&io::Error> for Lost {
    fn from(error: &io::Error) -> Lost {
        match error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>()) {
            Some(error) => Lost::Tls(error.to_string()),
            None => Lost::Broken(error.kind()),
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Closed => f.write_str("connection closed"),
            Lost::Broken(kind) => write!(f, "connection broken: {kind}"),
            Lost::Silent(after) => write!(f, "no sign of life for {} ms", after.as_millis()),
            Lost::Garbage(word) => write!(f, "it sent bytes that are no frame ({word:#010x})"),
            Lost::Tls(what) => write!(f, "the TLS stream is broken: {what}"),
            Lost::Overrun(bytes) => {
                write!(f, "it does not take what it is sent: more than {} MiB wait", bytes >> 20)
            }
            Lost::NotJoined(after) => write!(f, "the machine did not stand within {} ms", after.as_millis()),
            Lost::Withdrawn => f.write_str("it closed the machine before it stood"),
        }
    }
}
