//! When to evict, and whereto: the policy.
//!
//! Above the high watermark, pages leave until the low one is reached. The oldest mapped pages are packed and stowed
//! first; where the stow has grown to its share, its oldest pages go to another host. The share is large while pages
//! pack to less than half (every stowed page then costs a fault of microseconds and keeps a network round trip away),
//! and small where they do not: then the stow is a second chance and no more.

use std::time::Duration;

use pager::{Eviction, Holdings};

use crate::affinity::Affinity;
use crate::machine::Machine;
use crate::state::Dropping;

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

/// What a step led to.
enum Step {
    /// Pages moved.
    Progress,
    /// Something is under way that will allow more.
    Wait,
    /// Nothing can be done.
    Stuck,
}

/// Runs until the machine ends.
pub fn run(machine: &Machine) {
    let mut batch = Eviction::default();
    let mut affinity = Affinity::of(0);
    while !machine.has_ended() {
        let mut state = machine.lock();
        if !machine.under_pressure() {
            machine.pressure.wait_for(&mut state, IDLE_POLL);
            continue;
        }
        drop(state);
        affinity.set(machine.near());
        while !machine.has_ended() && machine.budget.held() > machine.budget.low_watermark() {
            match step(machine, &mut batch) {
                Step::Progress => machine.relieved(true),
                Step::Wait => pause(machine),
                Step::Stuck => {
                    machine.relieved(false);
                    pause(machine);
                }
            }
        }
    }
}

fn pause(machine: &Machine) {
    machine.pressure.wait_for(&mut machine.lock(), BUSY_POLL);
}

fn step(machine: &Machine, batch: &mut Eviction) -> Step {
    let Some(fabric) = machine.fabric() else { return Step::Wait };
    let mut state = machine.lock();
    let holdings = state.pager.holdings();
    let may_pack = holdings.mapped_pages > MAPPED_PAGES_MIN;
    let stow_full = holdings.stowed_bytes > stow_share(machine.budget.limit(), holdings);
    if (stow_full || !may_pack) && holdings.stowed_pages > 0 {
        if machine.others().any(|h| fabric::Fabric::backlog(&**fabric, h) > BACKLOG_BYTES_MAX) {
            drop(state);
            fabric::Fabric::flush(&**fabric);
            return Step::Wait;
        }
        match state.hand_over(HAND_OVER_PAGES, &**fabric) {
            Ok(0) => {
                drop(state);
                fabric::Fabric::flush(&**fabric);
                if !machine.lock().rooms.nowhere() {
                    return Step::Wait;
                }
            }
            Ok(_) => {
                drop(state);
                fabric::Fabric::flush(&**fabric);
                return Step::Progress;
            }
            Err(violation) => {
                drop(state);
                machine.violated(&violation);
                return Step::Stuck;
            }
        }
        state = machine.lock();
        // No host has room. What others have, too, goes before what clients need to run.
        match state.drop_copies(&**fabric) {
            Ok(Dropping::Begun) => {
                drop(state);
                fabric::Fabric::flush(&**fabric);
                return Step::Progress;
            }
            Ok(Dropping::UnderWay) => return Step::Wait,
            Ok(Dropping::None) if may_pack => {}
            Ok(Dropping::None) => {
                state.ask_for_room(&**fabric);
                return Step::Stuck;
            }
            Err(violation) => {
                drop(state);
                machine.violated(&violation);
                return Step::Stuck;
            }
        }
    }
    if !may_pack || state.pager.begin_eviction(PACK_PAGES, batch) == 0 {
        return Step::Stuck;
    }
    drop(state);
    batch.pack();
    let mut state = machine.lock();
    let evicted = state.pager.finish_eviction(batch);
    state.counters.evicted_pages += evicted;
    Step::Progress
}

/// Bytes that the stow may take of a budget.
fn stow_share(limit: u64, holdings: Holdings) -> u64 {
    let packs_well = holdings.stowed_pages >= 256 && holdings.stowed_bytes / holdings.stowed_pages < 2048;
    if packs_well { limit / 4 * 3 } else { limit / 8 }
}
