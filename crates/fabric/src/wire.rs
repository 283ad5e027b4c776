//! The first bytes on a connection: [`Hello`] from the dialer, [`Reply`] from the listener. Little-endian.
//!
//! ```text
//! hello   0 magic "MEGALITH"   8 version u32   12 cluster [16]   28 length u32   32 body [length]
//! body    0 machine u64   8 epoch u32   12 from u16   14 to u16
//!         16 heartbeat ms u32   20 lost_after ms u32   24 join_timeout ms u32
//!         28 members u16   30 { name length u8, name, address length u16, address } × members
//! reply   0 magic "MEGALITH"   8 version u32   12 status u32   16 length u32   20 detail [length]
//! ```
//!
//! In every version the first 12 bytes mean the same, a hello has at least 32 bytes and a reply at least 20: so two
//! versions can tell each other apart.

use std::time::Duration;

use coherence::{Epoch, HostId};

use crate::invitation::{
    ADDRESS_BYTES_MAX, ClusterId, Invitation, MEMBERS_MAX, MachineId, Member, NAME_BYTES_MAX, Settings,
};

/// Version of handshake and frames; two agents talk only if theirs are equal.
pub const PROTOCOL_VERSION: u32 = 1;

pub(crate) const MAGIC: [u8; 8] = *b"MEGALITH";
pub(crate) const PREAMBLE_BYTES: usize = 32;
pub(crate) const REPLY_HEADER_BYTES: usize = 20;
/// Longest body of a hello.
pub(crate) const BODY_BYTES_MAX: usize = 30 + MEMBERS_MAX * (1 + NAME_BYTES_MAX + 2 + ADDRESS_BYTES_MAX);
/// Longest text in a reply; longer reasons are cut.
pub(crate) const DETAIL_BYTES_MAX: usize = 1024;

/// The part of a hello that every listener reads first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Preamble {
    pub(crate) version: u32,
    pub(crate) cluster: ClusterId,
    pub(crate) body_bytes: usize,
}

impl Preamble {
    /// `None` if the bytes are not this protocol's.
    pub(crate) fn decode(bytes: &[u8; PREAMBLE_BYTES]) -> Option<Preamble> {
        let mut fields = Fields(bytes);
        if fields.array()? != MAGIC {
            return None;
        }
        let version = fields.u32()?;
        let cluster = ClusterId(fields.array()?);
        Some(Preamble { version, cluster, body_bytes: fields.u32()? as usize })
    }
}

/// Encodes a whole hello to `to`.
pub(crate) fn encode_hello(cluster: ClusterId, invitation: &Invitation, to: HostId) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(invitation.machine.0.to_le_bytes());
    body.extend(invitation.epoch.0.to_le_bytes());
    body.extend(invitation.me.0.to_le_bytes());
    body.extend(to.0.to_le_bytes());
    let Settings { heartbeat, lost_after, join_timeout } = invitation.settings;
    for time in [heartbeat, lost_after, join_timeout] {
        body.extend((time.as_millis() as u32).to_le_bytes());
    }
    body.extend(invitation.hosts().to_le_bytes());
    for Member { name, address } in &invitation.members {
        body.push(name.len() as u8);
        body.extend(name.as_bytes());
        body.extend((address.len() as u16).to_le_bytes());
        body.extend(address.as_bytes());
    }
    let mut hello = Vec::with_capacity(PREAMBLE_BYTES + body.len());
    hello.extend(MAGIC);
    hello.extend(PROTOCOL_VERSION.to_le_bytes());
    hello.extend(cluster.0);
    hello.extend((body.len() as u32).to_le_bytes());
    hello.extend(body);
    hello
}

/// Decodes the body of a hello: who sends it, and the invitation as it is for the receiver. `None` if malformed.
pub(crate) fn decode_body(bytes: &[u8]) -> Option<(HostId, Invitation)> {
    let mut fields = Fields(bytes);
    let machine = MachineId(fields.u64()?);
    let epoch = Epoch(fields.u32()?);
    let from = HostId(fields.u16()?);
    let me = HostId(fields.u16()?);
    let mut time = || fields.u32().map(|ms| Duration::from_millis(u64::from(ms)));
    let settings = Settings { heartbeat: time()?, lost_after: time()?, join_timeout: time()? };
    let count = usize::from(fields.u16()?);
    let mut members = Vec::with_capacity(count.min(MEMBERS_MAX));
    for _ in 0..count {
        let name_bytes = fields.u8()?;
        let name = fields.text(usize::from(name_bytes))?;
        let address_bytes = fields.u16()?;
        members.push(Member { name, address: fields.text(usize::from(address_bytes))? });
    }
    let invitation = Invitation { machine, epoch, me, members, settings };
    fields.0.is_empty().then_some((from, invitation))
}

/// The listener's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Frames follow.
    Accepted,
    /// The listener's version differs (it is in the header).
    Version(u32),
    /// The listener is of another cluster.
    Cluster,
    /// The listener does not want to; why.
    Refused(String),
    /// The listener goes by this name.
    Name(String),
}

impl Reply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (status, detail) = match self {
            Reply::Accepted => (0_u32, ""),
            Reply::Version(_) => (1, ""),
            Reply::Cluster => (2, ""),
            Reply::Refused(reason) => (3, reason.as_str()),
            Reply::Name(name) => (4, name.as_str()),
        };
        let detail = cut(detail);
        let mut bytes = Vec::with_capacity(REPLY_HEADER_BYTES + detail.len());
        bytes.extend(MAGIC);
        bytes.extend(PROTOCOL_VERSION.to_le_bytes());
        bytes.extend(status.to_le_bytes());
        bytes.extend((detail.len() as u32).to_le_bytes());
        bytes.extend(detail.as_bytes());
        bytes
    }

    /// Decodes a reply whose detail `read` delivers; `None` if it is not this protocol's.
    pub(crate) fn decode<E>(
        header: &[u8; REPLY_HEADER_BYTES],
        read: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Option<Reply>, E> {
        let Some((version, status, length)) = Reply::header(header) else { return Ok(None) };
        if version != PROTOCOL_VERSION {
            return Ok(Some(Reply::Version(version)));
        }
        if length > DETAIL_BYTES_MAX {
            return Ok(None);
        }
        let mut detail = vec![0; length];
        read(&mut detail)?;
        let detail = printable(&detail);
        Ok(match status {
            0 => Some(Reply::Accepted),
            2 => Some(Reply::Cluster),
            3 => Some(Reply::Refused(detail)),
            4 => Some(Reply::Name(detail)),
            _ => None,
        })
    }

    fn header(bytes: &[u8]) -> Option<(u32, u32, usize)> {
        let mut fields = Fields(bytes);
        (fields.array()? == MAGIC).then_some(())?;
        Some((fields.u32()?, fields.u32()?, fields.u32()? as usize))
    }
}

/// As much of `text` as fits in a reply.
pub(crate) fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(DETAIL_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// A peer's text as it may go to a terminal.
pub(crate) fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).replace(char::is_control, " ")
}

/// Takes fields off the front of a byte string.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self, bytes: usize) -> Option<String> {
        let (text, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }
}
