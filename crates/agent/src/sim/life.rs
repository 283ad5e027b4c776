//! What kind of life a seed is: how many hosts, how much memory, what programs do, and what befalls them.

use std::time::Duration;

use pager::PAGE;
use pager::sim::Weather;

use super::dice::Dice;
use super::process::Habits;

/// What a life is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A bit of everything.
    Mixed,
    /// Few pages, which all hosts write.
    Sharing,
    /// More pages than one host has room for.
    Crowded,
    /// Pages whose first bytes are a file's.
    Files,
    /// Ranges that are freed on all hosts, again and again.
    Freeing,
    /// Programs end while others go on.
    Ending,
    /// A host dies.
    Killed,
    /// Two hosts hear nothing of each other any more.
    Parted,
}

/// All of them; a seed's is that of its remainder.
pub const KINDS: [Kind; 8] = [
    Kind::Mixed,
    Kind::Sharing,
    Kind::Crowded,
    Kind::Files,
    Kind::Freeing,
    Kind::Ending,
    Kind::Killed,
    Kind::Parted,
];

/// A program to be.
#[derive(Clone, Debug)]
pub struct Program {
    pub home: u16,
    /// Hosts that map the space, home among them, and how many processes do so on each.
    pub hosts: Vec<(u16, usize)>,
    /// The host of each thread, and its process there.
    pub threads: Vec<(u16, usize)>,
    pub habits: Habits,
    /// The first pages, of which so many are a file's.
    pub file_pages: u64,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Life {
    pub kind: Kind,
    pub hosts: u16,
    pub budget: u64,
    pub programs: Vec<Program>,
    pub weather: Weather,
    /// The kernel drops a page-table entry once in so many chances; never with 0.
    pub forgets: u64,
    /// A process that is not the last of its host dies once in so many steps; never with 0.
    pub deaths: u64,
    /// Partitions come and heal once in so many steps; never with 0.
    pub partitions: u64,
    /// A host that is slow.
    pub slow: Option<u16>,
    /// The step in which what the kind says befalls the machine.
    pub disaster: u64,
    /// What a step takes, at most.
    pub pace: Duration,
}

impl Life {
    /// The life of a seed.
    pub fn of(seed: u64, dice: &mut Dice) -> Life {
        let kind = KINDS[(seed % KINDS.len() as u64) as usize];
        let hosts = dice.within(2..7) as u16;
        let crowded = match kind {
            Kind::Crowded => true,
            Kind::Mixed | Kind::Ending => dice.one_in(2),
            Kind::Killed | Kind::Parted => dice.one_in(3),
            _ => false,
        };
        let budget =
            if crowded { dice.within(3 << 20..5 << 20) } else { 16 << 20 } / PAGE as u64 * PAGE as u64;
        let count = if crowded { 1 } else { dice.within(1..4) };
        let count = if kind == Kind::Ending { count + 1 } else { count };
        let room = crowded.then_some(u64::from(hosts) * budget / PAGE as u64 / count);
        let programs = (0..count).map(|_| program(kind, hosts, room, dice)).collect();
        let rare = |dice: &mut Dice, chance: u64| if dice.one_in(2) { chance } else { 0 };
        Life {
            kind,
            hosts,
            budget,
            programs,
            weather: Weather { disturbed: rare(dice, 100), company: *dice.pick(&[50, 200, 500]) },
            forgets: rare(dice, 40),
            deaths: rare(dice, 1500),
            partitions: rare(dice, 4000),
            slow: dice.one_in(3).then(|| dice.roll(u64::from(hosts)) as u16),
            disaster: dice.within(200..if crowded { 40_000 } else { 6_000 }),
            pace: Duration::from_nanos(*dice.pick(&[500, 4_000, 30_000])),
        }
    }
}

/// A program; where hosts are crowded, one that needs much of the `room`, in pages.
fn program(kind: Kind, hosts: u16, room: Option<u64>, dice: &mut Dice) -> Program {
    let crowded = room.is_some();
    let home = if dice.one_in(2) { 0 } else { dice.roll(u64::from(hosts)) as u16 };
    let elsewhere = dice.one_in(if crowded { 2 } else { 6 });
    let of: Vec<u16> = (0..hosts).filter(|&h| h == home || (!elsewhere && !dice.one_in(4))).collect();
    let shared = dice.one_in(2);
    let of: Vec<(u16, usize)> =
        of.iter().map(|&host| (host, if shared { dice.within(1..4) as usize } else { 1 })).collect();
    let home_too = of.iter().copied().filter(|&(host, _)| host == home);
    let mut threads: Vec<(u16, usize)> =
        (0..dice.within(2..9)).map(|_| *dice.pick(&of)).chain(home_too).collect();
    for (_, process) in &mut threads {
        *process = dice.roll(*process as u64) as usize;
    }
    let pages = match (room, kind) {
        (Some(room), _) => room * dice.within(35..60) / 100,
        (None, Kind::Sharing) => dice.within(1..12),
        (None, _) => dice.within(4..300),
    };
    let weights = match kind {
        _ if crowded => [8, 6, 6, 20, 20, 1, 0],
        Kind::Sharing => [20, 15, 25, 5, 5, 0, 1],
        Kind::Freeing => [20, 15, 10, 5, 10, 1, 6],
        _ => [20, 15, 10, 8, 8, 1, 1],
    };
    let accesses = if crowded { dice.within(600..2500) } else { dice.within(100..900) };
    let file_pages = match kind {
        Kind::Files => dice.within(1..pages.min(64) + 1),
        _ if dice.one_in(4) => dice.roll(pages.min(32)),
        _ => 0,
    };
    let habits = Habits {
        weights,
        hot_pages: dice.within(1..pages.min(if crowded { 800 } else { 8 }) + 1),
        pages,
        free_pages: dice.within(1..40),
        accesses,
        sleeps: accesses / dice.within(1..8),
        sleep: Duration::from_secs(*dice.pick(&[1, 60, 3600])),
    };
    Program { home, hosts: of, threads, habits, file_pages }
}
