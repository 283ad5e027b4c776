//! Stewards: the thread of a spread program's process that takes orders to move, and says where threads are.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use client::{Op, Reply, Request, Why};
use coherence::HostId;
use pager::SpaceId;
use parking_lot::Mutex;

use super::Refusal;
use super::socket::Connection;
use crate::machine::Machine;

/// A steward that does not take an order within this time does not get it.
const ORDER_TIMEOUT: Duration = Duration::from_secs(1);
/// More threads of one process than the kernel has tids are a mistake.
const THREADS_MAX: usize = 1 << 22;

/// Where a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The host that runs it.
    pub host: HostId,
    /// Its tid there.
    pub tid: u64,
    /// Why it went there: a [`Why`].
    pub why: Why,
    /// How often it has moved.
    pub moves: u64,
}

struct Steward {
    connection: Arc<Connection>,
    /// The program's process.
    pid: i32,
    /// By tid at home.
    threads: BTreeMap<u64, Placed>,
}

/// The stewards of one machine at its home, by space.
#[derive(Default)]
pub struct Stewards(Mutex<BTreeMap<SpaceId, Steward>>);

impl Stewards {
    /// Where the threads of every spread program are: the process, the tid at home, the place.
    pub fn threads(&self) -> Vec<(i32, u64, Placed)> {
        let stewards = self.0.lock();
        let of = |s: &Steward| s.threads.iter().map(|(&tid, &at)| (s.pid, tid, at)).collect::<Vec<_>>();
        stewards.values().flat_map(of).collect()
    }

    /// Tells the steward of process `pid` to move a thread. A process or thread that is not known may just have ended.
    pub fn order(&self, pid: i32, tid: u64, to: HostId) {
        let connection = {
            let stewards = self.0.lock();
            let known = |s: &&Steward| s.pid == pid && s.threads.contains_key(&tid);
            stewards.values().find(known).map(|s| s.connection.clone())
        };
        let Some(connection) = connection else { return };
        let order = Request { op: Op::Move as u64, args: [tid, u64::from(to.0), 0, 0] };
        if let Err(error) = connection.request(order, None) {
            eprintln!("megalith agent: process {pid} takes no order to move thread {tid}: {error}");
        }
    }

    fn add(&self, space: SpaceId, pid: i32, connection: Arc<Connection>) -> bool {
        let mut stewards = self.0.lock();
        let new = !stewards.contains_key(&space);
        if new {
            stewards.insert(space, Steward { connection, pid, threads: BTreeMap::new() });
        }
        new
    }

    fn remove(&self, space: SpaceId) {
        self.0.lock().remove(&space);
    }

    fn placed(&self, space: SpaceId, thread: u64, host: HostId, tid: u64, why: Why) {
        let mut stewards = self.0.lock();
        let Some(threads) = stewards.get_mut(&space).map(|s| &mut s.threads) else { return };
        if why == Why::Ended {
            threads.remove(&thread);
            return;
        }
        let before = threads.get(&thread).copied();
        if before.is_none() && threads.len() >= THREADS_MAX {
            return;
        }
        let moves = before.map_or(0, |b| b.moves + u64::from(b.host != host));
        threads.insert(thread, Placed { host, tid, why, moves });
    }
}

/// Serves a steward until it closes.
pub fn serve(
    connection: &Arc<Connection>,
    machine: &Machine,
    space: SpaceId,
    pid: i32,
) -> Result<(), Refusal> {
    {
        let mut state = machine.lock();
        if state.is_closed(space) || state.pager.space(space).is_none() {
            return Err((libc::ENOENT, 0));
        }
        state.spread(space);
    }
    connection.limit_sends(ORDER_TIMEOUT).map_err(|error| (errno(&error), 0))?;
    if !machine.stewards.add(space, pid, connection.clone()) {
        return Err((libc::EEXIST, 0));
    }
    if connection.reply(Reply { status: 0, values: [0; 4] }, None).is_ok() {
        listen(connection, machine, space);
    }
    machine.stewards.remove(space);
    Ok(())
}

fn listen(connection: &Connection, machine: &Machine, space: SpaceId) {
    while let Ok(Some((Request { op, args: [thread, host, tid, why] }, _))) = connection.receive() {
        let host = u16::try_from(host).ok().filter(|&h| usize::from(h) < machine.invitation.members.len());
        match (op == Op::Placed as u64, host, why_of(why)) {
            (true, Some(host), Some(why)) => machine.stewards.placed(space, thread, HostId(host), tid, why),
            _ => {
                eprintln!("megalith agent: the steward of space {} sent what is none of its words", space.0);
                return;
            }
        }
    }
}

fn why_of(number: u64) -> Option<Why> {
    [Why::Started, Why::Ordered, Why::Signal, Why::Call, Why::Native, Why::Ended]
        .into_iter()
        .find(|&why| why as u64 == number)
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
