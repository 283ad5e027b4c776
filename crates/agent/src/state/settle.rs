//! Doing what the protocol said.

use std::time::Duration;

use coherence::{Access, Action, After, Bytes, HostId, PageId, Violation};
use fabric::Fabric;
use pager::{Bug, ClientId, PAGE, Packed, Place, offset};

use super::State;
use crate::figures::Kind;
use crate::wire;

/// Consecutive pages that arrived for somebody who waits, to be mapped at once.
#[derive(Default)]
pub struct Arrived {
    first: u64,
    writable: bool,
    /// What it is to who waits for them; `None` when nothing has arrived.
    kind: Option<Kind>,
    /// The client that waits for one of them, if one does.
    client: Option<ClientId>,
    bytes: Vec<u8>,
}

impl Arrived {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether the page is among them.
    pub fn has(&self, page: PageId) -> bool {
        (self.first..self.first + (self.bytes.len() / PAGE) as u64).contains(&page.0)
    }
}

impl State {
    /// Maps pages that arrived and were held back to go in one call. Before the lock is released.
    pub fn flush_arrived(&mut self) {
        if self.arrived.bytes.is_empty() {
            return;
        }
        let mut arrived = std::mem::take(&mut self.arrived);
        self.pager.install_bytes(PageId(arrived.first), &arrived.bytes, arrived.writable, arrived.client);
        for i in 0..(arrived.bytes.len() / PAGE) as u64 {
            self.answered(PageId(arrived.first + i), arrived.kind.unwrap_or(Kind::Remote));
        }
        // The buffer is used again.
        arrived.bytes.clear();
        self.arrived = arrived;
    }

    /// Does what the protocol said, and delivers what this host has said to itself.
    pub(super) fn settle(&mut self, fabric: &dyn Fabric) -> Result<(), Violation> {
        self.carry_out(self.me, None, fabric);
        self.deliver_own(fabric)
    }

    /// Does what the protocol said. `carried` is the page beside the message that led to it, which came `from` there.
    pub(super) fn carry_out(&mut self, from: HostId, carried: Option<Packed<'_>>, fabric: &dyn Fabric) {
        if self.withdrawn {
            // What is read now is not what was written.
            return self.actions.clear();
        }
        let actions = std::mem::take(&mut self.actions);
        let mut i = 0;
        while i < actions.len() {
            let action = actions[i];
            let mut run = 1;
            if let Action::Install { bytes: Bytes::Carried, .. } = action {
                self.counters.came_from(from);
            }
            match action {
                Action::Install { page, access: Some(access), bytes: Bytes::Carried }
                    if self.pager.entry(page).wanted =>
                {
                    let carried = carried.as_ref().expect("the protocol asks only for bytes that came");
                    if let Some(waiting) = self.waiting.get(&page) {
                        self.fetches.came(waiting.thread, from, self.clock.since(waiting.since));
                    }
                    self.arrive(page, access, Kind::Remote, carried);
                }
                _ => {
                    self.flush_arrived();
                    run = self.act(&actions[i..], carried.as_ref(), fabric);
                }
            }
            i += run;
        }
        self.actions = actions;
        self.actions.clear();
    }

    /// A wanted page has come. It is mapped a little later, with those that come next to it.
    pub(super) fn arrive(&mut self, page: PageId, access: Access, kind: Kind, packed: &Packed<'_>) {
        let read_only = self.migratory.came(page);
        let writable = access == Access::Write && !read_only;
        let client = self.waiting.get(&page).map(|waiting| waiting.client);
        let pages = (self.arrived.bytes.len() / PAGE) as u64;
        if pages > 0
            && (self.arrived.first + pages != page.0
                || self.arrived.writable != writable
                || self.arrived.kind != Some(kind)
                || (client.is_some() && self.arrived.client.is_some_and(|other| Some(other) != client))
                || pages == pager::WINDOW_PAGES_MAX)
        {
            self.flush_arrived();
        }
        if self.arrived.bytes.is_empty() {
            self.arrived.first = page.0;
            self.arrived.writable = writable;
            self.arrived.kind = Some(kind);
            self.arrived.client = None;
        }
        self.arrived.client = self.arrived.client.or(client);
        let start = self.arrived.bytes.len();
        self.arrived.bytes.resize(start + PAGE, 0);
        packed.unpack(&mut self.arrived.bytes[start..]).expect("checked when the message was read");
    }

    /// Does the first of `actions`, and those after it that go with it. Returns how many.
    fn act(&mut self, actions: &[Action], carried: Option<&Packed<'_>>, fabric: &dyn Fabric) -> usize {
        match actions[0] {
            Action::Send { to, message } if to == fabric.me() => self.own.push_back(message),
            Action::Send { to, message } => {
                wire::coherence(&message, &mut self.message);
                fabric.send(to, &[&self.message]);
            }
            Action::SendPage { to, message, page, then } => {
                wire::coherence(&message, &mut self.message);
                let head = &self.message;
                self.pager.take(page, then == After::Keep, |packed| {
                    fabric.send(to, &[head, &packed.header(), packed.bytes]);
                });
                if then == After::Drop && !self.pager.planted.has(Bug::MarksKept) {
                    self.migratory.taken(page);
                }
            }
            Action::Install { page, access: Some(_), bytes: Bytes::Initial } => {
                let run = run_length(actions, page, |a| {
                    matches!(a, Action::Install { access: Some(_), bytes: Bytes::Initial, .. })
                });
                self.install_initial(page, run as u64, fabric);
                return run;
            }
            Action::Install { page, access: None, bytes: Bytes::Initial } => self.stow_initial(page, fabric),
            Action::Install { page, access, bytes: Bytes::Carried } => {
                if access.is_some() {
                    // Who waited for it was woken when it went. Who still wants it faults again, and finds it here.
                    self.waiting.remove(&page);
                }
                self.pager.stow(page, *carried.expect("the protocol asks only for bytes that came"));
            }
            Action::Install { page, access, bytes: Bytes::Held } => match self.pager.entry(page).place {
                Place::Mapped | Place::Evicting => {
                    if access == Some(Access::Write) {
                        self.migratory.written(page);
                        self.pager.allow_write(page, 1, None);
                    } else {
                        self.pager.wake_page(page);
                    }
                    self.answered(page, Kind::Write);
                }
                Place::Stowed(..) if self.pager.planted.has(Bug::GrantNotWoken) => {}
                // It waited here for other hosts to drop their copies.
                Place::Stowed(..)
                    if access.is_some()
                        && self.waiting.contains_key(&page)
                        && self.budget.try_take(PAGE as u64) =>
                {
                    let client = self.waits_for(page, 1);
                    self.pager.unstow(page, 1, access == Some(Access::Write), client);
                    self.answered(page, Kind::Remote);
                }
                // Who waits for it faults again and finds it held.
                _ => self.pager.wake_page(page),
            },
            Action::Drop { page } => {
                let run = run_length(actions, page, |a| matches!(a, Action::Drop { .. }));
                self.pager.remove(page, run as u64);
                for page in (0..run as u64).map(|i| offset(page, i)) {
                    if !self.pager.planted.has(Bug::MarksKept) {
                        self.migratory.taken(page);
                    }
                    self.dwell.lost_to_writer(page);
                }
                if !self.dwell.is_quiet() {
                    let now = self.clock.now();
                    for page in (0..run as u64).map(|i| offset(page, i)) {
                        if self.dwell.unfill(page, now) {
                            self.due.notify_one();
                        }
                    }
                }
                return run;
            }
            Action::Protect { page } => {
                self.pager.protect(page);
                self.dwell.lost_to_reader(page, self.clock.now());
            }
            Action::HandedOver { .. } => self.counters.handed_over_pages += 1,
            Action::KeptAfterAll { page, to } => {
                if self.pager.planted.has(Bug::HandOverDrops) {
                    self.pager.remove(page, 1);
                }
                if let Some(to) = to {
                    if !self.pager.planted.has(Bug::PromiseLost) {
                        self.rooms.unused(to);
                    }
                    self.pager.requeue_stowed(page);
                }
            }
            Action::Received { .. } => {
                self.take_back(1);
                self.counters.received_pages += 1;
            }
        }
        1
    }

    /// The client that waits for one of these pages, if one does.
    pub(super) fn waits_for(&self, first: PageId, pages: u64) -> Option<ClientId> {
        (0..pages).find_map(|i| self.waiting.get(&offset(first, i))).map(|waiting| waiting.client)
    }

    /// The page is there for who waits for it.
    pub(super) fn answered(&mut self, page: PageId, kind: Kind) {
        if let Some(waiting) = self.waiting.remove(&page) {
            let now = self.clock.now();
            let waited = now.saturating_duration_since(waiting.since);
            self.counters.fault(kind, Duration::min(waited, Duration::from_secs(3600)));
            self.got(page, now);
        }
    }
}

/// How many of the first actions are alike and about consecutive pages from `first` on.
fn run_length(actions: &[Action], first: PageId, alike: impl Fn(&Action) -> bool) -> usize {
    let page_of = |action: &Action| match *action {
        Action::Install { page, .. } | Action::Drop { page } => Some(page),
        _ => None,
    };
    (0u64..).zip(actions).take_while(|&(i, a)| alike(a) && page_of(a) == Some(offset(first, i))).count()
}
