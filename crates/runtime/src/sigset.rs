//! Sets of signals, as the kernel keeps them: bit n-1 is signal n.

use core::sync::atomic::{AtomicU64, Ordering};

/// Signal numbers this crate speaks of (signal(7)).
pub mod signal {
    /// Illegal instruction.
    pub const SIGILL: i32 = 4;
    /// Kill.
    pub const SIGKILL: i32 = 9;
    /// Invalid memory reference.
    pub const SIGSEGV: i32 = 11;
    /// Stop.
    pub const SIGSTOP: i32 = 19;
    /// Stack fault of a coprocessor that no x86-64 has: in spread mode the order to move ([`super::keep_order`]).
    pub const SIGSTKFLT: i32 = 16;
    /// Bad system call: how caught calls arrive.
    pub const SIGSYS: i32 = 31;
    /// Number of signals; they count from 1.
    pub const COUNT: i32 = 64;
}

/// The signals that the runtime keeps for itself.
static OWN: AtomicU64 = AtomicU64::new(SigSet::only(signal::SIGSYS).0);

/// From now on the order to move, SIGSTKFLT, is the runtime's own as SIGSYS is. It cannot be SIGSYS itself: one that is pending
/// swallows the next, which may be a caught call.
pub fn keep_order() {
    OWN.fetch_or(SigSet::only(signal::SIGSTKFLT).0, Ordering::Relaxed);
}

/// The signals that are never blocked while the program runs, and never let in while the runtime waits.
pub fn own_signals() -> SigSet {
    SigSet(OWN.load(Ordering::Relaxed))
}

/// A set of signals.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SigSet(pub u64);

impl SigSet {
    /// No signal.
    pub const EMPTY: SigSet = SigSet(0);
    /// Every signal.
    pub const FULL: SigSet = SigSet(u64::MAX);

    /// The set of `signal` alone.
    pub const fn only(signal: i32) -> SigSet {
        SigSet(1 << (signal - 1))
    }

    /// Both sets' signals.
    pub const fn union(self, other: SigSet) -> SigSet {
        SigSet(self.0 | other.0)
    }

    /// This set's signals that are not in `other`.
    pub const fn minus(self, other: SigSet) -> SigSet {
        SigSet(self.0 & !other.0)
    }

    /// Whether `signal` is in the set.
    pub const fn has(self, signal: i32) -> bool {
        self.0 & SigSet::only(signal).0 != 0
    }

    /// The set without the runtime's own (a caught call while SIGSYS is blocked would kill the process), and without
    /// what cannot be blocked: the kernel takes that out itself, but not out of a mask that is only remembered.
    pub fn catchable(self) -> SigSet {
        let never = SigSet::only(signal::SIGKILL).union(SigSet::only(signal::SIGSTOP));
        self.minus(own_signals()).minus(never)
    }

    /// The set after rt_sigprocmask(2) with `how` and `set`; `None` if `how` is none of its three.
    pub fn changed(self, how: u64, set: SigSet) -> Option<SigSet> {
        match how {
            0 => Some(self.union(set).catchable()),
            1 => Some(self.minus(set).catchable()),
            2 => Some(set.catchable()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigsys_never_gets_in() {
        for how in 0..3 {
            let now = SigSet::FULL.changed(how, SigSet::FULL).unwrap();
            assert!(!now.has(signal::SIGSYS) && !now.has(signal::SIGKILL) && !now.has(signal::SIGSTOP));
        }
        assert_eq!(SigSet::EMPTY.changed(3, SigSet::FULL), None);
    }

    #[test]
    fn the_three_ways() {
        let usr1 = SigSet::only(10);
        let hup = SigSet::only(1);
        assert_eq!(usr1.changed(0, hup), Some(usr1.union(hup)));
        assert_eq!(usr1.union(hup).changed(1, hup), Some(usr1));
        assert_eq!(usr1.changed(2, hup), Some(hup));
    }
}
