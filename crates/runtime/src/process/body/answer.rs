//! System calls of a thread that is away.

use megalith_runtime::calls::{Class, class};
use megalith_runtime::frame::{Context, SYS_SECCOMP, SigInfo};
use megalith_runtime::nr;
use megalith_runtime::ship::{Call, Kind, Reason, Returned};

use crate::body::channel::{Ended, Part};
use crate::body::map::Access;
use crate::body::seat::Seat;
use crate::body::thread::{self, GET_FS, GET_GS, SET_FS, SET_GS};
use crate::body::{fatal, faults};
use crate::sys::{self, safe_call};
use crate::user;

/// What becomes of a call here.
enum Answer {
    /// This is its result.
    Result(u64),
    /// The deputy is to make it.
    Ask,
    /// The thread is to make it, at home.
    GoHome,
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
        _ => Answer::Ask,
    };
    let answer = match answer {
        Answer::Ask => ask(seat, context),
        other => other,
    };
    match answer {
        Answer::Result(value) => context.registers.rax = value,
        _ => thread::go_home(seat, context, Reason::Call, info),
    }
}

fn ask(seat: &mut Seat, context: &Context) -> Answer {
    let asked = seat.send(Kind::Call, [Part::of(&Call { context: *context })]);
    match asked.and_then(|()| seat.receive()) {
        Ok((kind, bytes)) if kind == Kind::Result as u32 => {
            // SAFETY: a number.
            Answer::Result(unsafe { seat.body::<Returned>(bytes) }.value)
        }
        Ok((kind, _)) if kind == Kind::ComeHome as u32 => Answer::GoHome,
        Ok(_) => fatal(&[b"home answers a call with something else"]),
        Err(Ended) => thread::end(seat),
    }
}

/// What is this thread's own here. Clocks are not: other threads read them on other hosts, and compare.
fn here(seat: &mut Seat, number: u32, context: &Context) -> Answer {
    let (code, operand) = (context.registers.rdi & 0xffff_ffff, context.registers.rsi);
    match (number, code) {
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
            let base = thread::base(code);
            if user::write(operand, &base).is_ok() {
                return Answer::Result(0);
            }
            // Not mapped here yet, perhaps.
            let reached = faults::reach(seat, operand, Access::Write);
            if reached == faults::Reached::Mapped && user::write(operand, &base).is_ok() {
                return Answer::Result(0);
            }
            Answer::GoHome
        }
        _ => Answer::Ask,
    }
}
