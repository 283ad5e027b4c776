//! A channel for a process that has no TLS: it gets one end of a socket pair, and two threads carry what goes over it to
//! the other host and back. A process that is slow slows the other end, since what is between them is bounded: what the
//! kernel keeps, and a piece in each direction.
//!
//! How an end is passed on:
//! 1. The process has ended what it writes: the peer reads all of it, then the end. The other direction goes on.
//! 2. The peer has ended what it writes: the same, the other way round.
//! 3. The process has gone: as 1; what the peer still sends is thrown away, until it ends too, but not for long.
//! 4. The network or the peer's host has gone: both directions end at once, behind what has come before.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::stream::Stream;

/// Bytes that are carried at a time.
const PIECE_BYTES: usize = 64 << 10;
/// How long the peer may take to end what nobody reads any more.
const LINGER: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// They call little, and pieces are on the heap.
const STACK_BYTES: usize = 256 << 10;

/// The end that a process gets of a channel: the socket itself, if there is no TLS on it.
pub(crate) fn end_of(stream: Stream) -> io::Result<OwnedFd> {
    match stream.into_plain() {
        Ok(socket) => Ok(socket),
        Err(stream) => start(stream),
    }
}

fn start(stream: Stream) -> io::Result<OwnedFd> {
    let (near, far) = UnixStream::pair()?;
    let relay = Arc::new(Relay { stream, near });
    let spawn = |name: &str, carry: fn(&Relay)| {
        let relay = relay.clone();
        thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(move || carry(&relay))
    };
    spawn("channel-in", Relay::carry_in)?;
    if let Err(error) = spawn("channel-out", Relay::carry_out) {
        relay.cut();
        return Err(error);
    }
    Ok(far.into())
}

struct Relay {
    stream: Stream,
    /// Our end of the pair.
    near: UnixStream,
}

impl Relay {
    /// From the process to the network.
    fn carry_out(&self) {
        let (mut plain, mut sealed) = (vec![0; PIECE_BYTES], Vec::new());
        loop {
            let count = match (&self.near).read(&mut plain) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // It has gone, and left something unread.
                Err(_) => break,
            };
            sealed.clear();
            let sent = self.stream.seal(&plain[..count], &mut sealed);
            if sent.and_then(|()| self.stream.socket().write_all(&sealed)).is_err() {
                return self.cut();
            }
        }
        sealed.clear();
        let sent = self.stream.seal_end(&mut sealed);
        let sent = sent.and_then(|()| self.stream.socket().write_all(&sealed));
        if sent.and_then(|()| self.stream.socket().shutdown(Shutdown::Write)).is_err() {
            return self.cut();
        }
        if wait(&self.near, PollFlags::empty(), Timespec { tv_sec: 0, tv_nsec: 0 }).contains(PollFlags::HUP) {
            wait(self.stream.socket(), PollFlags::RDHUP, LINGER);
            self.cut();
        }
    }

    /// From the network to the process.
    fn carry_in(&self) {
        let mut plain = vec![0; PIECE_BYTES];
        let (mut is_read, received) = (true, AtomicU64::new(0));
        loop {
            match self.stream.read(&mut plain, &received) {
                Ok(0) => {
                    // Fails only if the process has gone.
                    let _ = self.near.shutdown(Shutdown::Write);
                    return;
                }
                Ok(count) => is_read = is_read && (&self.near).write_all(&plain[..count]).is_ok(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.cut(),
            }
        }
    }

    /// Ends both sides both ways; each fails only if that has happened already.
    fn cut(&self) {
        let _ = self.near.shutdown(Shutdown::Both);
        let _ = self.stream.socket().shutdown(Shutdown::Both);
    }
}

/// What has become of a socket, at the latest after `time`.
fn wait(socket: impl AsFd, events: PollFlags, time: Timespec) -> PollFlags {
    let mut watched = [PollFd::new(&socket, events)];
    // An interrupted wait is a short one.
    let _ = poll(&mut watched, Some(&time));
    watched[0].revents()
}
