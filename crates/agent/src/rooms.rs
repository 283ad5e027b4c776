//! Room that other hosts have promised us, in pages.
//!
//! A page is handed over only under a promise, so it is never refused on arrival and needs no way back. Promises
//! are asked for ahead of need, a batch at a time; a host that has none to spare is asked again after a while.
//! Where many hosts have promises that they do not use, those can be most of a small host: one that is in need itself
//! recalls what it has promised.

use std::time::{Duration, Instant};

use coherence::HostId;

/// Pages asked for at once.
pub const ROOM_PAGES: u32 = 256;
/// Below this many promised pages, the next batch is asked for.
const LOW_PAGES: u32 = 128;
/// A host that had no room is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, Default)]
struct Room {
    promised: u32,
    asked: bool,
    refused: Option<Instant>,
}

/// What we have promised other hosts, and recalls of it.
#[derive(Debug, Default)]
pub struct Given {
    /// Pages promised and not used. The budget is charged for them.
    pub pages: u64,
    /// Hosts that have yet to answer a recall.
    pub answers: usize,
    recalled: Option<Instant>,
}

impl Given {
    /// Whether to recall what is promised, from so many `others`. They count as asked.
    pub fn recall(&mut self, others: usize, now: Instant) -> bool {
        let again = self.recalled.is_none_or(|t| now - t >= ASK_AGAIN);
        let recalls = self.pages > 0 && self.answers == 0 && again;
        if recalls {
            self.answers = others;
            self.recalled = Some(now);
        }
        recalls
    }

    /// So many promised pages are used, or will not be. Returns how many were promised at all.
    pub fn take_back(&mut self, pages: u64) -> u64 {
        // A host that uses what it was not promised gets nothing back for us.
        let pages = pages.min(self.pages);
        self.pages -= pages;
        pages
    }
}

/// Promises, by host.
#[derive(Debug)]
pub struct Rooms {
    me: HostId,
    rooms: Vec<Room>,
}

impl Rooms {
    /// No promises yet.
    pub fn new(me: HostId, hosts: u16) -> Self {
        Self { me, rooms: vec![Room::default(); usize::from(hosts)] }
    }

    /// The host with most promised room, and how many pages.
    pub fn best(&self) -> Option<(HostId, u32)> {
        self.others()
            .map(|h| (h, self.rooms[usize::from(h.0)].promised))
            .max_by_key(|r| r.1)
            .filter(|r| r.1 > 0)
    }

    /// Hosts to ask now; they count as asked.
    pub fn ask(&mut self, now: Instant) -> Vec<HostId> {
        let hosts: Vec<HostId> = self
            .others()
            .filter(|h| {
                let r = self.rooms[usize::from(h.0)];
                !r.asked && r.promised < LOW_PAGES && r.refused.is_none_or(|t| now - t >= ASK_AGAIN)
            })
            .collect();
        for h in &hosts {
            self.rooms[usize::from(h.0)].asked = true;
        }
        hosts
    }

    /// An answer came.
    pub fn promised(&mut self, host: HostId, pages: u32, now: Instant) {
        let room = &mut self.rooms[usize::from(host.0)];
        room.asked = false;
        room.promised = room.promised.saturating_add(pages);
        room.refused = (pages == 0).then_some(now);
    }

    /// One promised page is used (or will be, by a hand-over under way).
    pub fn use_one(&mut self, host: HostId) {
        self.rooms[usize::from(host.0)].promised -= 1;
    }

    /// A hand-over under way did not use its promise.
    pub fn unused(&mut self, host: HostId) {
        self.rooms[usize::from(host.0)].promised += 1;
    }

    /// Promises of a host that are not used: it needs the room itself.
    pub fn give_back(&mut self, host: HostId) -> u32 {
        std::mem::take(&mut self.rooms[usize::from(host.0)].promised)
    }

    /// Every other host has said, when last asked, that it has no room, and nothing is promised or asked.
    pub fn nowhere(&self) -> bool {
        self.others().all(|h| {
            let r = self.rooms[usize::from(h.0)];
            r.promised == 0 && !r.asked && r.refused.is_some()
        })
    }

    /// Pages that a host has promised and that are not used.
    #[cfg(feature = "sim")]
    pub fn promised_by(&self, host: HostId) -> u32 {
        self.rooms[usize::from(host.0)].promised
    }

    fn others(&self) -> impl Iterator<Item = HostId> + use<> {
        let me = self.me;
        (0..self.rooms.len() as u16).map(HostId).filter(move |&h| h != me)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_ahead_and_knows_when_there_is_nowhere_to_go() {
        let now = Instant::now();
        let mut rooms = Rooms::new(HostId(0), 3);
        assert_eq!(rooms.ask(now), [HostId(1), HostId(2)]);
        assert!(rooms.ask(now).is_empty(), "asked already");
        rooms.promised(HostId(1), 256, now);
        rooms.promised(HostId(2), 0, now);
        assert_eq!(rooms.best(), Some((HostId(1), 256)));
        for _ in 0..256 {
            rooms.use_one(HostId(1));
        }
        assert!(!rooms.nowhere(), "the first has not refused yet");
        assert_eq!(rooms.ask(now), [HostId(1)]);
        rooms.promised(HostId(1), 0, now);
        assert!(rooms.nowhere() && rooms.best().is_none());
        assert_eq!(rooms.ask(now + ASK_AGAIN).len(), 2);
        assert!(!rooms.nowhere());
        assert!(Rooms::new(HostId(0), 1).nowhere(), "alone");
    }

    #[test]
    fn recalls_what_is_promised_now_and_then() {
        let now = Instant::now();
        let mut given = Given::default();
        assert!(!given.recall(2, now), "nothing is promised");
        given.pages = 300;
        assert!(given.recall(2, now) && !given.recall(2, now + ASK_AGAIN), "two have yet to answer");
        given.answers = 0;
        assert_eq!((given.take_back(256), given.take_back(256)), (256, 44));
        given.pages = 1;
        assert!(!given.recall(2, now) && given.recall(2, now + ASK_AGAIN));

        let mut rooms = Rooms::new(HostId(0), 2);
        rooms.promised(HostId(1), 7, now);
        assert_eq!((rooms.give_back(HostId(1)), rooms.give_back(HostId(1))), (7, 0));
    }
}
