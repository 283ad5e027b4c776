//! A process and its space on this host: the program's own process at home, or its body process elsewhere.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use client::{ChannelKind, Op, PAGE_BYTES, Reply, Request, SHARED_BYTES, SHARED_START, SPACE_END};
use coherence::HostId;
use fabric::FabricError;
use pager::{Memfd, Source, SpaceId, SpaceMemory, Uffd};

use super::faults;
use super::held::held;
use super::socket::{Connection, Peer, check};
use crate::machine::Machine;
use crate::state::home_of;

/// What a process is to its space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The program's process; a space of its own begins and ends with it.
    Home,
    /// The body process of a space that another host's process has opened.
    Body(SpaceId),
    /// One of the processes of a shared space, which goes on without it.
    Attached(SpaceId),
}

/// One client's space, for as long as it is connected.
pub struct Session {
    machine: Arc<Machine>,
    role: Role,
    peer: Peer,
    space: SpaceId,
    memory: Arc<SpaceMemory>,
    uffd: Arc<Uffd>,
    connection: Arc<Connection>,
    /// Written to end the thread that serves faults.
    stop: Arc<OwnedFd>,
    faults: Option<std::thread::JoinHandle<()>>,
}

impl Session {
    /// Opens the space here.
    ///
    /// # Errors
    /// `EINVAL` for a body process of a space that is no other host's, `EEXIST` for a second one of a space, `ENOENT` when
    /// space or machine have ended or the space is not shared, `ENOSPC` when the machine has had as many spaces of this host as it can have; those of
    /// the calls that make memfd, eventfd and thread.
    pub fn begin(
        machine: Arc<Machine>,
        role: Role,
        peer: Peer,
        uffd: Uffd,
        connection: &Arc<Connection>,
    ) -> io::Result<Self> {
        if let Role::Body(space) = role {
            let home = home_of(space);
            if home == machine.invitation.me || usize::from(home.0) >= machine.invitation.members.len() {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
        }
        let uffd = Arc::new(uffd);
        // SAFETY: a plain system call.
        let stop = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
        // SAFETY: the descriptor was just made and is nobody else's.
        let stop = Arc::new(unsafe { OwnedFd::from_raw_fd(stop) });
        let (space, memory) = match role {
            Role::Home => {
                let space = machine.new_space().ok_or(io::Error::from_raw_os_error(libc::ENOSPC))?;
                (space, Self::open(&machine, space, &uffd, false)?)
            }
            Role::Body(space) => (space, Self::open(&machine, space, &uffd, true)?),
            Role::Attached(space) => (space, machine.attach(space, &uffd, connection)?),
        };
        let spread = machine.lock().watch_spread(space);
        let faults = std::thread::Builder::new().name(format!("faults {}", space.0)).spawn({
            let (machine, stop) = (machine.clone(), stop.clone());
            let (uffd, peer, connection) = (uffd.clone(), peer.clone(), connection.clone());
            move || faults::serve(&machine, space, &uffd, &stop, &spread, (&peer, &connection))
        });
        let faults = match faults {
            Ok(faults) => Some(faults),
            Err(error) => {
                machine.detach(&uffd, &memory, connection);
                return Err(error);
            }
        };
        if role != Role::Home {
            machine.joined.lock().push(peer.pid);
        }
        let connection = connection.clone();
        let session = Self { machine, role, peer, space, memory, uffd, connection, stop, faults };
        if matches!(role, Role::Attached(_)) {
            return Ok(session);
        }
        if !session.machine.add_client(&session.peer.pidfd) {
            // It ended between the look-up and now, and has not seen this client.
            session.finish();
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        Ok(session)
    }

    /// Makes the memory of a space that is one process's here.
    fn open(
        machine: &Machine,
        space: SpaceId,
        uffd: &Arc<Uffd>,
        spread: bool,
    ) -> io::Result<Arc<SpaceMemory>> {
        let memory = Arc::new(SpaceMemory::new()?);
        memory.add_client(uffd.clone());
        let mut state = machine.lock();
        if state.is_closed(space) {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        if state.pager.space(space).is_some() {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        state.pager.open(space, memory.clone());
        if spread {
            state.spread(space);
        }
        Ok(memory)
    }

    /// What the reply to the first packet says.
    pub fn values(&self) -> [u64; 4] {
        match self.role {
            Role::Body(_) => [0; 4],
            Role::Attached(_) => {
                [SHARED_START, SHARED_BYTES, self.machine.invitation.members.len() as u64, 0]
            }
            Role::Home => {
                let state = self.machine.lock();
                let others = state.others.iter().flatten().filter_map(|f| f["budget"].as_u64());
                // What other hosts say is theirs to say, and may be anything.
                let bytes = others.fold(self.machine.budget.limit(), u64::saturating_add);
                [u64::from(self.space.0), bytes, self.machine.invitation.members.len() as u64, 0]
            }
        }
    }

    /// The space's memory, which the client maps.
    pub fn memfd(&self) -> &Memfd {
        self.memory.memfd()
    }

    /// Answers until the client closes.
    pub fn serve(&self) {
        while let Ok(Some((request, descriptor))) = self.connection.receive() {
            let (status, answer) = match self.answer(&request, descriptor) {
                Ok(answer) => (0, answer),
                Err(errno) => (-i64::from(errno), None),
            };
            let answer = answer.as_ref().map(AsFd::as_fd);
            if self.connection.reply(Reply { status, values: [0; 4] }, answer).is_err() {
                break;
            }
        }
    }

    fn answer(&self, request: &Request, descriptor: Option<OwnedFd>) -> Result<Option<OwnedFd>, i32> {
        let is = |op: Op| request.op == op as u64;
        if let Role::Attached(space) = self.role {
            return self.answer_attached(space, request, descriptor);
        }
        let home = self.role == Role::Home;
        if home && is(Op::Channel) {
            return self.channel(request.args).map(Some);
        }
        let (start, len, at) = range(request)?;
        match descriptor {
            None if home && is(Op::Discard) => self.machine.discard(self.space, start, len, None)?,
            None if home && is(Op::Clear) => self.machine.discard(self.space, start, len, Some(None))?,
            Some(file) if home && is(Op::Back) && at % PAGE_BYTES == 0 => {
                let source = Source::File { file: Arc::new(File::from(file)), offset: at };
                self.machine.discard(self.space, start, len, Some(Some(source)))?;
            }
            None if !home && is(Op::BackFromHome) => self.back(start, len, Some(Source::Home)),
            None if !home && is(Op::Unback) => self.back(start, len, None),
            _ => return Err(libc::EINVAL),
        }
        Ok(None)
    }

    /// What an attached process asks: of its space's home host alone, but for [`Op::Held`].
    fn answer_attached(
        &self,
        space: SpaceId,
        request: &Request,
        descriptor: Option<OwnedFd>,
    ) -> Result<Option<OwnedFd>, i32> {
        if descriptor.is_some() {
            return Err(libc::EINVAL);
        }
        if request.op == Op::Held as u64 {
            let (start, len, _) = range(request)?;
            return held(&self.machine, space, start, len).map(Some);
        }
        if home_of(space) != self.machine.invitation.me {
            return Err(libc::EPERM);
        }
        if request.op == Op::Worker as u64 {
            return self.machine.start_worker(space, request.args[0]).map(Some);
        }
        let (start, len, _) = range(request)?;
        let within = start >= SHARED_START && start + len <= SHARED_START + SHARED_BYTES;
        if request.op != Op::Discard as u64 || !within {
            return Err(libc::EINVAL);
        }
        self.machine.discard(space, start, len, None).map(|()| None)
    }

    fn back(&self, start: u64, len: u64, source: Option<Source>) {
        self.machine.lock().pager.back(self.space, start, len, source);
    }

    /// Connects the program's process with its body process on another host.
    fn channel(&self, args: [u64; 4]) -> Result<OwnedFd, i32> {
        let [host, kind, ..] = args;
        let me = self.machine.invitation.me;
        let to = u16::try_from(host).map(HostId).map_err(|_| libc::EINVAL)?;
        let member = self.machine.invitation.members.get(usize::from(to.0)).ok_or(libc::EINVAL)?;
        if to == me || kind > ChannelKind::Thread as u64 {
            return Err(libc::EINVAL);
        }
        let Some(mesh) = self.machine.mesh() else { return Err(libc::EIO) };
        // Before anybody there can touch a page.
        self.machine.lock().spread(self.space);
        match mesh.open_channel(to, [u64::from(self.space.0), kind, 0, 0]) {
            Ok(socket) => Ok(socket),
            Err(error) => {
                eprintln!("megalith agent: no channel to host {}: {error}", member.name);
                Err(match error {
                    FabricError::Refused { .. } => libc::ECONNREFUSED,
                    _ => libc::EHOSTUNREACH,
                })
            }
        }
    }

    /// The client has closed.
    pub fn finish(mut self) {
        self.machine.remove_client(&self.peer.pidfd);
        // SAFETY: eight bytes that live on.
        unsafe { libc::write(self.stop.as_raw_fd(), (&raw const ONE).cast(), 8) };
        if self.faults.take().is_some_and(|faults| faults.join().is_err()) {
            eprintln!("megalith agent: the thread that serves faults of space {} ended badly", self.space.0);
        }
        match self.role {
            Role::Home => self.machine.close_space(self.space),
            Role::Attached(space) => {
                self.machine.joined.lock().retain(|&pid| pid != self.peer.pid);
                self.leave(space);
            }
            Role::Body(space) => {
                self.machine.joined.lock().retain(|&pid| pid != self.peer.pid);
                self.machine.body_ended(space);
            }
        }
    }
}

impl Session {
    /// An attached process has closed, or is dead, or its space has ended.
    fn leave(&self, space: SpaceId) {
        let machine = &self.machine;
        let goes_on = !machine.has_ended() && !machine.lock().is_closed(space);
        if goes_on && self.uffd.is_registered(SHARED_START) {
            // It has closed all its descriptors, say, and still maps the space. When our userfaultfd is closed, it would find there
            // whatever this host happens to have.
            eprintln!(
                "megalith agent: process {} maps space {} and has hung up: killed",
                self.peer.pid, space.0
            );
            self.peer.kill();
        }
        machine.detach(&self.uffd, &self.memory, &self.connection);
    }
}

/// How long a process that is killed may take to die.
const KILL_TIMEOUT_MS: i32 = 5000;

impl Peer {
    /// Kills the process, and waits until it runs no more.
    fn kill(&self) {
        let mut watched = libc::pollfd { fd: self.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: plain system calls on a pidfd that we hold open, and one entry, as we say.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            );
            libc::poll(&raw mut watched, 1, KILL_TIMEOUT_MS);
        }
    }
}

static ONE: u64 = 1;

/// The range that a request names: whole pages of the space, and the operand behind it.
pub fn range(request: &Request) -> Result<(u64, u64, u64), i32> {
    let [start, len, at, _] = request.args;
    let within = start.checked_add(len).is_some_and(|end| end <= SPACE_END);
    if !within || len == 0 || start % PAGE_BYTES != 0 || len % PAGE_BYTES != 0 {
        return Err(libc::EINVAL);
    }
    Ok((start, len, at))
}
