//! What a body knows of itself. It lies at the upper end of its block, above its stack:
//!
//! ```text
//! low   Block (header) | guard page | stack, downwards | Seat: the message received, the frame to enter     high
//! ```
//!
//! A message is received where `rt_sigreturn` can use it: the XSAVE area that follows a shipment lies at a multiple of 64.

use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::AtomicU64;

use megalith_runtime::frame::{AltStack, Frame, XSAVE_BYTES_MAX};
use megalith_runtime::ship::{Head, Kind, MESSAGE_BYTES_MAX, Shipment};

use crate::block::{BLOCK_BYTES, Block};
use crate::body::channel::{self, Ended, HEAD_BYTES, Part};
use crate::body::fatal;
use crate::sys::Fd;

/// See the module.
#[repr(C, align(64))]
pub struct Seat {
    padding: [u8; PADDING],
    head: Head,
    /// The last one that came.
    pub shipment: Shipment,
    /// Its XSAVE area.
    pub saved: [u8; XSAVE_BYTES_MAX],
    /// What the thread enters with.
    pub frame: Frame,
    /// The block, for its end.
    pub block: *mut Block,
    /// The thread's channel.
    pub socket: Fd,
    /// The thread's id here.
    pub tid: u32,
    /// The futex word for which it waits here, or 0; for everybody ([`super::futex`]).
    pub waits_for: AtomicU64,
    /// The next seat in the list of all, which it never leaves: a block's seat serves one body after the other.
    pub next: *mut Seat,
    /// It is in the list.
    pub listed: bool,
    /// Where the bytes are that travel with a call, or 0 ([`super::freight`]). It stays with the seat.
    pub hold: u64,
}

const PADDING: usize =
    (HEAD_BYTES + size_of::<Shipment>()).next_multiple_of(64) - HEAD_BYTES - size_of::<Shipment>();
const SEAT_AT: u64 = BLOCK_BYTES - size_of::<Seat>() as u64;

const _: () = assert!(offset_of!(Seat, saved).is_multiple_of(64));
const _: () = assert!(offset_of!(Seat, saved) - offset_of!(Seat, head) == HEAD_BYTES + size_of::<Shipment>());
// What is left of a block is enough for a signal frame with the largest XSAVE area, and a fault's on top of it.
const _: () = assert!(SEAT_AT >= 84 << 10);

impl Seat {
    /// The seat of `block`, not yet written.
    pub fn of(block: *mut Block) -> *mut Seat {
        (block as u64 + SEAT_AT) as *mut Seat
    }

    /// The calling thread's.
    ///
    /// # Safety
    /// The caller is a body: it runs on its block's stack. It makes no second reference.
    pub unsafe fn current<'a>() -> &'a mut Seat {
        let rsp: u64;
        // SAFETY: reads a register.
        unsafe { asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags)) };
        // SAFETY: the caller's promise: a block starts at the multiple below.
        unsafe { &mut *Seat::of((rsp & !(BLOCK_BYTES - 1)) as *mut Block) }
    }

    /// Where the stack starts, downwards.
    pub fn stack_top(&self) -> u64 {
        self as *const Seat as u64
    }

    /// The stack, as sigaltstack(2) takes it.
    pub fn stack(&self) -> AltStack {
        // SAFETY: the block lives as long as its thread.
        let whole = unsafe { (*self.block).kernel_stack() };
        AltStack { bytes: self.stack_top() - whole.base, ..whole }
    }

    /// Sends a message home.
    pub fn send<const N: usize>(&self, kind: Kind, parts: [Part; N]) -> Result<(), Ended> {
        channel::send(self.socket, kind, parts)
    }

    /// Waits for the next message, which is complete when this returns, but for what of its freight does not fit
    /// ([`Seat::take_rest`]); returns its kind and length. One at a time: home says nothing more until it is answered.
    pub fn receive(&mut self) -> Result<(u32, usize), Ended> {
        // SAFETY: inside the seat.
        let start = unsafe { (self as *mut Seat).cast::<u8>().add(offset_of!(Seat, head)) };
        let (mut used, mut wanted) = (0, HEAD_BYTES);
        while used < wanted {
            // SAFETY: the message's place in this seat, which is `HEAD_BYTES + MESSAGE_BYTES_MAX` long.
            unsafe {
                used +=
                    channel::receive(self.socket, start.add(used), HEAD_BYTES + MESSAGE_BYTES_MAX - used)?;
            }
            if used >= HEAD_BYTES {
                // SAFETY: the kernel has written it.
                let head = unsafe { (&raw const self.head).read_volatile() };
                wanted = HEAD_BYTES + (head.bytes as usize).min(MESSAGE_BYTES_MAX);
            }
        }
        if used != wanted {
            fatal(&[b"home has said two things at once"]);
        }
        // SAFETY: as above.
        let head = unsafe { (&raw const self.head).read_volatile() };
        Ok((head.kind, head.bytes as usize))
    }

    /// The body of the last message, as the structure that its kind carries.
    ///
    /// # Safety
    /// Every bit pattern is a `T`.
    pub unsafe fn body<T: Copy>(&self, bytes: usize) -> T {
        if bytes != size_of::<T>() {
            fatal(&[b"home speaks of something of another size"]);
        }
        // SAFETY: the caller's promise.
        unsafe { self.front(bytes) }
    }

    /// What stands before the freight of the last message.
    ///
    /// # Safety
    /// Every bit pattern is a `T`.
    pub unsafe fn front<T: Copy>(&self, bytes: usize) -> T {
        if bytes < size_of::<T>() {
            fatal(&[b"home speaks of something of another size"]);
        }
        // SAFETY: the body starts where a shipment would, and has just been seen to be as long as this; the caller's promise.
        unsafe { (&raw const self.shipment).cast::<T>().read_volatile() }
    }

    /// The freight of the last message, `bytes` long with the `T` before it, to `to`, which has room for it. Returns how long it is.
    pub fn take_rest<T>(&mut self, bytes: usize, to: &mut [u8]) -> Result<usize, Ended> {
        let rest = bytes - size_of::<T>();
        if rest > to.len() {
            fatal(&[b"home sends more than there is room for"]);
        }
        let here = rest.min(MESSAGE_BYTES_MAX - size_of::<T>());
        // SAFETY: `receive` has put so much of the message's body there, behind the `T`.
        unsafe {
            let from = (&raw const self.shipment).cast::<u8>().add(size_of::<T>());
            core::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), here);
        }
        let mut used = here;
        while used < rest {
            // SAFETY: the rest of `to`.
            used += unsafe { channel::receive(self.socket, to.as_mut_ptr().add(used), rest - used)? };
        }
        Ok(rest)
    }
}
