//! What a thread that is away touches without being allowed to, or without its being mapped here yet.

use megalith_runtime::SPACE_END;
use megalith_runtime::frame::{Context, SigInfo};
use megalith_runtime::layout::Prot;
use megalith_runtime::ship::{Area, AreaKind, Kind, Query, Reason};
use megalith_runtime::sigset::signal;

use crate::body::channel::{Ended, Part};
use crate::body::map::{self, Access, Placed};
use crate::body::seat::Seat;
use crate::body::{fatal, thread};
use crate::say;
use crate::signals::in_runtime;

/// What is at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// A page that may be used so.
    Mapped,
    /// What only home's kernel maps.
    Native,
    /// Nothing.
    Nothing,
    /// Something that may not be used so.
    Forbidden,
    /// Home wants the thread, and has not said.
    Wanted,
}

/// `si_code`: nothing is mapped there; it may not be used so.
const MAPPING: i32 = 1;
const ACCESS: i32 = 2;

/// SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP.
pub unsafe extern "C" fn on_fault(number: i32, info: *mut SigInfo, context: *mut Context) {
    // SAFETY: the kernel passes a frame that is nobody else's.
    let (info, context) = unsafe { (&*info, &*context) };
    if info.code <= 0 {
        // Somebody on this host has sent the signal: not to the program, which has no process here.
        return;
    }
    if in_runtime(context.registers.rip) {
        bug(number, info, context);
    }
    // SAFETY: a body runs on its block.
    let seat = unsafe { Seat::current() };
    let missing =
        number == signal::SIGSEGV && matches!(info.code, MAPPING | ACCESS) && info.address < SPACE_END;
    let reached = if missing {
        reach(seat, info.address, Access::of(context.registers.error))
    } else {
        Reached::Nothing
    };
    let reason = match reached {
        Reached::Mapped => return,
        Reached::Native => Reason::Native,
        Reached::Nothing => Reason::Fault,
        Reached::Forbidden => {
            // This kernel has seen nothing mapped, perhaps; home's would have.
            let mut info = *info;
            info.code = ACCESS;
            thread::go_home(seat, context, Reason::Fault, &info)
        }
        Reached::Wanted => Reason::Recalled,
    };
    thread::go_home(seat, context, reason, info)
}

/// Maps what home says is at `address`.
pub fn reach(seat: &mut Seat, address: u64, access: Access) -> Reached {
    if address >= SPACE_END {
        return Reached::Nothing;
    }
    // Another thread may have been faster.
    while !map::allows(address, access) {
        let Some(area) = ask(seat, address) else { return Reached::Wanted };
        let in_space = area.kind == AreaKind::Space as u64 || area.kind == AreaKind::FileCopy as u64;
        if area.kind == AreaKind::Native as u64 {
            return Reached::Native;
        }
        if area.kind == AreaKind::None as u64 {
            return Reached::Nothing;
        }
        if !in_space || !access.is_allowed(Prot(area.prot as u32)) {
            return Reached::Forbidden;
        }
        if map::place(&area) == Placed::Done {
            break;
        }
    }
    Reached::Mapped
}

/// What home says is at `address`; `None` if it wants the thread instead.
fn ask(seat: &mut Seat, address: u64) -> Option<Area> {
    let asked = seat.send(Kind::Query, [Part::of(&Query { address })]);
    match asked.and_then(|()| seat.receive()) {
        // SAFETY: numbers.
        Ok((kind, bytes)) if kind == Kind::Area as u32 => Some(unsafe { seat.body::<Area>(bytes) }),
        Ok((kind, _)) if kind == Kind::ComeHome as u32 => None,
        Ok(_) => fatal(&[b"home answers a question with something else"]),
        Err(Ended) => thread::end(seat),
    }
}

fn bug(number: i32, info: &SigInfo, context: &Context) -> ! {
    let mut digits = [[0; 20]; 3];
    let [signal, address, at] = &mut digits;
    fatal(&[
        b"the runtime has a bug: signal ",
        say::decimal(number as u64, signal),
        b" for address ",
        say::decimal(info.address, address),
        b" at ",
        say::decimal(context.registers.rip, at),
    ])
}
