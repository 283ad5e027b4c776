//! A machine's spaces: their body processes on this host, what is freed of them everywhere, and their end.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use client::ChannelKind;
use coherence::{HostId, PageId, RegionId};
use fabric::{Fabric, FabricError, TakeChannel};
use pager::{Bug, PAGE, Source, SpaceId, SpaceMemory, Uffd, offset};
use parking_lot::MutexGuard;

use super::{BODIES_TIMEOUT, End, Machine};
use crate::bodies::Ending;
use crate::clients::Connection;
use crate::state::{State, home_of};
use crate::wire;

/// A range that is being freed on all hosts.
pub(crate) struct Discard {
    space: SpaceId,
    start: u64,
    len: u64,
    /// What is still to be said to the pager.
    source: Option<Option<Source>>,
    pages: Range<PageId>,
    /// Regions whose pages are still to be discarded here.
    regions: std::vec::IntoIter<RegionId>,
    /// Pages of which copies may be left.
    going: Vec<PageId>,
    /// By which other hosts' answers are known.
    token: Option<u32>,
}

impl Machine {
    /// Opens a space whose life is the machine's, on its home host: processes of every host may attach to it.
    ///
    /// # Errors
    /// `ENOSPC` when there have been too many spaces, those of making a memfd, `EIO` when the machine has ended.
    pub fn open_shared(&self) -> io::Result<SpaceId> {
        let space = self.new_space().ok_or(io::Error::from_raw_os_error(libc::ENOSPC))?;
        self.share(space).map(|_| space)
    }

    /// Ends a shared space of this host; any other number is no such space's.
    pub fn close_shared(&self, space: SpaceId) {
        if home_of(space) == self.invitation.me && self.lock().is_shared(space) {
            self.close_space(space);
        }
    }

    /// A shared space's memory here.
    ///
    /// # Errors
    /// Those of making a memfd; `EIO` when the machine has ended, `ENOENT` when the space has.
    fn share(&self, space: SpaceId) -> io::Result<Arc<SpaceMemory>> {
        let mut state = self.lock();
        // Under the lock: what is shared before the machine's end is withdrawn with it.
        let errno = if self.has_ended() {
            libc::EIO
        } else if state.is_closed(space) {
            libc::ENOENT
        } else {
            return state.share(space);
        };
        Err(io::Error::from_raw_os_error(errno))
    }

    /// A process attaches to a shared space: the space's memory here, of which it is a client from now on.
    ///
    /// # Errors
    /// As [`Machine::open_shared`]; `ENOENT` also for a space of this host that is not shared, or of a host that is not there.
    pub fn attach(
        &self,
        space: SpaceId,
        client: &Arc<Uffd>,
        connection: &Arc<Connection>,
    ) -> io::Result<Arc<SpaceMemory>> {
        let home = home_of(space);
        let is_own = home == self.invitation.me;
        let known = match self.lock().is_shared(space) {
            false if is_own => false,
            shared => shared || usize::from(home.0) < self.invitation.members.len(),
        };
        if !known {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        let memory = self.share(space)?;
        memory.add_client(client.clone());
        self.attached.lock().push((space, connection.clone()));
        if self.has_ended() || self.lock().is_closed(space) {
            // It may not have been among those that were hung up on.
            self.detach(client, &memory, connection);
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        Ok(memory)
    }

    /// An attached process maps its space no more.
    pub fn detach(&self, client: &Arc<Uffd>, memory: &SpaceMemory, connection: &Arc<Connection>) {
        memory.remove_client(client.id());
        self.attached.lock().retain(|(_, other)| !Arc::ptr_eq(other, connection));
    }

    /// Hangs up on the processes that are attached to a space, or to any.
    pub(super) fn hang_up(&self, space: Option<SpaceId>) {
        let attached = self.attached.lock();
        attached
            .iter()
            .filter(|(of, _)| space.is_none_or(|space| *of == space))
            .for_each(|(_, c)| c.shutdown());
    }

    /// Starts a worker process on a host, for a process that is attached to a space of this host: the connection with it.
    ///
    /// # Errors
    /// `EINVAL` for a host that is not there, `ECONNREFUSED` or `EHOSTUNREACH` where there can be no worker; the reason is in the log of
    /// this agent or of that one.
    pub fn start_worker(self: &Arc<Self>, space: SpaceId, host: u64) -> Result<OwnedFd, i32> {
        let host = u16::try_from(host).map(HostId).map_err(|_| libc::EINVAL)?;
        let member = self.invitation.members.get(usize::from(host.0)).ok_or(libc::EINVAL)?;
        if host != self.invitation.me {
            let Some(mesh) = self.mesh() else { return Err(libc::EIO) };
            let words = [u64::from(space.0), ChannelKind::Worker as u64, 0, 0];
            return mesh.open_channel(host, words).map_err(|error| {
                eprintln!("megalith agent: no worker on host {}: {error}", member.name);
                match error {
                    FabricError::Refused { .. } => libc::ECONNREFUSED,
                    _ => libc::EHOSTUNREACH,
                }
            });
        }
        let pair = UnixStream::pair().and_then(|(near, far)| {
            self.workers.start(space, far.into())?;
            Ok(near.into())
        });
        pair.map_err(|error| {
            eprintln!("megalith agent: no worker on this host: {error}");
            libc::ECONNREFUSED
        })
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

    /// The program has freed a range of a space, and its pages read `source` from now on, if that is given. Returns when no
    /// host finds the old bytes.
    ///
    /// # Errors
    /// An errno: the machine has ended.
    #[allow(clippy::option_option, reason = "to leave what is there, to set it to nothing, to set it")]
    pub fn discard(
        &self,
        space: SpaceId,
        start: u64,
        len: u64,
        source: Option<Option<Source>>,
    ) -> Result<(), i32> {
        let mut discard = self.begin_discard(space, start, len, source);
        while let Some(mut waits) = self.go_on(&mut discard)? {
            // It ends with the answers of all hosts, or with the machine.
            self.over.wait(&mut waits);
        }
        Ok(())
    }

    /// The first step of [`Machine::discard`]; the others are [`Machine::go_on`].
    #[allow(clippy::option_option, reason = "as above")]
    pub(crate) fn begin_discard(
        &self,
        space: SpaceId,
        start: u64,
        len: u64,
        source: Option<Option<Source>>,
    ) -> Discard {
        let first = space.page(start);
        let pages = first..offset(first, len / PAGE as u64);
        let regions = self.lock().node.touched_regions(pages.clone()).into_iter();
        Discard { space, start, len, source, pages, regions, going: Vec::new(), token: None }
    }

    /// Does what can be done of a discard. Gives the lock if it must wait: then it is to be called again when `over` is signalled.
    ///
    /// # Errors
    /// An errno: the machine has ended.
    pub(crate) fn go_on(&self, discard: &mut Discard) -> Result<Option<MutexGuard<'_, State>>, i32> {
        let Some(fabric) = self.fabric() else { return Err(libc::EIO) };
        let Discard { space, pages, going, .. } = discard;
        // A program may free terabytes at once: let faults and signs of life in between, and messages out.
        for region in discard.regions.by_ref() {
            let discarded = self.lock().discard(region, pages, going, &**fabric);
            if let Err(violation) = discarded {
                self.violated(&violation);
                return Err(libc::EIO);
            }
            fabric.flush();
        }
        let mut state = self.lock();
        let token = match discard.token {
            Some(token) => token,
            None => {
                if let Some(source) = discard.source.take() {
                    state.pager.back(*space, discard.start, discard.len, source);
                }
                if !state.is_spread(*space) {
                    drop(state);
                    fabric.flush();
                    return Ok(None);
                }
                let token = state.begin_sweep(pages, &**fabric);
                fabric.flush();
                *discard.token.insert(token)
            }
        };
        if state.sweep_is_over(token, going) {
            return Ok(None);
        }
        if self.has_ended() { Err(libc::EIO) } else { Ok(Some(state)) }
    }

    /// Tells of the discards that have reached every host.
    pub(super) fn end_sweeps(&self, state: &mut State, fabric: &dyn Fabric) {
        state.end_sweeps(fabric);
        if state.has_sweepers() && !state.pager.planted.has(Bug::SweepUnsaid) {
            self.over.give();
        }
    }

    /// A space has been shut: what is held of it is freed, now or when its body process is no more.
    pub(super) fn free_space(&self, space: SpaceId) {
        self.workers.kill(space);
        if !self.bodies.kill(space) {
            self.lock().free_space(space);
        }
        self.hang_up(Some(space));
        self.over.give();
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
        if kind > ChannelKind::Worker as u64 {
            return Err(format!("there are no channels of kind {kind}"));
        }
        let ended = || format!("space {} has ended", space.0);
        if self.has_ended() || self.lock().is_closed(space) {
            return Err(ended());
        }
        let machine = self.clone();
        if kind == ChannelKind::Worker as u64 {
            self.workers.check()?;
            return Ok(Box::new(move |socket| {
                // Who waits for it sees the end of the connection.
                if let Err(error) = machine.workers.start(space, socket) {
                    eprintln!("megalith agent: a worker cannot be started: {error}");
                }
                if machine.has_ended() || machine.lock().is_closed(space) {
                    machine.workers.kill(space);
                }
            }));
        }
        let patience = self.invitation.settings.lost_after;
        let body = self
            .bodies
            .find_or_start(space, patience, move |ending| machine.body_reaped(space, ending))
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
    fn body_reaped(&self, space: SpaceId, ending: Ending) {
        self.bodies.forget(space);
        match ending {
            Ending::Stopped(time) if !self.lock().is_closed(space) => {
                let reason =
                    format!("the body process of the program was stopped for {} ms", time.as_millis());
                self.end(End::Lost { host: self.invitation.me, reason });
            }
            Ending::Stopped(_) => {}
            Ending::Status(status) if !self.body_ended(space) => {
                eprintln!("megalith agent: the body process of space {} ended: {status}", space.0);
            }
            Ending::Status(_) => {}
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
            if !self.over.wait_until(&mut state, deadline) {
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
        if !self.workers.wait(BODIES_TIMEOUT) {
            eprintln!("megalith agent: a worker of machine {} does not end", self.invitation.machine);
        }
        if !self.bodies.wait(BODIES_TIMEOUT) {
            eprintln!("megalith agent: a body process of machine {} does not end", self.invitation.machine);
        }
    }
}
