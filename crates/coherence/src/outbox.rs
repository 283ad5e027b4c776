//! Where the roles of a node put what they have to say.

use std::collections::VecDeque;

use crate::{Action, After, HostId, Message, PageId};

/// Sorts messages: to other hosts as actions, to this host into the queue that [`crate::Node::handle`] empties
/// before it returns.
pub(crate) struct Outbox<'a> {
    pub(crate) me: HostId,
    pub(crate) local: &'a mut VecDeque<Message>,
    pub(crate) actions: &'a mut Vec<Action>,
}

impl Outbox<'_> {
    pub(crate) fn send(&mut self, to: HostId, message: Message) {
        if to == self.me {
            self.local.push_back(message);
        } else {
            self.actions.push(Action::Send { to, message });
        }
    }

    pub(crate) fn send_page(&mut self, to: HostId, message: Message, page: PageId, then: After) {
        assert!(to != self.me, "a page sent to the host that has it: {message:?}");
        self.actions.push(Action::SendPage { to, message, page, then });
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }
}
