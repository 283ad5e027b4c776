//! A lock's word under every order of steps. `make sanitize` builds this with `--cfg loom`; without, there is nothing here.
#![cfg(loom)]

use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use megalith_runtime::word::Word;

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
    loom::model(move || {
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
