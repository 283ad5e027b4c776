//! How much memory a host lends to its machines, and how much of it is taken.
//!
//! Memory is taken *before* it is used: a fault reserves its page before it asks for it, a promise of room to
//! another host reserves what it promises. So what is held never exceeds the budget, whatever the order of
//! events.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that may be held, and are. Shared by all machines of a host.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    held: AtomicU64,
    peak: AtomicU64,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { limit, held: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes held or promised now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// The most that was ever held, in bytes.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Bytes that could still be taken.
    pub fn room(&self) -> u64 {
        self.limit.saturating_sub(self.held())
    }

    /// Kept free for what must never wait: the small change of the slab while pages are being evicted.
    pub fn reserve(&self) -> u64 {
        (self.limit / 64).clamp(1 << 20, 64 << 20).min(self.limit / 8)
    }

    /// Eviction starts above this many bytes held…
    pub fn high_watermark(&self) -> u64 {
        self.limit - 2 * self.reserve()
    }

    /// …and goes on down to this many.
    pub fn low_watermark(&self) -> u64 {
        self.limit - 2 * self.reserve() - self.reserve() / 2
    }

    /// Takes `bytes` if they leave the reserve untouched.
    #[must_use]
    pub fn try_take(&self, bytes: u64) -> bool {
        let ceiling = self.limit - self.reserve();
        let taken = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            (held + bytes <= ceiling).then_some(held + bytes)
        });
        if let Ok(before) = taken {
            self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    /// Takes `bytes` out of the reserve, for the evictor and what comes under a promise.
    pub fn take(&self, bytes: u64) {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(held, Ordering::Relaxed);
    }

    /// Gives `bytes` back.
    pub fn give(&self, bytes: u64) {
        let before = self.held.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "gave back {bytes} of {before}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_takers_leave_the_reserve() {
        let budget = Budget::new(if cfg!(miri) { 1 << 20 } else { 64 << 20 });
        let mut taken = 0;
        while budget.try_take(4096) {
            taken += 4096;
        }
        assert_eq!(taken, budget.limit() - budget.reserve());
        budget.take(4096);
        assert_eq!(budget.peak(), taken + 4096);
        budget.give(taken + 4096);
        assert_eq!(budget.held(), 0);
        assert!(budget.low_watermark() < budget.high_watermark());
    }
}
