//! The first bytes on a connection: [`Hello`] from the dialer, [`Reply`] from the listener. Little-endian.
//!
//! ```text
//! hello   0 magic "MEGALITH"   8 version u32   12 cluster [16]   28 length u32   32 body [length]
//! body    0 what for u32: 0 link, 1 channel   4 machine u64   12 epoch u32   16 from u16   18 to u16
//!  link   20 heartbeat ms u32   24 lost_after ms u32   28 join_timeout ms u32
//!         32 members u16   34 { name length u8, name, address length u16, address } × members
//!  channel 20 words u64 × 4
//! reply   0 magic "MEGALITH"   8 version u32   12 status u32   16 length u32   20 detail [length]
//! ```
//!
//! In every version the first 12 bytes mean the same, a hello has at least 32 bytes and a reply at least 20: so two
//! versions can tell each other apart.

use std::time::Duration;

use coherence::{Epoch, HostId};

use crate::error::KINDS;
use crate::invitation::{
    ADDRESS_BYTES_MAX, ClusterId, Invitation, MEMBERS_MAX, MachineId, Member, NAME_BYTES_MAX, Settings,
};

/// Version of handshake and frames; two agents talk only if theirs are equal.
pub const PROTOCOL_VERSION: u32 = 2;

pub(crate) const MAGIC: [u8; 8] = *b"MEGALITH";
pub(crate) const PREAMBLE_BYTES: usize = 32;
pub(crate) const REPLY_HEADER_BYTES: usize = 20;
/// Longest body of a hello.
pub(crate) const BODY_BYTES_MAX: usize = 34 + MEMBERS_MAX * (1 + NAME_BYTES_MAX + 2 + ADDRESS_BYTES_MAX);
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

const LINK: u32 = 0;
const CHANNEL: u32 = 1;

/// What a connection is to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// A link: who sends it, and the invitation as it is for the receiver.
    Link(HostId, Invitation),
    /// A channel.
    Channel(ChannelHello),
}

/// Asks for a channel in a machine that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChannelHello {
    pub(crate) machine: MachineId,
    pub(crate) epoch: Epoch,
    pub(crate) from: HostId,
    pub(crate) to: HostId,
    /// The agents' affair.
    pub(crate) words: [u64; 4],
}

/// Encodes the whole hello of a link to `to`.
pub(crate) fn encode_hello(cluster: ClusterId, invitation: &Invitation, to: HostId) -> Vec<u8> {
    let mut body = route(LINK, invitation.machine, invitation.epoch, invitation.me, to);
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
    behind_preamble(cluster, &body)
}

/// Encodes the whole hello of a channel.
pub(crate) fn encode_channel(cluster: ClusterId, hello: &ChannelHello) -> Vec<u8> {
    let mut body = route(CHANNEL, hello.machine, hello.epoch, hello.from, hello.to);
    body.extend(hello.words.into_iter().flat_map(u64::to_le_bytes));
    behind_preamble(cluster, &body)
}

/// The part of the body that says what for, and from where to where.
fn route(what_for: u32, machine: MachineId, epoch: Epoch, from: HostId, to: HostId) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(what_for.to_le_bytes());
    body.extend(machine.0.to_le_bytes());
    body.extend(epoch.0.to_le_bytes());
    body.extend(from.0.to_le_bytes());
    body.extend(to.0.to_le_bytes());
    body
}

fn behind_preamble(cluster: ClusterId, body: &[u8]) -> Vec<u8> {
    let mut hello = Vec::with_capacity(PREAMBLE_BYTES + body.len());
    hello.extend(MAGIC);
    hello.extend(PROTOCOL_VERSION.to_le_bytes());
    hello.extend(cluster.0);
    hello.extend((body.len() as u32).to_le_bytes());
    hello.extend(body);
    hello
}

/// Decodes the body of a hello. `None` if malformed.
pub(crate) fn decode_body(bytes: &[u8]) -> Option<Hello> {
    let mut fields = Fields(bytes);
    let what_for = fields.u32()?;
    let machine = MachineId(fields.u64()?);
    let epoch = Epoch(fields.u32()?);
    let from = HostId(fields.u16()?);
    let to = HostId(fields.u16()?);
    let hello = match what_for {
        LINK => {
            let (settings, members) = (decode_settings(&mut fields)?, decode_members(&mut fields)?);
            Hello::Link(from, Invitation { machine, epoch, me: to, members, settings })
        }
        CHANNEL => {
            let words = [fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?];
            Hello::Channel(ChannelHello { machine, epoch, from, to, words })
        }
        _ => return None,
    };
    fields.0.is_empty().then_some(hello)
}

fn decode_settings(fields: &mut Fields<'_>) -> Option<Settings> {
    let mut time = || fields.u32().map(|ms| Duration::from_millis(u64::from(ms)));
    Some(Settings { heartbeat: time()?, lost_after: time()?, join_timeout: time()? })
}

fn decode_members(fields: &mut Fields<'_>) -> Option<Vec<Member>> {
    let count = usize::from(fields.u16()?);
    let mut members = Vec::with_capacity(count.min(MEMBERS_MAX));
    for _ in 0..count {
        let name_bytes = fields.u8()?;
        let name = fields.text(usize::from(name_bytes))?;
        let address_bytes = fields.u16()?;
        members.push(Member { name, address: fields.text(usize::from(address_bytes))? });
    }
    Some(members)
}

/// The listener's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Frames follow, on a channel what its ends have to say.
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

/// Decodes the payload of a `Failed` frame: the host that cannot be linked with, the kind of error, and its text.
pub(crate) fn decode_failed(payload: &[u8]) -> Option<(HostId, &'static str, String)> {
    let mut fields = Fields(payload);
    let (host, kind) = (fields.u16()?, fields.u8()?);
    let kind = KINDS.get(usize::from(kind)).unwrap_or(&KINDS[0]);
    let text = &fields.0[..fields.0.len().min(DETAIL_BYTES_MAX)];
    Some((HostId(host), kind, printable(text)))
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
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
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
