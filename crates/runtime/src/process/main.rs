//! The freestanding executable: what of the runtime makes system calls.
//!
//! It is started in the program's place ([`start`]), opens a space ([`space`], [`agent`]), loads the program into
//! it ([`load`]), arranges that the calls it must answer are caught ([`trap`]), and jumps. From then on it runs
//! only inside signal handlers: SIGSYS for a caught call, and the wrapper of the program's own handlers
//! ([`signals`]). All of it uses its own memory above the space ([`block`]), no libc, no TLS: FS and GS are the
//! program's.
//!
//! In spread mode (docs/spread.md) threads run on other hosts too: every call is caught ([`trap`]), one that may wait is made by
//! [`pass`], and a thread that is to be elsewhere leaves by [`away`]. The other end of that is [`body`].
//!
//! Lock order: [`signals`]' table, then [`space::SPACE`], then one of [`queues`]', then [`hosts`]' list, then [`live`]'s, then [`block`]'s. All signals are
//! blocked while a lock is held, so a holder is never interrupted by itself.
#![no_main]
#![no_std]

mod affinity;
mod agent;
mod away;
mod block;
mod body;
mod cputime;
mod exec;
mod files;
mod freight;
mod futex;
mod hosts;
mod live;
mod load;
mod lock;
mod machine;
mod memory;
mod message;
mod own;
mod packing;
mod pass;
mod queues;
mod say;
mod signals;
mod space;
mod spare;
mod spawn;
mod spread;
mod start;
mod steward;
mod sys;
mod threads;
mod trap;
mod travel;
mod user;
mod view;

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo) -> ! {
    let line = info.location().map_or(0, |location| location.line());
    let file = info.location().map_or("?", |location| location.file());
    let mut digits = [0; 20];
    say::fatal(&[
        b"the runtime has a bug at ",
        file.as_bytes(),
        b":",
        say::decimal(u64::from(line), &mut digits),
    ])
}
