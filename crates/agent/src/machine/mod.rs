//! One machine on one host: its state behind one lock, and the threads that come to it.
//!
//! | thread | comes with |
//! |---|---|
//! | one a process of a space (`clients/faults.rs`) | faults of its threads |
//! | one a client (`clients/`) | what a client asks (`spaces.rs`) |
//! | one a peer (`fabric`) | messages, in bursts (`inbox.rs`) |
//! | the evictor (`evictor.rs`) | pages to pack and hand over |
//! | the timer (`timer.rs`) | messages that were held back until now (`dwell.rs`) |
//! | one a body process (`bodies.rs`) or worker (`workers.rs`) | its end |
//! | the control connection (`control.rs`), home only | open, close, figures |
//!
//! The lock is a fair one (parking_lot's): the faults thread and the evictor take it tens of thousands of times a second, and
//! who comes once, as the sign of life does, must get it too.
//!
//! Lock order: `burst` → `state` → the fabric's and the pager's own. No thread waits for the network or for a client
//! with `state` held.

mod inbox;
mod names;
mod report;
mod signal;
mod spaces;
mod timer;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use coherence::{HostId, Violation};
use fabric::{Fabric, Invitation, TcpMesh};
use pager::{Budget, Bug, ClientId, Fault, SpaceId};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::bodies::{Bodies, Nursery};
use crate::clients::{Connection, Stewards};
use crate::clock::Clock;
use crate::procfs::Load;
use crate::state::{Served, State};
use crate::wire;
use crate::workers::Workers;
pub use inbox::Mailbox;
use names::Names;
use signal::Signal;
#[cfg(feature = "sim")]
pub(crate) use spaces::Discard;

/// A machine that has been full for so long, with a thread waiting for a page, is out of memory.
const FULL_AFTER: Duration = Duration::from_secs(1);
/// A thread that waits for room looks again after this time at the latest.
const ROOM_POLL: Duration = Duration::from_millis(10);

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
    /// Signalled when a space has ended, a discard has reached every host, or the machine has ended.
    over: Signal,
    fabric: OnceLock<Arc<dyn Fabric>>,
    /// The same, where it is a network.
    mesh: OnceLock<Arc<TcpMesh>>,
    clock: Clock,
    /// Programs' threads, at home.
    pub(crate) stewards: Stewards,
    bodies: Bodies,
    /// Processes that have joined a space here.
    pub(crate) joined: Mutex<Vec<i32>>,
    load: Mutex<Load>,
    /// Messages of a burst, by sender, each behind its length.
    bursts: Vec<Mutex<Vec<u8>>>,
    clients: Mutex<Vec<Arc<OwnedFd>>>,
    /// Ordinary processes, and the shared spaces that they map. They are not killed, but hung up on.
    attached: Mutex<Vec<(SpaceId, Arc<Connection>)>>,
    workers: Workers,
    ended: AtomicBool,
    /// Since when the evictor has found nothing that it could do.
    stuck: Mutex<Option<Instant>>,
    /// The CPU where faults were served last; [`NO_CPU`] where there is no one CPU.
    near: AtomicUsize,
    names: Names,
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
        let machine = Arc::new(Self::still(invitation, budget, nursery, ends, Clock::default())?);
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

    /// The same without its threads: nothing happens by itself.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn still(
        invitation: Invitation,
        budget: Arc<Budget>,
        nursery: Arc<Nursery>,
        ends: Sender<End>,
        clock: Clock,
    ) -> std::io::Result<Self> {
        let hosts = invitation.members.len() as u16;
        let due = Arc::new(Condvar::new());
        let (me, epoch) = (invitation.me, invitation.epoch);
        let state = State::new(me, hosts, epoch, budget.clone(), clock.clone(), due.clone())?;
        Ok(Self {
            budget,
            state: Mutex::new(state),
            room: Condvar::new(),
            pressure: Condvar::new(),
            due,
            over: Signal::default(),
            fabric: OnceLock::new(),
            mesh: OnceLock::new(),
            clock,
            stewards: Stewards::default(),
            joined: Mutex::default(),
            load: Mutex::default(),
            bodies: Bodies::new(invitation.machine, nursery.clone()),
            bursts: (0..hosts).map(|_| Mutex::default()).collect(),
            clients: Mutex::default(),
            attached: Mutex::default(),
            workers: Workers::new(invitation.machine, nursery),
            ended: AtomicBool::new(false),
            stuck: Mutex::default(),
            near: AtomicUsize::new(NO_CPU),
            names: Names::new(invitation.me),
            ends,
            invitation,
        })
    }

    /// The machine's state.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The fabric, once the mesh stands.
    pub fn fabric(&self) -> Option<&Arc<dyn Fabric>> {
        self.fabric.get()
    }

    /// The mesh, once it stands.
    pub fn mesh(&self) -> Option<&Arc<TcpMesh>> {
        self.mesh.get()
    }

    /// The mesh stands.
    pub fn set_mesh(&self, mesh: Arc<TcpMesh>) {
        assert!(self.mesh.set(mesh.clone()).is_ok(), "a machine has one mesh");
        self.set_fabric(mesh);
    }

    /// The machine's hosts are joined: messages that came before are handled now.
    pub fn set_fabric(&self, fabric: Arc<dyn Fabric>) {
        assert!(self.fabric.set(fabric).is_ok(), "a machine has one fabric");
        for host in 0..self.bursts.len() as u16 {
            self.handle_burst(HostId(host));
        }
    }

    /// Whether nobody has kept what all wait for here, a lock, for as long as `time`: a thread that is stuck with it (in a system
    /// call that does not return, say) must not make other hosts wait for ever.
    pub fn gets_on(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        self.bursts.iter().all(|burst| burst.try_lock_until(deadline).is_some())
            && self.state.try_lock_until(deadline).is_some()
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
        self.workers.kill_all();
        self.lock().withdraw_shared();
        self.hang_up(None);
        let untold = cfg!(feature = "sim") && self.lock().pager.planted.has(Bug::LossUntold);
        if let (Some(fabric), End::Lost { host, reason }) = (self.fabric(), &end)
            && self.invitation.me.0 != 0
            && host.0 != 0
            && !untold
        {
            // Home tells the user.
            fabric.send(HostId(0), &[&wire::peer_lost(*host, reason)]);
            fabric.flush();
        }
        // Who kept the machine may be gone already; then nobody asks.
        let _ = self.ends.send(end);
        // Who has seen that the machine goes on is waiting by the time the lock is free.
        drop(self.lock());
        for waiters in [&self.room, &self.pressure, &self.due] {
            waiters.notify_all();
        }
        self.over.give();
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

    /// A name for a new space; `None` after 2^18 of this host.
    pub fn new_space(&self) -> Option<SpaceId> {
        self.names.take()
    }

    /// A thread of a client waits at an address: answers it, or sees to it that it will be answered.
    pub fn fault(&self, space: SpaceId, client: ClientId, fault: Fault) {
        let since = self.clock.now();
        let mut state = self.lock();
        while let Some(mut waits) = self.try_fault(state, (space, client), fault, since) {
            self.room.wait_for(&mut waits, ROOM_POLL);
            state = waits;
        }
    }

    /// An attempt at that. Gives the lock back if there is no room for the page: then the caller waits for some, and tries again.
    pub(crate) fn try_fault<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        (space, client): (SpaceId, ClientId),
        fault: Fault,
        since: Instant,
    ) -> Option<MutexGuard<'a, State>> {
        let fabric = self.fabric()?;
        if !self.has_ended() {
            match state.fault(space, client, fault, since, &**fabric) {
                Ok(Served::Done) => {}
                Ok(Served::NoRoom) => {
                    self.pressure.notify_one();
                    if self.stuck.lock().is_none_or(|stuck| self.clock.since(stuck) <= FULL_AFTER) {
                        return Some(state);
                    }
                    drop(state);
                    // Before the clients are killed, and what they held is freed.
                    self.end(End::Full { hosts: self.all_figures() });
                    return None;
                }
                Err(violation) => {
                    drop(state);
                    self.violated(&violation);
                    return None;
                }
            }
        }
        self.leave(state, &**fabric);
        None
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
            stuck.get_or_insert_with(|| self.clock.now());
        }
        drop(stuck);
        self.room.notify_all();
    }

    /// How often those were woken who wait for a discard, or for an end.
    #[cfg(feature = "sim")]
    pub fn signals(&self) -> u64 {
        self.over.given()
    }

    /// The evictor has found nothing that it could do, and has not made room since.
    #[cfg(feature = "sim")]
    pub fn is_stuck(&self) -> bool {
        self.stuck.lock().is_some()
    }

    /// A message came that cannot be: the machine cannot go on.
    pub fn violated(&self, violation: &Violation) {
        self.end(End::Lost { host: violation.from, reason: format!("protocol violation: {violation}") });
    }

    /// Gives the lock back after something was done with it, and sees to what must be done without.
    fn leave(&self, mut state: MutexGuard<'_, State>, fabric: &dyn Fabric) {
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
}
