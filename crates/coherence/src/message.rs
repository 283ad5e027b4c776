//! What hosts say to each other.
//!
//! A page's bytes are never part of a [`Message`]: they travel beside it, if [`Message::carries_page`] says so.

use crate::{Access, Bytes, HostId, PageId, RegionId};

/// How a transaction ended: what the directory must write into the entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// The sender is the owner and nobody else has a copy.
    Exclusive,
    /// The sender has a copy to read, beside those who had one.
    Shared,
    /// The entry is right as it stands.
    Unchanged,
}

/// A message between two hosts. Roles: *locator* of a region, *directory* (the region's leaseholder), *owner*
/// and *sharers* of a page, *requester* of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Message {
    /// Anybody → locator: who is the region's directory?
    Locate {
        /// The region.
        region: RegionId,
        /// If nobody is: let it be me.
        claim: bool,
    },
    /// Locator → asker: the answer; `None` only if the question claimed nothing.
    Located {
        /// The region.
        region: RegionId,
        /// Its directory.
        directory: Option<HostId>,
    },
    /// Requester → directory: I need the page.
    Request {
        /// The page.
        page: PageId,
        /// What for.
        access: Access,
    },
    /// Holder → directory: I want to be rid of the page, `to` has room.
    HandOver {
        /// The page.
        page: PageId,
        /// Who has promised room; `None` if nobody has.
        to: Option<HostId>,
    },
    /// Anybody → directory: the page's bytes are void.
    Discard {
        /// The page.
        page: PageId,
    },
    /// Directory → owner: answer the requester.
    Forward {
        /// The page, as the owner knows it.
        page: PageId,
        /// The page, as the requester asked for it. Today it is the same; see *frames* in `docs/coherence.md`.
        into: PageId,
        /// What the requester may do.
        access: Access,
        /// Whom to answer.
        requester: HostId,
        /// Nobody but the owner has a copy.
        alone: bool,
        /// How many [`Message::Ack`] the requester must wait for; to be passed on in the grant.
        acks: u16,
    },
    /// Directory → holder: drop the copy, and tell the requester ([`Message::Ack`]).
    Invalidate {
        /// The page.
        page: PageId,
        /// Whom to tell.
        requester: HostId,
    },
    /// Former holder → requester: my copy is gone.
    Ack {
        /// The page.
        page: PageId,
    },
    /// Owner or directory → requester: the page is yours.
    Grant {
        /// The page.
        page: PageId,
        /// What may be done with it. `Write`: you are its owner and, once the acks are in, have the only copy.
        access: Access,
        /// Where its bytes are.
        bytes: Bytes,
        /// How many [`Message::Ack`] must come before it may be used.
        acks: u16,
    },
    /// Requester → directory: the transaction is over.
    Done {
        /// The page.
        page: PageId,
        /// What came of it.
        outcome: Outcome,
    },
    /// Directory → owner that hands over: send the page to `to` ([`Message::Give`]).
    Relinquish {
        /// The page.
        page: PageId,
        /// Who takes it.
        to: HostId,
    },
    /// Former owner → the host that had promised room: the page is yours. The bytes are beside it.
    Give {
        /// The page.
        page: PageId,
        /// The directory, to which the receiver must say [`Message::Done`].
        directory: HostId,
    },
    /// Directory → sharer: the owner is leaving, you are the owner now.
    Promote {
        /// The page.
        page: PageId,
    },
    /// Directory → holder that hands over: others have copies; drop yours, and tell me ([`Message::Dropped`]).
    Release {
        /// The page.
        page: PageId,
    },
    /// Directory → host that hands over: you had no copy any more, or have the only one and nobody has room.
    Moot {
        /// The page.
        page: PageId,
    },
    /// Directory → holder: the page was discarded; drop your copy, and tell me ([`Message::Dropped`]).
    Drop {
        /// The page.
        page: PageId,
    },
    /// Former holder → directory: my copy is gone.
    Dropped {
        /// The page.
        page: PageId,
    },
    /// Directory → host that discarded: nobody has a copy any more; say [`Message::Done`].
    Discarded {
        /// The page.
        page: PageId,
    },
}

impl Message {
    /// The page whose bytes travel beside this message, if any do.
    pub fn carries_page(&self) -> Option<PageId> {
        match *self {
            Message::Grant { page, bytes: Bytes::Carried, .. } | Message::Give { page, .. } => Some(page),
            _ => None,
        }
    }

    /// The page that the receiver is told about; `None` for a message about a region.
    pub fn page(&self) -> Option<PageId> {
        match *self {
            Message::Locate { .. } | Message::Located { .. } => None,
            Message::Request { page, .. }
            | Message::HandOver { page, .. }
            | Message::Discard { page }
            | Message::Forward { page, .. }
            | Message::Invalidate { page, .. }
            | Message::Ack { page }
            | Message::Grant { page, .. }
            | Message::Done { page, .. }
            | Message::Relinquish { page, .. }
            | Message::Give { page, .. }
            | Message::Promote { page }
            | Message::Release { page }
            | Message::Moot { page }
            | Message::Drop { page }
            | Message::Dropped { page }
            | Message::Discarded { page } => Some(page),
        }
    }

    /// The region that the message concerns.
    pub fn region(&self) -> RegionId {
        match *self {
            Message::Locate { region, .. } | Message::Located { region, .. } => region,
            _ => self.page().expect("every other message names a page").region(),
        }
    }
}
