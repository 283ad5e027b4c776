//! What agents say to each other, in the fabric's messages. The first byte is the kind; numbers are little endian.
//!
//! ```text
//! 1  coherence message, and the page beside it if it carries one:  message ‖ packing u8 ‖ length u16 ‖ bytes
//! 2  ask for room:     pages u32            3  promise room:  pages u32 (0: none to spare)
//! 4  space has ended:  space u32            5  figures: JSON
//! 6  host is lost:     host u16 ‖ text      7  send your figures
//! 8  first bytes of pages, please:  question u32 ‖ page u64 ‖ pages u16 (1 to 64)
//! 9  a page's first bytes:          question u32 ‖ page u64 ‖ packing u8 ‖ length u16 ‖ bytes
//! 10 discard pages of yours:        token u32 ‖ page u64 ‖ pages u64
//! 11 they are nowhere any more:     token u32
//! 12 give back the room that I promised you, as far as it is not used
//! 13 here it is:       pages u32
//! ```

use coherence::{HostId, Message, PageId, REGION_PAGES};
use pager::{Malformed, Packed, SpaceId, WINDOW_PAGES_MAX};

use crate::state::home_of;

/// Between whom a message goes. What it names must make sense there: a host that the machine has not is sent nothing.
#[derive(Clone, Copy, Debug)]
pub struct Parties {
    /// Who hears it.
    pub me: HostId,
    /// Who says it.
    pub from: HostId,
    /// How many hosts the machine has.
    pub hosts: u16,
}

impl Parties {
    fn know(self, host: HostId) -> bool {
        host.0 < self.hosts
    }

    /// The space of a page, if a host of the machine could have opened it.
    fn space_of(self, page: PageId) -> Option<SpaceId> {
        Some(SpaceId::of(page)).filter(|&space| space <= SpaceId::MAX && self.know(home_of(space)))
    }

    /// Whether pages and hosts of a message are the machine's.
    fn could_say(self, message: &Message) -> bool {
        let region = message.region();
        // Beyond this a region's pages have no numbers.
        if region.0 > u64::MAX / REGION_PAGES as u64 || self.space_of(region.page(0)).is_none() {
            return false;
        }
        match *message {
            Message::Located { directory: Some(host), .. }
            | Message::HandOver { to: Some(host), .. }
            | Message::Invalidate { requester: host, .. }
            | Message::Relinquish { to: host, .. }
            | Message::Give { directory: host, .. } => self.know(host),
            // The directory forwards to the owner what the owner has not asked for itself.
            Message::Forward { into, requester, .. } => {
                self.space_of(into).is_some() && self.know(requester) && requester != self.me
            }
            Message::Located { directory: None, .. }
            | Message::HandOver { to: None, .. }
            | Message::Locate { .. }
            | Message::Request { .. }
            | Message::Discard { .. }
            | Message::Ack { .. }
            | Message::Grant { .. }
            | Message::Done { .. }
            | Message::Promote { .. }
            | Message::Release { .. }
            | Message::Moot { .. }
            | Message::Drop { .. }
            | Message::Dropped { .. }
            | Message::Discarded { .. } => true,
        }
    }
}

/// One message, borrowed from the fabric's buffer.
#[derive(Debug)]
pub enum Said<'a> {
    /// The protocol's, and the page beside it.
    Coherence(Message, Option<Packed<'a>>),
    /// How many pages of room the sender would like.
    RoomAsk(u32),
    /// How many pages the sender promises to take.
    Room(u32),
    /// The sender needs the room itself that it has promised the receiver.
    RoomRecall,
    /// How many pages of promised room the sender gives back.
    RoomBack(u32),
    /// A space has ended.
    SpaceEnd(SpaceId),
    /// The sender's figures.
    Figures(&'a [u8]),
    /// The sender has lost a host.
    PeerLost(HostId, &'a str),
    /// The receiver is to send its figures now.
    FiguresAsk,
    /// The sender needs the first bytes of so many pages, of which the receiver has the files.
    FileAsk(u32, PageId, u16),
    /// A page's first bytes, in answer to a question.
    FileBytes(u32, PageId, Packed<'a>),
    /// The receiver is to discard the pages of a range of which it keeps the directory entries, and to say when that is done.
    Sweep(u32, std::ops::Range<PageId>),
    /// It is.
    Swept(u32),
}

const COHERENCE: u8 = 1;
const ROOM_ASK: u8 = 2;
const ROOM: u8 = 3;
const SPACE_END: u8 = 4;
const FIGURES: u8 = 5;
const PEER_LOST: u8 = 6;
const FIGURES_ASK: u8 = 7;
const FILE_ASK: u8 = 8;
const FILE_BYTES: u8 = 9;
const SWEEP: u8 = 10;
const SWEPT: u8 = 11;
const ROOM_RECALL: u8 = 12;
const ROOM_BACK: u8 = 13;

/// Longest reason for the loss of a host; longer ones are cut.
const REASON_BYTES_MAX: usize = 1024;

/// The kind byte and the encoded message, ahead of a packed page or alone.
pub fn coherence(message: &Message, out: &mut Vec<u8>) {
    out.clear();
    out.push(COHERENCE);
    message.encode(out);
}

/// Asks for room.
pub fn room_ask(pages: u32) -> [u8; 5] {
    with_u32(ROOM_ASK, pages)
}

/// Promises room.
pub fn room(pages: u32) -> [u8; 5] {
    with_u32(ROOM, pages)
}

/// Asks for room back.
pub const GIVE_ROOM_BACK: [u8; 1] = [ROOM_RECALL];

/// Gives room back.
pub fn room_back(pages: u32) -> [u8; 5] {
    with_u32(ROOM_BACK, pages)
}

/// Says that a space has ended.
pub fn space_end(space: SpaceId) -> [u8; 5] {
    with_u32(SPACE_END, space.0)
}

/// Figures; append the JSON.
pub const FIGURES_HEAD: [u8; 1] = [FIGURES];
/// Asks for figures.
pub const SEND_FIGURES: [u8; 1] = [FIGURES_ASK];

/// Says that a host is lost, and why.
pub fn peer_lost(host: HostId, reason: &str) -> Vec<u8> {
    let [low, high] = host.0.to_le_bytes();
    let ends = (0..=reason.len().min(REASON_BYTES_MAX)).rev();
    let end = ends.into_iter().find(|&end| reason.is_char_boundary(end)).unwrap_or(0);
    [&[PEER_LOST, low, high], &reason.as_bytes()[..end]].concat()
}

/// Asks for the first bytes of pages.
pub fn file_ask(question: u32, first: PageId, pages: u16) -> [u8; 15] {
    let mut bytes = [FILE_ASK; 15];
    bytes[1..5].copy_from_slice(&question.to_le_bytes());
    bytes[5..13].copy_from_slice(&first.0.to_le_bytes());
    bytes[13..].copy_from_slice(&pages.to_le_bytes());
    bytes
}

/// A page's first bytes; append the packed page.
pub fn file_bytes(question: u32, page: PageId) -> [u8; 13] {
    let mut bytes = [FILE_BYTES; 13];
    bytes[1..5].copy_from_slice(&question.to_le_bytes());
    bytes[5..].copy_from_slice(&page.0.to_le_bytes());
    bytes
}

/// Has a range discarded.
pub fn sweep(token: u32, pages: &std::ops::Range<PageId>) -> [u8; 21] {
    let mut bytes = [SWEEP; 21];
    bytes[1..5].copy_from_slice(&token.to_le_bytes());
    bytes[5..13].copy_from_slice(&pages.start.0.to_le_bytes());
    bytes[13..].copy_from_slice(&(pages.end.0 - pages.start.0).to_le_bytes());
    bytes
}

/// Says that a range is discarded.
pub fn swept(token: u32) -> [u8; 5] {
    with_u32(SWEPT, token)
}

fn with_u32(kind: u8, value: u32) -> [u8; 5] {
    let [a, b, c, d] = value.to_le_bytes();
    [kind, a, b, c, d]
}

/// Reads a message.
///
/// # Errors
/// [`Malformed`] for anything that no agent of this version says to this host.
pub fn read(bytes: &[u8], parties: Parties) -> Result<Said<'_>, Malformed> {
    let (&kind, rest) = bytes.split_first().ok_or(Malformed)?;
    let number = || rest.try_into().map(u32::from_le_bytes).map_err(|_| Malformed);
    // Of a range of pages, of which the first is in a space that `home` has opened.
    let within = |first: PageId, pages: u64, home: HostId| {
        let space = parties.space_of(first).filter(|&space| home_of(space) == home).ok_or(Malformed)?;
        if pages > space.pages().end.0 - first.0 { Err(Malformed) } else { Ok(()) }
    };
    Ok(match kind {
        COHERENCE => {
            let (message, length) = Message::decode(rest).map_err(|_| Malformed)?;
            let rest = &rest[length..];
            if !parties.could_say(&message) {
                return Err(Malformed);
            }
            if message.carries_page().is_some() {
                Said::Coherence(message, Some(Packed::from_wire(rest)?))
            } else if rest.is_empty() {
                Said::Coherence(message, None)
            } else {
                return Err(Malformed);
            }
        }
        ROOM_ASK => Said::RoomAsk(number()?),
        ROOM => Said::Room(number()?),
        ROOM_RECALL if rest.is_empty() => Said::RoomRecall,
        ROOM_BACK => Said::RoomBack(number()?),
        SPACE_END => {
            let space = SpaceId(number()?);
            // A space is ended by who opened it.
            if space > SpaceId::MAX || home_of(space) != parties.from {
                return Err(Malformed);
            }
            Said::SpaceEnd(space)
        }
        FIGURES => Said::Figures(rest),
        PEER_LOST => {
            let (host, text) = rest.split_first_chunk::<2>().ok_or(Malformed)?;
            let host = HostId(u16::from_le_bytes(*host));
            if !parties.know(host) || text.len() > REASON_BYTES_MAX {
                return Err(Malformed);
            }
            Said::PeerLost(host, std::str::from_utf8(text).map_err(|_| Malformed)?)
        }
        FIGURES_ASK if rest.is_empty() => Said::FiguresAsk,
        FILE_ASK => {
            let (question, page, pages) = numbered_page(rest)?;
            let pages = pages.try_into().map(u16::from_le_bytes).map_err(|_| Malformed)?;
            if pages == 0 || u64::from(pages) > WINDOW_PAGES_MAX {
                return Err(Malformed);
            }
            within(page, u64::from(pages), parties.me)?;
            Said::FileAsk(question, page, pages)
        }
        FILE_BYTES => {
            let (question, page, packed) = numbered_page(rest)?;
            within(page, 1, parties.from)?;
            Said::FileBytes(question, page, Packed::from_wire(packed)?)
        }
        SWEEP => {
            let (token, first, pages) = numbered_page(rest)?;
            let pages = pages.try_into().map(u64::from_le_bytes).map_err(|_| Malformed)?;
            within(first, pages, parties.from)?;
            Said::Sweep(token, first..PageId(first.0 + pages))
        }
        SWEPT => Said::Swept(number()?),
        _ => return Err(Malformed),
    })
}

/// A number, a page, and what follows.
fn numbered_page(bytes: &[u8]) -> Result<(u32, PageId, &[u8]), Malformed> {
    let (number, rest) = bytes.split_first_chunk::<4>().ok_or(Malformed)?;
    let (page, rest) = rest.split_first_chunk::<8>().ok_or(Malformed)?;
    Ok((u32::from_le_bytes(*number), PageId(u64::from_le_bytes(*page)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coherence::{Access, RegionId};

    const HOSTS: u16 = 3;

    fn parties(me: u16, from: u16) -> Parties {
        Parties { me: HostId(me), from: HostId(from), hosts: HOSTS }
    }

    #[test]
    fn what_is_said_is_heard() {
        // A space of host 0.
        let page = SpaceId(5).page(0x7000);
        let (at_home, from_home) = (parties(0, 1), parties(1, 0));
        assert!(matches!(read(&file_ask(9, page, 64), at_home), Ok(Said::FileAsk(9, p, 64)) if p == page));
        assert!(
            read(&file_ask(9, page, 65), at_home).is_err() && read(&file_ask(9, page, 0), at_home).is_err()
        );
        let zeros = [&file_bytes(9, page)[..], &Packed::ZERO.header()].concat();
        assert!(matches!(read(&zeros, from_home), Ok(Said::FileBytes(9, p, _)) if p == page));
        let range = page..PageId(page.0 + 77);
        assert!(matches!(read(&sweep(3, &range), from_home), Ok(Said::Sweep(3, r)) if r == range));
        let beyond = page..PageId(SpaceId(6).pages().start.0 + 1);
        assert!(read(&sweep(3, &beyond), from_home).is_err(), "into another space");
        assert!(matches!(read(&swept(3), from_home), Ok(Said::Swept(3))));
        for (whole, who) in [
            (&file_ask(9, page, 1)[..], at_home),
            (&zeros, from_home),
            (&sweep(3, &range), from_home),
            (&swept(3), from_home),
        ] {
            assert!((0..whole.len()).all(|end| read(&whole[..end], who).is_err()), "cut");
            assert!(read(&[whole, &[0]].concat(), who).is_err(), "too long");
        }
    }

    #[test]
    fn a_spaces_home_alone_speaks_for_it() {
        let page = SpaceId(5).page(0x7000);
        let range = page..PageId(page.0 + 1);
        assert!(read(&space_end(SpaceId(5)), parties(1, 0)).is_ok());
        for from in 1..HOSTS {
            assert!(read(&space_end(SpaceId(5)), parties(0, from)).is_err());
            assert!(read(&sweep(3, &range), parties(0, from)).is_err());
            let zeros = [&file_bytes(9, page)[..], &Packed::ZERO.header()].concat();
            assert!(read(&zeros, parties(0, from)).is_err());
            assert!(read(&file_ask(9, page, 1), parties(from, 0)).is_err(), "the files are home's");
        }
    }

    /// An agent once ended because a peer had named a host that the machine has not: it was to be sent something.
    #[test]
    fn hosts_and_pages_are_the_machines() {
        let page = SpaceId(5).page(0x7000);
        let region = page.region();
        let heard = |message: Message| {
            let mut bytes = Vec::new();
            coherence(&message, &mut bytes);
            if message.carries_page().is_some() {
                bytes.extend_from_slice(&Packed::ZERO.header());
            }
            read(&bytes, parties(1, 0)).is_ok()
        };
        let forward = |requester, into| Message::Forward {
            page,
            into,
            access: Access::Read,
            requester: HostId(requester),
            alone: false,
            acks: 0,
        };
        assert!(heard(forward(2, page)));
        assert!(!heard(forward(HOSTS, page)) && !heard(forward(1, page)));
        for host in [0, HOSTS - 1, HOSTS, u16::MAX] {
            let (known, host) = (host < HOSTS, HostId(host));
            assert_eq!(heard(Message::Located { region, directory: Some(host) }), known);
            assert_eq!(heard(Message::HandOver { page, to: Some(host) }), known);
            assert_eq!(heard(Message::Invalidate { page, requester: host }), known);
            assert_eq!(heard(Message::Relinquish { page, to: host }), known);
            assert_eq!(heard(Message::Give { page, directory: host }), known);
            assert_eq!(read(&peer_lost(host, "why"), parties(0, 1)).is_ok(), known);
        }
        let unopened = SpaceId(u32::from(HOSTS) << 18 | 1).page(0);
        for nowhere in [PageId(u64::MAX), SpaceId(SpaceId::MAX.0).page(0), unopened] {
            assert!(!heard(Message::Drop { page: nowhere }) && !heard(forward(2, nowhere)));
            assert!(read(&sweep(3, &(nowhere..nowhere)), parties(1, 0)).is_err());
            assert!(!heard(Message::Locate { region: nowhere.region(), claim: true }));
        }
        // Its pages would be those of region 0.
        assert!(!heard(Message::Locate { region: RegionId(1 << 55), claim: true }));
        assert!(heard(Message::Locate { region, claim: true }));
    }

    #[test]
    fn a_reason_is_cut() {
        let long = "ä".repeat(REASON_BYTES_MAX);
        let told = peer_lost(HostId(2), &long);
        let heard = read(&told, parties(0, 1));
        assert!(
            matches!(heard, Ok(Said::PeerLost(HostId(2), text)) if text.len() == REASON_BYTES_MAX),
            "{heard:?}"
        );
        let too_long = [&told[..], b"x"].concat();
        assert!(read(&too_long, parties(0, 1)).is_err());
    }
}
