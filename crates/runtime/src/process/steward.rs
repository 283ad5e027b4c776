//! The steward: a thread of the runtime's own in the program's process that passes orders to move from the agent to the threads.
//!
//! It is made before the program's second thread, because a program of one thread does not move. All signals stay blocked in it,
//! and it has no kernel thread that the program made; so the process ends without it when the program's last thread does.

use core::sync::atomic::{AtomicBool, Ordering};

use client::{Op, Reply, Request, VERSION, Why};
use megalith_runtime::errno::{EINTR, Errno};
use megalith_runtime::frame::{Context, SI_QUEUE, SigInfo};
use megalith_runtime::nr;
use megalith_runtime::sigset::signal;

use crate::block::{self, Block};
use crate::spawn::spawn;
use crate::sys::{self, safe_call};
use crate::travel::{HOME, Place};
use crate::{agent, away, hosts, live, own, say, signals, spread, start};

/// In an order's `si_value`: the runtime's mark.
const MARK: u64 = 0x4d65_6761_6c69_7468;
const MSG_NOSIGNAL: u64 = 0x4000;
/// How long the process lives on without its agent.
const LOST_AFTER_S: u64 = 10;

static RUNS: AtomicBool = AtomicBool::new(false);

/// Whether there is one.
pub fn runs() -> bool {
    RUNS.load(Ordering::SeqCst)
}

/// Makes it, if there is an agent and none has been made yet.
pub fn ensure() {
    if spread::space().is_none() || RUNS.swap(true, Ordering::SeqCst) {
        return;
    }
    let made = connect().and_then(|()| make());
    if let Err(errno) = made {
        say::fatal(&[b"the steward cannot start: ", errno.name().as_bytes()]);
    }
    // The program's first thread, which makes its second.
    placed(sys::tid(), Place::HOME, Why::Started as u64);
}

fn connect() -> Result<(), Errno> {
    let socket = agent::connect(start::socket_path())?;
    own::keep(socket, own::STEWARD, true)?;
    let space = spread::space().unwrap_or(0);
    send(Op::Steward, [VERSION, start::machine_id(), space, 0])?;
    let mut reply = Reply { status: 0, values: [0; 4] };
    receive((&raw mut reply).cast(), size_of::<Reply>())?;
    // SAFETY: the kernel has written it.
    Errno::check(unsafe { (&raw const reply).read_volatile() }.status).map(|_| ())
}

fn send(op: Op, args: [u64; 4]) -> Result<(), Errno> {
    let request = Request { op: op as u64, args };
    let bytes = size_of::<Request>();
    safe_call!(nr::SENDTO, own::STEWARD, &raw const request, bytes, MSG_NOSIGNAL, 0, 0).map(|_| ())
}

/// One packet of `bytes`.
fn receive(to: *mut u8, bytes: usize) -> Result<(), Errno> {
    loop {
        match safe_call!(nr::RECVFROM, own::STEWARD, to, bytes, 0, 0, 0) {
            Ok(got) if got == bytes as u64 => return Ok(()),
            Ok(_) => return Err(megalith_runtime::errno::EPROTO),
            Err(EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn make() -> Result<(), Errno> {
    let block = block::take()?;
    // SAFETY: freshly taken: ours alone until the thread starts, and its stack from there on.
    unsafe { spawn(block, (*block).stack().end & !63, serve) }
}

unsafe extern "C" fn serve() -> ! {
    const PR_SET_NAME: u64 = 15;
    let _ = safe_call!(nr::PRCTL, PR_SET_NAME, c"steward".as_ptr());
    loop {
        let mut request = Request { op: 0, args: [0; 4] };
        if receive((&raw mut request).cast(), size_of::<Request>()).is_err() {
            // `megalith run` hears of it too, tells the user and ends the program; else the program ends itself.
            let time = [LOST_AFTER_S, 0u64];
            let _ = safe_call!(nr::NANOSLEEP, time.as_ptr(), 0);
            say::fatal(&[b"the agent of this host is gone"]);
        }
        // SAFETY: the kernel has written it.
        let request = unsafe { (&raw const request).read_volatile() };
        if request.op == Op::Move as u64 {
            send_to(request.args[0] as u32, request.args[1] as u32);
        }
    }
}

/// Thread `tid` is to go to `host`. A thread that has ended meanwhile goes nowhere.
pub fn send_to(tid: u32, host: u32) {
    let mut list = live::list();
    let Some(travel) = list.find(tid) else { return };
    travel.why.store(Why::Ordered as u32, Ordering::Relaxed);
    travel.set_wish(host);
    let place = travel.place();
    if place.host == host {
        return;
    }
    if place.host == HOME {
        // Under the list's lock: so the thread lives. One that is in the runtime sees its wish before it leaves.
        let info = SigInfo::queued(signal::SIGSTKFLT, sys::pid(), MARK);
        let _ = safe_call!(nr::RT_TGSIGQUEUEINFO, sys::pid(), tid, signal::SIGSTKFLT, &raw const info);
        return;
    }
    drop(list);
    hosts::recall(place.host, place.tid);
}

/// SIGSTKFLT: the order, or one that the program has sent itself.
pub unsafe extern "C" fn on_order(number: i32, info: *mut SigInfo, context: *mut Context) {
    // SAFETY: the kernel runs handlers on the block's stack, and passes a frame that is nobody else's.
    let (block, info, context) = unsafe { (Block::current(), &mut *info, &mut *context) };
    if info.code != SI_QUEUE || info.value() != MARK {
        let mask = context.mask;
        return signals::deliver(block, number, info, context, mask);
    }
    if !signals::in_runtime(context.registers.rip) {
        away::go(block, context);
    }
}

/// Tells the agent where a thread is now.
pub fn placed(tid: u32, place: Place, why: u64) {
    if runs() {
        // The agent's end closes the steward's connection, which the steward sees.
        let _ = send(Op::Placed, [u64::from(tid), u64::from(place.host), u64::from(place.tid), why]);
    }
}
