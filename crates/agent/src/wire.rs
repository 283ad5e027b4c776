//! What agents say to each other, in the fabric's messages. The first byte is the kind; numbers are little endian.
//!
//! ```text
//! 1  coherence message, and the page beside it if it carries one:  message ‖ packing u8 ‖ length u16 ‖ bytes
//! 2  ask for room:     pages u32            3  promise room:  pages u32 (0: none to spare)
//! 4  space has ended:  space u32            5  figures: JSON
//! 6  host is lost:     host u16 ‖ text      7  send your figures
//! 8  first bytes of pages, please:  page u64 ‖ pages u16 (1 to 64)
//! 9  a page's first bytes:          page u64 ‖ packing u8 ‖ length u16 ‖ bytes
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
    FileAsk(PageId, u16),
    /// A page's first bytes.
    FileBytes(PageId, Packed<'a>),
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
pub fn file_ask(first: PageId, pages: u16) -> [u8; 11] {
    let mut bytes = [FILE_ASK; 11];
    bytes[1..9].copy_from_slice(&first.0.to_le_bytes());
    bytes[9..].copy_from_slice(&pages.to_le_bytes());
    bytes
}

/// A page's first bytes; append the packed page.
pub fn file_bytes(page: PageId) -> [u8; 9] {
    let mut bytes = [FILE_BYTES; 9];
    bytes[1..].copy_from_slice(&page.0.to_le_bytes());
    bytes
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
            let (page, pages) = rest.split_first_chunk::<8>().ok_or(Malformed)?;
            let pages = pages.try_into().map(u16::from_le_bytes).map_err(|_| Malformed)?;
            if pages == 0 || u64::from(pages) > WINDOW_PAGES_MAX {
                return Err(Malformed);
            }
            Said::FileAsk(PageId(u64::from_le_bytes(*page)), pages)
        }
        FILE_BYTES => {
            let (page, packed) = rest.split_first_chunk::<8>().ok_or(Malformed)?;
            Said::FileBytes(PageId(u64::from_le_bytes(*page)), Packed::from_wire(packed)?)
        }
        _ => return Err(Malformed),
    })
}
