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
//! ```

use coherence::{HostId, Message, PageId};
use pager::{Malformed, Packed, SpaceId, WINDOW_PAGES_MAX};

/// One message, borrowed from the fabric's buffer.
#[derive(Debug)]
pub enum Said<'a> {
    /// The protocol's, and the page beside it.
    Coherence(Message, Option<Packed<'a>>),
    /// How many pages of room the sender would like.
    RoomAsk(u32),
    /// How many pages the sender promises to take.
    Room(u32),
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

/// Says that a space has ended.
pub fn space_end(space: SpaceId) -> [u8; 5] {
    with_u32(SPACE_END, space.0)
}

/// Figures; append the JSON.
pub const FIGURES_HEAD: [u8; 1] = [FIGURES];
/// Asks for figures.
pub const SEND_FIGURES: [u8; 1] = [FIGURES_ASK];

/// Says that a host is lost; append the reason.
pub fn peer_lost(host: HostId) -> [u8; 3] {
    let [low, high] = host.0.to_le_bytes();
    [PEER_LOST, low, high]
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
/// [`Malformed`] for anything that no agent of this version says.
pub fn read(bytes: &[u8]) -> Result<Said<'_>, Malformed> {
    let (&kind, rest) = bytes.split_first().ok_or(Malformed)?;
    let number = || rest.try_into().map(u32::from_le_bytes).map_err(|_| Malformed);
    Ok(match kind {
        COHERENCE => {
            let (message, length) = Message::decode(rest).map_err(|_| Malformed)?;
            let rest = &rest[length..];
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
        SPACE_END => Said::SpaceEnd(SpaceId(number()?)),
        FIGURES => Said::Figures(rest),
        PEER_LOST => {
            let (host, text) = rest.split_first_chunk::<2>().ok_or(Malformed)?;
            Said::PeerLost(
                HostId(u16::from_le_bytes(*host)),
                std::str::from_utf8(text).map_err(|_| Malformed)?,
            )
        }
        FIGURES_ASK if rest.is_empty() => Said::FiguresAsk,
        FILE_ASK => {
            let (question, page, pages) = numbered_page(rest)?;
            let pages = pages.try_into().map(u16::from_le_bytes).map_err(|_| Malformed)?;
            if pages == 0 || u64::from(pages) > WINDOW_PAGES_MAX {
                return Err(Malformed);
            }
            Said::FileAsk(question, page, pages)
        }
        FILE_BYTES => {
            let (question, page, packed) = numbered_page(rest)?;
            Said::FileBytes(question, page, Packed::from_wire(packed)?)
        }
        SWEEP => {
            let (token, first, pages) = numbered_page(rest)?;
            let pages = pages.try_into().map(u64::from_le_bytes).map_err(|_| Malformed)?;
            let end = SpaceId::of(first).pages().end;
            if pages > end.0 - first.0 {
                return Err(Malformed);
            }
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

    #[test]
    fn what_is_said_is_heard() {
        let page = SpaceId(5).page(0x7000);
        assert!(matches!(read(&file_ask(9, page, 64)), Ok(Said::FileAsk(9, p, 64)) if p == page));
        assert!(read(&file_ask(9, page, 65)).is_err() && read(&file_ask(9, page, 0)).is_err());
        let zeros = [&file_bytes(9, page)[..], &Packed::ZERO.header()].concat();
        assert!(matches!(read(&zeros), Ok(Said::FileBytes(9, p, _)) if p == page));
        let range = page..PageId(page.0 + 77);
        assert!(matches!(read(&sweep(3, &range)), Ok(Said::Sweep(3, r)) if r == range));
        let beyond = page..PageId(SpaceId(6).pages().start.0 + 1);
        assert!(read(&sweep(3, &beyond)).is_err(), "into another space");
        assert!(matches!(read(&swept(3)), Ok(Said::Swept(3))));
        for whole in [&file_ask(9, page, 1)[..], &zeros, &sweep(3, &range), &swept(3)] {
            assert!((0..whole.len()).all(|end| read(&whole[..end]).is_err()), "cut");
            assert!(read(&[whole, &[0]].concat()).is_err(), "too long");
        }
    }
}
