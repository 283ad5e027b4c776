//! Messages over a connected stream socket: a [`Head`] and what it announces.

use megalith_runtime::errno::{EINTR, Errno};
use megalith_runtime::nr;
use megalith_runtime::ship::{Head, Kind};

use crate::sys::{Fd, safe_call};

const MSG_NOSIGNAL: u64 = 0x4000;
const SOL_TCP: u64 = 6;
const TCP_NODELAY: u64 = 1;
const F_GETFL: u64 = 3;
const F_SETFL: u64 = 4;
const O_NONBLOCK: u64 = 0o4000;

/// Bytes of a [`Head`].
pub const HEAD_BYTES: usize = size_of::<Head>();

/// The other end is gone.
#[derive(Clone, Copy, Debug)]
pub struct Ended;

/// What of a message lies where; struct iovec.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Part {
    start: u64,
    bytes: u64,
}

impl Part {
    /// A value's bytes.
    pub fn of<T>(value: &T) -> Part {
        Part { start: value as *const T as u64, bytes: size_of::<T>() as u64 }
    }

    /// Bytes.
    pub fn bytes(bytes: &[u8]) -> Part {
        Part { start: bytes.as_ptr() as u64, bytes: bytes.len() as u64 }
    }
}

#[repr(C)]
struct Message {
    name: u64,
    name_bytes: u64,
    parts: u64,
    count: u64,
    control: [u64; 2],
    flags: u64,
}

/// Makes a socket that has just come wait in its calls, and send at once what is written.
pub fn prepare(socket: Fd) -> Result<(), Errno> {
    let flags = safe_call!(nr::FCNTL, socket, F_GETFL)?;
    safe_call!(nr::FCNTL, socket, F_SETFL, flags & !O_NONBLOCK)?;
    let one = 1u32;
    // Sockets that are not TCP have no such option, and do not need it.
    let _ = safe_call!(nr::SETSOCKOPT, socket, SOL_TCP, TCP_NODELAY, &raw const one, size_of::<u32>());
    Ok(())
}

/// Sends a message whose body is `parts`, in one call if the kernel takes it.
pub fn send<const N: usize>(socket: Fd, kind: Kind, parts: [Part; N]) -> Result<(), Ended> {
    let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
    let head = Head { kind: kind as u32, bytes: bytes as u32 };
    let mut all = [Part::of(&head); 4];
    all[1..=N].copy_from_slice(&parts);
    let mut rest = &mut all[..=N];
    while let Some(first) = rest.first_mut() {
        if first.bytes == 0 {
            rest = &mut rest[1..];
            continue;
        }
        let message = Message {
            name: 0,
            name_bytes: 0,
            parts: rest.as_ptr() as u64,
            count: rest.len() as u64,
            control: [0; 2],
            flags: 0,
        };
        let mut sent = match safe_call!(nr::SENDMSG, socket, &raw const message, MSG_NOSIGNAL) {
            Ok(sent) => sent,
            Err(EINTR) => continue,
            Err(_) => return Err(Ended),
        };
        for part in rest.iter_mut() {
            let taken = part.bytes.min(sent);
            part.start += taken;
            part.bytes -= taken;
            sent -= taken;
        }
    }
    Ok(())
}

/// Reads what has come, at least one byte, at most `room`, to `to`.
///
/// # Safety
/// `to` points to `room` bytes of the caller's own.
pub unsafe fn receive(socket: Fd, to: *mut u8, room: usize) -> Result<usize, Ended> {
    loop {
        match safe_call!(nr::RECVFROM, socket, to, room, 0, 0, 0) {
            Ok(0) => return Err(Ended),
            Ok(bytes) => return Ok(bytes as usize),
            Err(EINTR) => {}
            Err(_) => return Err(Ended),
        }
    }
}
