//! One machine on one host: its state behind one lock, and the threads that come to it.
//!
//! | thread | comes with |
//! |---|---|
//! | one a space (`clients.rs`) | faults of the space's threads |
//! | one a client (`clients.rs`) | what a client asks |
//! | one a peer (`fabric`) | messages, in bursts |
//! | the evictor (`evictor.rs`) | pages to pack and hand over |
//! | the timer | messages that were held back until now (`dwell.rs`) |
//! | one a body process (`bodies.rs`) | its end |
//! | the control connection (`control.rs`), home only | open, close, figures |
//!
//! The lock is a fair one (parking_lot's): the faults thread and the evictor take it tens of thousands of times a second, and
//! who comes once, as the sign of life does, must get it too.
//!
//! Lock order: `burst` → `state` → the fabric's and the pager's own. No thread waits for the network or for a client
//! with `state` held.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use client::ChannelKind;
use coherence::{HostId, Violation};
use fabric::{Fabric, Inbox, Invitation, Lost, TakeChannel, TcpMesh};
use pager::{Budget, Fault, PAGE, SpaceId};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::bodies::{Bodies, Nursery};
use crate::clients::Stewards;
use crate::figures::Figures;
use crate::state::{Served, State, first_space, home_of};
use crate::wire::{self, Said};

/// A machine that has been full for so long, with a thread waiting for a page, is out of memory.
const FULL_AFTER: Duration = Duration::from_secs(1);
/// A thread that waits for room looks again after this time at the latest.
const ROOM_POLL: Duration = Duration::from_millis(10);

/// The timer looks again after this time when nothing is held back.
const TIMER_POLL: Duration = Duration::from_secs(1);
/// A body process that is killed is gone within this time.
const BODIES_TIMEOUT: Duration = Duration::from_secs(5);

/// See [`Machine::near`].
const NO_CPU: usize = usize::MAX;

/// How a machine ended, if not by being closed.
#[derive(Clone, Debug)]
pub enum End {
    /// It was closed.
    Closed,
    /// A host is gone.
    Lost {
        /// Which.
        host: HostId,
        /// Why we think so.
        reason: String,
    },
    /// No host has room left.
    Full {
        /// All hosts' figures when that was found.
        hosts: Vec<serde_json::Value>,
    },
}

/// One machine on this host.
pub struct Machine {
    /// What all its hosts agreed on.
    pub invitation: Invitation,
    /// The host's budget, shared with its other machines.
    pub budget: Arc<Budget>,
    state: Mutex<State>,
    /// Signalled when there may be room for a page.
    room: Condvar,
    /// Signalled when there may be work for the evictor.
    pub(crate) pressure: Condvar,
    /// Signalled when the timer has something to do earlier than it knew.
    due: Arc<Condvar>,
    /// Signalled when a space has ended, or the machine.
    over: Condvar,
    fabric: OnceLock<Arc<TcpMesh>>,
    /// Programs' threads, at home.
    pub(crate) stewards: Stewards,
    bodies: Bodies,
    /// Messages of a burst, by sender, each behind its length.
    bursts: Vec<Mutex<Vec<u8>>>,
    clients: Mutex<Vec<Arc<OwnedFd>>>,
    ended: AtomicBool,
    /// Since when the evictor has found nothing that it could do.
    stuck: Mutex<Option<Instant>>,
    /// The CPU where faults were served last; [`NO_CPU`] where there is no one CPU.
    near: AtomicUsize,
    next_space: AtomicU32,
    /// Who keeps the machine and is told how it ended.
    ends: Sender<End>,
}

impl Machine {
    /// This host's part of a machine; its evictor runs until [`Machine::end`].
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn new(
        invitation: Invitation,
        budget: Arc<Budget>,
        nursery: Arc<Nursery>,
        ends: Sender<End>,
    ) -> std::io::Result<Arc<Self>> {
        let hosts = invitation.members.len() as u16;
        let due = Arc::new(Condvar::new());
        let state = State::new(invitation.me, hosts, invitation.epoch, budget.clone(), due.clone())?;
        let machine = Arc::new(Self {
            budget,
            state: Mutex::new(state),
            room: Condvar::new(),
            pressure: Condvar::new(),
            due,
            over: Condvar::new(),
            fabric: OnceLock::new(),
            stewards: Stewards::default(),
            bodies: Bodies::new(invitation.machine, nursery),
            bursts: (0..hosts).map(|_| Mutex::default()).collect(),
            clients: Mutex::default(),
            ended: AtomicBool::new(false),
            stuck: Mutex::default(),
            near: AtomicUsize::new(NO_CPU),
            next_space: AtomicU32::new(first_space(invitation.me)),
            ends,
            invitation,
        });
        let evictor = machine.clone();
        std::thread::Builder::new().name("evictor".into()).spawn(move || crate::evictor::run(&evictor))?;
        let timer = machine.clone();
        let spawned =
            std::thread::Builder::new().name("timer".into()).spawn(move || timer.deliver_what_is_due());
        if let Err(error) = spawned {
            // The evictor must not go on for nobody.
            machine.end(End::Closed);
            return Err(error);
        }
        Ok(machine)
    }

    /// The machine's state.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The fabric, once the mesh stands.
    pub fn fabric(&self) -> Option<&Arc<TcpMesh>> {
        self.fabric.get()
    }

    /// The mesh stands: messages that came before are handled now.
    pub fn set_fabric(&self, fabric: Arc<TcpMesh>) {
        assert!(self.fabric.set(fabric).is_ok(), "a machine has one fabric");
        for host in 0..self.bursts.len() as u16 {
            self.handle_burst(HostId(host));
        }
    }

    /// Whether the machine has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Ends the machine: kills its clients and stops its threads. The first end counts.
    pub fn end(&self, end: End) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        for client in self.clients.lock().iter() {
            // SAFETY: a plain system call on a pidfd that we hold open.
            unsafe {
                libc::syscall(
                    libc::SYS_pidfd_send_signal,
                    client.as_raw_fd(),
                    libc::SIGKILL,
                    std::ptr::null::<libc::siginfo_t>(),
                    0,
                )
            };
        }
        self.bodies.kill_all();
        if let (Some(fabric), End::Lost { host, reason }) = (self.fabric(), &end)
            && self.invitation.me.0 != 0
            && host.0 != 0
        {
            // Home tells the user.
            fabric.send(HostId(0), &[&wire::peer_lost(*host), reason.as_bytes()]);
            fabric.flush();
        }
        // Who kept the machine may be gone already; then nobody asks.
        let _ = self.ends.send(end);
        // Who has seen that the machine goes on is waiting by the time the lock is free.
        drop(self.lock());
        for waiters in [&self.room, &self.pressure, &self.due, &self.over] {
            waiters.notify_all();
        }
    }

    /// Remembers a client, to kill it when the machine ends. False if it has ended already.
    pub fn add_client(&self, pidfd: &Arc<OwnedFd>) -> bool {
        self.clients.lock().push(pidfd.clone());
        !self.has_ended()
    }

    /// Forgets a client.
    pub fn remove_client(&self, pidfd: &Arc<OwnedFd>) {
        self.clients.lock().retain(|c| !Arc::ptr_eq(c, pidfd));
    }

    /// A name for a new space.
    pub fn new_space(&self) -> SpaceId {
        let id = SpaceId(self.next_space.fetch_add(1, Ordering::Relaxed));
        assert!(id <= SpaceId::MAX, "2^18 spaces were made in one machine on one host");
        id
    }

    /// A thread of a client waits at an address: answers it, or sees to it that it will be answered.
    pub fn fault(&self, space: SpaceId, fault: Fault) {
        let since = Instant::now();
        let Some(fabric) = self.fabric() else { return };
        let mut state = self.lock();
        while !self.has_ended() {
            match state.fault(space, fault, since, &**fabric) {
                Ok(Served::Done) => break,
                Ok(Served::NoRoom) => {
                    self.pressure.notify_one();
                    if self.stuck.lock().is_some_and(|since| since.elapsed() > FULL_AFTER) {
                        drop(state);
                        // Before the clients are killed, and what they held is freed.
                        self.end(End::Full { hosts: self.all_figures() });
                        return;
                    }
                    self.room.wait_for(&mut state, ROOM_POLL);
                }
                Err(violation) => {
                    drop(state);
                    self.violated(&violation);
                    return;
                }
            }
        }
        self.leave(state, fabric);
    }

    /// A file that the program has mapped cannot be read: it must not go on with other bytes.
    fn unreadable(&self, error: Option<std::io::Error>) {
        if let Some(error) = error {
            let reason = format!("a file that the program has mapped cannot be read: {error}");
            self.end(End::Lost { host: self.invitation.me, reason });
        }
    }

    /// Faults are served on `cpu` now, or on any.
    pub fn serve_near(&self, cpu: Option<usize>) {
        self.near.store(cpu.unwrap_or(NO_CPU), Ordering::Relaxed);
    }

    /// Where faults are served, if on one CPU: the evictor's pages are in that CPU's caches, and its lock is at hand.
    pub fn near(&self) -> Option<usize> {
        Some(self.near.load(Ordering::Relaxed)).filter(|&cpu| cpu != NO_CPU)
    }

    /// More is held than should be.
    pub fn under_pressure(&self) -> bool {
        self.budget.held() > self.budget.high_watermark()
    }

    /// The evictor has made room, or (`None`) has found nothing to do.
    pub fn relieved(&self, progress: bool) {
        let mut stuck = self.stuck.lock();
        if progress {
            *stuck = None;
        } else {
            stuck.get_or_insert_with(Instant::now);
        }
        drop(stuck);
        self.room.notify_all();
    }

    /// A message came that cannot be: the machine cannot go on.
    pub fn violated(&self, violation: &Violation) {
        self.end(End::Lost { host: violation.from, reason: format!("protocol violation: {violation}") });
    }

    /// A client's space has ended: everywhere.
    pub fn close_space(&self, space: SpaceId) {
        self.lock().shut_space(space);
        self.free_space(space);
        if let Some(fabric) = self.fabric() {
            for host in self.others() {
                fabric.send(host, &[&wire::space_end(space)]);
            }
            fabric.flush();
        }
    }

    /// A space has been shut: what is held of it is freed, now or when its body process is no more.
    fn free_space(&self, space: SpaceId) {
        if !self.bodies.kill(space) {
            self.lock().free_space(space);
        }
        self.over.notify_all();
        self.room.notify_all();
    }

    /// Another host asks for a channel to a space's body process here.
    ///
    /// # Errors
    /// In one line: the space is not that host's or has ended, or there can be no process.
    pub fn channel(self: &Arc<Self>, from: HostId, words: [u64; 4]) -> Result<TakeChannel, String> {
        let [space, kind, ..] = words;
        let space = u32::try_from(space).map(SpaceId).ok().filter(|&space| home_of(space) == from);
        let space = space.ok_or_else(|| format!("space {} is not that host's", words[0]))?;
        if kind > ChannelKind::Thread as u64 {
            return Err(format!("there are no channels of kind {kind}"));
        }
        let ended = || format!("space {} has ended", space.0);
        if self.has_ended() || self.lock().is_closed(space) {
            return Err(ended());
        }
        let machine = self.clone();
        let body = self
            .bodies
            .find_or_start(space, move |status| machine.body_reaped(space, status))
            .map_err(|error| format!("its body process cannot be started: {error}"))?;
        if self.has_ended() || self.lock().is_closed(space) {
            // It ended before the body process was known.
            self.bodies.kill(space);
            return Err(ended());
        }
        Ok(Box::new(move |socket| {
            if let Err(error) = body.hand(kind, &socket) {
                eprintln!("megalith agent: the body process of space {} takes no channel: {error}", space.0);
            }
        }))
    }

    /// The body process of a space has ended; called by its keeper.
    fn body_reaped(&self, space: SpaceId, status: ExitStatus) {
        self.bodies.forget(space);
        if !self.body_ended(space) {
            eprintln!("megalith agent: the body process of space {} ended: {status}", space.0);
        }
        if self.lock().is_closed(space) {
            self.free_space(space);
        }
    }

    /// A space's body process maps it no more. It ends with its space; but it may hear of the end of the program earlier
    /// than we, so the space gets some time to follow. False if it did not: then the machine has ended.
    pub fn body_ended(&self, space: SpaceId) -> bool {
        let deadline = Instant::now() + self.invitation.settings.lost_after;
        let mut state = self.lock();
        while !state.is_closed(space) && !self.has_ended() {
            if self.over.wait_until(&mut state, deadline).timed_out() {
                drop(state);
                let reason = "the body process of the program died".into();
                self.end(End::Lost { host: self.invitation.me, reason });
                return false;
            }
        }
        true
    }

    /// Waits until no process that this agent has started for the machine is left; the machine has ended.
    pub fn wait_for_bodies(&self) {
        if !self.bodies.wait(BODIES_TIMEOUT) {
            eprintln!("megalith agent: a body process of machine {} does not end", self.invitation.machine);
        }
    }

    /// The timer: delivers what was held back.
    fn deliver_what_is_due(&self) {
        // SAFETY: a plain system call about the calling thread: its waits end to the microsecond.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0) };
        let mut state = self.lock();
        while !self.has_ended() {
            let now = Instant::now();
            match state.next_due() {
                Some(due) if due <= now => {
                    let Some(fabric) = self.fabric() else { return };
                    let delivered = state.deliver_due(now, &**fabric);
                    self.leave(state, fabric);
                    if let Err(violation) = delivered {
                        return self.violated(&violation);
                    }
                    state = self.lock();
                }
                Some(due) => drop(self.due.wait_until(&mut state, due)),
                None => drop(self.due.wait_for(&mut state, TIMER_POLL)),
            }
        }
    }

    /// Gives the lock back after something was done with it, and sees to what must be done without.
    fn leave(&self, mut state: MutexGuard<'_, State>, fabric: &TcpMesh) {
        let press = self.under_pressure();
        let unreadable = state.unreadable.take();
        drop(state);
        if press {
            self.pressure.notify_one();
        }
        fabric.flush();
        self.unreadable(unreadable);
    }

    /// The other hosts.
    pub fn others(&self) -> impl Iterator<Item = HostId> + use<> {
        let me = self.invitation.me;
        (0..self.invitation.members.len() as u16).map(HostId).filter(move |&h| h != me)
    }

    /// This host's figures.
    pub fn figures(&self) -> Figures {
        let state = self.lock();
        let holdings = state.pager.holdings();
        let traffic = self.fabric().map(|f| f.traffic()).unwrap_or_default();
        Figures {
            name: self.invitation.members[usize::from(self.invitation.me.0)].name.clone(),
            budget: self.budget.limit(),
            held: self.budget.held(),
            peak: self.budget.peak(),
            mapped: holdings.mapped_pages * PAGE as u64,
            stowed: holdings.stowed_bytes,
            stowed_pages: holdings.stowed_pages,
            faults: state.counters.faults,
            bytes_in: traffic.received,
            bytes_out: traffic.sent,
            evicted_pages: state.counters.evicted_pages,
            handed_over_pages: state.counters.handed_over_pages,
            received_pages: state.counters.received_pages,
            fault_us: state.counters.latency.percentiles(),
        }
    }

    /// All hosts' figures, as known now.
    pub fn all_figures(&self) -> Vec<serde_json::Value> {
        let own = serde_json::to_value(self.figures()).expect("figures are plain");
        let state = self.lock();
        (0u16..)
            .zip(&self.invitation.members)
            .map(|(i, member)| {
                if i == self.invitation.me.0 {
                    return own.clone();
                }
                state.others[usize::from(i)].clone().unwrap_or_else(|| {
                    let unknown = Figures { name: member.name.clone(), ..Default::default() };
                    serde_json::to_value(unknown).expect("figures are plain")
                })
            })
            .collect()
    }

    /// Sends this host's figures to home.
    pub fn send_figures(&self) {
        if let Some(fabric) = self.fabric() {
            let json = serde_json::to_vec(&self.figures()).expect("figures are plain");
            fabric.send(HostId(0), &[&wire::FIGURES_HEAD, &json]);
            fabric.flush();
        }
    }

    fn handle_burst(&self, from: HostId) {
        let Some(fabric) = self.fabric() else { return };
        let mut burst = self.bursts[usize::from(from.0)].lock();
        if burst.is_empty() {
            return;
        }
        let mut after = Vec::new();
        let mut state = self.lock();
        let mut rest = burst.as_slice();
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let (message, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
            rest = tail;
            let heard = match wire::read(message) {
                // Last figures are wanted even so.
                Ok(said) if self.has_ended() && !matches!(said, Said::Figures(_)) => None,
                Ok(said) => self.hear(from, said, &mut state, &**fabric),
                Err(_) => Some(After::Malformed),
            };
            after.extend(heard);
        }
        state.flush_arrived();
        let press = self.under_pressure();
        let unreadable = state.unreadable.take();
        drop(state);
        self.unreadable(unreadable);
        burst.clear();
        drop(burst);
        if press {
            self.pressure.notify_one();
        }
        for after in after {
            match after {
                After::Figures => self.send_figures(),
                After::SpaceEnd(space) => self.free_space(space),
                After::Room => {
                    self.pressure.notify_one();
                }
                After::Malformed => {
                    self.end(End::Lost { host: from, reason: "it sent bytes that are no message".into() });
                }
                After::Violation(violation) => self.violated(&violation),
                After::Lost(host, reason) => {
                    let by = &self.invitation.members[usize::from(from.0)].name;
                    self.end(End::Lost { host, reason: format!("{reason} (as host {by} saw it)") });
                }
            }
        }
        fabric.flush();
    }

    /// Handles one message with the state locked; what must wait for the lock to be free is returned.
    fn hear(&self, from: HostId, said: Said<'_>, state: &mut State, fabric: &dyn Fabric) -> Option<After> {
        match said {
            Said::Coherence(message, page) => {
                return state.message(from, message, page, fabric).err().map(After::Violation);
            }
            Said::RoomAsk(pages) => state.give_room(from, pages, fabric),
            Said::Room(pages) => {
                state.rooms.promised(from, pages, Instant::now());
                return Some(After::Room);
            }
            Said::SpaceEnd(space) => {
                state.shut_space(space);
                return Some(After::SpaceEnd(space));
            }
            Said::FileAsk(first, pages) => state.give_file(from, first, pages, fabric),
            Said::FileBytes(page, packed) => {
                return state.file_bytes(page, packed, fabric).err().map(After::Violation);
            }
            Said::Figures(json) => {
                if let Ok(figures) = serde_json::from_slice(json) {
                    state.others[usize::from(from.0)].replace(figures);
                    state.figures_heard[usize::from(from.0)] += 1;
                }
            }
            Said::FiguresAsk => return Some(After::Figures),
            Said::PeerLost(host, text) => {
                // Both sides of a cut link say that the other is lost: home believes its own link first.
                let known = usize::from(host.0) < self.invitation.members.len();
                return Some(if known { After::Lost(host, text.to_owned()) } else { After::Malformed });
            }
        }
        None
    }
}

/// What a message asks for that is done without the lock.
enum After {
    Figures,
    SpaceEnd(SpaceId),
    Room,
    Malformed,
    Violation(Violation),
    Lost(HostId, String),
}

/// The fabric's way to a machine. Weak, because the machine owns the fabric.
pub struct Mailbox(pub Weak<Machine>);

impl Inbox for Mailbox {
    fn message(&self, from: HostId, bytes: &[u8]) {
        let Some(machine) = self.0.upgrade() else { return };
        let mut burst = machine.bursts[usize::from(from.0)].lock();
        burst.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        burst.extend_from_slice(bytes);
    }

    fn drained(&self, from: HostId) {
        if let Some(machine) = self.0.upgrade() {
            machine.handle_burst(from);
        }
    }

    fn lost(&self, host: HostId, reason: Lost) {
        if let Some(machine) = self.0.upgrade() {
            machine.end(End::Lost { host, reason: reason.to_string() });
        }
    }

    fn goodbye(&self, host: HostId) {
        if let Some(machine) = self.0.upgrade() {
            // Home closes a machine. Another host that leaves one that goes on is as good as lost.
            machine.end(match host {
                HostId(0) => End::Closed,
                host => End::Lost { host, reason: "its agent ended".into() },
            });
        }
    }
}
