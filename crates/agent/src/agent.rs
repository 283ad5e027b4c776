//! The daemon: listens for hosts, clients and control connections, and keeps the machines.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::Duration;

use fabric::{
    ClusterId, FabricError, Host, HostId, Inbox, Invitation, Keys, KeysError, Listener, MachineId,
    TakeChannel, TcpMesh,
};
use pager::Budget;
use parking_lot::Mutex;

use crate::bodies::Nursery;
use crate::clients::{self, ClientListener};
use crate::control;
use crate::credentials;
use crate::machine::{End, Machine, Mailbox};
use crate::places::Places;

/// Machines of one agent at a time: each has threads and tables of its own.
pub const MACHINES_MAX: usize = 64;
/// Control connections at a time: one a machine, and some that are about to say what they want.
const CONTROLS_MAX: usize = 2 * MACHINES_MAX;
/// Client connections at a time: one a process, and one more for each program whose threads may be elsewhere.
const CLIENTS_MAX: usize = 8192;
/// Pause after the kernel could not give us a connection (out of descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// The smallest budget with which an agent does useful work.
pub const BUDGET_BYTES_MIN: u64 = 16 << 20;

/// A cluster's id from its name: FNV-1a, 128 bits (RFC 9923). It keeps clusters apart by mistake, not by malice.
pub fn cluster_id(name: &str) -> ClusterId {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = name.bytes().fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    ClusterId(hash.to_be_bytes())
}

/// How an agent is started.
#[derive(Clone, Debug)]
pub struct Config {
    /// The host's name in the machines that it will be part of.
    pub name: String,
    /// Where other hosts reach it: `host:port`, port 0 for any.
    pub listen: String,
    /// Where `control.sock` and `client.sock` are made.
    pub directory: PathBuf,
    /// Bytes that the host lends.
    pub budget: u64,
    /// Agents of another cluster are refused.
    pub cluster: ClusterId,
    /// Where this host's keys are; without, what goes between hosts is plaintext, and anybody may say he is one.
    pub keys: Option<PathBuf>,
    /// The executable of body processes (docs/spread.md).
    pub runtime: &'static [u8],
    /// The command of worker processes (docs/python.md); empty where there can be none.
    pub worker: Vec<String>,
}

/// Why an agent could not start or go on.
#[derive(Debug)]
pub enum AgentError {
    /// The budget is below [`BUDGET_BYTES_MIN`].
    Budget(u64),
    /// The fabric's listener.
    Fabric(FabricError),
    /// The host's keys.
    Keys(KeysError),
    /// A file or socket of the agent's directory.
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent has its sockets there.
    InUse(PathBuf),
    /// A descriptor that the caller gave.
    Descriptor(io::Error),
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget(bytes) => write!(
                f,
                "a memory budget of {bytes} bytes is too small: give the agent at least {} MiB",
                BUDGET_BYTES_MIN >> 20
            ),
            Self::Fabric(error) => error.fmt(f),
            Self::Keys(error) => error.fmt(f),
            Self::Path { path, source } => write!(f, "{}: {source}", path.display()),
            Self::InUse(path) => {
                write!(
                    f,
                    "{}: another agent is running there; stop it or choose another directory",
                    path.display()
                )
            }
            Self::Descriptor(error) => write!(f, "waiting for the order to stop: {error}"),
        }
    }
}

impl std::error::Error for AgentError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Fabric(error) => Some(error),
            Self::Keys(error) => Some(error),
            Self::Path { source, .. } | Self::Descriptor(source) => Some(source),
            Self::Budget(_) | Self::InUse(_) => None,
        }
    }
}

/// One host's agent.
pub struct Agent {
    name: String,
    budget: Arc<Budget>,
    nursery: Arc<Nursery>,
    machines: Mutex<HashMap<MachineId, Kept>>,
    /// Gone when the agent ends: it knows the agent, too, and neither could go otherwise.
    listener: Mutex<Option<Arc<Listener>>>,
    /// For the threads that keep machines.
    me: Weak<Agent>,
}

/// A machine, and (on hosts other than home) how its keeper hears of its end.
struct Kept {
    machine: Arc<Machine>,
    ends: Option<Receiver<End>>,
}

/// Runs an agent until `stop` can be read (or its other end is closed). Writes one line of JSON to `ready` when it
/// listens.
///
/// # Errors
/// When it cannot start; the sockets it made are gone again.
pub fn serve(config: &Config, ready: BorrowedFd<'_>, stop: BorrowedFd<'_>) -> Result<(), AgentError> {
    if config.budget < BUDGET_BYTES_MIN {
        return Err(AgentError::Budget(config.budget));
    }
    let keys = match &config.keys {
        Some(directory) => Some(Arc::new(Keys::open(directory, &config.name).map_err(AgentError::Keys)?)),
        None => None,
    };
    crate::priority::raise();
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| AgentError::Path { path, source }
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.directory)
        .map_err(at(&config.directory))?;
    let control_path = config.directory.join("control.sock");
    let client_path = config.directory.join("client.sock");
    for path in [&control_path, &client_path] {
        remove_dead_socket(path)?;
    }
    let absolute = std::path::absolute(&client_path).map_err(at(&client_path))?;
    let agent = Arc::new_cyclic(|me| Agent {
        name: config.name.clone(),
        budget: Arc::new(Budget::new(config.budget)),
        nursery: Arc::new(Nursery::new(config.runtime, absolute, config.worker.clone())),
        machines: Mutex::default(),
        listener: Mutex::default(),
        me: me.clone(),
    });
    let listener = Listener::bind(&config.listen, config.cluster, keys, agent.clone() as Arc<dyn Host>)
        .map_err(AgentError::Fabric)?;
    let address = listener.address();
    *agent.listener.lock() = Some(Arc::new(listener));

    // Whoever can connect to the second finds the first.
    let mut sockets = Sockets(Vec::new());
    let client_listener = Arc::new(ClientListener::bind(&client_path).map_err(at(&client_path))?);
    sockets.0.push(client_path);
    let control_listener = clients::listen(&control_path, libc::SOCK_STREAM).map_err(at(&control_path))?;
    sockets.0.push(control_path);
    let control_listener = Arc::new(UnixListener::from(control_listener));

    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.into()).spawn(work).map_err(AgentError::Descriptor)
    };
    spawn("control", {
        let (agent, listener) = (agent.clone(), control_listener.clone());
        Box::new(move || accept_control(&agent, &listener))
    })?;
    spawn("clients", {
        let (agent, listener) = (agent.clone(), client_listener.clone());
        Box::new(move || accept_clients(&agent, &listener))
    })?;

    // Whoever started us may not care to read it.
    let line = format!("{{\"address\":\"{address}\"}}\n");
    // SAFETY: the bytes live on; the descriptor is the caller's and open.
    unsafe { libc::write(ready.as_raw_fd(), line.as_ptr().cast(), line.len()) };

    wait_readable(stop).map_err(AgentError::Descriptor)?;
    drop(sockets);
    client_listener.shutdown();
    // SAFETY: a plain system call on our descriptor.
    unsafe { libc::shutdown(control_listener.as_raw_fd(), libc::SHUT_RDWR) };
    agent.stop();
    Ok(())
}

/// Removes the sockets when the agent ends, however it does.
struct Sockets(Vec<PathBuf>);

impl Drop for Sockets {
    fn drop(&mut self) {
        for path in &self.0 {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket that nobody listens on is left from an agent that was killed.
fn remove_dead_socket(path: &Path) -> Result<(), AgentError> {
    let failed = |source| AgentError::Path { path: path.to_owned(), source };
    if !path.exists() {
        return Ok(());
    }
    if path.ends_with("control.sock") && somebody_listens(path).map_err(failed)? {
        return Err(AgentError::InUse(path.to_owned()));
    }
    std::fs::remove_file(path).map_err(failed)
}

/// Whether a socket has a listener, be it one that takes nobody. It does not wait for that.
fn somebody_listens(path: &Path) -> io::Result<bool> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        // Its queue is full.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(_) => Ok(false),
    }
}

fn wait_readable(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut watched = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: one entry, as we say. The wait ends when whoever started us says so, or is gone.
        if unsafe { libc::poll(&raw mut watched, 1, -1) } >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn accept_control(agent: &Arc<Agent>, listener: &UnixListener) {
    let places = Places::new(CONTROLS_MAX);
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::ECONNABORTED) => continue,
                // Out of descriptors or memory: some will be given back.
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    std::thread::sleep(ACCEPT_PAUSE);
                    continue;
                }
                // The agent ends.
                _ => return,
            },
        };
        if !credentials::are_ours(stream.as_fd()) {
            continue;
        }
        let Some(place) = places.take() else {
            control::refuse(
                stream,
                &format!("this agent has {CONTROLS_MAX} control connections, and takes no more"),
            );
            continue;
        };
        let agent = agent.clone();
        let serve = move || {
            control::serve(&agent, stream);
            drop(place);
        };
        if let Err(error) = std::thread::Builder::new().name("control".into()).spawn(serve) {
            eprintln!("megalith agent: no thread for a control connection: {error}");
        }
    }
}

fn accept_clients(agent: &Arc<Agent>, listener: &ClientListener) {
    let places = Places::new(CLIENTS_MAX);
    while let Some(connection) = listener.accept() {
        if !credentials::are_ours(connection.as_fd()) {
            continue;
        }
        let Some(place) = places.take() else {
            clients::refuse(&connection, libc::EAGAIN);
            continue;
        };
        let agent = agent.clone();
        let serve = move || {
            clients::serve(connection, |id| agent.machine(id));
            drop(place);
        };
        if let Err(error) = std::thread::Builder::new().name("client".into()).spawn(serve) {
            eprintln!("megalith agent: no thread for a client: {error}");
        }
    }
}

fn room_beside(machines: &HashMap<MachineId, Kept>) -> Result<(), String> {
    if machines.len() < MACHINES_MAX {
        Ok(())
    } else {
        Err(format!("this agent has {MACHINES_MAX} machines, and takes no more"))
    }
}

impl Agent {
    /// The host's budget.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The fabric's listener, until the agent ends.
    pub fn listener(&self) -> Option<Arc<Listener>> {
        self.listener.lock().clone()
    }

    /// A machine by its id.
    pub fn machine(&self, id: MachineId) -> Option<Arc<Machine>> {
        self.machines.lock().get(&id).map(|k| k.machine.clone())
    }

    /// Makes this host's part of a machine that it opens itself.
    ///
    /// # Errors
    /// In one line, when the machine is open already, there are [`MACHINES_MAX`], or there is no memory for its tables.
    pub fn make(&self, invitation: Invitation) -> Result<(Arc<Machine>, Receiver<End>), String> {
        let id = invitation.machine;
        self.check_room()?;
        let (sender, receiver) = mpsc::channel();
        let machine = Machine::new(invitation, self.budget.clone(), self.nursery.clone(), sender)
            .map_err(|e| e.to_string())?;
        self.keep(id, machine.clone(), None)?;
        Ok((machine, receiver))
    }

    /// Whether there is room for one more, before it is made; [`Agent::keep`] has the last word.
    fn check_room(&self) -> Result<(), String> {
        room_beside(&self.machines.lock())
    }

    fn keep(&self, id: MachineId, machine: Arc<Machine>, ends: Option<Receiver<End>>) -> Result<(), String> {
        let mut machines = self.machines.lock();
        let refusal = match room_beside(&machines) {
            Ok(()) if machines.contains_key(&id) => format!("machine {id} is open already"),
            Ok(()) => {
                machines.insert(id, Kept { machine, ends });
                return Ok(());
            }
            Err(full) => full,
        };
        drop(machines);
        machine.end(End::Closed);
        Err(refusal)
    }

    /// Takes a machine away: ends it, says goodbye to the other hosts, frees its memory.
    pub fn remove(&self, id: MachineId) {
        let kept = self.machines.lock().remove(&id);
        if let Some(kept) = kept {
            kept.machine.end(End::Closed);
            if let Some(fabric) = kept.machine.fabric() {
                fabric.shutdown();
            }
            kept.machine.wait_for_bodies();
        }
    }

    fn stop(&self) {
        let ids: Vec<MachineId> = self.machines.lock().keys().copied().collect();
        for id in ids {
            self.remove(id);
        }
        let listener = self.listener.lock().take();
        if let Some(listener) = listener {
            listener.shutdown();
        }
    }
}

impl Host for Agent {
    fn name(&self) -> &str {
        &self.name
    }

    fn join(&self, invitation: &Invitation) -> Result<Arc<dyn Inbox>, String> {
        self.check_room()?;
        let (sender, receiver) = mpsc::channel();
        let machine = Machine::new(invitation.clone(), self.budget.clone(), self.nursery.clone(), sender)
            .map_err(|e| e.to_string())?;
        let inbox = Arc::new(Mailbox(Arc::downgrade(&machine)));
        self.keep(invitation.machine, machine, Some(receiver))?;
        Ok(inbox)
    }

    fn channel(&self, id: MachineId, from: HostId, words: [u64; 4]) -> Result<TakeChannel, String> {
        let machine = self.machine(id).ok_or_else(|| format!("machine {id} is not here"))?;
        machine.channel(from, words)
    }

    fn stranger(&self, address: IpAddr, reason: &str) {
        eprintln!("megalith agent: {address} was not let in: {reason}");
    }

    fn joined(&self, id: MachineId, fabric: Arc<TcpMesh>) {
        let mut machines = self.machines.lock();
        let Some(kept) = machines.get_mut(&id) else { return };
        let (machine, ends) = (kept.machine.clone(), kept.ends.take());
        drop(machines);
        machine.set_mesh(fabric);
        let Some(ends) = ends else { return };
        let Some(agent) = self.me.upgrade() else { return };
        let name = format!("machine {id}");
        let spawned =
            std::thread::Builder::new().name(name).spawn(move || keep_until_end(&agent, id, &machine, &ends));
        if let Err(error) = spawned {
            eprintln!("megalith agent: no thread for machine {id}: {error}");
        }
    }
}

/// On hosts other than home: sends figures at every heartbeat until the machine ends, then removes it.
fn keep_until_end(agent: &Agent, id: MachineId, machine: &Machine, ends: &Receiver<End>) {
    let heartbeat = machine.invitation.settings.heartbeat.max(Duration::from_millis(10));
    while let Err(RecvTimeoutError::Timeout) = ends.recv_timeout(heartbeat) {
        machine.send_figures();
    }
    agent.remove(id);
}
