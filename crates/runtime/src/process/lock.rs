//! A lock on a futex in the runtime's own memory.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use megalith_runtime::errno::{ESRCH, ETIMEDOUT};
use megalith_runtime::nr;
use megalith_runtime::word::{Word, holder};

use crate::say;
use crate::sys::{self, safe_call};

/// A value that one thread at a time may use. The word holds the holder's thread id, so that a waiter sees when
/// the holder has died with it (a vfork(2) child that is killed) and ends the process instead of waiting on.
pub struct Lock<T> {
    word: Word,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through the guard, and there is one guard at a time.
unsafe impl<T> Sync for Lock<T> {}

/// The lock is held while this lives.
pub struct Guard<'a, T>(&'a Lock<T>);

impl<T> Lock<T> {
    /// A free lock.
    pub const fn new(value: T) -> Lock<T> {
        Lock { word: Word::new(), value: UnsafeCell::new(value) }
    }

    /// Waits until the lock is free, and takes it. All signals must be blocked.
    pub fn take(&self) -> Guard<'_, T> {
        self.word.take(sys::tid(), wait);
        Guard(self)
    }

    /// Ends the process if `tid`, which no longer runs, holds the lock: what it guards is half changed.
    pub fn expect_free_of(&self, tid: u32) {
        if self.word.holder() == tid {
            died_inside();
        }
    }
}

fn wait(word: &AtomicU32, seen: u32) {
    let second = [1u64, 0];
    let waited = safe_call!(nr::FUTEX, word.as_ptr(), 128, seen, second.as_ptr());
    if waited != Err(ETIMEDOUT) || word.load(Ordering::Relaxed) != seen {
        return;
    }
    // The holder may belong to another process that shares this memory; kill(2) with a thread id finds it.
    if safe_call!(nr::KILL, holder(seen), 0) == Err(ESRCH) && word.load(Ordering::Relaxed) == seen {
        died_inside();
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
        if self.0.word.free() {
            let _ = safe_call!(nr::FUTEX, self.0.word.atomic().as_ptr(), 129, 1);
        }
    }
}
