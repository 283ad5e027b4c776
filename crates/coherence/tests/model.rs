//! Every order of events and messages, at small sizes: the protocol is explored exhaustively with stateright.
//!
//! What is explored: any client event at any moment (`fuel` bounds how many), any delay of any message, messages
//! of a lane (one sender, one receiver, one page) in order and no others. What must hold is in `world`.

mod world;

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use megalith_coherence::{Access, Fault, HostId, Message, PageId, Portrait};
use stateright::{Checker, HasDiscoveries, Model, Property};
use world::{Step, Verdict, World};

/// What to explore.
#[derive(Clone)]
struct Protocol {
    hosts: u16,
    pages: Vec<PageId>,
    /// Client events: wants, hand-overs, discards.
    fuel: u8,
    /// Writes, by whoever may write.
    writes: u8,
    /// What clients have done before the exploration begins, each to its end: one initial state for each list.
    before: Vec<Vec<Step>>,
    fault: Option<Fault>,
}

#[derive(Clone, Debug)]
struct State {
    world: World,
    portraits: Vec<Arc<Portrait>>,
    fuel: u8,
    writes: u8,
}

impl State {
    fn take(&mut self, step: Step) {
        if let Some(host) = self.world.step(step) {
            self.portraits[usize::from(host.0)] = Arc::new(self.world.node(host).portrait());
        }
        self.world.settle_histories();
    }

    /// Delivers whatever is under way, oldest lane first.
    fn run_to_silence(&mut self) {
        while let Some((from, to, lane)) = self.world.network.keys().next().copied() {
            self.take(Step::Deliver { from, to, lane, idle: false });
        }
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.portraits.hash(state);
        let World { nodes: _, copies, network, histories, leaving, moving, broken } = &self.world;
        (copies, network, histories, leaving, moving, broken, self.fuel, self.writes).hash(state);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &State) -> bool {
        let key = |state: &State| (state.portraits.clone(), state.fuel, state.writes);
        let (world, others) = (&self.world, &other.world);
        key(self) == key(other)
            && (&world.copies, &world.network, &world.histories)
                == (&others.copies, &others.network, &others.histories)
            && (&world.leaving, &world.moving, &world.broken)
                == (&others.leaving, &others.moving, &others.broken)
    }
}

impl Protocol {
    fn every_page(&self, state: &State, holds: impl Fn(&World, PageId) -> Verdict) -> bool {
        self.pages.iter().all(|page| holds(&state.world, *page).is_ok())
    }

    /// Whether what the receiver's clients do with the page makes a difference to the message.
    fn asks_idle(message: &Message) -> bool {
        match message {
            Message::Request { access, .. } | Message::Forward { access, .. } => *access == Access::Read,
            Message::Done { .. } | Message::Dropped { .. } => true,
            _ => false,
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let begin = |before: &Vec<Step>| {
            let world = World::new(self.hosts, &self.pages, self.fault);
            let portraits = world.nodes.iter().map(|node| Arc::new(node.portrait())).collect();
            let mut state = State { world, portraits, fuel: self.fuel, writes: self.writes };
            for step in before {
                state.take(*step);
                state.run_to_silence();
            }
            state
        };
        self.before.iter().map(begin).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        let world = &state.world;
        if world.broken.is_some() {
            return;
        }
        for (&(from, to, lane), parcels) in &world.network {
            actions.push(Step::Deliver { from, to, lane, idle: false });
            if Protocol::asks_idle(&parcels[0].message) {
                actions.push(Step::Deliver { from, to, lane, idle: true });
            }
        }
        for host in world.hosts() {
            for &page in &self.pages {
                let held = world.node(host).held(page);
                if state.writes > 0 && held == Some(Access::Write) {
                    actions.push(Step::Write { host, page });
                }
                if state.fuel == 0 {
                    continue;
                }
                let wants = [Access::Read, Access::Write].into_iter().filter(|access| held < Some(*access));
                actions.extend(wants.map(|access| Step::Want { host, page, access }));
                actions.push(Step::Discard { host, page });
                if held.is_some() && !world.leaving.contains_key(&(host, page)) {
                    let others = world.hosts().filter(|to| *to != host);
                    actions.extend(others.map(|to| Step::HandOver { host, page, to }));
                }
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        match step {
            Step::Deliver { .. } => {}
            Step::Write { .. } => next.writes -= 1,
            Step::Want { .. } | Step::HandOver { .. } | Step::Discard { .. } => next.fuel -= 1,
        }
        next.take(step);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("actions_can_be_done", |_, state: &State| state.world.broken.is_none()),
            Property::always("single_writer", |model: &Self, state: &State| {
                model.every_page(state, World::single_writer)
            }),
            Property::always("reads_see_last_write", |model: &Self, state: &State| {
                model.every_page(state, World::reads_see_last_write)
            }),
            Property::always("last_copy_survives", |model: &Self, state: &State| {
                model.every_page(state, World::last_copy_survives)
            }),
            Property::always("held_is_true", |model: &Self, state: &State| {
                model.every_page(state, World::held_is_true)
            }),
            Property::always("every_request_ends", |_, state: &State| {
                state.world.every_request_ends().is_ok()
            }),
            Property::always("directory_agrees", |model: &Self, state: &State| {
                model.every_page(state, World::directory_agrees)
            }),
            Property::eventually("silence", |_, state: &State| state.fuel == 0 && state.world.silent()),
            // What would make the above true for the wrong reason: that nothing happens.
            Property::sometimes("a page is handed over", |_, state: &State| !state.world.moving.is_empty()),
            Property::sometimes("a page is shared by all", |model: &Self, state: &State| {
                let reads = |page| move |host| state.world.access(host, page) == Some(Access::Read);
                model.pages.iter().any(|page| state.world.hosts().all(reads(*page)))
            }),
            Property::sometimes("a page is wanted while it is discarded", |model: &Self, state: &State| {
                let both = |page: &PageId| {
                    state.world.nodes.iter().any(|node| node.discarding(*page) && node.pending(*page))
                };
                model.pages.iter().any(both)
            }),
        ]
    }
}

const PAGE: PageId = PageId(5);

fn want(host: u16, access: Access) -> Step {
    Step::Want { host: HostId(host), page: PAGE, access }
}

fn explore(name: &str, protocol: Protocol) {
    let begin = Instant::now();
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    println!("{name}: {} states, {} s", checker.unique_state_count(), begin.elapsed().as_secs());
    checker.assert_properties();
}

#[test]
fn two_hosts_one_page() {
    let before = vec![vec![]];
    let pages = vec![PAGE];
    explore("2 hosts, 1 page", Protocol { hosts: 2, pages, fuel: 4, writes: 2, before, fault: None });
}

#[test]
fn two_hosts_two_pages_of_two_regions() {
    let before = vec![vec![]];
    let pages = vec![PAGE, PageId(PAGE.0 + 512)];
    explore("2 hosts, 2 pages", Protocol { hosts: 2, pages, fuel: 3, writes: 1, before, fault: None });
}

#[test]
fn three_hosts_one_untouched_page() {
    let before = vec![vec![]];
    let pages = vec![PAGE];
    explore(
        "3 hosts, 1 untouched page",
        Protocol { hosts: 3, pages, fuel: 3, writes: 1, before, fault: None },
    );
}

/// The directory is on host 0; the page is owned there, or elsewhere, or shared by two, or by all.
fn settled() -> Vec<Vec<Step>> {
    let (first, second) = (want(0, Access::Write), want(1, Access::Write));
    let (read1, read2) = (want(1, Access::Read), want(2, Access::Read));
    vec![
        vec![first],
        vec![first, second],
        vec![first, read1],
        vec![first, second, read2],
        vec![first, read1, read2],
    ]
}

#[test]
fn three_hosts_one_settled_page() {
    let pages = vec![PAGE];
    let before = settled();
    explore("3 hosts, 1 settled page", Protocol { hosts: 3, pages, fuel: 3, writes: 1, before, fault: None });
}

/// What the exploration finds when the nodes break a rule.
fn caught(fault: Fault) -> Vec<&'static str> {
    let (pages, before) = (vec![PAGE], settled());
    let protocol = Protocol { hosts: 3, pages, fuel: 4, writes: 1, before, fault: Some(fault) };
    let checker = protocol.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let mut names: Vec<_> = checker.discoveries().into_keys().collect();
    names.sort_unstable();
    println!("{fault:?}: {names:?} after {} states", checker.unique_state_count());
    names
}

#[test]
fn planted_bugs_are_caught() {
    for fault in [
        Fault::NoProtect,
        Fault::NoWaitForAcks,
        Fault::DropUnasked,
        Fault::ResurrectDiscarded,
        Fault::DiscardUnconfirmed,
        Fault::ReleaseUnconfirmed,
    ] {
        caught(fault);
    }
}
