//! What must be true when nothing happens any more: nobody waits, nothing is half done, and all books agree.

use coherence::{Access, HostId, PageId};
use pager::{PAGE, Place, SpaceId, address};

use super::memory::Page;
use super::world::{Failed, World};

/// A machine at rest.
pub fn check(world: &World) -> Result<(), Failed> {
    for (number, host) in world.hosts.iter().enumerate() {
        if let Some(what) = host.machine.lock().half_done() {
            return Err(("nothing_is_half_done", format!("host {number}: {what}")));
        }
    }
    let touched = world.crowd.lock().memory.touched();
    let spaces: Vec<(SpaceId, bool)> = {
        let programs = world.crowd.lock();
        programs.spaces.iter().map(|s| (s.id, s.maps[usize::from(s.home)].is_some())).collect()
    };
    for &page in touched.iter().filter(|page| spaces[page.0].1) {
        directory(world, spaces[page.0].0, page).map_err(|why| ("directory_agrees", why))?;
    }
    for number in 0..world.hosts.len() {
        books(world, number, &spaces)?;
    }
    Ok(())
}

/// One host keeps a page's entry, and it names exactly those who hold it; nobody holds what has none.
fn directory(world: &World, space: SpaceId, page: Page) -> Result<(), String> {
    let id = space.page(page.1);
    let mut entries = Vec::new();
    let mut holders = Vec::new();
    for (number, host) in (0u16..).zip(&world.hosts) {
        let state = host.machine.lock();
        if let Some(entry) = state.node.entry(id) {
            entries.push((number, entry));
        }
        if let Some(access) = state.node.held(id) {
            holders.push((HostId(number), access));
        }
    }
    let agree = match entries.as_slice() {
        [] => holders.is_empty(),
        [(_, entry)] => {
            let mut named: Vec<HostId> = entry.sharers.iter().copied().chain([entry.owner]).collect();
            named.sort_unstable();
            let writers = holders.iter().filter(|holder| holder.1 == Access::Write).count();
            named.iter().eq(holders.iter().map(|(host, _)| host)) && (writers == 0 || holders.len() == 1)
        }
        _ => false,
    };
    if agree { Ok(()) } else { Err(format!("page {:#x}: entries {entries:?}, holders {holders:?}", page.1)) }
}

/// A host's pager has what its node holds, its processes see what they may, and its budget is what is there.
fn books(world: &World, number: usize, spaces: &[(SpaceId, bool)]) -> Result<(), Failed> {
    let host = &world.hosts[number];
    let programs = world.crowd.lock();
    let state = host.machine.lock();
    for (place, &(space, _)) in spaces.iter().enumerate() {
        let mut mapped = Vec::new();
        for (page, entry) in state.pager.entries(space) {
            let held = state.node.held(page);
            if entry.wanted || held.is_none() || entry.place == Place::Evicting {
                let why = format!("host {number}, page {:#x}: {entry:?}, held {held:?}", address(page));
                return Err(("pager_agrees", why));
            }
            if entry.place == Place::Mapped {
                mapped.push(address(page));
            }
        }
        let Some(map) = programs.map(place, number as u16) else { continue };
        let seen = map.pages();
        if !seen.iter().map(|(address, _)| *address).eq(mapped.iter().copied()) {
            let why =
                format!("host {number}: the memfd has {} pages, {} are mapped", seen.len(), mapped.len());
            return Err(("pager_agrees", why));
        }
        let held = |address| state.node.held(space.page(address));
        let mut wrong =
            seen.iter().filter(|(at, sees)| *sees == Some(true) && held(*at) != Some(Access::Write));
        if let Some((address, _)) = wrong.next() {
            let why = format!("host {number}: page {address:#x} can be written, and is held to be read");
            return Err(("pager_agrees", why));
        }
    }
    let kept = |page: &PageId| state.node.held(*page).is_some();
    if let Some(page) = state.marked().into_iter().find(|page| !kept(page)) {
        let why = format!("host {number}: page {:#x} is marked, and not here", address(page));
        return Err(("marks_are_of_pages_here", why));
    }
    let holdings = state.pager.holdings();
    drop(state);
    budget(world, number, holdings.mapped_pages * PAGE as u64 + holdings.stowed_bytes)
}

/// What is taken of a host's budget is what its pages take, and what it has promised to others and they have not used.
fn budget(world: &World, number: usize, pages: u64) -> Result<(), Failed> {
    let here = HostId(number as u16);
    let others = world.hosts.iter().enumerate().filter(|&(other, _)| other != number);
    let promised: u64 =
        others.map(|(_, other)| u64::from(other.machine.lock().rooms.promised_by(here))).sum();
    let (held, should) = (world.hosts[number].machine.budget.held(), pages + promised * PAGE as u64);
    if held == should {
        return Ok(());
    }
    let why = format!("host {number} holds {held} bytes: {pages} of pages, {promised} pages promised");
    Err(("budget_adds_up", why))
}

/// A machine whose programs have all ended.
pub fn check_empty(world: &World) -> Result<(), Failed> {
    let spaces: Vec<SpaceId> = world.crowd.lock().spaces.iter().map(|space| space.id).collect();
    for (number, host) in world.hosts.iter().enumerate() {
        let state = host.machine.lock();
        let holdings = state.pager.holdings();
        let copies = state.node.copies(0).count();
        let kept: usize = spaces.iter().map(|space| state.node.kept(&space.pages()).len()).sum();
        let marked = state.marked().len();
        let left = holdings.mapped_pages + holdings.stowed_pages + (copies + kept + marked) as u64;
        if left > 0 || state.half_done().is_some() {
            let half_done = state.half_done();
            let why = format!(
                "host {number}: {holdings:?}, {copies} copies, {kept} entries, {marked} marks; {half_done:?}"
            );
            return Err(("nothing_is_left", why));
        }
        drop(state);
        budget(world, number, holdings.stowed_bytes)?;
    }
    Ok(())
}
