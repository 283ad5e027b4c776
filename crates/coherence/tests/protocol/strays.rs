//! What another incarnation's hosts may have sent: everything that can be said.

use std::collections::HashSet;
use std::mem::discriminant;

use megalith_coherence::{Access, Bytes, HostId, Message, Outcome, PageId};

use crate::world::{Content, PAST, Parcel};

/// Every message about the pages, from every host to every other, with bytes where there are any.
pub fn every_message(hosts: u16, pages: &[PageId]) -> Vec<(HostId, HostId, Parcel)> {
    let hosts: Vec<HostId> = (0..hosts).map(HostId).collect();
    let messages: Vec<Message> = pages.iter().flat_map(|page| about(*page, &hosts)).collect();
    let kinds: HashSet<_> = messages.iter().map(discriminant).collect();
    assert_eq!(kinds.len(), 18, "every kind of message");
    let bytes = Content { epoch: PAST, birth: 0, version: 1 };
    let parcel =
        |message: &Message| Parcel { message: *message, content: message.carries_page().map(|_| bytes) };
    let mut strays = Vec::new();
    for &from in &hosts {
        for &to in hosts.iter().filter(|to| **to != from) {
            strays.extend(messages.iter().map(|message| (from, to, parcel(message))));
        }
    }
    strays
}

fn about(page: PageId, hosts: &[HostId]) -> Vec<Message> {
    const BOTH: [bool; 2] = [false, true];
    const ACCESS: [Access; 2] = [Access::Read, Access::Write];
    let region = page.region();
    let mut messages = vec![
        Message::Located { region, directory: None },
        Message::HandOver { page, to: None },
        Message::Discard { page },
        Message::Ack { page },
        Message::Promote { page },
        Message::Release { page },
        Message::Moot { page },
        Message::Drop { page },
        Message::Dropped { page },
        Message::Discarded { page },
    ];
    messages.extend(BOTH.map(|claim| Message::Locate { region, claim }));
    let outcomes = [Outcome::Exclusive, Outcome::Shared, Outcome::Unchanged];
    messages.extend(outcomes.map(|outcome| Message::Done { page, outcome }));
    for access in ACCESS {
        messages.push(Message::Request { page, access });
        for bytes in [Bytes::Initial, Bytes::Carried, Bytes::Held] {
            messages.extend([0, 1].map(|acks| Message::Grant { page, access, bytes, acks }));
        }
    }
    for &host in hosts {
        messages.extend([
            Message::Located { region, directory: Some(host) },
            Message::HandOver { page, to: Some(host) },
            Message::Invalidate { page, requester: host },
            Message::Relinquish { page, to: host },
            Message::Give { page, directory: host },
        ]);
        for access in ACCESS {
            for alone in BOTH {
                let forward =
                    |acks| Message::Forward { page, into: page, access, requester: host, alone, acks };
                messages.extend([0, 1].map(forward));
            }
        }
    }
    messages
}
