//! The protocol as a model for stateright: any client event at any moment (`fuel` bounds how many), any delay of any
//! message, messages of a lane (one sender, one receiver, one page) in order and no others. What must hold is in `world`.

// Each test uses its own part of it.
#![allow(dead_code)]

mod strays;

use std::collections::HashMap;
use std::fmt::{self, Debug, Formatter};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use megalith_coherence::{Access, Fault, HostId, Message, PageId, Portrait};
use stateright::{Model, Property};

use crate::world::{EPOCH, Holds, Own, PROPERTIES, Parcel, Step, World};

/// What to explore.
#[derive(Clone)]
pub struct Protocol {
    pub hosts: u16,
    pub pages: Vec<PageId>,
    /// Client events: wants, hand-overs, discards.
    pub fuel: u8,
    /// Writes, by whoever may write.
    pub writes: u8,
    /// What clients have done before the exploration begins, each to its end: one initial state for each list.
    pub before: Vec<Vec<Step>>,
    pub fault: Option<Fault>,
    pub own: Own,
    /// What may arrive from another incarnation: from whom, to whom. Each of them at any moment, any number of times.
    pub strays: Vec<(HostId, HostId, Parcel)>,
}

#[derive(Clone)]
pub struct State {
    pub world: World,
    portraits: Vec<Arc<Portrait>>,
    fuel: u8,
    writes: u8,
}

impl State {
    fn take(&mut self, step: Step) {
        if let Some(host) = self.world.step(step) {
            self.portraits[usize::from(host.0)] = Arc::new(self.world.portrait(host));
        }
        self.world.settle_histories();
    }

    /// Delivers whatever is under way, oldest lane first.
    fn run_to_silence(&mut self) {
        const DELIVERIES_MAX: usize = 1_000;
        for _ in 0..DELIVERIES_MAX {
            let Some((from, to, lane)) = self.world.network.keys().next().copied() else { return };
            self.take(Step::Deliver { from, to, lane, idle: false });
        }
        panic!("messages are under way after {DELIVERIES_MAX} deliveries: begin with an untouched page");
    }
}

/// The nodes' tables are long; the path that leads to a failure says more.
impl Debug for State {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let World { copies, network, histories, leaving, moving, broken, stirred, .. } = &self.world;
        write!(f, "broken: {broken:?}, stirred: {stirred:?}\ncopies: {copies:?}\nnetwork: {network:?}\n")?;
        write!(f, "histories: {histories:?}\nleaving: {leaving:?}\nmoving: {moving:?}\n")
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.portraits.hash(state);
        let World { copies, network, histories, leaving, moving, broken, stirred, .. } = &self.world;
        (copies, network, histories, leaving, moving, broken, stirred, self.fuel, self.writes).hash(state);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &State) -> bool {
        let key = |state: &State| (state.portraits.clone(), state.fuel, state.writes);
        let (world, others) = (&self.world, &other.world);
        key(self) == key(other)
            && (&world.copies, &world.network, &world.histories)
                == (&others.copies, &others.network, &others.histories)
            && (&world.leaving, &world.moving, &world.broken, &world.stirred)
                == (&others.leaving, &others.moving, &others.broken, &others.stirred)
    }
}

impl Protocol {
    pub fn new(hosts: u16, pages: &[PageId], before: Vec<Vec<Step>>, fuel: u8, writes: u8) -> Protocol {
        let (fault, own, strays) = (None, Own::Now, Vec::new());
        Protocol { hosts, pages: pages.to_vec(), fuel, writes, before, fault, own, strays }
    }

    /// The same, and at any moment any message that there is may arrive from an earlier incarnation.
    pub fn with_strays(self) -> Protocol {
        let strays = strays::every_message(self.hosts, &self.pages);
        Protocol { strays, ..self }
    }

    /// Whether what the receiver's clients do with the page makes a difference to the message.
    fn asks_idle(message: &Message) -> bool {
        match message {
            Message::Request { access, .. } | Message::Forward { access, .. } => *access == Access::Read,
            Message::Done { .. } | Message::Dropped { .. } => true,
            _ => false,
        }
    }

    /// `silence`: no exchange goes on for ever by itself. Whatever clients do uses up fuel or writes; so if no history
    /// comes back to a state that it has been in, and none is endless, then every delivery brings the end nearer. (An
    /// `eventually` of stateright would not see a history that runs in a circle.) Says how many states there are.
    ///
    /// # Errors
    /// The steps that lead into a circle, or on and on.
    pub fn comes_to_rest(&self) -> Result<usize, (usize, Vec<Step>)> {
        let (mut seen, mut steps) = (HashMap::new(), Vec::new());
        for state in self.init_states() {
            if !self.rests(&state, &mut seen, &mut steps) {
                return Err((seen.len(), steps));
            }
        }
        Ok(seen.len())
    }

    /// Depth first. `seen` says of every state whether all that follows from it has been seen, too.
    fn rests(&self, state: &State, seen: &mut HashMap<u64, bool>, steps: &mut Vec<Step>) -> bool {
        const STEPS_MAX: usize = 1_000;
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        let name = hasher.finish();
        if let Some(finished) = seen.get(&name) {
            return *finished;
        }
        if steps.len() == STEPS_MAX {
            return false;
        }
        seen.insert(name, false);
        let mut actions = Vec::new();
        self.actions(state, &mut actions);
        for step in actions {
            let next = self.next_state(state, step).expect("every action of a state leads to a state");
            steps.push(step);
            if !self.rests(&next, seen, steps) {
                return false;
            }
            steps.pop();
        }
        seen.insert(name, true);
        true
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let begin = |before: &Vec<Step>| {
            let world = World::new(self.hosts, &self.pages, EPOCH, self.fault).with_own(self.own);
            let portraits = world.hosts().map(|host| Arc::new(world.portrait(host))).collect();
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
        if world.broken.is_some() || world.stirred.is_some() {
            return;
        }
        for (&(from, to, lane), parcels) in &world.network {
            actions.push(Step::Deliver { from, to, lane, idle: false });
            if Protocol::asks_idle(&parcels[0].message) {
                actions.push(Step::Deliver { from, to, lane, idle: true });
            }
        }
        actions.extend(self.strays.iter().map(|&(from, to, parcel)| Step::Stray { from, to, parcel }));
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
                    let others = world.hosts().filter(|to| *to != host).map(Some);
                    actions.extend(others.chain([None]).map(|to| Step::HandOver { host, page, to }));
                }
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        match step {
            Step::Deliver { .. } | Step::Hold { .. } | Step::Release { .. } | Step::Stray { .. } => {}
            Step::Write { .. } => next.writes -= 1,
            Step::Want { .. } | Step::HandOver { .. } | Step::Discard { .. } => next.fuel -= 1,
        }
        next.take(step);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            always::<0>(),
            always::<1>(),
            always::<2>(),
            always::<3>(),
            always::<4>(),
            always::<5>(),
            always::<6>(),
            always::<7>(),
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

fn always<const NUMBER: usize>() -> Property<Protocol> {
    Property::always(PROPERTIES[NUMBER].0, holds::<NUMBER>)
}

fn holds<const NUMBER: usize>(model: &Protocol, state: &State) -> bool {
    match PROPERTIES[NUMBER].1 {
        Holds::OfMachine(holds) => holds(&state.world).is_ok(),
        Holds::OfPage(holds) => model.pages.iter().all(|page| holds(&state.world, *page).is_ok()),
    }
}

/// The page that most explorations are about.
pub const PAGE: PageId = PageId(5);
/// A page of the same region, and one of another.
pub const NEAR: PageId = PageId(PAGE.0 + 1);
pub const FAR: PageId = PageId(PAGE.0 + 512);

pub fn want(host: u16, access: Access) -> Step {
    want_page(host, PAGE, access)
}

pub fn want_page(host: u16, page: PageId, access: Access) -> Step {
    Step::Want { host: HostId(host), page, access }
}

pub fn discard(host: u16) -> Step {
    Step::Discard { host: HostId(host), page: PAGE }
}

pub fn untouched() -> Vec<Vec<Step>> {
    vec![vec![]]
}

/// The directory is on host 0; the page is owned there, or elsewhere, or shared by two, or by all.
pub fn settled() -> Vec<Vec<Step>> {
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

/// Two pages of one region, each settled in one of these ways: five pairs in which the one is what the other is not.
pub fn settled_pairs() -> Vec<Vec<Step>> {
    let near = |before: Vec<Step>| {
        before.into_iter().map(|step| match step {
            Step::Want { host, access, .. } => want_page(host.0, NEAR, access),
            step => step,
        })
    };
    let mut others = settled();
    others.rotate_left(1);
    let pairs = settled().into_iter().zip(others);
    pairs.map(|(page, other)| page.into_iter().chain(near(other)).collect()).collect()
}
