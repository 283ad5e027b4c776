//! Hosts for tests: an inbox that records, an agent that joins, and a whole mesh of them in one process.

use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use coherence::{Epoch, HostId};

use super::PATIENCE;
use crate::deadline::Deadline;
use crate::sync::{lock, wait};
use crate::{
    ClusterId, Fabric, FabricError, Host, Inbox, Invitation, Keys, Listener, Lost, MachineId, Member,
    Settings, TakeChannel, TcpMesh,
};

pub const CLUSTER: ClusterId = ClusterId([9; 16]);
pub const MACHINE: MachineId = MachineId(0x00c0_ffee);
pub const EPOCH: Epoch = Epoch(3);
/// Joining is patient, loss is quick.
pub const SETTINGS: Settings = Settings {
    heartbeat: Duration::from_millis(100),
    lost_after: Duration::from_millis(1500),
    join_timeout: Duration::from_secs(20),
};

/// Something that changes and can be waited for.
#[derive(Default)]
pub struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut lock(&self.value));
        self.changed.notify_all();
        result
    }

    /// Waits until `ready` gives something; panics after [`PATIENCE`].
    pub fn wait_for<R>(&self, what: &str, mut ready: impl FnMut(&mut T) -> Option<R>) -> R {
        let deadline = Deadline::after(PATIENCE);
        let mut value = lock(&self.value);
        loop {
            if let Some(result) = ready(&mut value) {
                return result;
            }
            let left = deadline.left().unwrap_or_else(|| panic!("waited in vain for {what}"));
            value = wait(&self.changed, value, left);
        }
    }
}

/// What an inbox was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Message(HostId, Vec<u8>),
    Lost(HostId, Lost),
    Goodbye(HostId),
}

/// Records what it is told.
#[derive(Default)]
pub struct Recorder {
    pub told: Watched<Vec<Told>>,
    /// It does not get on any more.
    pub stuck: AtomicBool,
}

impl Recorder {
    pub fn wait_for(&self, what: &Told) {
        self.told.wait_for(&format!("{what:?}"), |told| told.contains(what).then_some(()));
    }

    /// Waits for the loss of `host`; when, and why.
    pub fn wait_lost(&self, host: HostId) -> (Instant, Lost) {
        self.told.wait_for("a loss", |told| {
            let found = told.iter().find_map(|told| match told {
                Told::Lost(lost, reason) if *lost == host => Some(reason.clone()),
                _ => None,
            });
            found.map(|reason| (Instant::now(), reason))
        })
    }

    pub fn losses(&self) -> usize {
        self.told.change(|told| told.iter().filter(|told| matches!(told, Told::Lost(..))).count())
    }
}

impl Inbox for Recorder {
    fn message(&self, from: HostId, bytes: &[u8]) {
        self.told.change(|told| told.push(Told::Message(from, bytes.to_vec())));
    }
    fn drained(&self, _from: HostId) {}
    fn gets_on(&self, _time: Duration) -> bool {
        !self.stuck.load(Ordering::Relaxed)
    }
    fn lost(&self, host: HostId, reason: Lost) {
        self.told.change(|told| told.push(Told::Lost(host, reason)));
    }
    fn goodbye(&self, host: HostId) {
        self.told.change(|told| told.push(Told::Goodbye(host)));
    }
}

/// A channel: from whom, the words, our end (of a pair of Unix sockets, where there are keys: reading and writing is the same).
pub type Taken = (HostId, [u64; 4], TcpStream);

/// An agent that joins everything, with the inbox it was given.
pub struct Agent {
    name: String,
    inbox: Arc<dyn Inbox>,
    pub refuse: Mutex<Option<String>>,
    pub joined: Watched<Vec<Arc<TcpMesh>>>,
    /// Channels that it has taken.
    pub channels: Arc<Watched<Vec<Taken>>>,
    /// What it was told of strangers.
    pub strangers: Watched<Vec<String>>,
}

impl Agent {
    pub fn new(name: &str, inbox: Arc<dyn Inbox>) -> Arc<Agent> {
        Arc::new(Agent {
            name: name.into(),
            inbox,
            refuse: Mutex::default(),
            joined: Watched::default(),
            channels: Arc::default(),
            strangers: Watched::default(),
        })
    }

    pub fn mesh(&self) -> Arc<TcpMesh> {
        self.joined.wait_for("a mesh", |joined| joined.last().cloned())
    }
}

impl Host for Agent {
    fn name(&self) -> &str {
        &self.name
    }
    fn join(&self, _invitation: &Invitation) -> Result<Arc<dyn Inbox>, String> {
        lock(&self.refuse).clone().map_or(Ok(self.inbox.clone()), Err)
    }
    fn joined(&self, machine: MachineId, fabric: Arc<TcpMesh>) {
        assert_eq!(machine, MACHINE);
        self.joined.change(|joined| joined.push(fabric));
    }
    fn channel(&self, machine: MachineId, from: HostId, words: [u64; 4]) -> Result<TakeChannel, String> {
        assert_eq!(machine, MACHINE);
        if let Some(why) = lock(&self.refuse).clone() {
            return Err(why);
        }
        let channels = self.channels.clone();
        Ok(Box::new(move |end| channels.change(|taken| taken.push((from, words, TcpStream::from(end))))))
    }
    fn stranger(&self, address: IpAddr, reason: &str) {
        assert!(address.is_loopback());
        self.strangers.change(|told| told.push(reason.into()));
    }
}

/// Agents and their listeners, on loopback.
pub struct Hall {
    pub agents: Vec<Arc<Agent>>,
    pub listeners: Vec<Listener>,
}

impl Hall {
    /// One agent for each inbox, named a, b, c, ….
    pub fn new<I: Inbox + 'static>(inboxes: &[Arc<I>]) -> Hall {
        Hall::with_keys(inboxes, |_| None)
    }

    /// The same, each with the keys that `keys` has for its name.
    pub fn with_keys<I: Inbox + 'static>(
        inboxes: &[Arc<I>],
        keys: impl Fn(&str) -> Option<Arc<Keys>>,
    ) -> Hall {
        let names = (b'a'..).map(|name| char::from(name).to_string());
        let agents: Vec<_> =
            inboxes.iter().zip(names).map(|(inbox, name)| Agent::new(&name, inbox.clone())).collect();
        let patience = Duration::from_millis(700);
        let bind = |agent: &Arc<Agent>| {
            Listener::bind_with("127.0.0.1:0", CLUSTER, keys(&agent.name), agent.clone(), patience)
                .expect("loopback")
        };
        Hall { listeners: agents.iter().map(bind).collect(), agents }
    }

    pub fn recorders(count: usize) -> (Vec<Arc<Recorder>>, Hall) {
        let recorders: Vec<_> = (0..count).map(|_| Arc::new(Recorder::default())).collect();
        let hall = Hall::new(&recorders);
        (recorders, hall)
    }

    pub fn invitation(&self) -> Invitation {
        let member = |(agent, listener): (&Arc<Agent>, &Listener)| Member {
            name: agent.name.clone(),
            address: listener.address().to_string(),
        };
        let members = self.agents.iter().zip(&self.listeners).map(member).collect();
        Invitation { machine: MACHINE, epoch: EPOCH, me: HostId(0), members, settings: SETTINGS }
    }

    pub fn try_open(&self, invitation: Invitation) -> Result<Vec<Arc<TcpMesh>>, FabricError> {
        let home = TcpMesh::open(&self.listeners[0], invitation, self.agents[0].inbox.clone())?;
        Ok([home].into_iter().chain(self.agents[1..].iter().map(|agent| agent.mesh())).collect())
    }

    pub fn open(&self) -> Vec<Arc<TcpMesh>> {
        self.try_open(self.invitation()).expect("the mesh stands")
    }
}

pub fn shutdown(meshes: &[Arc<TcpMesh>]) {
    meshes.iter().for_each(|mesh| mesh.shutdown());
}

/// Waits until nothing lies in the out-buffer for `to`: the writer may count a moment after the peer has read.
pub fn wait_sent(mesh: &TcpMesh, to: HostId) {
    let deadline = Deadline::after(PATIENCE);
    while mesh.backlog(to) > 0 {
        assert!(deadline.left().is_some(), "{} bytes stay in the backlog", mesh.backlog(to));
        std::thread::yield_now();
    }
}
