//! Messages as bytes: a tag, then the fields, little-endian, at fixed places. At most
//! [`Message::ENCODED_BYTES_MAX`] bytes.

use std::fmt;

use crate::{Access, Bytes, HostId, Message, Outcome, PageId, RegionId};

/// Why bytes are not a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    /// They end inside the message.
    Truncated,
    /// No message has this tag.
    Tag(u8),
    /// A field of the message has a value that means nothing.
    Value {
        /// The message's tag.
        tag: u8,
        /// The value.
        value: u8,
    },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Truncated => write!(f, "the bytes end inside a coherence message"),
            WireError::Tag(tag) => write!(f, "no coherence message has the tag {tag}"),
            WireError::Value { tag, value } => {
                write!(
                    f,
                    "a coherence message with the tag {tag} has a field with the meaningless value {value}"
                )
            }
        }
    }
}

impl std::error::Error for WireError {}

mod tag {
    pub const LOCATE: u8 = 1;
    pub const LOCATED: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const HAND_OVER: u8 = 4;
    pub const DISCARD: u8 = 5;
    pub const FORWARD: u8 = 6;
    pub const INVALIDATE: u8 = 7;
    pub const ACK: u8 = 8;
    pub const GRANT: u8 = 9;
    pub const DONE: u8 = 10;
    pub const RELINQUISH: u8 = 11;
    pub const GIVE: u8 = 12;
    pub const PROMOTE: u8 = 13;
    pub const RELEASE: u8 = 14;
    pub const MOOT: u8 = 15;
    pub const DROP: u8 = 16;
    pub const DROPPED: u8 = 17;
    pub const DISCARDED: u8 = 18;
}

impl Message {
    /// No message is longer than this, encoded.
    pub const ENCODED_BYTES_MAX: usize = 24;

    /// Appends the message's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut put = Writer(out);
        match *self {
            Message::Locate { region, claim } => put.tag(tag::LOCATE).u64(region.0).u8(claim.into()),
            Message::Located { region, directory } => {
                put.tag(tag::LOCATED).u64(region.0).maybe_host(directory)
            }
            Message::Request { page, access } => put.tag(tag::REQUEST).page(page).access(access),
            Message::HandOver { page, to } => put.tag(tag::HAND_OVER).page(page).maybe_host(to),
            Message::Discard { page } => put.tag(tag::DISCARD).page(page),
            Message::Forward { page, into, access, requester, alone, acks } => {
                let flags = u8::from(access == Access::Write) | u8::from(alone) << 1;
                put.tag(tag::FORWARD).page(page).page(into).u8(flags).host(requester).u16(acks)
            }
            Message::Invalidate { page, requester } => put.tag(tag::INVALIDATE).page(page).host(requester),
            Message::Ack { page } => put.tag(tag::ACK).page(page),
            Message::Grant { page, access, bytes, acks } => {
                let bytes = match bytes {
                    Bytes::Initial => 0,
                    Bytes::Carried => 1,
                    Bytes::Held => 2,
                };
                put.tag(tag::GRANT).page(page).access(access).u8(bytes).u16(acks)
            }
            Message::Done { page, outcome } => {
                let outcome = match outcome {
                    Outcome::Exclusive => 0,
                    Outcome::Shared => 1,
                    Outcome::Unchanged => 2,
                };
                put.tag(tag::DONE).page(page).u8(outcome)
            }
            Message::Relinquish { page, to } => put.tag(tag::RELINQUISH).page(page).host(to),
            Message::Give { page, directory } => put.tag(tag::GIVE).page(page).host(directory),
            Message::Promote { page } => put.tag(tag::PROMOTE).page(page),
            Message::Release { page } => put.tag(tag::RELEASE).page(page),
            Message::Moot { page } => put.tag(tag::MOOT).page(page),
            Message::Drop { page } => put.tag(tag::DROP).page(page),
            Message::Dropped { page } => put.tag(tag::DROPPED).page(page),
            Message::Discarded { page } => put.tag(tag::DISCARDED).page(page),
        };
    }

    /// Reads one message from the front of `bytes`; also says how many bytes it took.
    ///
    /// # Errors
    /// If the bytes do not begin with a whole message. Bytes that no `encode` wrote are refused, never
    /// interpreted: a message that is accepted encodes to the very bytes that were read.
    pub fn decode(bytes: &[u8]) -> Result<(Message, usize), WireError> {
        let mut get = Reader { bytes, at: 0, tag: 0 };
        get.tag = get.u8()?;
        let message = match get.tag {
            tag::LOCATE => Message::Locate { region: RegionId(get.u64()?), claim: get.flag()? },
            tag::LOCATED => Message::Located { region: RegionId(get.u64()?), directory: get.maybe_host()? },
            tag::REQUEST => Message::Request { page: get.page()?, access: get.access()? },
            tag::HAND_OVER => Message::HandOver { page: get.page()?, to: get.maybe_host()? },
            tag::DISCARD => Message::Discard { page: get.page()? },
            tag::FORWARD => {
                let (page, into) = (get.page()?, get.page()?);
                let flags = get.u8()?;
                if flags > 3 {
                    return Err(get.refuse(flags));
                }
                let access = if flags & 1 != 0 { Access::Write } else { Access::Read };
                Message::Forward {
                    page,
                    into,
                    access,
                    alone: flags & 2 != 0,
                    requester: get.host()?,
                    acks: get.u16()?,
                }
            }
            tag::INVALIDATE => Message::Invalidate { page: get.page()?, requester: get.host()? },
            tag::ACK => Message::Ack { page: get.page()? },
            tag::GRANT => {
                let (page, access) = (get.page()?, get.access()?);
                let bytes = match get.u8()? {
                    0 => Bytes::Initial,
                    1 => Bytes::Carried,
                    2 => Bytes::Held,
                    other => return Err(get.refuse(other)),
                };
                Message::Grant { page, access, bytes, acks: get.u16()? }
            }
            tag::DONE => {
                let page = get.page()?;
                let outcome = match get.u8()? {
                    0 => Outcome::Exclusive,
                    1 => Outcome::Shared,
                    2 => Outcome::Unchanged,
                    other => return Err(get.refuse(other)),
                };
                Message::Done { page, outcome }
            }
            tag::RELINQUISH => Message::Relinquish { page: get.page()?, to: get.host()? },
            tag::GIVE => Message::Give { page: get.page()?, directory: get.host()? },
            tag::PROMOTE => Message::Promote { page: get.page()? },
            tag::RELEASE => Message::Release { page: get.page()? },
            tag::MOOT => Message::Moot { page: get.page()? },
            tag::DROP => Message::Drop { page: get.page()? },
            tag::DROPPED => Message::Dropped { page: get.page()? },
            tag::DISCARDED => Message::Discarded { page: get.page()? },
            other => return Err(WireError::Tag(other)),
        };
        Ok((message, get.at))
    }
}

struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn tag(&mut self, tag: u8) -> &mut Self {
        self.u8(tag)
    }

    fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn page(&mut self, page: PageId) -> &mut Self {
        self.u64(page.0)
    }

    fn host(&mut self, host: HostId) -> &mut Self {
        self.u16(host.0)
    }

    /// A flag, then the host, or 0.
    fn maybe_host(&mut self, host: Option<HostId>) -> &mut Self {
        self.u8(host.is_some().into()).host(host.unwrap_or(HostId(0)))
    }

    fn access(&mut self, access: Access) -> &mut Self {
        self.u8((access == Access::Write).into())
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    tag: u8,
}

impl Reader<'_> {
    fn refuse(&self, value: u8) -> WireError {
        WireError::Value { tag: self.tag, value }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let rest = self.bytes.get(self.at..).ok_or(WireError::Truncated)?;
        let array = rest.first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.at += N;
        Ok(*array)
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    fn flag(&mut self) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.refuse(other)),
        }
    }

    fn page(&mut self) -> Result<PageId, WireError> {
        self.u64().map(PageId)
    }

    fn host(&mut self) -> Result<HostId, WireError> {
        self.u16().map(HostId)
    }

    fn maybe_host(&mut self) -> Result<Option<HostId>, WireError> {
        let known = self.flag()?;
        let host = self.host()?;
        if !known && host != HostId(0) {
            return Err(self.refuse(host.0.to_le_bytes().into_iter().max().unwrap_or(0)));
        }
        Ok(known.then_some(host))
    }

    fn access(&mut self) -> Result<Access, WireError> {
        Ok(if self.flag()? { Access::Write } else { Access::Read })
    }
}
