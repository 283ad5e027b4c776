//! A limit on how many of a thing there are at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many places, free or taken.
#[derive(Debug)]
pub struct Places {
    free: AtomicUsize,
}

/// A place that is taken, until it is dropped.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Places {
    /// `count` places, all free.
    pub fn new(count: usize) -> Arc<Places> {
        Arc::new(Places { free: AtomicUsize::new(count) })
    }

    /// A place, if one is free.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let one_less = |free: usize| free.checked_sub(1);
        let taken = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        taken.ok().map(|_| Place(self.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_taken_than_there_are() {
        let places = Places::new(2);
        let (first, second) = (places.take(), places.take());
        assert!(first.is_some() && second.is_some() && places.take().is_none());
        drop(first);
        assert!(places.take().is_some(), "and given back at once");
        let third = places.take();
        assert!(third.is_some() && places.take().is_none());
    }
}
