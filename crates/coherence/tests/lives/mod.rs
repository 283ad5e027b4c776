//! Long random histories at sizes that cannot be explored: many hosts, pages and regions. The same seed gives the same
//! history, so a seed and the number of a step say all of a failure.

mod dice;

use std::fmt;
use std::ops::Range;

use megalith_coherence::{Access, Epoch, Fault, HostId, Message, PageId, REGION_PAGES};

use crate::world::{EPOCH, Lane, Own, PAST, Parcel, SILENCE, Step, World};
use dice::Dice;

/// How often things happen, out of all client events; wants are the rest.
#[derive(Clone, Copy)]
pub struct Habits {
    hosts: u16,
    pages: usize,
    hand_overs: usize,
    discards: usize,
    /// A message is delivered this many times as often as a client does something.
    speed: usize,
    /// Out of 100 messages that take a page, so many are held back, and of 100 first touches so many wait for bytes; and
    /// then hosts hear themselves later. With 0, nothing of the kind.
    held: usize,
    /// In so many of 100 steps there arrives something of an earlier incarnation, which had the same habits.
    strays: usize,
}

/// Lives of the same habits, one for each seed.
pub struct Lives {
    pub name: &'static str,
    seeds: Range<u64>,
    steps: usize,
    habits: Habits,
}

const USUAL: Habits =
    Habits { hosts: 4, pages: 64, hand_overs: 10, discards: 5, speed: 4, held: 0, strays: 0 };

/// All that is simulated.
pub const LIVES: [Lives; 9] = [
    // Every region is located once: short lives see more of that.
    Lives {
        name: "short lives",
        seeds: 1_000..1_200,
        steps: 400,
        habits: Habits { discards: 25, speed: 2, ..USUAL },
    },
    Lives { name: "sharing much", seeds: 0..4, steps: 30_000, habits: USUAL },
    Lives {
        name: "handing over much",
        seeds: 100..104,
        steps: 30_000,
        habits: Habits { hosts: 8, pages: 96, hand_overs: 50, discards: 2, speed: 3, ..USUAL },
    },
    Lives {
        name: "discarding much",
        seeds: 200..204,
        steps: 30_000,
        habits: Habits { hosts: 6, hand_overs: 20, discards: 30, speed: 6, ..USUAL },
    },
    // Messages pile up: the queues are long, and most of what arrives is about the past.
    Lives {
        name: "a slow network",
        seeds: 300..304,
        steps: 30_000,
        habits: Habits { hosts: 5, hand_overs: 20, discards: 10, speed: 1, ..USUAL },
    },
    // Pages dwell where they came to, and first bytes take their time.
    Lives {
        name: "holding back",
        seeds: 400..404,
        steps: 30_000,
        habits: Habits { hosts: 5, hand_overs: 15, discards: 10, speed: 5, held: 50, ..USUAL },
    },
    Lives {
        name: "holding back much",
        seeds: 500..504,
        steps: 30_000,
        habits: Habits { hosts: 3, pages: 24, speed: 8, held: 90, ..USUAL },
    },
    // The machine has been before, under the same name, and what it said then is still on its way.
    Lives {
        name: "second lives",
        seeds: 600..604,
        steps: 30_000,
        habits: Habits { hosts: 5, hand_overs: 20, discards: 10, strays: 10, ..USUAL },
    },
    // One region, and much of it is discarded before anybody knows who leases it.
    Lives {
        name: "first moments",
        seeds: 5_000..9_000,
        steps: 40,
        habits: Habits { hosts: 3, pages: 4, hand_overs: 0, discards: 40, speed: 1, ..USUAL },
    },
];

impl Lives {
    /// Whether anything arrives from an earlier incarnation.
    pub fn have_a_past(&self) -> bool {
        self.habits.strays > 0
    }

    /// Lives one life after the other, until one fails; counts in `tally`.
    pub fn live(&self, fault: Option<Fault>, tally: &mut Tally) -> Result<(), Failure> {
        self.seeds.clone().try_for_each(|seed| self.live_one(seed, fault, tally))
    }

    /// Lives the life of one seed; counts in `tally`.
    pub fn live_one(&self, seed: u64, fault: Option<Fault>, tally: &mut Tally) -> Result<(), Failure> {
        let mut life = Life::new(seed, self.habits, EPOCH, fault);
        if self.have_a_past() {
            life.past = self.past(seed)?;
        }
        let ended = life.live(self.steps);
        tally.add(&life);
        ended
    }

    /// What was said in an earlier incarnation. Nothing is planted in that one.
    fn past(&self, seed: u64) -> Result<Vec<Sent>, Failure> {
        let mut life = Life::new(!seed, Habits { strays: 0, ..self.habits }, PAST, None);
        life.live(self.steps / 10)?;
        Ok(life.heard)
    }
}

/// A property that failed.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    /// The number of the step, and the step after which it failed, if it was a step.
    pub step: usize,
    pub after: Option<Step>,
    pub property: &'static str,
    pub why: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, step, after, property, why } = self;
        write!(f, "seed {seed}, step {step}, {after:?}: {property}: {why}")
    }
}

/// What has happened.
#[derive(Default, Debug)]
pub struct Tally {
    pub steps: usize,
    pub delivered: usize,
    pub writes: usize,
    pub strays: usize,
}

impl Tally {
    fn add(&mut self, life: &Life) {
        self.steps += life.steps;
        self.delivered += life.heard.len();
        self.writes += life.world.histories.values().map(|history| history.writes as usize).sum::<usize>();
        self.strays += life.strays;
    }
}

/// From whom, to whom, what.
type Sent = (HostId, HostId, Parcel);

struct Life {
    seed: u64,
    dice: Dice,
    habits: Habits,
    pages: Vec<PageId>,
    world: World,
    /// What was delivered, and what an earlier incarnation was told.
    heard: Vec<Sent>,
    past: Vec<Sent>,
    steps: usize,
    strays: usize,
}

/// Deliveries after which what is under way must have come to its end.
const REST_DELIVERIES_MAX: usize = 100_000;

impl Life {
    fn new(seed: u64, habits: Habits, epoch: Epoch, fault: Option<Fault>) -> Life {
        // Eight pages of each region, so that pages of a region meet and regions abound.
        let pages: Vec<PageId> =
            (0..habits.pages).map(|n| PageId((n / 8 * REGION_PAGES + n % 8 * 3) as u64)).collect();
        let own = if habits.held > 0 { Own::Later } else { Own::Now };
        let world = World::new(habits.hosts, &pages, epoch, fault).with_own(own);
        let (heard, past) = (Vec::new(), Vec::new());
        Life { seed, dice: Dice::new(seed), habits, pages, world, heard, past, steps: 0, strays: 0 }
    }

    fn live(&mut self, steps: usize) -> Result<(), Failure> {
        for _ in 0..steps {
            self.steps += 1;
            let Some(step) = self.next() else { continue };
            self.take(step)?;
            if let Some(fresh) = self.world.fresh.take()
                && self.dice.roll(100) < self.habits.held
            {
                // Its bytes are to come: until then nothing about it is handled.
                self.world.held.entry(fresh).or_default();
            }
            if self.dice.one_in(4_000) {
                self.rest()?;
            }
        }
        self.rest()
    }

    fn next(&mut self) -> Option<Step> {
        if !self.past.is_empty() && self.dice.roll(100) < self.habits.strays {
            let &(from, to, parcel) = self.dice.pick(&self.past);
            self.strays += 1;
            return Some(Step::Stray { from, to, parcel });
        }
        if !self.dice.one_in(self.habits.speed + 1)
            && let Some(step) = self.deliver()
        {
            return Some(step);
        }
        let Life { dice, habits, pages, world, .. } = self;
        let host = HostId(dice.roll(usize::from(habits.hosts)) as u16);
        // Half of what happens, happens to few pages.
        let page = *if dice.one_in(2) { dice.pick(&pages[..4]) } else { dice.pick(pages) };
        let held = world.access(host, page);
        if held == Some(Access::Write) && dice.one_in(2) {
            return Some(Step::Write { host, page });
        }
        let roll = dice.roll(100);
        if roll < habits.hand_overs {
            let to = (!dice.one_in(3)).then(|| HostId(dice.roll(usize::from(habits.hosts)) as u16));
            return (!world.leaving.contains_key(&(host, page))).then_some(Step::HandOver { host, page, to });
        }
        if roll < habits.hand_overs + habits.discards {
            return Some(Step::Discard { host, page });
        }
        let access = if dice.one_in(2) { Access::Write } else { Access::Read };
        Some(Step::Want { host, page, access })
    }

    fn deliver(&mut self) -> Option<Step> {
        let Life { dice, habits, world, .. } = self;
        let (lanes, held) = (world.network.len(), world.held.len());
        if held > 0 && (lanes == 0 || dice.one_in(8)) {
            let &(host, page) = world.held.keys().nth(dice.roll(held)).expect("a queue of that number");
            return Some(Step::Release { host, page, idle: dice.one_in(2) });
        }
        if lanes == 0 {
            return None;
        }
        let (&(from, to, lane), parcels) =
            world.network.iter().nth(dice.roll(lanes)).expect("a lane of that number");
        let takes = matches!(parcels[0].message, Message::Forward { .. } | Message::Invalidate { .. });
        if let Lane::Page(page) = lane
            && takes
            && dice.roll(100) < habits.held
        {
            return Some(Step::Hold { from, to, page });
        }
        Some(Step::Deliver { from, to, lane, idle: dice.one_in(2) })
    }

    fn take(&mut self, step: Step) -> Result<(), Failure> {
        let page = match step {
            Step::Want { page, .. } | Step::HandOver { page, .. } | Step::Discard { page, .. } => Some(page),
            Step::Write { page, .. } | Step::Deliver { lane: Lane::Page(page), .. } => Some(page),
            Step::Hold { page, .. } | Step::Release { page, .. } => Some(page),
            Step::Deliver { lane: Lane::Region(_), .. } => None,
            Step::Stray { parcel, .. } => parcel.message.page(),
        };
        if let Step::Deliver { from, to, lane, .. } = step {
            self.heard.push((from, to, self.world.network[&(from, to, lane)][0]));
        }
        self.world.step(step);
        self.verdict(page, Some(step))
    }

    /// Everything comes to rest, as it must by itself: then nobody waits, and all agree on every page.
    fn rest(&mut self) -> Result<(), Failure> {
        for _ in 0..REST_DELIVERIES_MAX {
            let Some(step) = self.deliver() else {
                for page in self.pages.clone() {
                    self.verdict(Some(page), None)?;
                }
                self.world.settle_histories();
                return Ok(());
            };
            self.take(step)?;
        }
        let why = format!("messages are under way after {REST_DELIVERIES_MAX} deliveries");
        Err(self.failure(None, SILENCE, why))
    }

    fn verdict(&self, page: Option<PageId>, after: Option<Step>) -> Result<(), Failure> {
        match self.world.failure(page) {
            Some((property, why)) => Err(self.failure(after, property, why)),
            None => Ok(()),
        }
    }

    fn failure(&self, after: Option<Step>, property: &'static str, why: String) -> Failure {
        Failure { seed: self.seed, step: self.steps, after, property, why }
    }
}
