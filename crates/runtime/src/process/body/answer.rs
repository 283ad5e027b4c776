//! System calls of a thread that is away.

use megalith_runtime::calls::{Class, class};
use megalith_runtime::frame::{Context, SYS_SECCOMP, SigInfo};
use megalith_runtime::nr;
use megalith_runtime::ship::{Call, Kind, Lent, Reason, Returned};

use crate::body::channel::{Ended, Part};
use crate::body::clocks::{self, Reading};
use crate::body::fatal;
use crate::body::faults::{self, Reached};
use crate::body::freight::{self, Freight};
use crate::body::map::Access;
use crate::body::seat::Seat;
use crate::body::{futex, thread};
use crate::packing::{self, GET_FS, GET_GS, SET_FS, SET_GS};
use crate::sys::{self, safe_call};
use crate::user;

/// What becomes of a call here.
pub enum Answer {
    /// This is its result.
    Result(u64),
    /// The deputy is to make it.
    Ask,
    /// The thread is to make it, at home.
    GoHome,
    /// The thread was recalled while it waited here.
    Interrupted,
}

/// What a deputy says to a call.
pub enum Said {
    /// This is its result. If it was about a futex, this loan of its queue is the host's.
    Result(Returned),
    /// The host has this loan of the futex's queue, and is to make the call.
    Lent(Lent),
    /// The thread is to come home first.
    ComeHome,
}

/// SIGSYS: the program has made a call.
pub unsafe extern "C" fn on_call(_: i32, info: *mut SigInfo, context: *mut Context) {
    // SAFETY: a body runs on its block, and the kernel passes a frame that is nobody else's.
    let (seat, info, context) = unsafe { (Seat::current(), &*info, &mut *context) };
    if info.code != SYS_SECCOMP {
        // Somebody on this host has sent the signal: not to the program, which has no process here.
        return;
    }
    let number = info.number as u32;
    context.registers.rax = u64::from(number);
    let answer = match class(number) {
        Class::Local => here(seat, number, context),
        Class::Home => Answer::GoHome,
        _ if number == nr::FUTEX => futex::call(seat, context),
        _ => Answer::Ask,
    };
    let answer = match answer {
        Answer::Ask => match ask(seat, context) {
            Said::Result(returned) => Answer::Result(returned.value),
            Said::ComeHome => Answer::GoHome,
            Said::Lent(_) => fatal(&[b"home lends what was not asked for"]),
        },
        other => other,
    };
    match answer {
        Answer::Result(value) => context.registers.rax = value,
        Answer::Interrupted => thread::go_home(seat, context, Reason::Interrupted, info),
        _ => thread::go_home(seat, context, Reason::Call, info),
    }
}

/// Asks the deputy to make the call.
pub fn ask(seat: &mut Seat, context: &Context) -> Said {
    let mut context = *context;
    let Some(freight) = freight::load(seat, &mut context) else { return Said::ComeHome };
    let call = Call { context, worked: thread::worked(), sent: freight.sent as u64, room: freight.room };
    let sent = match freight.sent {
        0 => Part::bytes(&[]),
        bytes => Part::bytes(&freight::hold(seat).expect("it was loaded")[..bytes]),
    };
    let asked = seat.send(Kind::Call, [Part::of(&call), sent]);
    hear(seat, asked, &freight)
}

/// Waits for what the deputy says, and stores what comes with it.
fn hear(seat: &mut Seat, asked: Result<(), Ended>, freight: &Freight) -> Said {
    match asked.and_then(|()| seat.receive()) {
        Ok((kind, bytes)) if kind == Kind::Result as u32 && bytes > size_of::<Returned>() => {
            // SAFETY: numbers.
            let returned = unsafe { seat.front(bytes) };
            let Some(hold) = freight::hold(seat) else { return leave_to_home(seat) };
            let room = freight.room as usize;
            match seat.take_rest::<Returned>(bytes, &mut hold[..room]) {
                Ok(came) if user::write_bytes(freight.to, &hold[..came]).is_ok() => Said::Result(returned),
                // It has been unmapped here meanwhile: home knows whether rightly.
                Ok(_) => leave_to_home(seat),
                Err(Ended) => thread::end(seat),
            }
        }
        // SAFETY: numbers.
        Ok((kind, bytes)) if kind == Kind::Result as u32 => Said::Result(unsafe { seat.body(bytes) }),
        // SAFETY: numbers.
        Ok((kind, bytes)) if kind == Kind::Lent as u32 => Said::Lent(unsafe { seat.body(bytes) }),
        Ok((kind, _)) if kind == Kind::ComeHome as u32 => Said::ComeHome,
        Ok(_) => fatal(&[b"home answers a call with something else"]),
        Err(Ended) => thread::end(seat),
    }
}

/// What came back with a result is to be stored by the deputy.
fn leave_to_home(seat: &mut Seat) -> Said {
    let asked = seat.send(Kind::Store, []);
    hear(seat, asked, &Freight::default())
}

/// What can be answered here.
fn here(seat: &mut Seat, number: u32, context: &Context) -> Answer {
    const NANOSECONDS: u64 = 1_000_000_000;
    let (first, operand) = (context.registers.rdi, context.registers.rsi);
    let code = first & 0xffff_ffff;
    match (number, code) {
        (nr::CLOCK_GETTIME, clock) => read_clock(seat, clock, |seat, time| {
            give(seat, operand, [time / NANOSECONDS, time % NANOSECONDS])
        }),
        (nr::GETTIMEOFDAY, _) if operand == 0 => read_clock(seat, clocks::REAL, |seat, time| {
            give(seat, first, [time / NANOSECONDS, time % NANOSECONDS / 1000])
        }),
        (nr::TIME, _) => read_clock(seat, clocks::REAL, |seat, time| {
            let seconds = time / NANOSECONDS;
            match first {
                0 => Answer::Result(seconds),
                _ => match give(seat, first, [seconds]) {
                    Answer::Result(_) => Answer::Result(seconds),
                    other => other,
                },
            }
        }),
        (nr::SCHED_YIELD, _) => {
            let _ = safe_call!(nr::SCHED_YIELD);
            Answer::Result(0)
        }
        (nr::ARCH_PRCTL, SET_FS | SET_GS) => {
            // SAFETY: the program's own registers, which the runtime does not use.
            let result = unsafe { sys::raw(nr::ARCH_PRCTL, [code, operand, 0, 0, 0, 0]) };
            Answer::Result(result as u64)
        }
        (nr::ARCH_PRCTL, GET_FS | GET_GS) => {
            // At home there are other bases: the deputy cannot be asked.
            match give(seat, operand, [packing::base(code)]) {
                Answer::Ask => Answer::GoHome,
                other => other,
            }
        }
        _ => Answer::Ask,
    }
}

fn read_clock(seat: &mut Seat, clock: u64, then: impl FnOnce(&mut Seat, u64) -> Answer) -> Answer {
    match clocks::home(seat, clock) {
        Reading::Is(time) => then(seat, time),
        Reading::Unknown => Answer::Ask,
        Reading::Wanted => Answer::GoHome,
    }
}

/// Stores a call's answer where the program wants it: 0, or [`Answer::Ask`] if that cannot be done from here.
fn give<const N: usize>(seat: &mut Seat, address: u64, words: [u64; N]) -> Answer {
    let written = user::write(address, &words).or_else(|errno| {
        // Not mapped here yet, perhaps.
        match faults::reach(seat, address, Access::Write) {
            Reached::Mapped => user::write(address, &words),
            _ => Err(errno),
        }
    });
    written.map_or(Answer::Ask, |()| Answer::Result(0))
}
