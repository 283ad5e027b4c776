//! The word of a lock: who holds it, and whether somebody waits (after Drepper, "Futexes are tricky", mutex 2).
//!
//! `tests/word.rs` checks it under every order of steps that the memory model of C11 allows (loom).

#[cfg(not(loom))]
use core::sync::atomic::{AtomicU32, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering};

const FREE: u32 = 0;
const CONTENDED: u32 = 1 << 31;

/// See the module.
pub struct Word(AtomicU32);

impl Word {
    /// Of a lock that is free.
    #[cfg(not(loom))]
    pub const fn new() -> Word {
        Word(AtomicU32::new(FREE))
    }

    /// Of a lock that is free.
    #[cfg(loom)]
    pub fn new() -> Word {
        Word(AtomicU32::new(FREE))
    }

    /// Takes the lock for thread `me`. `wait` is called with the word and what it was; it returns when the word has another value, or
    /// when somebody has been woken there, or whenever it likes.
    pub fn take(&self, me: u32, mut wait: impl FnMut(&AtomicU32, u32)) {
        let mut bit = 0;
        while let Err(now) = self.0.compare_exchange(FREE, me | bit, Ordering::Acquire, Ordering::Relaxed) {
            // Others may wait beside us, and nobody counts them: whoever has waited has to wake.
            bit = CONTENDED;
            let wanted = now | CONTENDED;
            if now & CONTENDED != 0
                || self.0.compare_exchange(now, wanted, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            {
                wait(&self.0, wanted);
            }
        }
    }

    /// Frees the lock. True if one who waits must be woken.
    #[must_use]
    pub fn free(&self) -> bool {
        self.0.swap(FREE, Ordering::Release) & CONTENDED != 0
    }

    /// Where the kernel is to wake.
    pub fn atomic(&self) -> &AtomicU32 {
        &self.0
    }

    /// The thread that holds the lock; 0 if none does.
    pub fn holder(&self) -> u32 {
        holder(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(not(loom))]
impl Default for Word {
    fn default() -> Word {
        Word::new()
    }
}

/// The thread that holds a lock whose word is this.
pub const fn holder(word: u32) -> u32 {
    word & !CONTENDED
}
