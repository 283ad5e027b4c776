//! The first exchange on a connection, from both ends.

use std::fs;
use std::io;
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coherence::HostId;
use rustix::net::sockopt;

use crate::channel;
use crate::deadline::Deadline;
use crate::error::{FabricError, Lost};
use crate::invitation::{Invitation, Member, Settings};
use crate::listener::Shared;
use crate::mesh::{Core, TcpMesh};
use crate::registry::Entry;
use crate::stream::{Failure, Stream};
use crate::tls::Trouble;
use crate::wire::{
    BODY_BYTES_MAX, Hello, PREAMBLE_BYTES, PROTOCOL_VERSION, Preamble, REPLY_HEADER_BYTES, Reply,
    decode_body, encode_hello,
};

/// Socket buffers where the kernel allows them.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// How every TLS alert begins that is sent to one who speaks something else.
const ALERT: [u8; 2] = [21, 3];
/// How TLS begins.
const CLIENT_HELLO: [u8; 2] = [22, 3];

/// Connects to host `to` and shows the invitation; the stream of an accepted link.
pub(crate) fn dial(core: &Core, to: HostId, deadline: Deadline) -> Result<Stream, FabricError> {
    greet(core, to, &encode_hello(core.cluster(), &core.invitation, to), deadline)
}

/// Connects to host `to` and says `hello`; the stream, if the peer accepts.
pub(crate) fn greet(
    core: &Core,
    to: HostId,
    hello: &[u8],
    deadline: Deadline,
) -> Result<Stream, FabricError> {
    let invitation = &core.invitation;
    let Member { name: host, address } = invitation.member(to).clone();
    let failed = |step: &'static str| {
        let (host, address, after) = (host.clone(), address.clone(), invitation.settings.join_timeout);
        move |source: io::Error| match source.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                FabricError::Timeout { host, address, after, step }
            }
            _ => FabricError::Unreachable { host, address, source },
        }
    };
    let socket = connect(&address, deadline).map_err(failed("did not answer a connection request"))?;
    let refused = |failure: Failure| match failure.trouble() {
        Ok(trouble) => FabricError::Keys { host: host.clone(), trouble },
        Err(error) => failed("took the connection but did not answer the handshake")(error),
    };
    let stream = socket
        .set_nodelay(true)
        .map_err(Failure::from)
        .and_then(|()| Stream::dial(socket, core.keys(), &host, deadline))
        .map_err(refused)?;
    let reply = match exchange(&stream, hello, deadline) {
        Ok(Some(reply)) => reply,
        Ok(None) => return Err(FabricError::Keys { host, trouble: Trouble::WeHaveNone }),
        Err(error) => return Err(refused(error.into())),
    };
    match reply {
        Reply::Accepted => Ok(stream),
        Reply::Version(theirs) => Err(FabricError::Version { host, ours: PROTOCOL_VERSION, theirs }),
        Reply::Cluster => Err(FabricError::Cluster { host }),
        Reply::Refused(reason) => Err(FabricError::Refused { host, reason }),
        Reply::Name(actual) => Err(FabricError::Name { expected: host.clone(), host, actual }),
    }
}

fn connect(address: &str, deadline: Deadline) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        let left = deadline.left().ok_or(io::ErrorKind::TimedOut)?;
        match TcpStream::connect_timeout(&address, left) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// The reply; `None` if the peer speaks TLS and we do not.
fn exchange(stream: &Stream, hello: &[u8], deadline: Deadline) -> io::Result<Option<Reply>> {
    let written = stream.write_all(deadline, hello);
    // A refusal may come before all of the hello is read, and then the write is what fails: look for the reply first.
    let mut header = [0; REPLY_HEADER_BYTES];
    let (first, rest) = header.split_at_mut(ALERT.len());
    let heard = stream.read_exact(deadline, first);
    if heard.is_ok() && *first == ALERT {
        return Ok(None);
    }
    if let Err(error) = heard.and_then(|()| stream.read_exact(deadline, rest)) {
        // What TLS says is the cause, and no write failing is.
        return Err(if error.get_ref().is_some() { error } else { written.err().unwrap_or(error) });
    }
    let reply = Reply::decode(&header, |detail| stream.read_exact(deadline, detail))?;
    reply.map(Some).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "what listens there is not a Megalith agent")
    })
}

/// Serves one accepted connection until it is a link, a channel, or refused. Whatever the peer does, this ends within
/// `patience` for its hello, and then within the join timeout of its machine.
pub(crate) fn receive(shared: &Arc<Shared>, socket: TcpStream, address: IpAddr, patience: Duration) {
    let deadline = Deadline::after(patience);
    let stream = socket
        .set_nodelay(true)
        .map_err(Failure::from)
        .and_then(|()| Stream::accept(socket, shared.keys.as_deref(), deadline));
    let stream = match stream {
        Ok(stream) => stream,
        Err(failure) => return shared.stranger(address, &failure.of_stranger()),
    };
    // A peer that is no agent, or went away, is nobody's loss: there is no machine to tell.
    let Ok(hello) = read_hello(shared, &stream, deadline) else { return };
    match hello {
        Err(refusal) => refuse(&stream, &refusal, patience),
        Ok(Hello::Link(from, invitation)) => {
            receive_link(shared, stream, address, from, invitation, patience);
        }
        Ok(Hello::Channel(hello)) => channel::receive(shared, stream, address, &hello, patience),
    }
}

/// Tells the peer; one that is gone need not be told.
pub(crate) fn refuse(stream: &Stream, refusal: &Reply, patience: Duration) {
    let _ = stream.write_all(Deadline::after(patience), &refusal.encode());
}

/// With keys, a peer may only speak for the host that its certificate is for.
pub(crate) fn check_name(
    shared: &Shared,
    stream: &Stream,
    address: IpAddr,
    name: &str,
) -> Result<(), String> {
    if stream.may_be(name) {
        return Ok(());
    }
    shared.stranger(address, "its certificate is for another host than it says it is");
    Err(format!("its certificate is not for host {name}"))
}

fn receive_link(
    shared: &Arc<Shared>,
    stream: Stream,
    address: IpAddr,
    from: HostId,
    invitation: Invitation,
    patience: Duration,
) {
    let placed = judge(shared, from, &invitation).and_then(|()| {
        check_name(shared, &stream, address, &invitation.member(from).name).map_err(Reply::Refused)?;
        let deadline = Deadline::after(invitation.settings.join_timeout);
        let core = place(shared, invitation, deadline)?;
        core.reserve(from).map_err(Reply::Refused)?;
        Ok(core)
    });
    match placed {
        Err(refusal) => refuse(&stream, &refusal, patience),
        Ok(core) => {
            if stream.write_all(Deadline::after(patience), &Reply::Accepted.encode()).is_err() {
                return core.release(from);
            }
            if let Err(error) = core.attach(from, stream) {
                core.tell_lost(from, Lost::Broken(error.kind()));
            }
        }
    }
}

/// Reads a hello, or the refusal that it deserves. `Err`: not even that.
fn read_hello(shared: &Shared, stream: &Stream, deadline: Deadline) -> io::Result<Result<Hello, Reply>> {
    let mut preamble = [0; PREAMBLE_BYTES];
    stream.read_exact(deadline, &mut preamble)?;
    if !stream.is_secure() && preamble.starts_with(&CLIENT_HELLO) {
        return Ok(Err(Reply::Refused("this agent speaks no TLS".into())));
    }
    let Preamble { version, cluster, body_bytes } =
        Preamble::decode(&preamble).ok_or(io::ErrorKind::InvalidData)?;
    if version != PROTOCOL_VERSION {
        return Ok(Err(Reply::Version(PROTOCOL_VERSION)));
    }
    if cluster != shared.cluster {
        return Ok(Err(Reply::Cluster));
    }
    if body_bytes > BODY_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; body_bytes];
    stream.read_exact(deadline, &mut body)?;
    Ok(Ok(decode_body(&body).ok_or(io::ErrorKind::InvalidData)?))
}

/// Whether the invitation can be meant for this agent at all.
fn judge(shared: &Shared, from: HostId, invitation: &Invitation) -> Result<(), Reply> {
    invitation.check().map_err(Reply::Refused)?;
    if from >= invitation.me {
        return Err(Reply::Refused("a host dials the higher ones only".into()));
    }
    if invitation.member(invitation.me).name != shared.host.name() {
        return Err(Reply::Name(shared.host.name().to_owned()));
    }
    Ok(())
}

/// The mesh that the connection belongs to; made now if the machine is new here.
fn place(shared: &Arc<Shared>, invitation: Invitation, deadline: Deadline) -> Result<Arc<Core>, Reply> {
    let machine = invitation.machine;
    match shared.registry.enter(machine, deadline) {
        Entry::Here(core) if core.invitation.agrees(&invitation) => Ok(core),
        Entry::Here(core) => Err(Reply::Refused(format!(
            "machine {machine} is here already, at epoch {} and perhaps with other hosts",
            core.invitation.epoch.0
        ))),
        Entry::Busy => Err(Reply::Refused(format!("machine {machine} is still being made here"))),
        Entry::New => make(shared, invitation, deadline).map_err(|reason| {
            shared.registry.settle(machine, None);
            Reply::Refused(reason)
        }),
    }
}

/// Asks the agent, and makes the machine's mesh.
fn make(shared: &Arc<Shared>, invitation: Invitation, deadline: Deadline) -> Result<Arc<Core>, String> {
    let inbox = shared.host.join(&invitation)?;
    let machine = invitation.machine;
    let join_timeout = invitation.settings.join_timeout;
    let mesh = TcpMesh::new(shared, invitation, inbox).map_err(|error| error.to_string())?;
    let core = mesh.core().clone();
    core.watch(deadline).map_err(|error| error.to_string())?;
    // Before others find the mesh, link, and send.
    shared.host.joined(machine, mesh);
    shared.registry.settle(machine, Some(core.clone()));
    if core.is_closed() {
        // Shut down before the registry had it.
        shared.registry.leave(machine, &core);
    }
    // Three quarters, so that home hears who cannot be reached before it gives up itself.
    core.dial(deadline.within(join_timeout * 3 / 4));
    Ok(core)
}

/// Makes the socket a link's: no delay, large buffers, and reads that end when the peer counts as silent.
pub(crate) fn tune(socket: &TcpStream, settings: Settings) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(settings.lost_after))?;
    socket.set_write_timeout(None)?;
    static LIMITS: OnceLock<(usize, usize)> = OnceLock::new();
    let limit = |name| fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?.trim().parse().ok();
    let (send, receive) =
        *LIMITS.get_or_init(|| (limit("wmem_max").unwrap_or(0), limit("rmem_max").unwrap_or(0)));
    // A fixed size ends the kernel's own tuning, so it is set only where it is not cut to less than that gives.
    if send >= SOCKET_BUFFER_BYTES {
        sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER_BYTES)?;
    }
    if receive >= SOCKET_BUFFER_BYTES {
        sockopt::set_socket_recv_buffer_size(socket, SOCKET_BUFFER_BYTES)?;
    }
    Ok(())
}
