//! The hosts of one machine, and who is next.
//!
//! Every host is a real [`Machine`] without its threads. What those would do is done in steps, one at a time, each chosen by the
//! seed from all that could be next: a program's thread, a read of a process's faults, an attempt to answer one, the
//! evictor, the timer, what one host's stream has for another, the keeper that takes an ended machine away. Where nothing can
//! be next, the clock goes on to when something can.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use coherence::{Epoch, HostId};
use fabric::{Fabric, Invitation, Lost, MachineId, Member, Settings, SimFabric, SimNet};
use pager::sim::{Company, SimSpace};
use pager::{Budget, Bug, ClientId, Fault, PAGE, Planted, Source};

use super::dice::Dice;
use super::life::{Kind, Life, Program};
use super::memory::{self, WORDS};
use super::process::{Crowd, Doing, Programs, Space};
use super::rest;
use super::{Failure, Tally};
use crate::bodies::Nursery;
use crate::clock::Clock;
use crate::evictor::{Evictor, Turn};
use crate::machine::{Discard, End, Machine, Mailbox};

/// A fault is answered within so many steps, while the hosts that it needs live.
pub const FAULT_STEPS_MAX: u64 = 50_000;
/// A machine that has lost a host ends everywhere within so many steps.
pub const END_STEPS_MAX: u64 = 20_000;
/// When programs have ended, hosts come to rest within so many steps.
pub const REST_STEPS_MAX: u64 = 50_000;
/// The silence after which a host is lost.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// Steps that are told of when a check fails.
const RECENT: usize = 40;
/// The first address of every space.
const BASE: u64 = 0x1000_0000;

/// A check that failed, and how.
pub type Failed = (&'static str, String);

/// What can be next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A thread goes on.
    Thread(usize),
    /// A thread's call to free a range goes on.
    Free(usize),
    /// The next of one host's stream reaches another.
    Deliver(HostId, HostId),
    /// The faults of a process of a space are read, or the next of them is answered.
    Serve(usize, usize, usize),
    /// The agent hears that a process has died.
    Leave(usize),
    Evict(usize),
    Timer(usize),
    /// An ended machine is taken away.
    Remove(usize),
    /// The kernel drops a page-table entry.
    Forget(usize),
    /// Nothing but time.
    Clock,
}

/// One host.
pub struct Host {
    pub machine: Arc<Machine>,
    fabric: Arc<SimFabric>,
    ends: Receiver<End>,
    evictor: Evictor,
    evicts_at: Duration,
    /// By space and process: who serves its faults.
    servers: Vec<Vec<Server>>,
    weight: u64,
    /// It was killed, or its end has been seen.
    pub over: bool,
    removed: bool,
}

/// The thread that serves a process's faults.
struct Server {
    client: ClientId,
    read: Vec<Fault>,
    current: Option<(Fault, Instant)>,
    tries_at: Duration,
}

struct Free {
    thread: usize,
    host: u16,
    discard: Discard,
    /// How many signals there were when it began to wait for one.
    heard: Option<u64>,
}

/// Two hosts that hear nothing of each other.
struct Parting {
    between: (HostId, HostId),
    until: Duration,
    /// Then they are lost to each other.
    for_good: bool,
}

/// How far the life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Lives,
    /// Threads look at pages once more.
    Audit,
    /// What is under way comes to rest.
    Rest {
        since: u64,
    },
    /// A host is gone: the machine ends.
    Ends {
        since: u64,
    },
}

/// See the module's text.
pub struct World {
    seed: u64,
    dice: Dice,
    life: Life,
    clock: Clock,
    now: Duration,
    steps: u64,
    pace: Duration,
    net: SimNet,
    pub crowd: Arc<Crowd>,
    pub hosts: Vec<Host>,
    frees: Vec<Free>,
    /// Processes that have died and of which their agents have not heard: host, space, process.
    dead: Vec<(u16, usize, usize)>,
    parting: Option<Parting>,
    stage: Stage,
    choices: Vec<(u64, Step)>,
    recent: VecDeque<(u64, Duration, Step)>,
    trace: bool,
    tally: Tally,
}

fn host_of(id: HostId) -> usize {
    usize::from(id.0)
}

impl World {
    /// The machine of a seed, just made.
    pub fn new(seed: u64, bug: Option<Bug>, trace: bool) -> World {
        let mut dice = Dice::new(seed);
        let life = Life::of(seed, &mut dice);
        let clock = Clock::simulated();
        let net = SimNet::new(life.hosts, dice.word());
        let crowd = Crowd::new(dice.word(), trace);
        let hosts = (0..life.hosts).map(|me| host(me, &life, &net, &clock, bug)).collect();
        let mut world = World {
            seed,
            now: Duration::ZERO,
            steps: 0,
            pace: life.pace,
            net,
            crowd,
            hosts,
            frees: Vec::new(),
            dead: Vec::new(),
            parting: None,
            stage: Stage::Lives,
            choices: Vec::new(),
            recent: VecDeque::new(),
            trace,
            tally: Tally { lives: 1, ..Tally::default() },
            dice,
            clock,
            life,
        };
        if trace {
            eprintln!("life {seed}: {:#?}", world.life);
        }
        for program in world.life.programs.clone() {
            world.begin(&program);
        }
        world
    }

    /// A program begins: processes on each of its hosts, and threads.
    fn begin(&mut self, program: &Program) {
        let habits = program.habits.clone();
        let mapping = BASE..BASE + habits.pages * PAGE as u64;
        let home = &self.hosts[usize::from(program.home)].machine;
        let id = home.new_space().expect("there are names");
        let spread = program.hosts.len() > 1;
        let number = self.crowd.lock().spaces.len();
        let mut maps = vec![None; self.hosts.len()];
        for host in &mut self.hosts {
            host.servers.push(Vec::new());
        }
        for &(at, processes) in &program.hosts {
            let space = SimSpace::new(at, mapping.clone(), processes, self.life.weather, self.dice.word());
            let company: Weak<dyn Company> = Arc::downgrade(&(self.crowd.clone() as Arc<dyn Company>));
            space.set_company(company);
            let Host { machine, servers, .. } = &mut self.hosts[usize::from(at)];
            let mut state = machine.lock();
            let memory = space.memory(state.pager.planted);
            memory.each_client(None, |uffd| servers[number].push(Server::of(uffd.id())));
            state.pager.open(id, memory);
            if spread {
                state.spread(id);
            }
            if at != program.home {
                // As a body process says before it runs anything.
                state.pager.back(id, 0, client::SPACE_END, Some(Source::Home));
            } else if program.file_pages > 0 {
                let source = Source::File { file: Arc::new(file(program.file_pages)), offset: 0 };
                state.pager.back(id, BASE, program.file_pages * PAGE as u64, Some(source));
            }
            drop(state);
            maps[usize::from(at)] = Some(space);
        }
        let mut programs = self.crowd.lock();
        if program.file_pages > 0 {
            programs.memory.back(number, BASE..BASE + program.file_pages * PAGE as u64);
        }
        programs.spaces.push(Space { id, home: program.home, maps, base: BASE, habits });
        for &at in &program.threads {
            programs.spawn(at, number, self.dice.word());
        }
    }

    /// Lives until the end.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn live(&mut self) -> Result<(), Failed> {
        loop {
            self.befall();
            if self.stage == Stage::Lives && self.nobody_goes_on() {
                self.begin_audit();
            }
            if self.stage == Stage::Audit && self.nobody_goes_on() {
                self.stage = Stage::Rest { since: self.steps };
            }
            if let Some(step) = self.choose() {
                self.take(step)?;
            } else if !self.sleep()? {
                break;
            }
        }
        if matches!(self.stage, Stage::Rest { .. }) {
            rest::check(self)?;
            self.close()?;
        }
        self.bury()
    }

    /// The machine is no more: of no host's budget anything is taken.
    fn bury(&mut self) -> Result<(), Failed> {
        self.tally = self.tally();
        self.frees.clear();
        for (number, host) in std::mem::take(&mut self.hosts).into_iter().enumerate() {
            let budget = host.machine.budget.clone();
            drop(host);
            if budget.held() > 0 {
                return Err((
                    BUDGET_BACK,
                    format!("{} bytes of host {number} are not given back", budget.held()),
                ));
            }
        }
        Ok(())
    }

    fn nobody_goes_on(&self) -> bool {
        self.crowd.lock().threads.iter().all(|thread| matches!(thread.doing, Doing::Over))
    }

    fn begin_audit(&mut self) {
        self.stage = Stage::Audit;
        let mut programs = self.crowd.lock();
        let touched = programs.memory.touched();
        for number in 0..programs.threads.len() {
            let (space, host) = (programs.threads[number].space, programs.threads[number].host);
            if programs.map(space, host).is_none() || !programs.lives(number) {
                continue;
            }
            let of: Vec<u64> = touched.iter().filter(|page| page.0 == space).map(|page| page.1).collect();
            if !of.is_empty() {
                let pages = (0..24).map(|_| *self.dice.pick(&of)).collect();
                programs.audit(number, pages);
            }
        }
    }

    /// What befalls the machine in this step.
    fn befall(&mut self) {
        if let Some(Parting { between, until, for_good }) = self.parting
            && self.now >= until
        {
            self.parting = None;
            if for_good {
                self.net.part(between.0, between.1, &Lost::Silent(LOST_AFTER));
                *self.tally.ends.entry("parted").or_default() += 1;
                self.stage = Stage::Ends { since: self.steps };
            } else {
                self.tally.healed += 1;
            }
            self.pace = self.life.pace;
        }
        if self.stage != Stage::Lives || self.parting.is_some() {
            return;
        }
        if self.life.deaths > 0 && self.dice.one_in(self.life.deaths) {
            let mut programs = self.crowd.lock();
            if let Some(process) = programs.mortal(&mut self.dice) {
                programs.die(process);
                self.dead.push(process);
                *self.tally.ends.entry("process").or_default() += 1;
            }
        }
        let hosts = self.hosts.len() as u64;
        let one = self.dice.roll(hosts);
        let other = (one + self.dice.within(1..hosts)) % hosts;
        let between = (HostId(one as u16), HostId(other as u16));
        if self.steps >= self.life.disaster {
            match self.life.kind {
                Kind::Killed => {
                    self.net.kill(between.0);
                    self.hosts[host_of(between.0)].over = true;
                    self.hosts[host_of(between.0)].removed = true;
                    self.crowd.lock().kill(between.0.0, None);
                    self.drop_frees();
                    *self.tally.ends.entry("killed").or_default() += 1;
                    self.stage = Stage::Ends { since: self.steps };
                    return;
                }
                Kind::Parted => {
                    self.parting = Some(Parting { between, until: self.now + LOST_AFTER, for_good: true });
                    self.pace = LOST_AFTER / 2000;
                    return;
                }
                Kind::Ending => self.end_program(),
                _ => {}
            }
        }
        if self.life.partitions > 0 && self.dice.one_in(self.life.partitions) {
            let steps = self.dice.within(100..4000) as u32;
            let mut time = (self.life.pace * steps).min(LOST_AFTER / 2);
            if self.dice.one_in(4) {
                // Nearly for good.
                self.pace = LOST_AFTER / 2000;
                time = LOST_AFTER / 10 * 9;
            }
            self.parting = Some(Parting { between, until: self.now + time, for_good: false });
        }
    }

    /// A program's process at home ends, and with it the space.
    fn end_program(&mut self) {
        self.life.disaster += self.dice.within(500..5000);
        let (number, home) = {
            let mut programs = self.crowd.lock();
            let lives = |space: &Space| space.maps[usize::from(space.home)].is_some();
            let living: Vec<usize> =
                (0..programs.spaces.len()).filter(|&n| lives(&programs.spaces[n])).collect();
            if living.len() < 2 {
                return;
            }
            let number = *self.dice.pick(&living);
            let calls = programs
                .threads
                .iter()
                .any(|thread| thread.space == number && matches!(thread.doing, Doing::Frees(_)));
            if calls {
                return;
            }
            let home = programs.spaces[number].home;
            programs.kill(home, Some(number));
            (number, home)
        };
        let host = &mut self.hosts[usize::from(home)];
        host.servers[number].clear();
        let id = self.crowd.lock().spaces[number].id;
        host.machine.close_space(id);
        *self.tally.ends.entry("program").or_default() += 1;
    }

    fn drop_frees(&mut self) {
        let programs = self.crowd.lock();
        self.frees.retain(|free| !matches!(programs.threads[free.thread].doing, Doing::Over));
    }

    /// What is next; `None` if there is nothing but time.
    fn choose(&mut self) -> Option<Step> {
        let mut choices = std::mem::take(&mut self.choices);
        choices.clear();
        let now = self.now;
        {
            let mut programs = self.crowd.lock();
            programs.now = (now, self.steps);
            for number in 0..programs.threads.len() {
                let thread = &programs.threads[number];
                let weight = self.hosts[usize::from(thread.host)].weight;
                let wants = matches!(thread.doing, Doing::WantsToFree(_));
                if wants {
                    choices.push((weight, Step::Free(number)));
                } else if programs.is_ready(number) {
                    choices.push((weight, Step::Thread(number)));
                }
            }
            for (host, of) in self.hosts.iter().enumerate().filter(|(_, host)| !host.over) {
                for (space, servers) in of.servers.iter().enumerate() {
                    let Some(map) = programs.map(space, host as u16) else { continue };
                    for (process, server) in servers.iter().enumerate() {
                        let waits =
                            server.current.is_some() || !server.read.is_empty() || map.has_events(process);
                        if waits && server.tries_at <= now {
                            choices.push((2 * of.weight, Step::Serve(host, space, process)));
                        }
                    }
                }
            }
        }
        choices.extend((0..self.dead.len()).map(|number| (1, Step::Leave(number))));
        for free in &self.frees {
            let machine = &self.hosts[usize::from(free.host)].machine;
            if free.heard.is_none_or(|heard| machine.signals() > heard) {
                choices.push((8, Step::Free(free.thread)));
            }
        }
        let is_cut = |from, to| {
            self.parting.as_ref().is_some_and(|p| p.between == (from, to) || p.between == (to, from))
        };
        for (from, to) in self.net.busy() {
            if !is_cut(from, to) {
                choices.push((2 * self.hosts[host_of(to)].weight, Step::Deliver(from, to)));
            }
        }
        let instant = self.clock.now();
        for (number, host) in self.hosts.iter().enumerate() {
            if !host.over {
                if host.evicts_at <= now && (!host.evictor.is_idle() || host.machine.under_pressure()) {
                    choices.push((host.weight, Step::Evict(number)));
                }
                if host.machine.lock().next_due().is_some_and(|due| due <= instant) {
                    choices.push((host.weight, Step::Timer(number)));
                }
            } else if !host.removed {
                choices.push((host.weight, Step::Remove(number)));
            }
        }
        if choices.is_empty() {
            self.choices = choices;
            return None;
        }
        choices.push((4, Step::Clock));
        if self.life.forgets > 0 && self.stage == Stage::Lives && self.dice.one_in(self.life.forgets) {
            choices.push((64, Step::Forget(self.dice.roll(self.hosts.len() as u64) as usize)));
        }
        let mut roll = self.dice.roll(choices.iter().map(|&(weight, _)| weight).sum());
        let chosen = choices.iter().find(|&&(weight, _)| {
            let chosen = roll < weight;
            roll = roll.saturating_sub(weight);
            chosen
        });
        let step = chosen.map(|&(_, step)| step);
        self.choices = choices;
        step
    }

    /// Takes a step, and looks at what came of it.
    fn take(&mut self, step: Step) -> Result<(), Failed> {
        self.steps += 1;
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((self.steps, self.now, step));
        if self.trace {
            eprintln!("{} {:?} {step:?}", self.steps, self.now);
        }
        self.carry_out(step);
        let pace = self.pace.as_nanos() as u64;
        let time = if matches!(step, Step::Clock) { 100 * pace } else { 2 * pace };
        let time = Duration::from_nanos(self.dice.within(1..time));
        self.pass(time);
        self.look(step)
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Thread(number) => self.crowd.lock().step(number),
            Step::Free(number) => self.free(number),
            Step::Deliver(from, to) => {
                self.net.deliver(from, to);
            }
            Step::Serve(host, space, process) => self.serve(host, space, process),
            Step::Leave(number) => self.leave(number),
            Step::Evict(number) => {
                let host = &mut self.hosts[number];
                let turn = host.evictor.turn(&host.machine);
                if matches!(turn, Turn::Wait | Turn::Stuck) {
                    // It is woken, or looks again after two milliseconds.
                    host.evicts_at = self.now + Duration::from_micros(self.dice.within(1..2000));
                }
            }
            Step::Timer(number) => {
                let machine = &self.hosts[number].machine;
                machine.deliver_due(machine.lock());
            }
            Step::Remove(number) => {
                self.hosts[number].removed = true;
                self.hosts[number].fabric.shutdown();
            }
            Step::Forget(host) => {
                let programs = self.crowd.lock();
                let space = self.dice.roll(programs.spaces.len() as u64) as usize;
                let page = self.dice.roll(programs.spaces[space].habits.pages);
                if let Some(map) = programs.map(space, host as u16) {
                    map.forget(self.dice.roll(map.processes() as u64) as usize, BASE + page * PAGE as u64);
                }
            }
            Step::Clock => {}
        }
    }

    /// The session of a process that has died ends.
    fn leave(&mut self, number: usize) {
        let (host, space, process) = self.dead.swap_remove(number);
        let Host { machine, servers, .. } = &mut self.hosts[usize::from(host)];
        let id = self.crowd.lock().spaces[space].id;
        let Some(server) = servers[space].get_mut(process) else { return };
        if let Some(memory) = machine.lock().pager.space(id) {
            memory.remove_client(server.client);
        }
        *server = Server::of(server.client);
    }

    fn serve(&mut self, host: usize, space: usize, process: usize) {
        let Some((map, id)) = ({
            let programs = self.crowd.lock();
            programs.map(space, host as u16).map(|map| (map.clone(), programs.spaces[space].id))
        }) else {
            return;
        };
        let of = &mut self.hosts[host];
        let server = &mut of.servers[space][process];
        match server.current {
            None => {
                if server.read.is_empty() {
                    map.read(process, &mut server.read);
                    server.read.reverse();
                }
                server.current = server.read.pop().map(|fault| (fault, self.clock.now()));
            }
            Some((fault, since)) => {
                match of.machine.try_fault(of.machine.lock(), (id, server.client), fault, since) {
                    // It is woken, or looks again after ten milliseconds.
                    Some(_) => {
                        server.tries_at = self.now + Duration::from_micros(self.dice.within(1..10_000))
                    }
                    None => server.current = None,
                }
            }
        }
    }

    fn free(&mut self, thread: usize) {
        let (host, id, wants) = {
            let mut programs = self.crowd.lock();
            let programs = &mut *programs;
            let of = &mut programs.threads[thread];
            let (host, space) = (usize::from(of.host), of.space);
            let wants = match std::mem::replace(&mut of.doing, Doing::Thinking) {
                Doing::WantsToFree(range) => {
                    let pages = range.clone().step_by(PAGE).map(|address| (space, address));
                    let began = pages.map(|page| (page, programs.memory.free(page))).collect();
                    of.doing = Doing::Frees(began);
                    of.waits_since = Some((self.steps, self.now));
                    Some(range)
                }
                doing => {
                    of.doing = doing;
                    None
                }
            };
            (host, programs.spaces[space].id, wants)
        };
        let machine = self.hosts[host].machine.clone();
        if let Some(range) = wants {
            let discard = machine.begin_discard(id, range.start, range.end - range.start, None);
            self.frees.push(Free { thread, host: host as u16, discard, heard: None });
            self.tally.frees += 1;
            return;
        }
        let Some(at) = self.frees.iter().position(|free| free.thread == thread) else { return };
        let over = match machine.go_on(&mut self.frees[at].discard) {
            Ok(None) => true,
            Ok(Some(_)) => {
                self.frees[at].heard = Some(machine.signals());
                return;
            }
            Err(_) => false,
        };
        self.frees.swap_remove(at);
        let mut programs = self.crowd.lock();
        let doing = if over { Doing::Thinking } else { Doing::Over };
        programs.threads[thread].waits_since = None;
        if let Doing::Frees(pages) = std::mem::replace(&mut programs.threads[thread].doing, doing) {
            for (page, began) in pages {
                programs.memory.freed(page, began);
            }
        }
    }

    /// Looks at what came of a step.
    fn look(&mut self, step: Step) -> Result<(), Failed> {
        for number in 0..self.hosts.len() {
            let host = &self.hosts[number];
            if host.machine.budget.peak() > host.machine.budget.limit() {
                let (peak, limit) = (host.machine.budget.peak(), host.machine.budget.limit());
                return Err(("budget_is_kept", format!("host {number} held {peak} of {limit} bytes")));
            }
            if !host.over && host.machine.has_ended() {
                self.ended(number)?;
            }
        }
        if let Step::Deliver(_, to) = step {
            self.end_processes(host_of(to));
        }
        let mut programs = self.crowd.lock();
        if let Some(failed) = programs.failure.take() {
            return Err(failed);
        }
        if self.steps.is_multiple_of(1000) {
            self.look_at_waits(&programs)?;
        }
        if let Stage::Ends { since } = self.stage
            && self.steps - since > END_STEPS_MAX
        {
            let goes_on: Vec<usize> = (0..self.hosts.len()).filter(|&n| !self.hosts[n].over).collect();
            return Err(("ends_everywhere", format!("hosts {goes_on:?} go on without the lost one")));
        }
        Ok(())
    }

    fn look_at_waits(&self, programs: &Programs) -> Result<(), Failed> {
        match self.stage {
            Stage::Ends { .. } => return Ok(()),
            Stage::Rest { since } if self.steps - since > REST_STEPS_MAX => {
                return Err(("comes_to_rest", format!("nobody does anything since step {since}")));
            }
            _ => {}
        }
        for thread in &programs.threads {
            if let Some((step, _)) = thread.waits_since
                && self.steps - step > FAULT_STEPS_MAX
            {
                return Err((
                    WAITS,
                    format!("thread {} waits since step {step}: {:x?}", thread.id, thread.doing),
                ));
            }
        }
        Ok(())
    }

    /// The machine has ended on a host: it may, or not.
    fn ended(&mut self, number: usize) -> Result<(), Failed> {
        let host = &mut self.hosts[number];
        host.over = true;
        let end = host.ends.try_recv();
        self.crowd.lock().kill(number as u16, None);
        self.drop_frees();
        let befallen = matches!(self.stage, Stage::Ends { .. });
        match end {
            Ok(End::Lost { reason, .. }) if reason.contains("violation") || !befallen => {
                Err(("goes_on", format!("the machine ended on host {number}: {reason}")))
            }
            Ok(End::Closed) if !befallen => {
                Err(("goes_on", format!("the machine was closed on host {number}")))
            }
            Ok(End::Full { .. }) => {
                let here = HostId(number as u16);
                let of = |host: &Host| u64::from(host.machine.lock().rooms.promised_by(here));
                let unused: u64 = self.hosts.iter().map(of).sum();
                let why = format!(
                    "host {number} says that the machine is full, with {unused} pages promised and unused"
                );
                Err(("goes_on", why))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(("goes_on", format!("no end of host {number}: {error}"))),
        }
    }

    /// Processes of spaces that have ended on a host are killed.
    fn end_processes(&mut self, number: usize) {
        let machine = self.hosts[number].machine.clone();
        let state = machine.lock();
        let mut programs = self.crowd.lock();
        for space in 0..programs.spaces.len() {
            if programs.map(space, number as u16).is_some() && state.is_closed(programs.spaces[space].id) {
                programs.kill(number as u16, Some(space));
                self.hosts[number].servers[space].clear();
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.clock.advance(time);
        self.tally.host_time += time * self.hosts.iter().filter(|host| !host.over).count() as u32;
    }

    /// Nothing can be next: time passes until something can. False if nothing ever will.
    fn sleep(&mut self) -> Result<bool, Failed> {
        let mut next: Option<Duration> = None;
        let mut at = |moment: Duration| next = Some(next.map_or(moment, |next| next.min(moment)));
        {
            let programs = self.crowd.lock();
            for thread in &programs.threads {
                if let Doing::Sleeps(until) = thread.doing {
                    at(until);
                }
            }
        }
        self.parting.iter().for_each(|parting| at(parting.until));
        let instant = self.clock.now();
        for host in self.hosts.iter().filter(|host| !host.over) {
            for server in host.servers.iter().flatten().filter(|s| s.current.is_some() || !s.read.is_empty())
            {
                at(server.tries_at);
            }
            if !host.evictor.is_idle() || host.machine.under_pressure() {
                at(host.evicts_at);
            }
            if let Some(due) = host.machine.lock().next_due() {
                at(self.now + due.saturating_duration_since(instant));
            }
        }
        if let Some(moment) = next {
            let rests = matches!(self.stage, Stage::Rest { .. }) && self.parting.is_none();
            // An evictor that can do nothing looks again for ever.
            if rests && self.hosts.iter().all(|host| host.over || host.evictor.is_idle() || host.is_stuck()) {
                let others =
                    self.hosts.iter().all(|h| h.servers.iter().flatten().all(|s| s.current.is_none()));
                if others
                    && self.hosts.iter().all(|host| host.over || host.machine.lock().next_due().is_none())
                {
                    return Ok(false);
                }
            }
            self.pass(moment.saturating_sub(self.now) + Duration::from_nanos(1));
            return Ok(true);
        }
        if matches!(self.stage, Stage::Ends { .. }) {
            let goes_on: Vec<usize> = (0..self.hosts.len()).filter(|&n| !self.hosts[n].over).collect();
            if !goes_on.is_empty() {
                return Err(("ends_everywhere", format!("hosts {goes_on:?} go on without the lost one")));
            }
            return Ok(false);
        }
        let programs = self.crowd.lock();
        for thread in &programs.threads {
            if !matches!(thread.doing, Doing::Over) {
                return Err((WAITS, format!("thread {} waits for ever: {:x?}", thread.id, thread.doing)));
            }
        }
        Ok(false)
    }

    /// All programs end, then the machine: nothing is left.
    fn close(&mut self) -> Result<(), Failed> {
        let spaces: Vec<_> = self.crowd.lock().spaces.iter().map(|space| (space.id, space.home)).collect();
        for &(id, home) in &spaces {
            self.crowd.lock().kill(home, spaces.iter().position(|space| space.0 == id));
            let machine = self.hosts[usize::from(home)].machine.clone();
            if !machine.lock().is_closed(id) {
                machine.close_space(id);
            }
        }
        while let Some(step) = self.choose() {
            self.take(step)?;
        }
        rest::check_empty(self)?;
        self.stage = Stage::Ends { since: self.steps };
        self.hosts[0].machine.end(End::Closed);
        self.ended(0)?;
        while let Some(step) = self.choose() {
            self.take(step)?;
        }
        match (0..self.hosts.len()).find(|&n| !self.hosts[n].over) {
            Some(host) => Err(("ends_everywhere", format!("host {host} goes on without home"))),
            None => Ok(()),
        }
    }

    /// What has happened.
    pub fn tally(&self) -> Tally {
        let mut tally = self.tally.clone();
        if self.hosts.is_empty() {
            return tally;
        }
        tally.add(&self.crowd.lock().tally);
        tally.steps = self.steps;
        for host in &self.hosts {
            let state = host.machine.lock();
            tally.evicted += state.counters.evicted_pages;
            tally.handed_over += state.counters.handed_over_pages;
            tally.dwelled += state.counters.dwelled;
        }
        tally
    }

    /// A failure of this life.
    pub fn failure(&self, check: &'static str, why: String) -> Failure {
        let recent = self.recent.iter().map(|(step, now, what)| format!("{step} {now:?} {what:?}")).collect();
        Failure { seed: self.seed, step: self.steps, check, why, recent }
    }
}

impl Server {
    fn of(client: ClientId) -> Server {
        Server { client, read: Vec::new(), current: None, tries_at: Duration::ZERO }
    }
}

impl Host {
    fn is_stuck(&self) -> bool {
        self.machine.is_stuck()
    }
}

/// The check that a machine leaves nothing behind.
const BUDGET_BACK: &str = "budget_is_given_back";
/// The check that threads do not wait for ever.
pub const WAITS: &str = "every_wait_ends";

fn host(me: u16, life: &Life, net: &SimNet, clock: &Clock, bug: Option<Bug>) -> Host {
    let member = |n: u16| Member { name: format!("h{n}"), address: format!("h{n}:1") };
    let invitation = Invitation {
        machine: MachineId(1),
        epoch: Epoch(1),
        me: HostId(me),
        members: (0..life.hosts).map(member).collect(),
        settings: Settings {
            heartbeat: Duration::from_millis(500),
            lost_after: LOST_AFTER,
            join_timeout: Duration::from_secs(5),
        },
    };
    let (sender, ends) = mpsc::channel();
    let nursery = Arc::new(Nursery::new(b"", "/nowhere".into(), Vec::new()));
    let budget = Arc::new(Budget::new(life.budget));
    let machine =
        Machine::still(invitation, budget, nursery, sender, clock.clone()).expect("there is memory");
    let machine = Arc::new(machine);
    machine.lock().pager.planted = Planted::new(bug);
    net.attach(HostId(me), Arc::new(Mailbox(Arc::downgrade(&machine))));
    let fabric = net.fabric(HostId(me));
    machine.set_fabric(fabric.clone());
    Host {
        machine,
        fabric,
        ends,
        evictor: Evictor::default(),
        evicts_at: Duration::ZERO,
        servers: Vec::new(),
        weight: if life.slow == Some(me) { 1 } else { 8 },
        over: false,
        removed: false,
    }
}

/// The file behind the first pages of a space.
fn file(pages: u64) -> File {
    // SAFETY: a constant name; the descriptor is nobody else's.
    let mut file = unsafe { File::from_raw_fd(libc::memfd_create(c"file".as_ptr(), libc::MFD_CLOEXEC)) };
    for page in 0..pages {
        let words =
            (0..WORDS).flat_map(|word| memory::file_word(BASE + page * PAGE as u64, word).to_le_bytes());
        file.write_all(&words.collect::<Vec<u8>>()).expect("there is memory");
    }
    file
}
