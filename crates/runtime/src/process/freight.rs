//! A deputy's part of what travels with a call ([`megalith_runtime::freight`]): the call is made with buffers of the deputy's own
//! in place of the program's.

use megalith_runtime::errno::EFAULT;
use megalith_runtime::freight::{self, BYTES_MAX};
use megalith_runtime::ship::Call;

use crate::user;

/// Room for both directions, beside a thread's parcel.
#[repr(C)]
pub struct Hold {
    sent: [u8; BYTES_MAX as usize],
    back: [u8; BYTES_MAX as usize],
}

/// Bytes that the kernel writes for a thread that is away.
#[derive(Clone, Copy)]
pub struct Back {
    buffer: freight::Buffer,
    room: u64,
    /// Where the program wants them.
    to: u64,
    /// Where they are.
    at: *const u8,
}

/// Bytes that are to be, or have been, sent with a result.
#[derive(Clone, Copy)]
pub struct Load {
    /// What the call returned.
    pub value: i64,
    to: u64,
    at: *const u8,
    bytes: usize,
}

impl Hold {
    /// Where what the body has sent belongs; `None` if that is more than may travel.
    pub fn place(hold: *mut Hold, call: &Call) -> Option<(*mut u8, usize)> {
        // SAFETY: only the address is taken.
        (call.sent <= BYTES_MAX).then(|| (unsafe { &raw mut (*hold).sent }.cast(), call.sent as usize))
    }

    /// Puts the hold's buffers in place of the program's in the call. `None` if the body asks for what the call does not have.
    pub fn redirect(hold: *mut Hold, call: &mut Call) -> Option<Option<Back>> {
        let registers = &mut call.context.registers;
        let arguments = registers.arguments();
        let freight = freight::of(registers.rax as u32, &arguments);
        // SAFETY: only the addresses are taken.
        let (sent, back) = unsafe { (&raw const (*hold).sent, &raw const (*hold).back) };
        if call.sent > 0 {
            *registers.argument_mut(freight.sent?.argument) = sent as u64;
        }
        if call.room == 0 {
            return Some(None);
        }
        let buffer = freight.back?;
        if buffer.room(&arguments) != Some(call.room) {
            return None;
        }
        // What is read and written is one buffer.
        let both = call.sent > 0 && freight.sent?.argument == buffer.argument;
        let at = if both { sent } else { back }.cast::<u8>();
        *registers.argument_mut(buffer.argument) = at as u64;
        Some(Some(Back { buffer, room: call.room, to: arguments[buffer.argument], at }))
    }
}

impl Back {
    /// What a call has written that returned `value`.
    pub fn load(&self, value: i64) -> Load {
        Load { value, to: self.to, at: self.at, bytes: self.buffer.written(self.room, value) as usize }
    }
}

impl Load {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the kernel has written them into the hold, which is this thread's, and lives as long; they are not changed
        // before the next call is made.
        unsafe { core::slice::from_raw_parts(self.at, self.bytes) }
    }

    /// Stores them where the program wants them, from here; the call's result then.
    pub fn store(&self) -> i64 {
        match user::write_bytes(self.to, self.bytes()) {
            Ok(()) => self.value,
            Err(_) => EFAULT.as_return(),
        }
    }
}
