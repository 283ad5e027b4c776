//! What a block knows of its thread's travels: where the thread is, and where it is to be.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use megalith_runtime::layout::Span;
use megalith_runtime::ship::Lent;

use crate::spread::{CPUS_MAX, HOSTS_MAX};
use crate::sys::Fd;

/// The home host's number.
pub const HOME: u32 = 0;
/// How long a thread stays at home that has touched what only home maps.
const STAY_NS: u64 = 10_000_000;
const STAY_NS_MAX: u64 = 1_000_000_000;

/// A set of the machine's CPUs.
pub type Cpus = [u64; CPUS_MAX as usize / 64];

/// Every one.
pub const ALL_CPUS: Cpus = [u64::MAX; CPUS_MAX as usize / 64];

/// Where a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The host.
    pub host: u32,
    /// Its body's tid there; at home 0.
    pub tid: u32,
}

impl Place {
    /// At home.
    pub const HOME: Place = Place { host: HOME, tid: 0 };
}

/// See the module. `wish` and `place` are for everybody, `tid` and `cpus` are guarded by [`crate::live`], the rest is the thread's
/// own.
pub struct Travel {
    /// The host that the thread is to be on.
    wish: AtomicU32,
    /// Why, for who keeps the figures: a [`client::Why`].
    pub why: AtomicU32,
    place: AtomicU64,
    /// The thread's id, once it is known.
    pub tid: u32,
    /// Where the program has said it may run.
    pub cpus: Cpus,
    /// A thread of the program's process: a vfork(2) child never leaves.
    pub may_leave: bool,
    /// Its channel to each host, or -1.
    pub channels: [Fd; HOSTS_MAX],
    /// CPU time that it has used away, in nanoseconds; for everybody.
    worked: AtomicU64,
    /// The futex word for which it waits at home, or 0; for everybody ([`crate::queues`]).
    pub waits_for: AtomicU64,
    /// The loan of a queue that comes with the result of its call.
    pub lent: Lent,
    /// Room for a shipment; stays with the block.
    pub parcel: Option<Span>,
    /// It stays at home until then (CLOCK_MONOTONIC, nanoseconds).
    stay_until: u64,
    stay_ns: u64,
}

impl Travel {
    /// Of a thread that does not run yet.
    pub const fn new(parcel: Option<Span>) -> Travel {
        Travel {
            wish: AtomicU32::new(HOME),
            why: AtomicU32::new(0),
            place: AtomicU64::new(0),
            tid: 0,
            cpus: ALL_CPUS,
            may_leave: false,
            channels: [-1; HOSTS_MAX],
            worked: AtomicU64::new(0),
            waits_for: AtomicU64::new(0),
            lent: Lent::NOT,
            parcel,
            stay_until: 0,
            stay_ns: 0,
        }
    }

    /// The host that the thread is to be on.
    pub fn wish(&self) -> u32 {
        self.wish.load(Ordering::SeqCst)
    }

    /// Changes it.
    pub fn set_wish(&self, host: u32) {
        self.wish.store(host, Ordering::SeqCst);
    }

    /// Where the thread is. Who has changed the wish looks here, and whoever moves looks at the wish afterwards: one of the
    /// two sees the other.
    pub fn place(&self) -> Place {
        let word = self.place.load(Ordering::SeqCst);
        Place { host: (word >> 32) as u32, tid: word as u32 }
    }

    /// The thread has moved.
    pub fn set_place(&self, place: Place) {
        self.place.store(u64::from(place.host) << 32 | u64::from(place.tid), Ordering::SeqCst);
    }

    /// CPU time that the thread has used away, in nanoseconds.
    pub fn worked(&self) -> u64 {
        self.worked.load(Ordering::Relaxed)
    }

    /// It has used more.
    pub fn add_work(&self, more: u64) {
        self.worked.fetch_add(more, Ordering::Relaxed);
    }

    /// The thread came home for a mapping: it stays for a while, longer if it has done so just before.
    pub fn stay(&mut self, now: u64) {
        let again = now < self.stay_until + 4 * self.stay_ns;
        self.stay_ns = if again { (2 * self.stay_ns).min(STAY_NS_MAX) } else { STAY_NS };
        self.stay_until = now + self.stay_ns;
    }

    /// Whether it is still to stay.
    pub fn stays(&self, now: impl FnOnce() -> u64) -> bool {
        self.stay_until != 0 && now() < self.stay_until
    }
}
