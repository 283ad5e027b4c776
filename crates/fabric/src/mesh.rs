//! One machine's links over TCP.
//!
//! Threads of a mesh of `n` hosts: `n - 1` readers (`fabric-rx-N`), `n - 1` I/O threads (`fabric-tx-N`), on a member
//! the one that watches the join timeout (`fabric-join`), and for a while one dialer for each higher host.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use coherence::HostId;

use crate::channel;
use crate::deadline::Deadline;
use crate::error::{FabricError, KINDS, Lost};
use crate::frame::Kind;
use crate::handshake;
use crate::invitation::{ClusterId, HOME, Invitation};
use crate::link::{BACKLOG_BYTES_MAX, Counters, Link};
use crate::listener::{Listener, Shared};
use crate::phase::{LinkState, Phase};
use crate::reader::{self, End};
use crate::registry::Entry;
use crate::stream::Stream;
use crate::sync::{lock, wait};
use crate::tls::Keys;
use crate::wire;
use crate::{Fabric, Inbox, Traffic};

/// How long `shutdown` waits for peers to take the last bytes and the goodbye.
const LINGER: Duration = Duration::from_secs(1);

/// One machine's links over TCP. Dropping it is [`Fabric::shutdown`].
pub struct TcpMesh {
    core: Arc<Core>,
}

/// What the threads of a mesh share.
pub(crate) struct Core {
    pub(crate) invitation: Invitation,
    pub(crate) counters: Arc<Counters>,
    shared: Arc<Shared>,
    /// By host; `None` is this host.
    links: Vec<Option<Arc<Link>>>,
    phase: Mutex<Phase>,
    changed: Condvar,
    closed: AtomicBool,
    /// By host: lost or goodbye has been told.
    told: Vec<AtomicBool>,
    /// Taken at shutdown, so that an inbox that owns its mesh is freed.
    inbox: Mutex<Option<Arc<dyn Inbox>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl TcpMesh {
    /// Home's side (host 0): dials every other member, who dial each other; returns when the full mesh stands.
    ///
    /// Ends at the first failure or at the join timeout; then everybody who joined is told, and nothing is left.
    pub fn open(
        listener: &Listener,
        invitation: Invitation,
        inbox: Arc<dyn Inbox>,
    ) -> Result<Arc<TcpMesh>, FabricError> {
        invitation.check().map_err(|reason| FabricError::Invitation { reason })?;
        if invitation.me != HOME {
            let reason = format!("home is the first member, not number {}", invitation.me.0);
            return Err(FabricError::Invitation { reason });
        }
        let (home, actual) = (&invitation.member(HOME).name, listener.shared.host.name());
        if home != actual {
            return Err(FabricError::Name {
                host: home.clone(),
                expected: home.clone(),
                actual: actual.to_owned(),
            });
        }
        let settings = invitation.settings;
        let deadline = Deadline::after(settings.join_timeout);
        let machine = invitation.machine;
        let Entry::New = listener.shared.registry.enter(machine, Deadline::after(Duration::ZERO)) else {
            return Err(FabricError::Invitation { reason: format!("machine {machine} is already here") });
        };
        let mesh = match TcpMesh::new(&listener.shared, invitation, inbox) {
            Ok(mesh) => mesh,
            Err(error) => {
                listener.shared.registry.settle(machine, None);
                return Err(FabricError::Invitation {
                    reason: format!("this host has not what it takes: {error}"),
                });
            }
        };
        listener.shared.registry.settle(machine, Some(mesh.core.clone()));
        mesh.core.dial(deadline);
        match mesh.core.stand(deadline) {
            Ok(()) => Ok(mesh),
            Err(error) => {
                mesh.shutdown();
                Err(error)
            }
        }
    }

    /// A mesh without links.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        invitation: Invitation,
        inbox: Arc<dyn Inbox>,
    ) -> io::Result<Arc<TcpMesh>> {
        let (hosts, me) = (invitation.hosts(), invitation.me);
        let counters = Arc::new(Counters::default());
        let link =
            |host| Link::new(host, invitation.epoch, counters.clone(), BACKLOG_BYTES_MAX).map(Arc::new);
        let links = (0..hosts)
            .map(HostId)
            .map(|host| (host != me).then(|| link(host)).transpose())
            .collect::<Result<_, _>>()?;
        let core = Core {
            counters: counters.clone(),
            shared: shared.clone(),
            links,
            phase: Mutex::new(Phase::new(hosts, me)),
            changed: Condvar::new(),
            closed: AtomicBool::new(false),
            told: (0..hosts).map(|_| AtomicBool::new(false)).collect(),
            inbox: Mutex::new(Some(inbox)),
            threads: Mutex::new(Vec::new()),
            invitation,
        };
        Ok(Arc::new(TcpMesh { core: Arc::new(core) }))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// A connection of its own to `to`, whose agent gives the other end to whom `words` say ([`crate::Host::channel`]): a
    /// stream socket, TCP's own or, with keys, one of a pair. Waits at most the join timeout.
    ///
    /// # Errors
    /// As when a link is made: nobody there, or the agent there refuses.
    ///
    /// # Panics
    /// If `to` is this host or none.
    pub fn open_channel(&self, to: HostId, words: [u64; 4]) -> Result<OwnedFd, FabricError> {
        channel::dial(&self.core, to, words)
    }

    /// The socket of the link with `to`, to ask the kernel about; `None` for this host, and before the link stands.
    pub fn link_socket(&self, to: HostId) -> Option<BorrowedFd<'_>> {
        let link = self.core.links.get(usize::from(to.0))?.as_ref()?;
        link.stream().map(|stream| stream.socket().as_fd())
    }
}

impl Drop for TcpMesh {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Fabric for TcpMesh {
    fn me(&self) -> HostId {
        self.core.invitation.me
    }

    fn hosts(&self) -> u16 {
        self.core.invitation.hosts()
    }

    fn send(&self, to: HostId, parts: &[&[u8]]) {
        self.core.link(to).push(Kind::Message, parts);
    }

    fn flush(&self) {
        for link in self.core.links.iter().flatten() {
            link.flush();
        }
    }

    fn backlog(&self, to: HostId) -> usize {
        self.core.link(to).backlog()
    }

    fn traffic(&self) -> Traffic {
        let Counters { sent, received } = &*self.core.counters;
        Traffic { sent: sent.load(Ordering::Relaxed), received: received.load(Ordering::Relaxed) }
    }

    fn shutdown(&self) {
        self.core.shutdown();
    }
}

impl Core {
    fn link(&self, host: HostId) -> &Arc<Link> {
        match self.links.get(usize::from(host.0)) {
            Some(Some(link)) => link,
            _ => panic!("host {} has no link to host {}", self.invitation.me.0, host.0),
        }
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        self.shared.cluster
    }

    pub(crate) fn keys(&self) -> Option<&Keys> {
        self.shared.keys.as_deref()
    }

    #[cfg(test)]
    pub(crate) fn stream(&self, host: HostId) -> &Stream {
        self.link(host).stream().expect("it stands")
    }

    /// Waits until the machine stands. False if it does not until then, or is closed.
    pub(crate) fn stands_within(&self, deadline: Deadline) -> bool {
        let mut phase = lock(&self.phase);
        while !phase.stands && !phase.closed {
            let Some(left) = deadline.left() else { return false };
            phase = wait(&self.changed, phase, left);
        }
        !phase.closed
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn name(&self, host: HostId) -> String {
        self.invitation.member(host).name.clone()
    }

    /// Dials every higher host, each from a thread of its own: a name server may keep one waiting for long.
    pub(crate) fn dial(self: &Arc<Self>, deadline: Deadline) {
        for host in (self.invitation.me.0 + 1..self.invitation.hosts()).map(HostId) {
            let core = self.clone();
            let dial = move || {
                let linked = handshake::dial(&core, host, deadline).and_then(|stream| {
                    core.attach(host, stream).map_err(|source| core.unreachable(host, source))
                });
                if let Err(error) = linked {
                    core.cannot_link(host, error);
                }
            };
            let spawned = thread::Builder::new().name(format!("fabric-dial-{}", host.0)).spawn(dial);
            if let Err(source) = spawned {
                self.cannot_link(host, self.unreachable(host, source));
            }
        }
    }

    pub(crate) fn unreachable(&self, host: HostId, source: io::Error) -> FabricError {
        FabricError::Unreachable {
            host: self.name(host),
            address: self.invitation.member(host).address.clone(),
            source,
        }
    }

    /// This host has failed to link with `host`: home gives up, a member tells home.
    fn cannot_link(&self, host: HostId, error: FabricError) {
        if self.invitation.me == HOME {
            self.give_up(error);
        } else {
            let kind = KINDS.iter().position(|kind| *kind == error.kind()).unwrap_or(0) as u8;
            let text = error.to_string();
            let home = self.link(HOME);
            home.push(Kind::Failed, &[&host.0.to_le_bytes(), &[kind], wire::cut(&text).as_bytes()]);
            home.flush();
        }
    }

    fn give_up(&self, error: FabricError) {
        lock(&self.phase).failure.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Waits until every host is ready, then tells them.
    fn stand(&self, deadline: Deadline) -> Result<(), FabricError> {
        let mut phase = lock(&self.phase);
        loop {
            if let Some(failure) = phase.failure.take() {
                return Err(failure);
            }
            if phase.all_ready() {
                break;
            }
            let Some(left) = deadline.left() else {
                let (host, step) = phase.laggard().unwrap_or((HOME, "did not start"));
                let member = self.invitation.member(host);
                return Err(FabricError::Timeout {
                    host: member.name.clone(),
                    address: member.address.clone(),
                    after: self.invitation.settings.join_timeout,
                    step,
                });
            };
            phase = wait(&self.changed, phase, left);
        }
        phase.stands = true;
        drop(phase);
        for link in self.links.iter().flatten() {
            link.push(Kind::Stands, &[]);
            link.flush();
        }
        Ok(())
    }

    /// On a member: watches that the machine stands in time.
    pub(crate) fn watch(self: &Arc<Self>, deadline: Deadline) -> io::Result<()> {
        let core = self.clone();
        let watch = move || {
            let mut phase = lock(&core.phase);
            while !phase.stands && !phase.closed {
                let Some(left) = deadline.left() else {
                    drop(phase);
                    return core.tell_lost(HOME, Lost::NotJoined(core.invitation.settings.join_timeout));
                };
                phase = wait(&core.changed, phase, left);
            }
        };
        let handle = thread::Builder::new().name("fabric-join".into()).spawn(watch)?;
        lock(&self.threads).push(handle);
        Ok(())
    }

    /// Keeps the place of `host`'s link for the caller, who is answering its handshake.
    pub(crate) fn reserve(&self, host: HostId) -> Result<(), String> {
        let mut phase = lock(&self.phase);
        let state = &mut phase.links[usize::from(host.0)];
        if *state != LinkState::Absent {
            return Err(format!("host number {} is linked already", host.0));
        }
        *state = LinkState::Taken;
        if phase.closed { Err("the machine is closing here".into()) } else { Ok(()) }
    }

    /// Gives the place back: the answer did not get through.
    pub(crate) fn release(&self, host: HostId) {
        lock(&self.phase).links[usize::from(host.0)] = LinkState::Absent;
    }

    /// Makes `stream` the link with `host` and starts its threads.
    pub(crate) fn attach(self: &Arc<Self>, host: HostId, stream: Stream) -> io::Result<()> {
        handshake::tune(stream.socket(), self.invitation.settings)?;
        let link = self.link(host);
        let inbox = lock(&self.inbox).clone().ok_or(io::ErrorKind::NotConnected)?;
        let mut phase = lock(&self.phase);
        if phase.closed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        link.stand(stream);
        let started = self.start(link, inbox, &mut phase);
        if let Err(error) = started {
            link.close();
            return Err(error);
        }
        phase.links[usize::from(host.0)] = LinkState::Linked;
        let all_linked = phase.all_linked();
        drop(phase);
        self.changed.notify_all();
        link.flush();
        if all_linked && self.invitation.me != HOME {
            let home = self.link(HOME);
            home.push(Kind::Ready, &[]);
            home.flush();
        }
        Ok(())
    }

    fn start(self: &Arc<Self>, link: &Arc<Link>, inbox: Arc<dyn Inbox>, phase: &mut Phase) -> io::Result<()> {
        let writer = {
            let (link, heartbeat, inbox) = (link.clone(), self.invitation.settings.heartbeat, inbox.clone());
            thread::Builder::new()
                .name(format!("fabric-tx-{}", link.host.0))
                .spawn(move || link.run(heartbeat, |time| inbox.gets_on(time)))?
        };
        lock(&self.threads).push(writer);
        let reader = {
            let (core, link, name) = (self.clone(), link.clone(), format!("fabric-rx-{}", link.host.0));
            let read = move || {
                let end = reader::read(&core, &link, &inbox);
                link.close();
                core.ended(&link, end);
                lock(&core.phase).readers.remove(&thread::current().id());
                core.changed.notify_all();
            };
            thread::Builder::new().name(name).spawn(read)?
        };
        phase.readers.insert(reader.thread().id());
        lock(&self.threads).push(reader);
        Ok(())
    }

    /// The stream of `link` has ended.
    fn ended(&self, link: &Link, end: End) {
        match end {
            End::Lost(reason) => self.tell_lost(link.host, reason),
            End::Goodbye => {
                let early = !lock(&self.phase).stands && (link.host == HOME || self.invitation.me == HOME);
                if early {
                    self.tell_lost(link.host, Lost::Withdrawn);
                } else if let Some(inbox) = self.may_tell(link.host) {
                    inbox.goodbye(link.host);
                }
            }
        }
    }

    /// Tells of a loss: to whoever opens the machine before it stands at home, else to the inbox, once.
    pub(crate) fn tell_lost(&self, host: HostId, reason: Lost) {
        if self.is_closed() {
            return;
        }
        let lost = FabricError::Lost { host: self.name(host), reason: reason.clone() };
        {
            let mut phase = lock(&self.phase);
            if !phase.stands && self.invitation.me == HOME {
                phase.failure.get_or_insert(lost);
                return self.changed.notify_all();
            }
            if !phase.stands && host != HOME {
                drop(phase);
                self.cannot_link(host, lost);
            }
        }
        if let Some(inbox) = self.may_tell(host) {
            inbox.lost(host, reason);
        }
    }

    /// The inbox, if the end of `host` has not been told and the mesh is not closed.
    fn may_tell(&self, host: HostId) -> Option<Arc<dyn Inbox>> {
        let told = self.is_closed() || self.told[usize::from(host.0)].swap(true, Ordering::Relaxed);
        if told { None } else { lock(&self.inbox).clone() }
    }

    /// `from` says that all its links stand.
    pub(crate) fn ready(&self, from: HostId) {
        lock(&self.phase).ready[usize::from(from.0)] = true;
        self.changed.notify_all();
    }

    /// `from` says that it cannot link with somebody.
    pub(crate) fn failed(&self, from: HostId, payload: &[u8]) {
        let Some((host, kind, detail)) = wire::decode_failed(payload) else { return };
        if self.invitation.me == HOME && host.0 < self.invitation.hosts() {
            let (by, host) = (self.name(from), self.name(host));
            self.give_up(FabricError::Between { by, host, kind, detail });
        }
    }

    /// `from` says that the machine stands.
    pub(crate) fn stands(&self, from: HostId) {
        if from == HOME {
            lock(&self.phase).stands = true;
            self.changed.notify_all();
        }
    }

    pub(crate) fn shutdown(&self) {
        {
            let mut phase = lock(&self.phase);
            if phase.closed {
                return;
            }
            phase.closed = true;
            self.closed.store(true, Ordering::Relaxed);
        }
        self.changed.notify_all();
        self.shared.registry.leave(self.invitation.machine, self);
        for link in self.links.iter().flatten() {
            link.goodbye();
        }
        self.linger();
        for link in self.links.iter().flatten() {
            link.close();
        }
        let threads = std::mem::take(&mut *lock(&self.threads));
        for handle in threads {
            // A thread that shuts down from within an inbox call ends when that call returns.
            if handle.thread().id() != thread::current().id() {
                // An error is that thread's panic, which has been printed.
                let _ = handle.join();
            }
        }
        let inbox = lock(&self.inbox).take();
        drop(inbox);
    }

    /// Waits until every peer has closed its side (it has our goodbye), at most `LINGER`.
    fn linger(&self) {
        let deadline = Deadline::after(LINGER);
        let me = thread::current().id();
        let mut phase = lock(&self.phase);
        while phase.readers.iter().any(|reader| *reader != me) {
            let Some(left) = deadline.left() else { return };
            phase = wait(&self.changed, phase, left);
        }
    }
}
