//! A deputy: what a thread's native thread does while the thread is on another host.
//!
//! A trip: ship the thread → serve its body (calls, questions about the layout) until it sends the thread home → put what came
//! home into the context that the thread left with. A signal of the program's is noted while the deputy waits ([`pass`]): then the
//! body is recalled, or told to come home in place of a call's result, and the signal is delivered here, to the context that
//! came. So a handler sees the context that it would have interrupted, and a call that the signal has ended is over before.

use core::mem::offset_of;

use client::Why;
use megalith_runtime::errno::EINTR;
use megalith_runtime::frame::{Context, SigInfo, XSAVE_BYTES_MAX};
use megalith_runtime::nr;
use megalith_runtime::ship::{
    Area, Call, Clocks, Head, Kind, Lent, Query, Reason, Returned, Shipment, Started,
};
use megalith_runtime::sigset::{SigSet, own_signals};
use megalith_runtime::{PAGE, ship};

use crate::block::Block;
use crate::body::channel::{self, Ended, Part};
use crate::body::clocks;
use crate::freight::{Back, Hold, Load};
use crate::packing::{SET_FS, SET_GS, saved, shipment};
use crate::pass::pass;
use crate::sys::{self, Fd, safe_call};
use crate::trap::{self, Outcome};
use crate::travel::{HOME, Place};
use crate::{futex, hosts, own, say, signals, space, spare, spread, steward, threads};

/// What comes home: the XSAVE area lies where rt_sigreturn(2) can use it.
#[repr(C, align(64))]
struct Parcel {
    padding: [u8; PADDING],
    shipment: Shipment,
    saved: [u8; XSAVE_BYTES_MAX],
    /// What travels with calls.
    hold: Hold,
}

const PADDING: usize = size_of::<Shipment>().next_multiple_of(64) - size_of::<Shipment>();
const _: () = assert!(offset_of!(Parcel, saved).is_multiple_of(64));
const _: () = assert!(offset_of!(Parcel, saved) == offset_of!(Parcel, shipment) + size_of::<Shipment>());
const _: () = assert!(ship::MESSAGE_BYTES_MAX == size_of::<Shipment>() + XSAVE_BYTES_MAX);

/// What a thread does that has come home.
enum Next {
    /// It goes on here.
    Stay,
    /// It goes out again if it is to be elsewhere.
    Leave,
}

/// Takes the thread where it is to be, if it may leave; returns when it is to go on at home, with the `context` to enter.
pub fn go(block: &mut Block, context: &mut Context) {
    while let Some(host) = destination(block) {
        if awaited(context.mask) != SigSet::EMPTY {
            // What the call has sent or let in comes first: it interrupts the thread here, when this is over.
            return;
        }
        match travel(block, context, host) {
            Next::Stay => return,
            Next::Leave => {}
        }
    }
}

/// Signals that have come and wait only for the program's `mask` to be in force.
fn awaited(mask: SigSet) -> SigSet {
    sys::pending().minus(mask.union(own_signals()))
}

/// Where the thread is to be instead of here: the policy.
fn destination(block: &Block) -> Option<u32> {
    let host = block.travel.wish();
    let leaves = host != HOME
        && block.travel.may_leave
        && spread::space().is_some()
        && threads::are_many()
        && !block.travel.stays(now)
        && !hosts::is_refused(host);
    leaves.then_some(host)
}

/// CLOCK_MONOTONIC, in nanoseconds.
fn now() -> u64 {
    let mut time = [0u64; 2];
    // Cannot fail: a clock that every kernel has, and a valid pointer.
    let _ = safe_call!(nr::CLOCK_GETTIME, 1, time.as_mut_ptr());
    // SAFETY: the kernel has written it behind the compiler's back.
    let [seconds, nanoseconds] = unsafe { (&raw const time).read_volatile() };
    seconds * 1_000_000_000 + nanoseconds
}

fn travel(block: &mut Block, context: &mut Context, host: u32) -> Next {
    let Some(socket) = channel_to(block, host) else { return Next::Stay };
    let Some(mut trip) = Trip::start(block, context, host, socket) else {
        // It has no room for the thread, which stays.
        close_one(block, host);
        block.travel.set_wish(HOME);
        return Next::Stay;
    };
    let why = block.travel.why.swap(Why::Started as u32, core::sync::atomic::Ordering::Relaxed);
    let place = Place { host, tid: trip.tid };
    block.travel.set_place(place);
    steward::placed(sys::tid(), place, u64::from(why));
    trip.serve(block);
    block.travel.set_place(Place::HOME);
    trip.arrive(block, context)
}

fn channel_to(block: &mut Block, host: u32) -> Option<Fd> {
    if block.travel.channels[host as usize] < 0 {
        let channel = spare::take(host).or_else(|| hosts::thread_channel(host))?;
        block.travel.channels[host as usize] = channel;
    }
    Some(block.travel.channels[host as usize])
}

fn close_one(block: &mut Block, host: u32) {
    own::close_channel(core::mem::replace(&mut block.travel.channels[host as usize], -1));
}

/// The thread ends, here: its channels are the next one's.
pub fn close(block: &mut Block) {
    for (host, channel) in block.travel.channels.iter_mut().enumerate().filter(|(_, channel)| **channel >= 0)
    {
        spare::give(host, core::mem::replace(channel, -1));
    }
}

fn parcel(block: &mut Block) -> *mut Parcel {
    let room = match block.travel.parcel {
        Some(room) => room,
        None => match own::allocate(size_of::<Parcel>() as u64, PAGE) {
            Ok(room) => *block.travel.parcel.insert(room),
            Err(errno) => say::fatal(&[b"no memory for a thread's way home: ", errno.name().as_bytes()]),
        },
    };
    room.start as *mut Parcel
}

/// Sends the thread through its channel; the head of what the body answers, or `None` if there is no body.
fn ship(context: &Context, socket: Fd) -> Option<Head> {
    // SAFETY: the kernel wrote it, here or where the thread came from.
    let saved = unsafe { saved(context) };
    let shipment = shipment(context, saved, 0, 0, &SigInfo::NONE);
    channel::send(socket, Kind::Ship, [Part::of(&shipment), Part::bytes(saved)]).ok()?;
    let mut head = Head { kind: 0, bytes: 0 };
    hosts::receive(socket, (&raw mut head).cast(), size_of::<Head>()).ok()?;
    // SAFETY: the kernel has written it.
    Some(unsafe { (&raw const head).read_volatile() })
}

/// A thread's stay on another host.
struct Trip {
    host: u32,
    /// Its body there.
    tid: u32,
    socket: Fd,
    /// The program's mask: this one counts.
    mask: SigSet,
    /// The body has been told to send the thread home.
    recalled: bool,
    /// The body was told so in place of an answer.
    turned_back: bool,
    /// The result of the call in place of whose answer the body was told so, if the call was made.
    result: Option<i64>,
    /// What went with the last result.
    load: Option<Load>,
    parcel: *mut Parcel,
    /// CPU time that the body had used when it last said.
    worked: u64,
}

impl Trip {
    /// Sends the thread to `host`; `None` if there is no body for it.
    fn start(block: &mut Block, context: &Context, host: u32, socket: Fd) -> Option<Trip> {
        let head = ship(context, socket)?;
        let mut trip = Trip {
            host,
            tid: 0,
            socket,
            mask: context.mask,
            recalled: false,
            turned_back: false,
            result: None,
            load: None,
            parcel: parcel(block),
            worked: 0,
        };
        if head.kind != Kind::Started as u32 {
            trip.misunderstood();
        }
        let Started { tid, worked } = trip.body(head);
        (trip.tid, trip.worked) = (tid as u32, worked);
        Some(trip)
    }

    /// The body says how much CPU time it has used.
    fn account(&mut self, block: &Block, worked: u64) {
        block.travel.add_work(worked.saturating_sub(self.worked));
        self.worked = worked;
    }

    /// Serves the body until the thread's shipment lies in the parcel.
    fn serve(&mut self, block: &mut Block) {
        const CALL: u32 = Kind::Call as u32;
        const QUERY: u32 = Kind::Query as u32;
        const CLOCKS: u32 = Kind::Clocks as u32;
        const HOME: u32 = Kind::Home as u32;
        const STORE: u32 = Kind::Store as u32;
        loop {
            if !self.recalled && !self.turned_back && self.is_wanted(block) {
                hosts::recall(self.host, self.tid);
                self.recalled = true;
            }
            let head = match self.wait(block) {
                Ok(Some(head)) => head,
                Ok(None) => continue,
                Err(Ended) => hosts::lost(self.host),
            };
            match head.kind {
                CALL => self.call(block, head),
                QUERY => self.query(block, head),
                STORE => self.store(block),
                CLOCKS => self.clocks(block, head),
                HOME => return self.unload(head),
                _ => self.misunderstood(),
            }
        }
    }

    /// Whether there is a reason for the thread to come home.
    fn is_wanted(&self, block: &Block) -> bool {
        block.noted.is_some() || block.travel.wish() != self.host
    }

    /// Waits for a message, with the program's signals let in; `None` if one has come.
    fn wait(&self, block: &mut Block) -> Result<Option<Head>, Ended> {
        let mut head = Head { kind: 0, bytes: 0 };
        let to = (&raw mut head).cast::<u8>();
        let mut used = 0;
        if block.noted.is_none() {
            let arguments = [self.socket as u64, to as u64, size_of::<Head>() as u64, 0, 0, 0];
            match pass(block, nr::RECVFROM, arguments, self.mask) {
                None => return Ok(None),
                Some(result) if result == EINTR.as_return() => return Ok(None),
                Some(bytes) if bytes > 0 => used = bytes as usize,
                Some(_) => return Err(Ended),
            }
        }
        hosts::receive(self.socket, to.wrapping_add(used), size_of::<Head>() - used)?;
        // SAFETY: the kernel has written it.
        Ok(Some(unsafe { (&raw const head).read_volatile() }))
    }

    /// What follows a head: a structure of numbers.
    fn body<T: Copy>(&mut self, head: Head) -> T {
        if head.bytes as usize != size_of::<T>() {
            self.misunderstood();
        }
        let mut value = core::mem::MaybeUninit::<T>::uninit();
        if hosts::receive(self.socket, value.as_mut_ptr().cast(), size_of::<T>()).is_err() {
            hosts::lost(self.host);
        }
        // SAFETY: the kernel has written all of it, and every bit pattern of what bodies send is a value.
        unsafe { value.as_ptr().read_volatile() }
    }

    fn say<const N: usize>(&self, kind: Kind, parts: [Part; N]) {
        if channel::send(self.socket, kind, parts).is_err() {
            hosts::lost(self.host);
        }
    }

    fn turn_back(&mut self) {
        self.turned_back = true;
        self.say(Kind::ComeHome, []);
    }

    /// A call of the thread's: made here, unless the thread is to come home first.
    fn call(&mut self, block: &mut Block, head: Head) {
        let (mut call, back) = self.call_with_freight(head);
        self.account(block, call.worked);
        if self.is_wanted(block) {
            return self.turn_back();
        }
        call.context.mask = self.mask;
        let outcome = trap::perform(block, call.context.registers.rax as u32, &mut call.context);
        self.mask = call.context.mask;
        self.let_in(block);
        let lent = core::mem::replace(&mut block.travel.lent, Lent::NOT);
        match outcome {
            Outcome::Done(value) if !self.is_wanted(block) => {
                self.load = back.map(|back| back.load(value));
                let freight = self.load.as_ref().map_or(&[][..], Load::bytes);
                self.say(
                    Kind::Result,
                    [Part::of(&Returned { value: value as u64, lent }), Part::bytes(freight)],
                );
            }
            Outcome::Elsewhere(lent) if !self.is_wanted(block) => self.say(Kind::Lent, [Part::of(&lent)]),
            Outcome::Done(value) => {
                // The body does not come to it.
                let value = back.map_or(value, |back| back.load(value).store());
                let rest =
                    if lent == Lent::NOT { 0 } else { futex::wake_rest(self.host, &call.context, value) };
                self.result = Some(value + rest);
                self.turn_back();
            }
            Outcome::NotMade | Outcome::Elsewhere(_) => self.turn_back(),
        }
    }

    /// A call as the body has sent it, and what it is to write for the body.
    fn call_with_freight(&mut self, head: Head) -> (Call, Option<Back>) {
        if (head.bytes as usize) < size_of::<Call>() {
            self.misunderstood();
        }
        let mut call: Call = self.body(Head { bytes: size_of::<Call>() as u32, ..head });
        // SAFETY: only the address is taken.
        let hold = unsafe { &raw mut (*self.parcel).hold };
        match Hold::place(hold, &call) {
            Some((to, bytes)) if bytes == head.bytes as usize - size_of::<Call>() => {
                if hosts::receive(self.socket, to, bytes).is_err() {
                    hosts::lost(self.host);
                }
            }
            _ => self.misunderstood(),
        }
        match Hold::redirect(hold, &mut call) {
            Some(back) => (call, back),
            None => self.misunderstood(),
        }
    }

    /// The body cannot store what went with the last result.
    fn store(&mut self, block: &Block) {
        let Some(load) = self.load.take() else { self.misunderstood() };
        let value = load.store();
        if self.is_wanted(block) {
            self.result = Some(value);
            return self.turn_back();
        }
        self.say(Kind::Result, [Part::of(&Returned { value: value as u64, lent: Lent::NOT })]);
    }

    /// Lets in what the call has sent to this thread, or has let in: that comes before its result.
    fn let_in(&self, block: &mut Block) {
        if block.noted.is_none() && awaited(self.mask) != SigSet::EMPTY {
            // Any call: the signals come when it is made.
            let _ = pass(block, nr::GETPID, [0; 6], self.mask);
        }
    }

    fn query(&mut self, block: &Block, head: Head) {
        let query: Query = self.body(head);
        if self.is_wanted(block) {
            return self.turn_back();
        }
        let area: Area = space::lock().area(query.address);
        self.say(Kind::Area, [Part::of(&area)]);
    }

    /// What the clocks say here, which are the program's.
    fn clocks(&mut self, block: &Block, head: Head) {
        let _: Clocks = self.body(head);
        if self.is_wanted(block) {
            return self.turn_back();
        }
        self.say(Kind::Clocks, [Part::of(&clocks::now())]);
    }

    /// Receives the shipment into the parcel.
    fn unload(&mut self, head: Head) {
        let bytes = head.bytes as usize;
        if !(size_of::<Shipment>()..=ship::MESSAGE_BYTES_MAX).contains(&bytes) {
            self.misunderstood();
        }
        // SAFETY: the parcel is this thread's; what comes is no longer than a shipment and its area.
        let to = unsafe { (&raw mut (*self.parcel).shipment).cast::<u8>() };
        if hosts::receive(self.socket, to, bytes).is_err() {
            hosts::lost(self.host);
        }
        // SAFETY: the kernel has written it.
        let saved = unsafe { (&raw const (*self.parcel).shipment.saved_bytes).read_volatile() };
        if saved != (bytes - size_of::<Shipment>()) as u64 {
            self.misunderstood();
        }
    }

    /// Makes the shipment the thread's own context again.
    fn arrive(mut self, block: &mut Block, context: &mut Context) -> Next {
        // SAFETY: received, and numbers.
        let shipment = unsafe { (&raw const (*self.parcel).shipment).read_volatile() };
        self.account(block, shipment.worked);
        for (code, base) in [(SET_FS, shipment.fs), (SET_GS, shipment.gs)] {
            // Refused only for what is no address, which the other host's kernel would have refused too.
            let _ = safe_call!(nr::ARCH_PRCTL, code, base);
        }
        context.flags = shipment.context.flags;
        context.registers = shipment.context.registers;
        context.mask = self.mask;
        // SAFETY: only the address is taken.
        let saved = unsafe { &raw const (*self.parcel).saved } as u64;
        context.registers.fpstate = if shipment.saved_bytes == 0 { 0 } else { saved };
        let (why, next) = self.settle(block, context, &shipment);
        steward::placed(sys::tid(), Place::HOME, why as u64);
        next
    }

    /// What the thread has come home for.
    fn settle(&mut self, block: &mut Block, context: &mut Context, shipment: &Shipment) -> (Why, Next) {
        const CALL: u64 = Reason::Call as u64;
        const FAULT: u64 = Reason::Fault as u64;
        const NATIVE: u64 = Reason::Native as u64;
        const RECALLED: u64 = Reason::Recalled as u64;
        const INTERRUPTED: u64 = Reason::Interrupted as u64;
        let (mut why, mut next) = (Why::Ordered, Next::Leave);
        match shipment.reason {
            CALL => {
                match self.result.take() {
                    Some(value) => context.registers.rax = value as u64,
                    // Back to the two bytes of `syscall`, with the number in rax: the thread makes it here.
                    None => context.registers.rip -= 2,
                }
                if !self.turned_back {
                    (why, next) = (Why::Call, Next::Stay);
                }
            }
            FAULT => {
                signals::postpone_noted(block);
                signals::force(block, &shipment.info, context);
                return (Why::Signal, Next::Stay);
            }
            NATIVE => {
                block.travel.stay(now());
                (why, next) = (Why::Native, Next::Stay);
            }
            RECALLED => {}
            // As a signal finds the wait in Linux: it ends, or begins again.
            INTERRUPTED if signals::noted_ends_wait(block) => {
                context.registers.rax = EINTR.as_return() as u64
            }
            INTERRUPTED => context.registers.rip -= 2,
            _ => self.misunderstood(),
        }
        if block.noted.is_some() {
            signals::deliver_noted(block, context);
            return (Why::Signal, Next::Stay);
        }
        (why, next)
    }

    fn misunderstood(&self) -> ! {
        let mut digits = [0; 20];
        let host = say::decimal(u64::from(self.host), &mut digits);
        say::fatal(&[b"the body on host ", host, b" says what it must not say"])
    }
}
