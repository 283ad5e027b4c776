//! The freestanding executable: what of the runtime makes system calls.
//!
//! It is started in the program's place ([`start`]), opens a space ([`space`], [`agent`]), loads the program into
//! it ([`load`]), arranges that the calls it must answer are caught ([`trap`]), and jumps. From then on it runs
//! only inside signal handlers: SIGSYS for a caught call, and the wrapper of the program's own handlers
//! ([`signals`]). All of it uses its own memory above the space ([`block`]), no libc, no TLS: FS and GS are the
//! program's.
//!
//! Lock order: [`signals`]' table, then [`space::SPACE`], then [`block`]'s list. All signals are blocked while a
//! lock is held, so a holder is never interrupted by itself.
#![no_main]
#![cfg_attr(panic = "abort", no_std)]

// `cargo test` builds executables with unwinding, whatever the profile says. A freestanding one cannot have
// that, so such a build only says so; the tests build the real one.
#[cfg(not(panic = "abort"))]
mod unwinding;

#[cfg(panic = "abort")]
mod agent;
#[cfg(panic = "abort")]
mod block;
#[cfg(panic = "abort")]
mod exec;
#[cfg(panic = "abort")]
mod files;
#[cfg(panic = "abort")]
mod load;
#[cfg(panic = "abort")]
mod lock;
#[cfg(panic = "abort")]
mod memory;
#[cfg(panic = "abort")]
mod own;
#[cfg(panic = "abort")]
mod say;
#[cfg(panic = "abort")]
mod signals;
#[cfg(panic = "abort")]
mod space;
#[cfg(panic = "abort")]
mod start;
#[cfg(panic = "abort")]
mod sys;
#[cfg(panic = "abort")]
mod threads;
#[cfg(panic = "abort")]
mod trap;
#[cfg(panic = "abort")]
mod user;

#[cfg(panic = "abort")]
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
