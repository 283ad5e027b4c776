//! Clocks: this host's own, and home's as they are seen from here.
//!
//! The program's clocks are home's, wherever a thread reads them. A body asks its deputy now and then, and between reads this
//! host's clock and adds what home is ahead.
//!
//! An answer bounds that: home's clock was read after the question went and before the answer came. Bounds of several answers are
//! cut with each other, so what is left is set by the fastest ways there and back, and its middle is wrong by less than half the
//! difference of the two. Whatever one thread tells another on another host takes longer: so nobody sees time go
//! backwards. As hosts' clocks drift apart, the bounds widen with time.

use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use megalith_runtime::nr;
use megalith_runtime::ship::{Clocks, Kind};

use crate::body::channel::{Ended, Part};
use crate::body::seat::Seat;
use crate::body::{fatal, thread};
use crate::lock::Lock;
use crate::sys::safe_call;

/// CLOCK_REALTIME.
pub const REAL: u64 = 0;
/// CLOCK_MONOTONIC.
pub const MONOTONIC: u64 = 1;
/// CLOCK_BOOTTIME.
pub const BOOT: u64 = 7;

/// For how long an answer is used.
const FRESH_NS: u64 = 100_000_000;
/// Questions in a row when nothing is known.
const QUESTIONS: u32 = 8;
/// Bounds farther apart are not used: the deputy reads the clock.
const WIDTH_NS_MAX: i64 = 200_000;
/// A millionth: how fast clocks of hosts that keep time may drift apart.
const DRIFT_PER_MILLION: u64 = 20;
/// A wall clock that is further back has been set.
const STEP_NS: u64 = 1_000_000;

/// How far home's CLOCK_MONOTONIC is ahead of this host's, in nanoseconds.
#[derive(Clone, Copy)]
struct Bounds {
    low: i64,
    high: i64,
    /// When, by this host's CLOCK_MONOTONIC.
    since: u64,
}

impl Bounds {
    /// What an answer says that is about home's clock `home`, between `before` and `after` here.
    fn of(home: u64, before: u64, after: u64) -> Bounds {
        let ahead = |own: u64| home.wrapping_sub(own) as i64;
        Bounds { low: ahead(after), high: ahead(before), since: after }
    }

    /// Both: the newer ones if they contradict the older.
    fn cut(self, newer: Bounds) -> Bounds {
        let drift = (newer.since.saturating_sub(self.since) / 1_000_000 * DRIFT_PER_MILLION) as i64;
        let low = newer.low.max(self.low - drift);
        let high = newer.high.min(self.high + drift);
        if low <= high { Bounds { low, high, ..newer } } else { newer }
    }

    fn width(&self) -> i64 {
        self.high - self.low
    }
}

static BOUNDS: Lock<Option<Bounds>> = Lock::new(None);
/// What is added to this host's CLOCK_MONOTONIC to get home's three clocks.
static AHEAD: [AtomicI64; 3] = [const { AtomicI64::new(0) }; 3];
/// The latest that was read of each.
static LATEST: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
/// When the last answer came; 0 if none has.
static ANSWERED: AtomicU64 = AtomicU64::new(0);
/// Whether the bounds are close enough.
static USABLE: AtomicBool = AtomicBool::new(false);

pub fn own(clock: u64) -> u64 {
    let mut time = [0u64; 2];
    // Cannot fail: clocks that every kernel has, and a valid pointer.
    let _ = safe_call!(nr::CLOCK_GETTIME, clock, time.as_mut_ptr());
    // SAFETY: the kernel has written it behind the compiler's back.
    let [seconds, nanoseconds] = unsafe { (&raw const time).read_volatile() };
    seconds * 1_000_000_000 + nanoseconds
}

/// This host's clocks, now.
pub fn now() -> Clocks {
    Clocks { real: own(REAL), monotonic: own(MONOTONIC), boot: own(BOOT) }
}

/// What a clock of home says.
pub enum Reading {
    /// This, in nanoseconds.
    Is(u64),
    /// The deputy is to be asked for it.
    Unknown,
    /// Home wants the thread instead.
    Wanted,
}

/// Reads a clock of home's.
pub fn home(seat: &mut Seat, clock: u64) -> Reading {
    let index = match clock {
        REAL => 0,
        MONOTONIC => 1,
        BOOT => 2,
        _ => return Reading::Unknown,
    };
    let mut own_time = own(MONOTONIC);
    let answered = ANSWERED.load(Ordering::Acquire);
    if own_time.saturating_sub(answered) >= FRESH_NS || answered == 0 {
        let questions = if answered == 0 { QUESTIONS } else { 1 };
        for _ in 0..questions {
            if !ask(seat) {
                return Reading::Wanted;
            }
        }
        own_time = own(MONOTONIC);
    }
    if !USABLE.load(Ordering::Acquire) {
        return Reading::Unknown;
    }
    let time = own_time.wrapping_add_signed(AHEAD[index].load(Ordering::Acquire));
    let latest = LATEST[index].fetch_max(time, Ordering::AcqRel);
    if clock == REAL && latest > time + STEP_NS {
        LATEST[index].store(time, Ordering::Release);
        return Reading::Is(time);
    }
    Reading::Is(time.max(latest))
}

/// Asks the deputy; false if home wants the thread instead.
fn ask(seat: &mut Seat) -> bool {
    let nothing = Clocks { real: 0, monotonic: 0, boot: 0 };
    let before = own(MONOTONIC);
    let asked = seat.send(Kind::Clocks, [Part::of(&nothing)]);
    match asked.and_then(|()| seat.receive()) {
        Ok((kind, bytes)) if kind == Kind::Clocks as u32 => {
            // SAFETY: numbers.
            let home = unsafe { seat.body::<Clocks>(bytes) };
            learn(&home, Bounds::of(home.monotonic, before, own(MONOTONIC)));
            true
        }
        Ok((kind, _)) if kind == Kind::ComeHome as u32 => false,
        Ok(_) => fatal(&[b"home answers a question with something else"]),
        Err(Ended) => thread::end(seat),
    }
}

fn learn(home: &Clocks, newer: Bounds) {
    let mut bounds = BOUNDS.take();
    let cut = bounds.map_or(newer, |bounds| bounds.cut(newer));
    *bounds = Some(cut);
    let ahead = cut.low + cut.width() / 2;
    for (slot, clock) in AHEAD.iter().zip([home.real, home.monotonic, home.boot]) {
        slot.store(ahead + clock.wrapping_sub(home.monotonic) as i64, Ordering::Release);
    }
    USABLE.store(cut.width() <= WIDTH_NS_MAX, Ordering::Release);
    ANSWERED.store(cut.since, Ordering::Release);
}
