//! Programs: processes of a space on each of its hosts, and their threads, which load, store, add, fill, walk, sleep and free.
//!
//! A thread's access is one step. It needs nothing of the agent but [`SimSpace`], so threads also run while an agent is in a
//! system call ([`Company`]), as they do on another CPU. What every access finds is checked against [`Memory`].

use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pager::PAGE;
use pager::sim::{Company, SimSpace};

use super::Tally;
use super::dice::Dice;
use super::memory::{self, COUNTER, FILL, Memory, PLAIN, Page};

/// A word of a page is...
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Loaded.
    Load(usize),
    /// Stored to.
    Store(usize),
    /// The page's counter is added to.
    Add,
    /// The page's body is filled.
    Fill,
    /// The page's body is looked at.
    Look,
}

impl Act {
    fn writes(self) -> bool {
        matches!(self, Act::Store(_) | Act::Add | Act::Fill)
    }
}

/// What a thread is about.
#[derive(Debug)]
pub enum Doing {
    /// Its next step is to be thought of.
    Thinking,
    /// An access, made now or when it is woken.
    Access(Act, u64),
    /// The range is to be freed.
    WantsToFree(std::ops::Range<u64>),
    /// It is being freed, by who simulates the agents. Beside each page, when that began.
    Frees(Vec<(Page, u64)>),
    /// It sleeps until then.
    Sleeps(Duration),
    /// It has ended, or was killed.
    Over,
}

/// How often threads do what, out of all; and where.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Loads, stores, adds, fills, looks, walks, frees.
    pub weights: [u64; 7],
    /// Pages that half of all accesses are to.
    pub hot_pages: u64,
    /// All pages.
    pub pages: u64,
    /// Pages freed at once, at most.
    pub free_pages: u64,
    /// Accesses of a thread.
    pub accesses: u64,
    /// Out of so many accesses one is followed by a long sleep.
    pub sleeps: u64,
    /// How long it is, at most.
    pub sleep: Duration,
}

/// A thread of a program.
#[derive(Debug)]
pub struct Thread {
    /// Its number in the simulation, and its name to the agent.
    pub id: u32,
    /// Where it runs.
    pub host: u16,
    /// In which of the space's processes there.
    pub process: usize,
    /// The space, by its place.
    pub space: usize,
    /// What it is about.
    pub doing: Doing,
    /// When it began to wait, by the simulation's steps and its clock.
    pub waits_since: Option<(u64, Duration)>,
    left: u64,
    walk: Option<(u64, u64, bool)>,
    /// Pages that it is still to look at, before it ends.
    audit: Vec<u64>,
    dice: Dice,
}

/// A space of the simulation.
#[derive(Debug)]
pub struct Space {
    /// Its name in the machine.
    pub id: pager::SpaceId,
    /// The host whose process opened it.
    pub home: u16,
    /// By host, where processes map it.
    pub maps: Vec<Option<Arc<SimSpace>>>,
    /// Its first address.
    pub base: u64,
    /// What its threads do.
    pub habits: Habits,
}

/// All processes and threads, and the memory that they should find.
#[derive(Debug, Default)]
pub struct Programs {
    /// The spaces.
    pub spaces: Vec<Space>,
    /// The threads.
    pub threads: Vec<Thread>,
    /// What memory must be.
    pub memory: Memory,
    /// The first check that failed, and how.
    pub failure: Option<(&'static str, String)>,
    /// What has happened.
    pub tally: Tally,
    /// The simulated time since the beginning, and the number of the step.
    pub now: (Duration, u64),
    /// What happened is printed.
    pub trace: bool,
    values: u64,
}

impl Programs {
    /// Makes a thread.
    pub fn spawn(&mut self, (host, process): (u16, usize), space: usize, seed: u64) {
        let id = self.threads.len() as u32 + 1;
        self.threads.push(Thread {
            id,
            host,
            process,
            space,
            doing: Doing::Thinking,
            waits_since: None,
            left: self.spaces[space].habits.accesses,
            walk: None,
            audit: Vec::new(),
            dice: Dice::new(seed),
        });
    }

    /// Whether a thread can go on by itself.
    pub fn is_ready(&self, thread: usize) -> bool {
        let Thread { id, host, process, space, doing, .. } = &self.threads[thread];
        match doing {
            Doing::Thinking => true,
            Doing::Access(..) => self.map(*space, *host).is_some_and(|map| !map.is_asleep(*process, *id)),
            Doing::Sleeps(until) => *until <= self.now.0,
            Doing::WantsToFree(_) | Doing::Frees(_) | Doing::Over => false,
        }
    }

    /// What a host's processes map of a space, if there are any.
    pub fn map(&self, space: usize, host: u16) -> Option<&Arc<SimSpace>> {
        self.spaces[space].maps[usize::from(host)].as_ref()
    }

    /// A thread's next step.
    pub fn step(&mut self, number: usize) {
        let now = self.now.0;
        let thread = &mut self.threads[number];
        let (host, space) = (thread.host, thread.space);
        match thread.doing {
            Doing::Sleeps(until) if until <= now => thread.doing = Doing::Thinking,
            Doing::Thinking => {
                let doing = think(thread, &self.spaces[space], now);
                if self.trace {
                    eprintln!("  thread {} on host {host}: {doing:x?}", thread.id);
                }
                thread.doing = doing;
            }
            Doing::Access(act, address) => self.access(number, act, address),
            _ => {}
        }
    }

    fn access(&mut self, number: usize, act: Act, address: u64) {
        let Programs { spaces, threads, memory, failure, tally, now, values, .. } = self;
        let thread = &mut threads[number];
        let (host, space) = (thread.host, thread.space);
        let Some(map) = spaces[space].maps[usize::from(host)].clone() else { return };
        let page = (space, address);
        let mut wrong = None;
        let mut check = |memory: &mut Memory, word, found| {
            if let Err(why) = memory.loaded(page, word, found) {
                wrong.get_or_insert((LOADS, why));
            }
        };
        let mut torn = false;
        let done = map.access((thread.process, thread.id), address, act.writes(), |bytes| match act {
            Act::Load(word) => check(memory, word, memory::get(bytes, word)),
            Act::Store(word) => {
                *values += 1;
                memory::set(bytes, word, *values);
                memory.stored(page, word, *values);
            }
            Act::Add => {
                let found = memory::get(bytes, COUNTER);
                check(memory, COUNTER, found);
                memory::set(bytes, COUNTER, found + 1);
                memory.stored(page, COUNTER, found + 1);
            }
            Act::Fill => {
                *values += 1;
                memory::fill(bytes, *values);
                memory.stored(page, FILL, *values);
            }
            Act::Look => {
                check(memory, FILL, memory::get(bytes, FILL));
                torn = !memory::is_whole(bytes);
            }
        });
        if done.is_none() {
            if thread.waits_since.is_none() {
                tally.faults += 1;
                thread.waits_since = Some((now.1, now.0));
            }
            return;
        }
        if torn {
            wrong = Some((WHOLE, "its body is not what its word says".into()));
        }
        // Where a page is freed, others may see the old one.
        if act.writes() && !memory.is_freeing(page) {
            let sees = |other: &Arc<SimSpace>| other.sees(address).is_some();
            let others = (0u16..).zip(&spaces[space].maps).filter(|&(other, _)| other != host);
            let mut others = others.filter(|(_, map)| map.as_ref().is_some_and(sees));
            if let Some((other, _)) = others.next() {
                wrong.get_or_insert((SINGLE_WRITER, format!("host {other} sees the page")));
            }
        }
        if let Some((check, why)) = wrong
            && failure.is_none()
        {
            let mut text = String::new();
            let id = thread.id;
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "thread {id} on host {host}, {act:?} of page {address:#x} of space {space}: {why}"
            );
            *failure = Some((check, text));
        }
        tally.accesses += 1;
        if let Some((step, since)) = thread.waits_since.take() {
            tally.wait_steps_max = tally.wait_steps_max.max(now.1 - step);
            tally.wait_max = tally.wait_max.max(now.0.saturating_sub(since));
        }
        thread.doing = Doing::Thinking;
    }

    /// Threads that have not ended look at pages before they do; those that have begin again for that.
    pub fn audit(&mut self, number: usize, pages: Vec<u64>) {
        let thread = &mut self.threads[number];
        thread.left = 0;
        thread.walk = None;
        thread.audit = pages;
        thread.doing = Doing::Thinking;
    }

    /// Ends the threads of a host, or those of a space there.
    pub fn kill(&mut self, host: u16, space: Option<usize>) {
        for thread in self.threads.iter_mut().filter(|t| t.host == host) {
            if space.is_none_or(|space| thread.space == space) {
                thread.doing = Doing::Over;
                thread.waits_since = None;
            }
        }
        for (number, of) in self.spaces.iter_mut().enumerate() {
            if space.is_none_or(|space| space == number)
                && let Some(map) = of.maps[usize::from(host)].take()
            {
                map.kill_all();
            }
        }
    }

    /// Whether a thread's process lives.
    pub fn lives(&self, thread: usize) -> bool {
        let Thread { host, process, space, .. } = self.threads[thread];
        self.map(space, host).is_some_and(|map| !map.is_dead(process))
    }

    /// A process that could die with others of its host living on, and without a call under way.
    pub fn mortal(&self, dice: &mut Dice) -> Option<(u16, usize, usize)> {
        let space = dice.roll(self.spaces.len() as u64) as usize;
        let host = dice.roll(self.spaces[space].maps.len() as u64) as u16;
        let map = self.map(space, host)?;
        let living: Vec<usize> = (0..map.processes()).filter(|&process| !map.is_dead(process)).collect();
        let process = *dice.pick(&living);
        let here = |thread: &&Thread| (thread.host, thread.space, thread.process) == (host, space, process);
        let calls = self.threads.iter().filter(here).any(|thread| matches!(thread.doing, Doing::Frees(_)));
        (living.len() > 1 && !calls).then_some((host, space, process))
    }

    /// A process dies, and its threads with it.
    pub fn die(&mut self, (host, space, process): (u16, usize, usize)) {
        let here =
            |thread: &&mut Thread| (thread.host, thread.space, thread.process) == (host, space, process);
        for thread in self.threads.iter_mut().filter(here) {
            thread.doing = Doing::Over;
            thread.waits_since = None;
        }
        if let Some(map) = self.map(space, host) {
            map.kill(process);
        }
    }
}

/// Checks that accesses can fail.
pub const LOADS: &str = "loads_find_last_store";
/// See [`LOADS`].
pub const WHOLE: &str = "pages_are_whole";
/// See [`LOADS`].
pub const SINGLE_WRITER: &str = "single_writer";

fn think(thread: &mut Thread, space: &Space, now: Duration) -> Doing {
    let habits = &space.habits;
    let dice = &mut thread.dice;
    if let Some(address) = thread.audit.pop() {
        return Doing::Access(*dice.pick(&[Act::Look, Act::Load(COUNTER), Act::Load(PLAIN[0])]), address);
    }
    if thread.left == 0 {
        return Doing::Over;
    }
    thread.left -= 1;
    let address = |page: u64| space.base + page * PAGE as u64;
    if let Some((page, left, writes)) = thread.walk.take() {
        if left > 1 && page + 1 < habits.pages {
            thread.walk = Some((page + 1, left - 1, writes));
        }
        return Doing::Access(if writes { Act::Fill } else { Act::Look }, address(page));
    }
    if dice.one_in(habits.sleeps) {
        let most = habits.sleep.as_nanos() as u64;
        return Doing::Sleeps(now + Duration::from_nanos(dice.within(1..most)));
    }
    let among = if dice.one_in(2) { habits.hot_pages } else { habits.pages };
    let page = dice.roll(among);
    let mut roll = dice.roll(habits.weights.iter().sum());
    let kind = habits.weights.iter().position(|&weight| {
        let chosen = roll < weight;
        roll = roll.saturating_sub(weight);
        chosen
    });
    let act = match kind.expect("it is below their sum") {
        0 => Act::Load(*dice.pick(&[COUNTER, FILL, PLAIN[0], PLAIN[1]])),
        1 => Act::Store(*dice.pick(&PLAIN)),
        2 => Act::Add,
        3 => Act::Fill,
        4 => Act::Look,
        5 => {
            let writes = dice.one_in(2);
            thread.walk = Some((page, dice.within(2..200), writes));
            return Doing::Thinking;
        }
        // A program's calls are made at home.
        _ if thread.host == space.home => {
            let pages = dice.within(1..habits.free_pages + 1).min(habits.pages - page);
            return Doing::WantsToFree(address(page)..address(page + pages));
        }
        _ => Act::Add,
    };
    Doing::Access(act, address(page))
}

/// All programs, for who simulates and for whoever runs meanwhile.
pub struct Crowd {
    programs: Mutex<Programs>,
    dice: Mutex<Dice>,
}

impl Crowd {
    /// Nobody yet.
    pub fn new(seed: u64, trace: bool) -> Arc<Crowd> {
        let programs = Programs { trace, ..Programs::default() };
        Arc::new(Crowd { programs: Mutex::new(programs), dice: Mutex::new(Dice::new(seed)) })
    }

    /// The programs. Not to be held while an agent is called.
    pub fn lock(&self) -> MutexGuard<'_, Programs> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Company for Crowd {
    fn meanwhile(&self, host: u16) {
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        let mut programs = self.lock();
        let here = |programs: &Programs, n: usize| programs.threads[n].host == host && programs.is_ready(n);
        let ready: Vec<usize> = (0..programs.threads.len()).filter(|&n| here(&programs, n)).collect();
        if ready.is_empty() {
            return;
        }
        let number = *dice.pick(&ready);
        // Thinking takes no time.
        for _ in 0..2 {
            if programs.is_ready(number) {
                programs.step(number);
            }
        }
    }
}
