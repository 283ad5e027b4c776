//! One host's part in the protocol.

use std::fmt;
use std::ops::Range;

use crate::{Access, Action, Epoch, Event, HostId, Message, PageId};

/// A message that no host that follows the protocol could have sent now: a bug here or there. The node must not
/// be used any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Violation {
    /// Who sent it.
    pub from: HostId,
    /// The message.
    pub message: Message,
    /// Why it cannot be.
    pub why: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {} sent {:?}, but {}", self.from.0, self.message, self.why)
    }
}

impl std::error::Error for Violation {}

/// One host's part in the protocol.
pub struct Node {
    me: HostId,
    hosts: u16,
    epoch: Epoch,
}
impl Node {
    /// Host `me` of a machine of `hosts` hosts.
    pub fn new(me: HostId, hosts: u16, epoch: Epoch) -> Node {
        Node { me, hosts, epoch }
    }
    /// Takes an event; appends what must be done to `out`.
    ///
    /// # Panics
    /// On a [`Violation`].
    pub fn handle(&mut self, event: Event, out: &mut Vec<Action>) {
        if let Err(violation) = self.try_handle(event, out) {
            panic!("{violation}");
        }
    }
    /// [`Node::handle`] for an embedding that outlives the machine.
    ///
    /// # Errors
    /// On a [`Violation`].
    pub fn try_handle(&mut self, _event: Event, _out: &mut Vec<Action>) -> Result<(), Violation> {
        let _ = (self.me, self.hosts, self.epoch);
        unimplemented!()
    }
    /// What this host may do with the page now; `None` if it is absent or on its way.
    pub fn held(&self, _page: PageId) -> Option<Access> {
        None
    }
    /// An [`Event::Want`] of the page has not been answered yet.
    pub fn pending(&self, _page: PageId) -> bool {
        false
    }
    /// An [`Event::Discard`] of this host has not reached every host yet.
    pub fn discarding(&self, _page: PageId) -> bool {
        false
    }
    /// Forgets every trace of these pages.
    pub fn close(&mut self, _pages: Range<PageId>) {}
}
