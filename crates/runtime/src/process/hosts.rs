//! The other hosts, as this process knows them: a space channel to each that has bodies of it.
//!
//! Whoever changes the layout tells them all, and waits until they have done it; so does membarrier(2). A channel is dialled under
//! the space's lock, because the agent is asked for it; the list's own lock is held while words and answers go over it.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use client::{ChannelKind, Op};
use megalith_runtime::errno::Errno;
use megalith_runtime::layout::Span;
use megalith_runtime::nr;
use megalith_runtime::ship::{self, Barrier, Forget, Head, Hello, Kind, Recall, TakeBack, Waiting, Wake};

use crate::body::channel::{self, Ended, Part};
use crate::body::cpu;
use crate::lock::Lock;
use crate::spread::HOSTS_MAX;
use crate::sys::{Fd, safe_call};
use crate::{agent, own, say, space, spread, start};

/// How long the process lives on without a host: the agent ends it earlier if the host is gone.
const LOST_AFTER_S: u64 = 10;
const SOL_SOCKET: u64 = 1;
const SO_RCVTIMEO: u64 = 20;
/// How long a host may take to say hello.
const HELLO_S: u64 = 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    Open(Fd),
    /// It gets no threads.
    Refused,
}

static HOSTS: Lock<[State; HOSTS_MAX]> = Lock::new([State::Unknown; HOSTS_MAX]);
/// How many have a space channel: while it is 0 nothing below costs anything.
static OPEN: AtomicU32 = AtomicU32::new(0);
/// membarrier(2) commands that the process has registered for, as bits.
static REGISTERED: AtomicU64 = AtomicU64::new(0);

/// Whether no thread may go to `host`.
pub fn is_refused(host: u32) -> bool {
    HOSTS.take().get(host as usize).is_none_or(|state| *state == State::Refused)
}

/// A new channel for a thread that goes to `host`; `None` if the host gets none, which has been said.
pub fn thread_channel(host: u32) -> Option<Fd> {
    // Whoever holds it may ask the agent.
    let _space = space::lock();
    let mut hosts = HOSTS.take();
    let state = hosts.get_mut(host as usize)?;
    if *state == State::Unknown {
        *state = open(host).map_or(State::Refused, State::Open);
    }
    match *state {
        State::Open(_) => {}
        _ => return None,
    }
    match dial(host, ChannelKind::Thread) {
        Ok(channel) => Some(channel),
        Err(errno) => {
            *state = State::Refused;
            refuse(host, errno.name().as_bytes());
            None
        }
    }
}

fn dial(host: u32, kind: ChannelKind) -> Result<Fd, Errno> {
    let (reply, socket) = agent::ask(Op::Channel, [u64::from(host), kind as u64, 0, 0], None);
    Errno::check(reply.status)?;
    let socket = own::keep_channel(socket.ok_or(megalith_runtime::errno::EPROTO)?)?;
    channel::prepare(socket).map(|()| socket)
}

/// The space channel to `host`, after both have said who they are.
fn open(host: u32) -> Option<Fd> {
    let socket = match dial(host, ChannelKind::Space) {
        Ok(socket) => socket,
        Err(errno) => {
            refuse(host, errno.name().as_bytes());
            return None;
        }
    };
    let space = spread::space().unwrap_or(0);
    let ours = Hello { space, cpu: cpu::word(), version: ship::VERSION };
    let limit = |seconds: u64| {
        let time = [seconds, 0];
        let _ = safe_call!(nr::SETSOCKOPT, socket, SOL_SOCKET, SO_RCVTIMEO, time.as_ptr(), 16);
    };
    limit(HELLO_S);
    let said = channel::send(socket, Kind::Hello, [Part::of(&ours)]);
    let heard = said.and_then(|()| answer::<Hello>(socket, Kind::Hello));
    let reason: &[u8] = match heard {
        Err(Ended) => b"its body process does not answer",
        Ok(theirs) if theirs.version != ours.version => b"it runs another version",
        Ok(theirs) if theirs.space != ours.space => b"it serves another space",
        Ok(theirs) if theirs.cpu != ours.cpu => b"its CPU can do other things than home's",
        Ok(_) => {
            limit(0);
            OPEN.fetch_add(1, Ordering::SeqCst);
            let registered = REGISTERED.load(Ordering::SeqCst);
            for command in (0..64).map(|bit| 1u64 << bit).filter(|command| registered & command != 0) {
                tell(host, socket, Kind::Barrier, &Barrier { command, flags: 0 });
            }
            return Some(socket);
        }
    };
    own::close_channel(socket);
    refuse(host, reason);
    None
}

fn refuse(host: u32, reason: &[u8]) {
    let mut digits = [0; 20];
    let host = say::decimal(u64::from(host), &mut digits);
    say::line(&[start::program_path(), b": no threads go to host ", host, b": ", reason]);
}

/// Waits for an answer of the kind, whose body is a `T` (numbers, for which every bit pattern is a value).
fn answer<T: Copy>(socket: Fd, kind: Kind) -> Result<T, Ended> {
    let mut head = Head { kind: 0, bytes: 0 };
    receive(socket, (&raw mut head).cast(), size_of::<Head>())?;
    // SAFETY: the kernel has written it.
    let head = unsafe { (&raw const head).read_volatile() };
    if head.kind != kind as u32 || head.bytes as usize != size_of::<T>() {
        return Err(Ended);
    }
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    receive(socket, value.as_mut_ptr().cast(), size_of::<T>())?;
    // SAFETY: the kernel has written all of it.
    Ok(unsafe { value.as_ptr().read_volatile() })
}

/// Reads exactly `bytes`.
pub fn receive(socket: Fd, to: *mut u8, bytes: usize) -> Result<(), Ended> {
    let mut used = 0;
    while used < bytes {
        // SAFETY: the rest of the caller's buffer.
        used += unsafe { channel::receive(socket, to.add(used), bytes - used)? };
    }
    Ok(())
}

fn tell<T>(host: u32, socket: Fd, kind: Kind, what: &T) {
    let said = channel::send(socket, kind, [Part::of(what)]);
    if said.and_then(|()| answer::<()>(socket, Kind::Done)).is_err() {
        lost(host);
    }
}

/// Tells every host, and waits until all have done it. They do it at the same time.
fn tell_all<T>(kind: Kind, what: &T) {
    let hosts = HOSTS.take();
    let open = || {
        (0..).zip(hosts.iter()).filter_map(|(host, state)| match state {
            State::Open(socket) => Some((host, *socket)),
            _ => None,
        })
    };
    for (host, socket) in open() {
        if channel::send(socket, kind, [Part::of(what)]).is_err() {
            lost(host);
        }
    }
    for (host, socket) in open() {
        if answer::<()>(socket, Kind::Done).is_err() {
            lost(host);
        }
    }
}

/// From `version` on nothing of `span` is mapped as it was. The space's lock must be held.
pub fn forget(version: u64, span: Span) {
    if OPEN.load(Ordering::SeqCst) != 0 {
        tell_all(Kind::Forget, &Forget { version, start: span.start, end: span.end });
    }
}

/// Whether anybody is to be told of changes. The space's lock must be held.
pub fn any() -> bool {
    OPEN.load(Ordering::SeqCst) != 0
}

/// membarrier(2), which has been made at home, on the other hosts.
pub fn barrier(command: u64, flags: u64) {
    /// Global, private, for code, for restartable sequences.
    const REGISTRATIONS: u64 = 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8;
    REGISTERED.fetch_or(command & REGISTRATIONS, Ordering::SeqCst);
    if OPEN.load(Ordering::SeqCst) != 0 {
        tell_all(Kind::Barrier, &Barrier { command, flags });
    }
}

/// Takes a queue back that was lent to `host`; who waits in it there.
pub fn take_back(host: u32, what: &TakeBack) -> Waiting {
    ask(host, Kind::TakeBack, what)
}

/// Wakes who waits for a word on `host`.
pub fn wake(host: u32, what: &Wake) -> Waiting {
    ask(host, Kind::Wake, what)
}

fn ask<T>(host: u32, kind: Kind, what: &T) -> Waiting {
    let hosts = HOSTS.take();
    let Some(State::Open(socket)) = hosts.get(host as usize) else {
        // It had the queue: it has a channel.
        lost(host)
    };
    let said = channel::send(*socket, kind, [Part::of(what)]);
    match said.and_then(|()| answer::<Waiting>(*socket, Kind::Waiting)) {
        Ok(waiting) => waiting,
        Err(Ended) => lost(host),
    }
}

/// Sends the body `tid` of `host` home.
pub fn recall(host: u32, tid: u32) {
    let hosts = HOSTS.take();
    let Some(State::Open(socket)) = hosts.get(host as usize) else { return };
    if channel::send(*socket, Kind::Recall, [Part::of(&Recall { tid: u64::from(tid) })]).is_err() {
        lost(host);
    }
}

/// A host has broken off. The agent ends this process if the host is gone; else the process ends itself.
pub fn lost(host: u32) -> ! {
    let time = [LOST_AFTER_S, 0];
    let _ = safe_call!(nr::NANOSLEEP, time.as_ptr(), 0);
    let mut digits = [0; 20];
    say::fatal(&[b"the connection to host ", say::decimal(u64::from(host), &mut digits), b" has ended"])
}
