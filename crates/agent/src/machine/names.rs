//! The names of the spaces that this host opens.

use std::sync::atomic::{AtomicU32, Ordering};

use coherence::HostId;
use pager::SpaceId;

use crate::state::{first_space, home_of};

/// Names, each given once. One that is another host's is never given, so they run out.
#[derive(Debug)]
pub struct Names {
    next: AtomicU32,
    me: HostId,
}

impl Names {
    /// All of a host's.
    pub fn new(me: HostId) -> Names {
        Names { next: AtomicU32::new(first_space(me)), me }
    }

    /// A name; `None` when all have been given.
    pub fn take(&self) -> Option<SpaceId> {
        let mine = |id: u32| (id <= SpaceId::MAX.0 && home_of(SpaceId(id)) == self.me).then_some(id + 1);
        self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, mine).ok().map(SpaceId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They once went on with the next host's, which then answered for spaces that it did not have.
    #[test]
    fn a_host_gives_its_own_names_alone() {
        for me in [0, 1, 1023] {
            let names = Names::new(HostId(me));
            let first = names.take().unwrap();
            assert_eq!((first.0, home_of(first)), (first_space(HostId(me)), HostId(me)));
            let mut last = first;
            while let Some(name) = names.take() {
                assert_eq!(name.0, last.0 + 1);
                last = name;
            }
            assert_eq!(home_of(last), HostId(me));
            assert_ne!(home_of(SpaceId(last.0 + 1)), HostId(me), "all were given");
            assert_eq!(names.take(), None);
        }
    }
}
