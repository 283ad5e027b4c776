//! The end of a space, as a process that maps it sees it.
//!
//! A thread waits for the agent to hang up: it does so when the machine has ended, and the kernel does when the agent is killed. A thread that
//! sleeps in a fault cannot be told, and one that runs need not be: it is the memory that ends ([`Ender::end`]). With
//! [`say_when_touched`], a process that touches it then says why it dies.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::thread::JoinHandle;

use client::{SHARED_BYTES, SHARED_START};

use crate::check;
use crate::memory::{Ender, Mapping};
use crate::socket::Socket;

/// It makes a few system calls.
const STACK_BYTES: usize = 64 << 10;

/// The thread that waits for the end.
#[derive(Debug)]
pub struct Watch {
    /// Written to end it.
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to wait; `ended` says when it has come.
    pub fn start(socket: &Arc<Socket>, mapping: &Mapping, ended: &Arc<AtomicBool>) -> io::Result<Watch> {
        // SAFETY: a plain system call.
        let stop = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
        // SAFETY: the descriptor was just made and is nobody else's.
        let stop = unsafe { OwnedFd::from_raw_fd(stop) };
        let (socket, ended, ender, end) = (socket.clone(), ended.clone(), mapping.ender(), stop.as_raw_fd());
        // Signals are the process's own affair: the thread inherits a mask that has them all.
        let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both are as the calls take them.
        unsafe {
            libc::sigfillset(mask.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, mask.as_ptr(), before.as_mut_ptr());
        }
        let thread = std::thread::Builder::new()
            .name("megalith".into())
            .stack_size(STACK_BYTES)
            .spawn(move || wait(&socket, end, ender, &ended));
        // SAFETY: it was filled in above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
        Ok(Watch { stop, thread: Some(thread?) })
    }

    /// Ends the waiting; the mapping may go then.
    pub fn stop(&mut self) {
        let one = 1u64;
        // SAFETY: eight bytes that live on.
        unsafe { libc::write(self.stop.as_raw_fd(), (&raw const one).cast(), 8) };
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did the mapping could go all the same.
            let _ = thread.join();
        }
    }

    /// In a child of the process there is no such thread.
    pub fn forget(&mut self) {
        std::mem::forget(self.thread.take());
    }
}

fn wait(socket: &Socket, stop: i32, ender: Ender, ended: &AtomicBool) {
    let mut watched = [
        // What comes is for who has asked; only its end is for us.
        libc::pollfd { fd: socket.as_raw_fd(), events: 0, revents: 0 },
        libc::pollfd { fd: stop, events: libc::POLLIN, revents: 0 },
    ];
    loop {
        // SAFETY: two entries, as we say. It ends with the connection, or when the attachment is closed.
        let n = unsafe { libc::poll(watched.as_mut_ptr(), 2, -1) };
        if watched[1].revents != 0 {
            return;
        }
        if n > 0 {
            ended.store(true, Ordering::Release);
            return ender.end();
        }
    }
}

const LAST_WORDS: &[u8] = b"megalith: this process has touched the memory of a machine that has ended (closed, full, or a host was lost); \
it ends with SIGBUS\n";

/// What the process did with SIGBUS before.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());

/// From now on this process says in one line on standard error that it has touched a space that has ended, before SIGBUS does what it did
/// before (ends the process, for most). Once is enough.
///
/// # Errors
/// Those of sigaction(2).
pub fn say_when_touched() -> io::Result<()> {
    if !BEFORE.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    // SAFETY: all zeros is a valid sigaction; the handler is async-signal-safe. What was there before lives for ever.
    unsafe {
        let before: &mut libc::sigaction = Box::leak(Box::new(std::mem::zeroed()));
        check(libc::sigaction(libc::SIGBUS, std::ptr::null(), before))?;
        BEFORE.store(before, Ordering::Release);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = touched as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        check(libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()))?;
    }
    Ok(())
}

extern "C" fn touched(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a siginfo_t; the calls are async-signal-safe, and what was there before lives for ever.
    unsafe {
        let by_access = (*info).si_code > 0;
        let address = (*info).si_addr() as u64;
        if by_access && (SHARED_START..SHARED_START + SHARED_BYTES).contains(&address) {
            libc::write(2, LAST_WORDS.as_ptr().cast(), LAST_WORDS.len());
        }
        libc::sigaction(libc::SIGBUS, BEFORE.load(Ordering::Acquire), std::ptr::null_mut());
        if !by_access {
            // An access is made again when this returns, somebody's kill(2) is not.
            libc::raise(signal);
        }
    }
}
