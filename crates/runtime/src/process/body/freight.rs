//! A body's part of what travels with a call ([`megalith_runtime::freight`]).

use megalith_runtime::frame::{Context, Registers};
use megalith_runtime::freight::{self, BYTES_MAX, Buffer, STRING_BYTES_MAX, Size};
use megalith_runtime::{PAGE, nr};

use crate::body::faults::{self, Reached};
use crate::body::map::{self, Access};
use crate::body::seat::Seat;
use crate::{own, user};

/// What goes with a call, and what may come back.
#[derive(Clone, Copy, Default)]
pub struct Freight {
    /// Bytes in the seat's hold that go.
    pub sent: usize,
    /// Bytes that may come back.
    pub room: u64,
    /// Where the program wants them.
    pub to: u64,
}

/// The hold of a seat: made when it is first needed, and kept.
pub fn hold(seat: &mut Seat) -> Option<&'static mut [u8]> {
    if seat.hold == 0 {
        seat.hold = own::allocate(BYTES_MAX, PAGE).ok()?.start;
    }
    // SAFETY: ours, of that length, and used by this thread alone, for one call at a time.
    Some(unsafe { core::slice::from_raw_parts_mut(seat.hold as *mut u8, BYTES_MAX as usize) })
}

/// Loads what is to go with the call, which then may be another that does the same. Nothing goes where anything cannot.
/// `None`: home wants the thread first.
pub fn load(seat: &mut Seat, context: &mut Context) -> Option<Freight> {
    if let Some(list) = List::of(&context.registers) {
        let sent = gather(seat, &list)?.unwrap_or(0);
        if sent > 0 {
            list.as_one_buffer(&mut context.registers, sent);
        }
        return Some(Freight { sent, ..Freight::default() });
    }
    let arguments = context.registers.arguments();
    let freight = freight::of(context.registers.rax as u32, &arguments);
    let mut loaded = Freight::default();
    if let Some((buffer, room)) = freight.back.and_then(|b| Some((b, b.room(&arguments)?))) {
        let to = arguments[buffer.argument];
        if !may_touch(seat, to, room, Access::Write)? {
            return Some(Freight::default());
        }
        (loaded.room, loaded.to) = (room, to);
    }
    if let Some((buffer, room)) = freight.sent.and_then(|b| Some((b, b.room(&arguments)?))) {
        let from = arguments[buffer.argument];
        // Of a string the length is known only when it is read.
        let known = if buffer.size == Size::String { 1 } else { room };
        if !may_touch(seat, from, known, Access::Read)? {
            return Some(Freight::default());
        }
        let Some(sent) = hold(seat).and_then(|hold| read(&buffer, from, room, hold)) else {
            return Some(Freight::default());
        };
        loaded.sent = sent;
    }
    Some(loaded)
}

/// A list of buffers (struct iovec) of which a call writes the bytes, and nothing else about it is behind pointers.
struct List {
    at: u64,
    count: u64,
}

impl List {
    /// That of writev(2), pwritev(2), or of sendmsg(2) without address and control data.
    fn of(registers: &Registers) -> Option<List> {
        let [_, second, third, ..] = registers.arguments();
        match registers.rax as u32 {
            nr::WRITEV | nr::PWRITEV => Some(List { at: second, count: third }),
            nr::SENDMSG => {
                // struct msghdr.
                let [name, _, at, count, control, control_bytes, _] = user::read::<[u64; 7]>(second).ok()?;
                (name == 0 && control == 0 && control_bytes == 0).then_some(List { at, count })
            }
            _ => None,
        }
    }

    /// Makes the call one with a single buffer of so many bytes.
    fn as_one_buffer(&self, registers: &mut Registers, bytes: usize) {
        match registers.rax as u32 {
            nr::WRITEV => registers.rax = u64::from(nr::WRITE),
            nr::PWRITEV => registers.rax = u64::from(nr::PWRITE64),
            _ => {
                registers.rax = u64::from(nr::SENDTO);
                (registers.r10, registers.r8, registers.r9) = (registers.rdx, 0, 0);
            }
        }
        // The deputy puts its own there.
        registers.rsi = self.at;
        registers.rdx = bytes as u64;
    }
}

/// Longest list that is gathered.
const BUFFERS_MAX: usize = 32;

/// Reads all of a list's buffers into the hold; how long they are, unless that cannot be. `None`: home wants the thread first.
fn gather(seat: &mut Seat, list: &List) -> Option<Option<usize>> {
    let count = list.count as usize;
    if !(1..=BUFFERS_MAX).contains(&count) || !may_touch(seat, list.at, list.count * 16, Access::Read)? {
        return Some(None);
    }
    let (mut used, Some(hold)) = (0, hold(seat)) else { return Some(None) };
    for entry in 0..list.count {
        let Ok([from, bytes]) = user::read::<[u64; 2]>(list.at + entry * 16) else { return Some(None) };
        if bytes > (hold.len() - used) as u64 || !may_touch(seat, from, bytes, Access::Read)? {
            return Some(None);
        }
        let room = &mut hold[used..used + bytes as usize];
        if !room.is_empty() && user::read_some(from, room) != Ok(room.len()) {
            return Some(None);
        }
        used += bytes as usize;
    }
    Some(Some(used))
}

/// Reads what the program wants to be read; how long it is.
fn read(buffer: &Buffer, from: u64, room: u64, hold: &mut [u8]) -> Option<usize> {
    match buffer.size {
        Size::String => {
            let string = user::read_string(from, &mut hold[..STRING_BYTES_MAX as usize]).ok()?;
            // With the zero, which lies behind it.
            Some(string.len() + 1)
        }
        _ => {
            let bytes = room as usize;
            (user::read_some(from, &mut hold[..bytes]) == Ok(bytes)).then_some(bytes)
        }
    }
}

/// Whether the thread may access `bytes` bytes from here; they are mapped then. `None`: home wants it first.
fn may_touch(seat: &mut Seat, first: u64, bytes: u64, access: Access) -> Option<bool> {
    let Some(end) = first.checked_add(bytes) else { return Some(false) };
    let mut at = first;
    while at < end {
        at = match map::allowed_until(at, access) {
            Some(next) => next,
            None => match faults::reach(seat, at, access) {
                Reached::Mapped => continue,
                Reached::Wanted => return None,
                Reached::Native | Reached::Nothing | Reached::Forbidden => return Some(false),
            },
        };
    }
    Some(true)
}
