//! The half of the runtime that runs threads away from home (docs/spread.md).
//!
//! A *body process* is this executable, started by the agent of a host on which threads of another host's process are
//! to run. It loads no program: what its threads touch of the space comes by faults, and what they ask of the kernel is asked
//! at home.
//!
//! | module | what |
//! |---|---|
//! | [`door`] | the main thread: takes in channels, answers the home process |
//! | [`thread`] | a body: takes a shipment in, runs it, sends it home |
//! | [`seat`] | what a body knows of itself, and where it lies |
//! | [`channel`] | messages over a socket |
//! | [`answer`] | system calls: made here, asked at home, or taken home |
//! | [`freight`] | bytes that travel with a call |
//! | [`futex`] | waits and wake-ups whose queue this host has |
//! | [`faults`] | what the thread may not touch, or not yet |
//! | [`map`] | what is mapped here |
//! | [`cpu`], [`clocks`] | what this host says of itself |
//!
//! Signals: bodies let in only those that [`thread::ADMITTED`] names, and only while they run the program's code. In the
//! runtime everything is blocked but faults, which are bugs there. There is one lock, [`map`]'s; nobody waits for another host
//! while he holds it.

pub mod cpu;

mod answer;
pub mod channel;
pub mod clocks;
mod door;
mod faults;
mod freight;
mod futex;
mod map;
mod seat;
mod thread;

use client::{Op, VERSION, env};
use megalith_runtime::errno::{EPERM, EPROTO, Errno};
use megalith_runtime::filter;

use crate::sys::{self, Fd};
use crate::{agent, own, say, trap};

/// The door: inherited.
const DOOR: Fd = env::DOOR;
/// The space channel, once there is one.
const SPACE_CHANNEL: Fd = DOOR + 1;

/// A body process, from its first step to its end.
pub fn main(space: u64, machine: u64, socket: &'static [u8]) -> ! {
    sys::block_all();
    join(space, machine, socket);
    check(map::open(), b"no memory for the map");
    check(thread::catch(), b"signals cannot be caught");
    check(trap::install(&filter::build_body()), b"seccomp is not permitted");
    door::keep(space)
}

/// Ends the process, with a line that says that a body did.
fn fatal(parts: &[&[u8]]) -> ! {
    let mut all: [&[u8]; 8] = [b""; 8];
    all[0] = b"a body process: ";
    let parts = &parts[..parts.len().min(7)];
    all[1..=parts.len()].copy_from_slice(parts);
    say::line(&all);
    sys::exit(say::FAILED)
}

fn check<T>(result: Result<T, Errno>, what: &[u8]) -> T {
    match result {
        Ok(value) => value,
        Err(errno) => fatal(&[what, b": ", errno.name().as_bytes()]),
    }
}

/// Gets the space's memory from this host's agent.
fn join(space: u64, machine: u64, path: &[u8]) {
    let uffd = match agent::userfaultfd() {
        Err(EPERM) => {
            fatal(&[b"userfaultfd is not permitted; `sysctl vm.unprivileged_userfaultfd=1` mends it"])
        }
        other => check(other, b"no userfaultfd with the needed features"),
    };
    let kept = agent::connect(path).and_then(|socket| {
        own::keep(socket, own::SOCKET, true)?;
        own::keep(uffd, own::UFFD, true)
    });
    check(kept, b"no connection to the agent");
    let (reply, memfd) = agent::ask(Op::Join, [VERSION, machine, space, 0], Some(own::UFFD));
    match (Errno::check(reply.status), memfd) {
        (Err(EPROTO), _) => fatal(&[b"the agent speaks another version than this runtime"]),
        (Err(errno), _) => fatal(&[b"the agent refuses it: ", errno.name().as_bytes()]),
        (Ok(_), None) => fatal(&[b"the agent sent no memory"]),
        (Ok(_), Some(memfd)) => {
            check(own::keep(memfd, own::MEMFD, true), b"the space's memory cannot be kept")
        }
    }
}
