//! A lock on a futex in the runtime's own memory.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use megalith_runtime::errno::{ESRCH, ETIMEDOUT};
use megalith_runtime::nr;

use crate::say;
use crate::sys::{self, safe_call};

const FREE: u32 = 0;
const CONTENDED: u32 = 1 << 31;

/// A value that one thread at a time may use. The word holds the holder's thread id, so that a waiter sees when
/// the holder has died with it (a vfork(2) child that is killed) and ends the process instead of waiting on.
pub struct Lock<T> {
    word: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through the guard, and there is one guard at a time.
unsafe impl<T> Sync for Lock<T> {}

/// The lock is held while this lives.
pub struct Guard<'a, T>(&'a Lock<T>);

impl<T> Lock<T> {
    /// A free lock.
    pub const fn new(value: T) -> Lock<T> {
        Lock { word: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    /// Waits until the lock is free, and takes it. All signals must be blocked.
    pub fn take(&self) -> Guard<'_, T> {
        let me = sys::tid();
        let mut bit = 0;
        while let Err(now) = self.word.compare_exchange(FREE, me | bit, Ordering::Acquire, Ordering::Relaxed)
        {
            bit = CONTENDED;
            let wanted = now | CONTENDED;
            if now & CONTENDED != 0
                || self.word.compare_exchange(now, wanted, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            {
                self.wait(wanted);
            }
        }
        Guard(self)
    }

    /// Ends the process if `tid`, which no longer runs, holds the lock: what it guards is half changed.
    pub fn expect_free_of(&self, tid: u32) {
        if self.word.load(Ordering::Relaxed) & !CONTENDED == tid {
            died_inside();
        }
    }

    fn wait(&self, seen: u32) {
        let second = [1u64, 0];
        let waited = safe_call!(nr::FUTEX, self.word.as_ptr(), 128, seen, second.as_ptr());
        if waited != Err(ETIMEDOUT) || self.word.load(Ordering::Relaxed) != seen {
            return;
        }
        // The holder may belong to another process that shares this memory; kill(2) with a thread id finds it.
        let holder = seen & !CONTENDED;
        if safe_call!(nr::KILL, holder, 0) == Err(ESRCH) && self.word.load(Ordering::Relaxed) == seen {
            died_inside();
        }
    }
}

fn died_inside() -> ! {
    say::fatal(&[b"a thread died inside the runtime; the space cannot be trusted"])
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard is the only one.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard is the only one.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        if self.0.word.swap(FREE, Ordering::Release) & CONTENDED != 0 {
            let _ = safe_call!(nr::FUTEX, self.0.word.as_ptr(), 129, 1);
        }
    }
}
