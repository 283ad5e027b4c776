//! Long random histories at sizes that cannot be explored: many hosts, pages and regions. A failure names its
//! seed and step; the same seed gives the same history.

mod world;

use std::ops::Range;

use megalith_coherence::{Access, HostId, Message, PageId, REGION_PAGES};
use world::{Lane, Own, Step, World, ensure};

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ word >> 31) % sides as u64) as usize
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.roll(among.len())]
    }
}

/// How often things happen, out of all client events; wants are the rest.
struct Habits {
    hosts: u16,
    pages: usize,
    hand_overs: usize,
    discards: usize,
    /// A message is delivered this many times as often as a client does something.
    speed: usize,
    /// Out of 100 messages that take a page, so many are held back, and of 100 first touches so many wait for bytes; and
    /// then hosts hear themselves later. With 0, nothing of the kind.
    held: usize,
}

/// One life for each seed. What happened in them must be worth the checking.
fn simulate(seeds: Range<u64>, habits: &Habits, steps: usize) {
    let all_steps = seeds.clone().count() * steps;
    let (mut delivered, mut writes) = (0, 0);
    for seed in seeds {
        let world = live(seed, habits, steps, &mut delivered);
        writes += world.histories.values().map(|history| history.writes as usize).sum::<usize>();
    }
    println!("{all_steps} steps: {delivered} messages, {writes} writes");
    assert!(delivered > all_steps / 10 && writes > all_steps / 100, "{delivered} messages, {writes} writes");
}

fn live(seed: u64, habits: &Habits, steps: usize, delivered: &mut usize) -> World {
    let mut dice = Dice(seed);
    // Eight pages of each region, so that pages of a region meet and regions abound.
    let pages: Vec<PageId> =
        (0..habits.pages).map(|n| PageId((n / 8 * REGION_PAGES + n % 8 * 3) as u64)).collect();
    let own = if habits.held > 0 { Own::Later } else { Own::Now };
    let mut world = World::new(habits.hosts, &pages, None).with_own(own);
    for number in 0..steps {
        let Some(step) = next(&mut dice, &world, habits, &pages) else { continue };
        *delivered += usize::from(matches!(step, Step::Deliver { .. }));
        take(&mut world, step, seed, number);
        if let Some(fresh) = world.fresh.take()
            && dice.roll(100) < habits.held
        {
            // Its bytes are to come: until then nothing about it is handled.
            world.held.entry(fresh).or_default();
        }
        if dice.one_in(4_000) {
            // Now and then everything comes to rest, as it must by itself.
            while let Some(step) = deliver(&mut dice, &world, habits) {
                take(&mut world, step, seed, number);
            }
            rest(&mut world, &pages, seed, number);
        }
    }
    while let Some(step) = deliver(&mut dice, &world, habits) {
        take(&mut world, step, seed, steps);
    }
    rest(&mut world, &pages, seed, steps);
    world
}

fn next(dice: &mut Dice, world: &World, habits: &Habits, pages: &[PageId]) -> Option<Step> {
    if !dice.one_in(habits.speed + 1)
        && let Some(step) = deliver(dice, world, habits)
    {
        return Some(step);
    }
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

fn deliver(dice: &mut Dice, world: &World, habits: &Habits) -> Option<Step> {
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

fn take(world: &mut World, step: Step, seed: u64, number: usize) {
    let page = match step {
        Step::Want { page, .. } | Step::HandOver { page, .. } | Step::Discard { page, .. } => Some(page),
        Step::Write { page, .. } | Step::Deliver { lane: Lane::Page(page), .. } => Some(page),
        Step::Hold { page, .. } | Step::Release { page, .. } => Some(page),
        Step::Deliver { lane: Lane::Region(_), .. } => None,
    };
    world.step(step);
    let broken = world.broken.clone();
    let verdict = ensure(broken.is_none(), || broken.unwrap_or_default())
        .and_then(|()| page.map_or(Ok(()), |page| world.check_page(page)));
    if let Err(why) = verdict {
        panic!("seed {seed}, step {number}, {step:?}: {why}");
    }
}

/// Nothing is under way: nobody waits, and all agree on every page.
fn rest(world: &mut World, pages: &[PageId], seed: u64, number: usize) {
    let ends = world.every_request_ends();
    let verdict = pages.iter().fold(ends, |verdict, page| verdict.and_then(|()| world.check_page(*page)));
    if let Err(why) = verdict {
        panic!("seed {seed}, at rest after step {number}: {why}");
    }
    world.settle_histories();
}

#[test]
fn four_hosts_that_share_much() {
    let habits = Habits { hosts: 4, pages: 64, hand_overs: 10, discards: 5, speed: 4, held: 0 };
    simulate(0..4, &habits, 30_000);
}

#[test]
fn eight_hosts_that_hand_over_much() {
    let habits = Habits { hosts: 8, pages: 96, hand_overs: 50, discards: 2, speed: 3, held: 0 };
    simulate(100..104, &habits, 30_000);
}

#[test]
fn six_hosts_that_discard_much() {
    let habits = Habits { hosts: 6, pages: 64, hand_overs: 20, discards: 30, speed: 6, held: 0 };
    simulate(200..204, &habits, 30_000);
}

/// Messages pile up: the queues are long, and most of what arrives is about the past.
#[test]
fn five_hosts_over_a_slow_network() {
    let habits = Habits { hosts: 5, pages: 64, hand_overs: 20, discards: 10, speed: 1, held: 0 };
    simulate(300..304, &habits, 30_000);
}

/// Pages dwell where they came to, and first bytes take their time.
#[test]
fn five_hosts_that_hold_messages_back() {
    let habits = Habits { hosts: 5, pages: 64, hand_overs: 15, discards: 10, speed: 5, held: 50 };
    simulate(400..404, &habits, 30_000);
    let habits = Habits { hosts: 3, pages: 24, hand_overs: 10, discards: 5, speed: 8, held: 90 };
    simulate(500..504, &habits, 30_000);
}

/// Every region is located once: short lives see more of that.
#[test]
fn many_short_lives() {
    let habits = Habits { hosts: 4, pages: 64, hand_overs: 10, discards: 25, speed: 2, held: 0 };
    simulate(1_000..1_200, &habits, 400);
}

/// A machine ends and its name is used again: what its hosts once sent must not be understood.
#[test]
fn a_message_of_another_incarnation_does_nothing() {
    use megalith_coherence::{Epoch, Event, Node};
    let mut node = Node::new(HostId(0), 2, Epoch(2));
    let before = node.portrait(&[PageId(1)]);
    let message = Message::Request { page: PageId(1), access: Access::Write };
    let mut actions = Vec::new();
    node.handle(Event::Message { from: HostId(1), epoch: Epoch(1), message, idle: true }, &mut actions);
    assert!(actions.is_empty());
    assert_eq!(node.portrait(&[PageId(1)]), before);
}
