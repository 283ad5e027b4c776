//! What a [`Node`](crate::Node) is told and what it tells: events in, actions out.

use crate::{Access, Epoch, HostId, Message, PageId};

/// Something that happened on this host, or a message that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// A client or a prefetch needs the page. Nothing happens if the page is already held so, or is already
    /// on its way. Else an [`Action::Install`] that suffices follows, now or later.
    Want {
        /// The page.
        page: PageId,
        /// What is to be done with it.
        access: Access,
    },
    /// The pager wants to be rid of a page that it holds. Exactly one [`Action::HandedOver`] or
    /// [`Action::KeptAfterAll`] follows, now or later. Until then the page stays and may be used.
    HandOver {
        /// The page.
        page: PageId,
        /// Who has promised room for one page. `None`: nobody has, so the page leaves only if another host has a copy.
        to: Option<HostId>,
    },
    /// The program freed the page: from now on a local [`Event::Want`] finds the initial bytes. Other hosts
    /// may find the old bytes until [`Node::discarding`](crate::Node::discarding) is false again here.
    Discard {
        /// The page.
        page: PageId,
    },
    /// A message of another host arrived. Order matters only between messages of one sender about one page:
    /// the embedding may hold back messages of a page (to let it dwell) while others pass.
    Message {
        /// Who sent it.
        from: HostId,
        /// The incarnation in which it was sent.
        epoch: Epoch,
        /// The message.
        message: Message,
        /// No client on this host has [`Message::page`] mapped right now, whatever the message's kind: an
        /// owner may then give the page whole to a reader.
        idle: bool,
    },
}

/// Where the bytes of a page are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Bytes {
    /// Nowhere: the page is what a first touch finds (zeros, or what the file behind it says).
    Initial,
    /// Beside the message that is being handled.
    Carried,
    /// Here already.
    Held,
}

/// What becomes of the page at its sender.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum After {
    /// It stays, readable, not writable.
    Keep,
    /// It is gone here: stop local access before the bytes are read, free them after.
    Drop,
}

/// What the embedding must do, in this order, before it gives the node another event about the same page.
///
/// Bytes that came beside a message and that no `Install` of [`Bytes::Carried`] asked for are to be forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Send a message.
    Send {
        /// To whom; this host only with [`Node::try_handle_holding`](crate::Node::try_handle_holding).
        to: HostId,
        /// The message.
        message: Message,
    },
    /// Send a message with the page's bytes beside it, in order with the other messages to that host.
    SendPage {
        /// To whom; never this host.
        to: HostId,
        /// The message.
        message: Message,
        /// The page whose bytes go.
        page: PageId,
        /// What becomes of it here. Local writers must be stopped before the bytes are read; an
        /// [`Action::Protect`] has come before a `Keep` if the page was writable.
        then: After,
    },
    /// The page is here.
    Install {
        /// The page.
        page: PageId,
        /// What clients may do with it. `None`: keep the bytes, but let nobody see them yet (some host has
        /// not yet confirmed that it dropped its copy); an `Install` of [`Bytes::Held`] follows.
        access: Option<Access>,
        /// Where its bytes are.
        bytes: Bytes,
    },
    /// Stop local access and free the bytes.
    Drop {
        /// The page.
        page: PageId,
    },
    /// Local writers must stop; the bytes stay, readable.
    Protect {
        /// The page.
        page: PageId,
    },
    /// An [`Event::HandOver`] ended: the page went to `to`, and used the room that `to` had promised.
    HandedOver {
        /// The page.
        page: PageId,
        /// Who has it now.
        to: HostId,
    },
    /// An [`Event::HandOver`] ended otherwise; the room that `to` had promised is not used. Either the page
    /// left us all the same, because another host has a copy (an [`Action::Drop`] came before), or we no
    /// longer had it, or it is the only copy and nobody had promised room, or it is wanted or being discarded
    /// here: ask [`Node::held`](crate::Node::held).
    KeptAfterAll {
        /// The page.
        page: PageId,
        /// Who had promised room, if anybody had.
        to: Option<HostId>,
    },
    /// A page that `from` handed over has arrived: one page of the room that was promised to `from` is used.
    /// The `Install` came just before; there is none if the page is being discarded here.
    Received {
        /// The page.
        page: PageId,
        /// Who had it.
        from: HostId,
    },
}
