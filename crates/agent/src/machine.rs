//! One machine on one host: its state behind one lock, and the threads that come to it.
//!
//! | thread | comes with |
//! |---|---|
//! | one a space (`clients.rs`) | faults of the space's threads |
//! | one a client (`clients.rs`) | what a client asks |
//! | one a peer (`fabric`) | messages, in bursts |
//! | the evictor (`evictor.rs`) | pages to pack and hand over |
//! | the control connection (`control.rs`), home only | open, close, figures |
//!
//! The lock is a fair one (parking_lot's): the faults thread and the evictor take it tens of thousands of times a second, and
//! who comes once, as the sign of life does, must get it too.
//!
//! Lock order: `burst` → `state` → the fabric's and the pager's own. No thread waits for the network or for a client
//! with `state` held.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use coherence::{HostId, Violation};
use fabric::{Fabric, Inbox, Invitation, Lost, TcpMesh};
use pager::{Budget, Fault, PAGE, SpaceId};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::figures::Figures;
use crate::state::{Served, State};
use crate::wire::{self, Said};

/// A machine that has been full for so long, with a thread waiting for a page, is out of memory.
const FULL_AFTER: Duration = Duration::from_secs(1);
/// A thread that waits for room looks again after this time at the latest.
const ROOM_POLL: Duration = Duration::from_millis(10);

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
    fabric: OnceLock<Arc<TcpMesh>>,
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
    pub fn new(invitation: Invitation, budget: Arc<Budget>, ends: Sender<End>) -> std::io::Result<Arc<Self>> {
        let hosts = invitation.members.len() as u16;
        let state = State::new(invitation.me, hosts, invitation.epoch, budget.clone())?;
        let machine = Arc::new(Self {
            budget,
            state: Mutex::new(state),
            room: Condvar::new(),
            pressure: Condvar::new(),
            fabric: OnceLock::new(),
            bursts: (0..hosts).map(|_| Mutex::default()).collect(),
            clients: Mutex::default(),
            ended: AtomicBool::new(false),
            stuck: Mutex::default(),
            near: AtomicUsize::new(NO_CPU),
            // Every host makes its own ids.
            next_space: AtomicU32::new(u32::from(invitation.me.0) << 18 | 1),
            ends,
            invitation,
        });
        let evictor = machine.clone();
        std::thread::Builder::new().name("evictor".into()).spawn(move || crate::evictor::run(&evictor))?;
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
        self.room.notify_all();
        self.pressure.notify_all();
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
        let press = self.under_pressure();
        let unreadable = state.unreadable.take();
        drop(state);
        if press {
            self.pressure.notify_one();
        }
        fabric.flush();
        self.unreadable(unreadable);
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
        self.lock().close_space(space);
        if let Some(fabric) = self.fabric() {
            for host in self.others() {
                fabric.send(host, &[&wire::space_end(space)]);
            }
            fabric.flush();
        }
        self.room.notify_all();
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
            Said::SpaceEnd(space) => state.close_space(space),
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
