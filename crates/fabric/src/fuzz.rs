//! What holds of this crate's parsers whatever the bytes: for `crates/parsers` alone, which feeds them.

use coherence::{Epoch, HostId};

use crate::frame::{self, FrameBuffer, Kind, MESSAGE_BYTES_MAX};
use crate::invitation::{Invitation, MEMBERS_MAX};
use crate::wire::{
    self, BODY_BYTES_MAX, DETAIL_BYTES_MAX, Hello, PREAMBLE_BYTES, PROTOCOL_VERSION, Preamble,
    REPLY_HEADER_BYTES, Reply,
};

/// The first bytes that a listener reads. A hello that is accepted is spelt as we spell it.
pub fn hello(bytes: &[u8]) {
    let Some((head, body)) = bytes.split_first_chunk::<PREAMBLE_BYTES>() else { return };
    let Some(Preamble { version, cluster, body_bytes }) = Preamble::decode(head) else { return };
    if version != PROTOCOL_VERSION || body_bytes > BODY_BYTES_MAX || body_bytes != body.len() {
        return;
    }
    let again = match wire::decode_body(body) {
        None => return,
        Some(Hello::Channel(hello)) => wire::encode_channel(cluster, &hello),
        Some(Hello::Link(from, invitation)) => {
            if invitation.check().is_ok() {
                assert!(
                    invitation.members.len() <= MEMBERS_MAX
                        && !invitation.member(invitation.me).name.is_empty()
                );
            }
            let to = invitation.me;
            wire::encode_hello(cluster, &Invitation { me: from, ..invitation }, to)
        }
    };
    assert_eq!(again, bytes, "two spellings of one hello");
}

/// The first bytes that a dialer reads.
pub fn reply(bytes: &[u8]) {
    let Some((head, mut rest)) = bytes.split_first_chunk::<REPLY_HEADER_BYTES>() else { return };
    let read = |detail: &mut [u8]| {
        assert!(detail.len() <= DETAIL_BYTES_MAX);
        let (taken, left) = rest.split_at_checked(detail.len()).ok_or(())?;
        detail.copy_from_slice(taken);
        rest = left;
        Ok::<(), ()>(())
    };
    if let Ok(Some(reply)) = Reply::decode(head, read) {
        if let Reply::Refused(text) | Reply::Name(text) = &reply {
            assert!(!text.contains(char::is_control), "{text:?}");
        }
        let encoded = reply.encode();
        assert!(encoded.len() <= REPLY_HEADER_BYTES + DETAIL_BYTES_MAX);
    }
}

/// The stream of a link: first two bytes that say in what pieces it comes, then the stream. The pieces make no
/// difference, and the buffer stays small.
pub fn frames(bytes: &[u8]) {
    let Some((pieces, stream)) = bytes.split_first_chunk::<2>() else { return };
    let whole = read_frames(stream, usize::MAX);
    assert_eq!(read_frames(stream, 1 + usize::from(u16::from_le_bytes(*pieces))), whole);
    if let (frames, true) = whole {
        let mut again = Vec::new();
        for (kind, epoch, payload) in &frames {
            frame::append(&mut again, *kind, *epoch, &[payload]);
        }
        assert!(stream.starts_with(&again), "two spellings of one frame");
    }
}

type Frames = Vec<(Kind, Epoch, Vec<u8>)>;

/// All frames, and whether nothing but the beginning of one more was left.
fn read_frames(stream: &[u8], piece: usize) -> (Frames, bool) {
    let (mut buffer, mut frames) = (FrameBuffer::new(), Vec::new());
    let mut rest = stream;
    while !rest.is_empty() {
        let space = buffer.space();
        assert!(!space.is_empty() && space.len() <= 2 * MESSAGE_BYTES_MAX);
        let (taken, left) = rest.split_at(rest.len().min(space.len()).min(piece));
        space[..taken.len()].copy_from_slice(taken);
        buffer.filled(taken.len());
        rest = left;
        loop {
            match buffer.next() {
                Ok(Some(frame)) => {
                    if frame.kind == Kind::Failed
                        && let Some((HostId(_), _, text)) = wire::decode_failed(frame.payload)
                    {
                        assert!(!text.contains(char::is_control) && text.len() <= 3 * DETAIL_BYTES_MAX);
                    }
                    frames.push((frame.kind, frame.epoch, frame.payload.to_vec()));
                }
                Ok(None) => break,
                Err(_) => return (frames, false),
            }
        }
    }
    (frames, true)
}
