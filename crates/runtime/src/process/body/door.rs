//! The main thread of a body process. It takes in channels through the door, and answers the home process on the space
//! channel. When either ends, the process does.

use client::{ChannelKind, Op, Request};
use megalith_runtime::errno::{EINTR, EPERM, Errno};
use megalith_runtime::nr;
use megalith_runtime::ship::{self, Barrier, Forget, Head, Hello, Kind, Recall, TakeBack, Wake};

use crate::body::channel::{self, Ended, HEAD_BYTES, Part};
use crate::body::{DOOR, SPACE_CHANNEL, check, clocks, cpu, fatal, futex, map, thread};
use crate::sys::{self, Fd, safe_call};
use crate::{message, own, say};

const POLLIN: u16 = 1;
/// Room for what home has said since the last look.
const SAID_BYTES: usize = 4096;

/// struct pollfd.
#[repr(C)]
struct Watched {
    fd: Fd,
    wanted: u16,
    seen: u16,
}

/// Serves until the end.
pub fn keep(space: u64) -> ! {
    let mut channel = SpaceChannel { space, said: [0; SAID_BYTES], used: 0 };
    let mut open = false;
    loop {
        let fds = [DOOR, if open { SPACE_CHANNEL } else { -1 }];
        let mut watched = fds.map(|fd| Watched { fd, wanted: POLLIN, seen: 0 });
        // Ends with the agent, which holds the other end of the door.
        match safe_call!(nr::PPOLL, watched.as_mut_ptr(), watched.len(), 0, 0, 8) {
            Ok(_) | Err(EINTR) => {}
            Err(errno) => fatal(&[b"it cannot wait: ", errno.name().as_bytes()]),
        }
        // SAFETY: the kernel may have written it behind the compiler's back.
        let watched = unsafe { (&raw const watched).read_volatile() };
        if watched[1].seen != 0 && channel.answer().is_err() {
            sys::exit(0);
        }
        if watched[0].seen != 0 {
            open |= let_in(open);
        }
    }
}

/// Takes one channel in; whether it is the space's.
fn let_in(open: bool) -> bool {
    let empty = Request { op: 0, args: [0; 4] };
    let Some((request, socket)) = message::receive(DOOR, empty) else { sys::exit(0) };
    let Some(socket) = socket.filter(|_| request.op == Op::Channel as u64) else {
        fatal(&[b"the agent passes something else than a channel"])
    };
    check(channel::prepare(socket), b"a channel is no socket");
    if request.args[0] == ChannelKind::Space as u64 {
        if open {
            fatal(&[b"a second space channel"]);
        }
        check(own::keep(socket, SPACE_CHANNEL, true), b"the space channel cannot be kept");
        return true;
    }
    if let Err(errno) = thread::make(socket) {
        // The deputy sees the channel end, and keeps its thread.
        say::line(&[b"a body process: no thread can be made: ", errno.name().as_bytes()]);
        sys::close(socket);
    }
    false
}

/// What home has said and was not yet answered.
struct SpaceChannel {
    space: u64,
    said: [u8; SAID_BYTES],
    used: usize,
}

impl SpaceChannel {
    /// Reads what has come, and answers what of it is complete.
    fn answer(&mut self) -> Result<(), Ended> {
        let rest = &mut self.said[self.used..];
        // SAFETY: the slice.
        self.used += unsafe { channel::receive(SPACE_CHANNEL, rest.as_mut_ptr(), rest.len())? };
        let mut at = 0;
        while let Some(head) = self.value::<Head>(at) {
            let end = at + HEAD_BYTES + head.bytes as usize;
            if end - at > SAID_BYTES {
                fatal(&[b"home says something too long"]);
            }
            if end > self.used {
                break;
            }
            self.act(head, at + HEAD_BYTES)?;
            at = end;
        }
        self.said.copy_within(at..self.used, 0);
        self.used -= at;
        Ok(())
    }

    /// The number structure at `at`, if it has come.
    fn value<T: Plain>(&self, at: usize) -> Option<T> {
        let bytes = self.said[..self.used].get(at..at + size_of::<T>())?;
        // SAFETY: as many bytes, and every pattern is a value.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    fn body<T: Plain>(&self, head: Head, at: usize) -> T {
        match self.value(at) {
            Some(value) if head.bytes as usize == size_of::<T>() => value,
            _ => fatal(&[b"home speaks of something of another size"]),
        }
    }

    fn act(&self, head: Head, at: usize) -> Result<(), Ended> {
        const HELLO: u32 = Kind::Hello as u32;
        const FORGET: u32 = Kind::Forget as u32;
        const BARRIER: u32 = Kind::Barrier as u32;
        const RECALL: u32 = Kind::Recall as u32;
        const CLOCKS: u32 = Kind::Clocks as u32;
        const TAKE_BACK: u32 = Kind::TakeBack as u32;
        const WAKE: u32 = Kind::Wake as u32;
        match head.kind {
            HELLO => {
                let own = Hello { space: self.space, cpu: cpu::word(), version: ship::VERSION };
                channel::send(SPACE_CHANNEL, Kind::Hello, [Part::of(&own)])
            }
            FORGET => {
                map::forget(&self.body::<Forget>(head, at));
                channel::send(SPACE_CHANNEL, Kind::Done, [])
            }
            BARRIER => {
                barrier(&self.body::<Barrier>(head, at));
                channel::send(SPACE_CHANNEL, Kind::Done, [])
            }
            TAKE_BACK => {
                let waiting = futex::give_back(&self.body::<TakeBack>(head, at));
                channel::send(SPACE_CHANNEL, Kind::Waiting, [Part::of(&waiting)])
            }
            WAKE => {
                let waiting = futex::wake(&self.body::<Wake>(head, at));
                channel::send(SPACE_CHANNEL, Kind::Waiting, [Part::of(&waiting)])
            }
            RECALL => {
                // A body that has ended meanwhile is not found, and this thread keeps the signal blocked.
                let recall = self.body::<Recall>(head, at);
                let _ = safe_call!(nr::TGKILL, sys::pid(), recall.tid, thread::RECALL);
                Ok(())
            }
            CLOCKS => channel::send(SPACE_CHANNEL, Kind::Clocks, [Part::of(&clocks::now())]),
            _ => fatal(&[b"home says something unknown"]),
        }
    }
}

/// Structures of numbers: every bit pattern is a value.
///
/// # Safety
/// It must be true.
unsafe trait Plain: Copy {}
// SAFETY: numbers.
unsafe impl Plain for Head {}
// SAFETY: numbers.
unsafe impl Plain for Forget {}
// SAFETY: numbers.
unsafe impl Plain for Barrier {}
// SAFETY: numbers.
unsafe impl Plain for Recall {}
// SAFETY: numbers.
unsafe impl Plain for TakeBack {}
// SAFETY: numbers.
unsafe impl Plain for Wake {}

/// membarrier(2). Home has registered for what it asks; this process does so when it is first asked.
fn barrier(barrier: &Barrier) {
    let make = |command: u64, flags: u64| safe_call!(nr::MEMBARRIER, command, flags, 0);
    let mut made = make(barrier.command, barrier.flags);
    if made == Err(EPERM) {
        // Each command's registration is the next bit.
        made = make(barrier.command << 1, 0).and_then(|_| make(barrier.command, barrier.flags));
    }
    if let Err(errno) = made {
        fatal(&[b"a barrier cannot be made: ", Errno::name(errno).as_bytes()]);
    }
}
