//! Connections that are not links: two hosts of a machine that stands, each of which hands its end to somebody else.
//!
//! After the handshake a channel carries what its ends have to say, in no frames; nobody here looks into it, and its end is
//! their affair. It is not a sign of life, and the end of the machine does not close it.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use coherence::HostId;

use crate::deadline::Deadline;
use crate::error::FabricError;
use crate::handshake;
use crate::listener::Shared;
use crate::mesh::Core;
use crate::relay;
use crate::stream::Stream;
use crate::wire::{ChannelHello, Reply, encode_channel};

/// What takes the end of an accepted channel, a stream socket.
pub type TakeChannel = Box<dyn FnOnce(OwnedFd) + Send>;

/// Dials a channel to `to`.
pub(crate) fn dial(core: &Core, to: HostId, words: [u64; 4]) -> Result<OwnedFd, FabricError> {
    let invitation = &core.invitation;
    assert!(to != invitation.me && to.0 < invitation.hosts(), "host {} dials {}", invitation.me.0, to.0);
    let (machine, epoch, from) = (invitation.machine, invitation.epoch, invitation.me);
    let hello = encode_channel(core.cluster(), &ChannelHello { machine, epoch, from, to, words });
    let deadline = Deadline::after(invitation.settings.join_timeout);
    let stream = handshake::greet(core, to, &hello, deadline)?;
    let end = free(stream.socket()).and_then(|()| relay::end_of(stream));
    end.map_err(|source| core.unreachable(to, source))
}

/// Serves a connection that is to be a channel.
pub(crate) fn receive(
    shared: &Arc<Shared>,
    stream: Stream,
    address: IpAddr,
    hello: &ChannelHello,
    patience: Duration,
) {
    match judge(shared, &stream, address, hello, patience) {
        Err(reason) => handshake::refuse(&stream, &Reply::Refused(reason), patience),
        Ok(take) => {
            let accepted = stream.write_all(Deadline::after(patience), &Reply::Accepted.encode());
            let end = accepted.and_then(|()| free(stream.socket())).and_then(|()| relay::end_of(stream));
            // A dialer that has gone will not miss it.
            if let Ok(end) = end {
                take(end);
            }
        }
    }
}

/// Who takes the channel, or why nobody does.
fn judge(
    shared: &Shared,
    stream: &Stream,
    address: IpAddr,
    hello: &ChannelHello,
    patience: Duration,
) -> Result<TakeChannel, String> {
    let ChannelHello { machine, epoch, from, to, words } = *hello;
    let core = shared.registry.find(machine).ok_or_else(|| format!("machine {machine} is not here"))?;
    let invitation = &core.invitation;
    if epoch != invitation.epoch || to != invitation.me || from == to || from.0 >= invitation.hosts() {
        return Err(format!("machine {machine} is here with other hosts, or at another epoch"));
    }
    handshake::check_name(shared, stream, address, &invitation.member(from).name)?;
    // Home may know that the machine stands a moment before its members hear of it.
    if !core.stands_within(Deadline::after(patience)) {
        return Err(format!("machine {machine} does not stand here"));
    }
    shared.host.channel(machine, from, words)
}

/// Undoes what the handshake needed: reads and writes wait as long as it takes.
fn free(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(None)?;
    socket.set_write_timeout(None)
}
