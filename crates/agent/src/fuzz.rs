//! What holds of this crate's parsers whatever the bytes: for `crates/parsers` alone, which feeds them.

use client::Request;
use coherence::{Epoch, HostId};
use pager::{PAGE, SpaceId};

use crate::clients;
use crate::control;
use crate::told::Told;
use crate::wire::{self, Parties, Said};

const HOSTS: u16 = 3;

/// A message of another agent: first a byte that says between which hosts, then the message. One that is accepted is spelt
/// as we spell it, and names nothing that the machine has not.
pub fn message(bytes: &[u8]) {
    let Some((&pair, bytes)) = bytes.split_first() else { return };
    let (me, from) = (u16::from(pair) % HOSTS, u16::from(pair) / HOSTS % HOSTS);
    let parties = Parties { me: HostId(me), from: HostId(from), hosts: HOSTS };
    let Ok(said) = wire::read(bytes, parties) else { return };
    let mut again = Vec::new();
    match said {
        Said::Coherence(message, page) => {
            wire::coherence(&message, &mut again);
            assert_eq!(page.is_some(), message.carries_page().is_some());
            for named in message.page().into_iter().chain([message.region().page(0)]) {
                assert!(SpaceId::of(named) <= SpaceId::MAX);
            }
            again.extend(page.iter().flat_map(|page| page.header()));
            again.extend(page.iter().flat_map(|page| page.bytes));
            if let Some(page) = page {
                page.unpack(&mut [0; PAGE]).expect("it was looked through");
            }
        }
        Said::RoomAsk(pages) => again.extend(wire::room_ask(pages)),
        Said::RoomRecall => again.extend(wire::GIVE_ROOM_BACK),
        Said::RoomBack(pages) => again.extend(wire::room_back(pages)),
        Said::Room(pages) => again.extend(wire::room(pages)),
        Said::SpaceEnd(space) => again.extend(wire::space_end(space)),
        Said::Figures(json) => again.extend(wire::FIGURES_HEAD.iter().chain(json)),
        Said::PeerLost(host, text) => {
            assert!(host.0 < HOSTS);
            again.extend(wire::peer_lost(host, text));
        }
        Said::FiguresAsk => again.extend(wire::SEND_FIGURES),
        Said::FileAsk(question, first, pages) => {
            assert!(SpaceId::of(first).pages().end.0 - first.0 >= u64::from(pages));
            again.extend(wire::file_ask(question, first, pages));
        }
        Said::FileBytes(question, page, packed) => {
            again.extend(wire::file_bytes(question, page));
            again.extend(packed.header());
            again.extend(packed.bytes);
            packed.unpack(&mut [0; PAGE]).expect("it was looked through");
        }
        Said::Sweep(token, pages) => {
            assert!(pages.end <= SpaceId::of(pages.start).pages().end);
            again.extend(wire::sweep(token, &pages));
        }
        Said::Swept(token) => again.extend(wire::swept(token)),
    }
    assert_eq!(again, bytes, "two spellings of one message");
}

/// Another host's figures.
pub fn figures(bytes: &[u8]) {
    if let Some(told) = Told::read(bytes, usize::from(HOSTS)) {
        assert!(told.figures.is_object());
        assert!(told.fetches.values().all(|f| f.waited_us.len() <= usize::from(HOSTS)));
    }
}

/// A packet of a client.
pub fn packet(bytes: &[u8]) {
    let Some(words) = bytes.first_chunk::<40>() else { return };
    let word = |n: usize| u64::from_le_bytes(words[n * 8..][..8].try_into().expect("eight bytes"));
    let request = Request { op: word(0), args: [word(1), word(2), word(3), word(4)] };
    let _ = clients::purpose(&request);
    if let Ok((start, len, _)) = clients::range(&request) {
        assert!(len > 0 && start + len <= client::SPACE_END && (start | len) % PAGE as u64 == 0);
        let last = SpaceId::MAX.page(start + len - 1);
        assert!(SpaceId::MAX.pages().contains(&last));
    }
    if let Some((_, (host, _), _)) = clients::placement(&request, usize::from(HOSTS)) {
        assert!(host.0 < HOSTS);
    }
}

/// A control connection's lines, to the first that is no order.
pub fn orders(bytes: &[u8]) {
    control::read_all(bytes, Epoch(1));
}
