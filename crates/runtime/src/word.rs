//! The word of a lock: who holds it, and whether somebody waits (after Drepper, "Futexes are tricky", mutex 2).
//!
//! `make sanitize` checks it under every order of steps that the memory model of C11 allows (loom).

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

#[cfg(all(test, loom))]
mod tests {
    use loom::sync::atomic::{AtomicU32, Ordering};
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    use super::Word;

    /// futex(2): who waits looks at the word and goes to sleep in one step, as seen by who wakes.
    struct Kernel {
        queue: Mutex<()>,
        woken: Condvar,
    }

    impl Kernel {
        fn wait(&self, word: &AtomicU32, seen: u32) {
            let queue = self.queue.lock().expect("nobody panics");
            if word.load(Ordering::Relaxed) == seen {
                drop(self.woken.wait(queue).expect("nobody panics"));
            }
        }

        fn wake_one(&self) {
            let _queue = self.queue.lock().expect("nobody panics");
            self.woken.notify_one();
        }
    }

    /// `threads` threads take the lock `times` times each, and write what it guards: loom finds a thread that waits for ever, two in there at
    /// once, or one that does not see what the one before it wrote.
    fn contend(threads: u32, times: u32) {
        let mut model = loom::model::Builder::new();
        // With three threads every order would take hours; those with more switches than this are left out.
        model.preemption_bound = (threads > 2).then_some(3);
        model.check(move || {
            let kernel = Kernel { queue: Mutex::new(()), woken: Condvar::new() };
            let shared = Arc::new((Word::new(), loom::cell::UnsafeCell::new(0), kernel));
            let work = {
                let shared = shared.clone();
                move |me: u32| {
                    let (word, value, kernel) = &*shared;
                    for _ in 0..times {
                        word.take(me, |word, seen| kernel.wait(word, seen));
                        assert_eq!(word.holder(), me);
                        // SAFETY: the lock is held; loom panics if that does not suffice.
                        value.with_mut(|value| unsafe { *value += 1 });
                        if word.free() {
                            kernel.wake_one();
                        }
                    }
                }
            };
            let others: Vec<_> = (2..=threads)
                .map(|me| {
                    let work = work.clone();
                    thread::spawn(move || work(me))
                })
                .collect();
            work(1);
            others.into_iter().for_each(|other| other.join().expect("it ends"));
            // SAFETY: the others have ended.
            shared.1.with(|value| assert_eq!(unsafe { *value }, threads * times));
            assert_eq!(shared.0.holder(), 0);
        });
    }

    #[test]
    fn two_threads_twice() {
        contend(2, 2);
    }

    #[test]
    fn three_threads_once() {
        contend(3, 1);
    }
}
