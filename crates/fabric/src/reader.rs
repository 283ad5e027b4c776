//! The reader thread of one peer: bytes become calls of the [`Inbox`].

use std::io;
use std::sync::Arc;

use crate::Inbox;
use crate::error::Lost;
use crate::frame::{FrameBuffer, Kind};
use crate::link::Link;
use crate::mesh::Core;

/// How a stream ended.
pub(crate) enum End {
    Goodbye,
    Lost(Lost),
}

/// Reads until the stream ends.
pub(crate) fn read(core: &Core, link: &Link, inbox: &Arc<dyn Inbox>) -> End {
    let Some(stream) = link.stream() else { return End::Lost(Lost::Closed) };
    let closed = || End::Lost(link.broken.get().cloned().unwrap_or(Lost::Closed));
    let mut buffer = FrameBuffer::new();
    loop {
        match stream.read(buffer.space(), &core.counters.received) {
            Ok(0) => return closed(),
            Ok(count) => {
                buffer.filled(count);
                if let Some(end) = deliver(core, link, inbox, &mut buffer) {
                    return end;
                }
            }
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                // SO_RCVTIMEO is `lost_after`: nothing came for so long.
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    return End::Lost(Lost::Silent(core.invitation.settings.lost_after));
                }
                io::ErrorKind::UnexpectedEof => return closed(),
                _ => {
                    link.alert();
                    return End::Lost(Lost::from(&error));
                }
            },
        }
    }
}

/// Delivers every whole frame of the buffer.
fn deliver(core: &Core, link: &Link, inbox: &Arc<dyn Inbox>, buffer: &mut FrameBuffer) -> Option<End> {
    let mut delivered = false;
    let end = loop {
        let frame = match buffer.next() {
            Ok(Some(frame)) => frame,
            Ok(None) => break None,
            Err(garbage) => break Some(End::Lost(Lost::Garbage(garbage.0))),
        };
        if frame.epoch != core.invitation.epoch {
            continue;
        }
        match frame.kind {
            // After shutdown the stream is read to its end, so that the peer gets our goodbye rather than a reset.
            Kind::Message if core.is_closed() => {}
            Kind::Message => {
                inbox.message(link.host, frame.payload);
                delivered = true;
            }
            Kind::KeepAlive => {}
            Kind::Ready => core.ready(link.host),
            Kind::Failed => core.failed(link.host, frame.payload),
            Kind::Stands => core.stands(link.host),
            Kind::Goodbye => break Some(End::Goodbye),
        }
    };
    if delivered && !core.is_closed() {
        inbox.drained(link.host);
    }
    end
}
