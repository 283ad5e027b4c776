//! A condition variable on which some wait without a limit, so a signal that is forgotten would be missed. Simulations count them.

use std::time::Instant;

use parking_lot::{Condvar, MutexGuard};

/// See the module's text.
#[derive(Debug, Default)]
pub struct Signal {
    waiters: Condvar,
    #[cfg(feature = "sim")]
    given: std::sync::atomic::AtomicU64,
}

impl Signal {
    /// Wakes all who wait.
    pub fn give(&self) {
        #[cfg(feature = "sim")]
        self.given.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.waiters.notify_all();
    }

    /// Waits for one.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.waiters.wait(guard);
    }

    /// Waits for one until then; false if none came.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> bool {
        !self.waiters.wait_until(guard, deadline).timed_out()
    }

    /// How often it was given.
    #[cfg(feature = "sim")]
    pub fn given(&self) -> u64 {
        self.given.load(std::sync::atomic::Ordering::Relaxed)
    }
}
