//! When to evict, and whereto: the policy.
//!
//! Above the high watermark, pages leave until the low one is reached. The oldest mapped pages are packed and stowed
//! first; where the stow has grown to its share, its oldest pages go to another host. The share is large while pages
//! pack to less than half (every stowed page then costs a fault of microseconds and keeps a network round trip away),
//! and small where they do not: then the stow is a second chance and no more.

use std::time::Duration;

use fabric::Fabric;
use pager::{Eviction, Holdings};
use parking_lot::MutexGuard;

use crate::affinity::Affinity;
use crate::machine::Machine;
use crate::state::{Dropping, State};

/// Pages packed at once.
const PACK_PAGES: usize = 32;
/// Pages handed over at once.
const HAND_OVER_PAGES: usize = 64;
/// Clients keep at least so many pages; fewer would not let them run.
const MAPPED_PAGES_MIN: u64 = 256;
/// Bytes on their way to one host; more would only move the memory into socket buffers.
const BACKLOG_BYTES_MAX: usize = 4 << 20;
/// The evictor looks again after this time when nothing wakes it.
const IDLE_POLL: Duration = Duration::from_millis(100);
/// …and after this time when it waits for a promise or for the network.
const BUSY_POLL: Duration = Duration::from_millis(2);

/// What a turn led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There is nothing to do until there is pressure.
    Idle,
    /// There is pressure now.
    Begun,
    /// Pages moved.
    Progress,
    /// Something is under way that will allow more.
    Wait,
    /// Nothing can be done.
    Stuck,
}

/// The evictor of one machine: what it is about.
#[derive(Default)]
pub struct Evictor {
    /// From the high watermark to the low one.
    relieves: bool,
    batch: Eviction,
    /// The batch is being packed.
    packs: bool,
}

/// Runs until the machine ends.
pub fn run(machine: &Machine) {
    let mut evictor = Evictor::default();
    let mut affinity = Affinity::of(0);
    while !machine.has_ended() {
        match evictor.turn(machine) {
            Turn::Idle => {
                let mut state = machine.lock();
                if !machine.under_pressure() {
                    machine.pressure.wait_for(&mut state, IDLE_POLL);
                }
            }
            Turn::Begun => affinity.set(machine.near()),
            Turn::Progress => {}
            Turn::Wait | Turn::Stuck => {
                machine.pressure.wait_for(&mut machine.lock(), BUSY_POLL);
            }
        }
    }
}

impl Evictor {
    /// It is not in the middle of anything.
    #[cfg(feature = "sim")]
    pub fn is_idle(&self) -> bool {
        !self.relieves && !self.packs
    }

    /// Does the next thing that there is to do.
    pub fn turn(&mut self, machine: &Machine) -> Turn {
        if self.packs {
            return self.pack(machine);
        }
        if !self.relieves {
            self.relieves = machine.under_pressure();
            return if self.relieves { Turn::Begun } else { Turn::Idle };
        }
        if machine.budget.held() <= machine.budget.low_watermark() {
            self.relieves = false;
            return Turn::Progress;
        }
        let turn = self.begin(machine);
        match turn {
            Turn::Progress if !self.packs => machine.relieved(true),
            Turn::Stuck => machine.relieved(false),
            _ => {}
        }
        turn
    }

    /// Hands over what is stowed, drops copies, or begins to pack what is mapped.
    fn begin(&mut self, machine: &Machine) -> Turn {
        let Some(fabric) = machine.fabric() else { return Turn::Wait };
        let mut state = machine.lock();
        let holdings = state.pager.holdings();
        let may_pack = holdings.mapped_pages > MAPPED_PAGES_MIN;
        let stow_full = holdings.stowed_bytes > stow_share(machine.budget.limit(), holdings);
        if (stow_full || !may_pack) && holdings.stowed_pages > 0 {
            if machine.others().any(|h| fabric.backlog(h) > BACKLOG_BYTES_MAX) {
                drop(state);
                fabric.flush();
                return Turn::Wait;
            }
            match state.hand_over(HAND_OVER_PAGES, &**fabric) {
                Ok(0) => {
                    drop(state);
                    fabric.flush();
                    if !machine.lock().rooms.nowhere() {
                        return Turn::Wait;
                    }
                }
                Ok(_) => {
                    drop(state);
                    fabric.flush();
                    return Turn::Progress;
                }
                Err(violation) => {
                    drop(state);
                    machine.violated(&violation);
                    return Turn::Stuck;
                }
            }
            state = machine.lock();
            // No host has room. What others have, too, goes before what clients need to run.
            match state.drop_copies(&**fabric) {
                Ok(Dropping::Begun) => {
                    drop(state);
                    fabric.flush();
                    return Turn::Progress;
                }
                Ok(Dropping::UnderWay) => return Turn::Wait,
                Ok(Dropping::None) if may_pack => {}
                Ok(Dropping::None) => {
                    state.ask_for_room(&**fabric);
                    return last_resort(state, &**fabric);
                }
                Err(violation) => {
                    drop(state);
                    machine.violated(&violation);
                    return Turn::Stuck;
                }
            }
        }
        if !may_pack || state.pager.begin_eviction(PACK_PAGES, &mut self.batch) == 0 {
            return last_resort(state, &**fabric);
        }
        self.packs = true;
        Turn::Progress
    }

    /// Packs, piece by piece and without the lock; then the pages leave.
    fn pack(&mut self, machine: &Machine) -> Turn {
        if !self.batch.pack_next() {
            let mut state = machine.lock();
            let evicted = state.pager.finish_eviction(&mut self.batch);
            state.counters.evicted_pages += evicted;
            drop(state);
            self.packs = false;
            machine.relieved(true);
        }
        Turn::Progress
    }
}

/// No page can go. What may be left is room that other hosts were promised and do not use.
fn last_resort(mut state: MutexGuard<'_, State>, fabric: &dyn Fabric) -> Turn {
    if !state.recall_room(fabric) {
        return Turn::Stuck;
    }
    drop(state);
    fabric.flush();
    Turn::Wait
}

/// Bytes that the stow may take of a budget.
fn stow_share(limit: u64, holdings: Holdings) -> u64 {
    let packs_well = holdings.stowed_pages >= 256 && holdings.stowed_bytes / holdings.stowed_pages < 2048;
    if packs_well { limit / 4 * 3 } else { limit / 8 }
}
