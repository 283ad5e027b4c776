//! Stewards: the thread of a spread program's process that takes orders to move, and says where threads are.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use client::{Op, Reply, Request, Why};
use coherence::HostId;
use pager::SpaceId;
use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use serde::Serialize;

use super::Refusal;
use super::socket::Connection;
use crate::machine::Machine;
use crate::procfs;

/// A steward that does not take an order within this time does not get it.
const ORDER_TIMEOUT: Duration = Duration::from_secs(1);
/// More threads of one process than the kernel has tids are a mistake.
const THREADS_MAX: usize = 1 << 22;

/// A thread of a spread program, as `status` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Thread {
    pid: i32,
    /// At home.
    tid: u64,
    name: String,
    /// The host that runs it.
    host: String,
    /// Of the thread at home and of those that ran its code elsewhere.
    cpu_ms: u64,
    moves: u64,
    why: &'static str,
    /// How long it has waited for pages where it is, in milliseconds, by the host that sent them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    waited_ms: BTreeMap<String, u64>,
}

/// Where a thread is.
struct Placed {
    host: HostId,
    why: Why,
    /// How often it has moved.
    moves: u64,
    /// Hosts where it has been.
    visits: BTreeMap<HostId, Visit>,
    /// The CPU time of its thread at home, and of threads elsewhere that are no more.
    home_ms: u64,
    gone_ms: u64,
}

/// The thread that runs a thread's code on another host.
#[derive(Clone, Copy)]
struct Visit {
    tid: u64,
    /// Its CPU time, as last heard.
    cpu_ms: u64,
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
    /// The threads of every spread program. `member` names a host; `cpu_ms` says what a thread of a body process has used, and
    /// `waited_us` how long one of any host has waited for pages, by the number of the host that sent them, as far as its host has said.
    pub fn threads(
        &self,
        member: impl Fn(HostId) -> String,
        cpu_ms: impl Fn(HostId, u64) -> Option<u64>,
        waited_us: impl Fn(HostId, u64) -> Vec<u64>,
    ) -> Vec<Thread> {
        let mut out = Vec::new();
        for Steward { pid, threads, .. } in self.0.lock().values_mut() {
            for (&tid, placed) in threads {
                // A thread that has just ended keeps what it had.
                placed.home_ms = procfs::cpu_ms(*pid, tid).unwrap_or(placed.home_ms);
                for (&host, visit) in &mut placed.visits {
                    visit.cpu_ms = cpu_ms(host, visit.tid).unwrap_or(visit.cpu_ms).max(visit.cpu_ms);
                }
                let tid_there = placed.visits.get(&placed.host).map_or(tid, |visit| visit.tid);
                let waited = (0u16..).zip(waited_us(placed.host, tid_there)).filter(|&(_, us)| us >= 1000);
                let away: u64 = placed.visits.values().map(|visit| visit.cpu_ms).sum();
                out.push(Thread {
                    pid: *pid,
                    tid,
                    name: procfs::name(*pid, tid).unwrap_or_default(),
                    host: member(placed.host),
                    cpu_ms: placed.home_ms + placed.gone_ms + away,
                    moves: placed.moves,
                    why: word(placed.why),
                    waited_ms: waited.map(|(from, us)| (member(HostId(from)), us / 1000)).collect(),
                });
            }
        }
        out
    }

    /// The threads at home of every spread program.
    pub fn tids(&self) -> FxHashSet<u64> {
        self.0.lock().values().flat_map(|steward| steward.threads.keys().copied()).collect()
    }

    /// The process that opened a space, if it has a steward.
    pub fn process(&self, space: SpaceId) -> Option<i32> {
        self.0.lock().get(&space).map(|steward| steward.pid)
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

    fn placed(&self, space: SpaceId, me: HostId, thread: u64, (host, tid): (HostId, u64), why: Why) {
        let mut stewards = self.0.lock();
        let Some(threads) = stewards.get_mut(&space).map(|s| &mut s.threads) else { return };
        if why == Why::Ended {
            threads.remove(&thread);
            return;
        }
        if !threads.contains_key(&thread) && threads.len() >= THREADS_MAX {
            return;
        }
        let placed = threads.entry(thread).or_insert_with(|| Placed::new(host));
        placed.moves += u64::from(placed.host != host);
        (placed.host, placed.why) = (host, why);
        if host != me {
            let visit = placed.visits.entry(host).or_insert(Visit { tid, cpu_ms: 0 });
            if visit.tid != tid {
                placed.gone_ms += visit.cpu_ms;
                *visit = Visit { tid, cpu_ms: 0 };
            }
        }
    }
}

impl Placed {
    fn new(host: HostId) -> Placed {
        Placed { host, why: Why::Started, moves: 0, visits: BTreeMap::new(), home_ms: 0, gone_ms: 0 }
    }
}

fn word(why: Why) -> &'static str {
    match why {
        Why::Started => "started",
        Why::Ordered => "ordered",
        Why::Signal => "signal",
        Why::Call => "call",
        Why::Native => "native",
        Why::Ended => "ended",
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
    let hosts = machine.invitation.members.len();
    while let Ok(Some((request, _))) = connection.receive() {
        let Some((thread, there, why)) = placement(&request, hosts) else {
            eprintln!("megalith agent: the steward of space {} sent what is none of its words", space.0);
            return;
        };
        machine.stewards.placed(space, machine.invitation.me, thread, there, why);
    }
}

/// Where a thread is now, as a steward says in a machine of so many hosts: its tid at home, host and tid there, and why.
pub fn placement(request: &Request, hosts: usize) -> Option<(u64, (HostId, u64), Why)> {
    let &Request { op, args: [thread, host, tid, why] } = request;
    let host = u16::try_from(host).ok().filter(|&host| usize::from(host) < hosts)?;
    (op == Op::Placed as u64).then_some((thread, (HostId(host), tid), why_of(why)?))
}

fn why_of(number: u64) -> Option<Why> {
    [Why::Started, Why::Ordered, Why::Signal, Why::Call, Why::Native, Why::Ended]
        .into_iter()
        .find(|&why| why as u64 == number)
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_of_all_places_is_summed() {
        let stewards = Stewards::default();
        let (space, home, b, c) = (SpaceId(1), HostId(0), HostId(1), HostId(2));
        let (connection, _other) = Connection::pair().unwrap();
        // No such process: its time at home is 0.
        assert!(stewards.add(space, -1, Arc::new(connection)));
        let placed = |host, tid, why| stewards.placed(space, home, 9, (host, tid), why);
        let look = |ms: &'static [(HostId, u64, u64)]| {
            let cpu_ms = |host, tid| ms.iter().find(|m| (m.0, m.1) == (host, tid)).map(|m| m.2);
            let threads = stewards.threads(|host| host.0.to_string(), cpu_ms, |_, _| Vec::new());
            threads.first().map(|t| (t.host.clone(), t.cpu_ms, t.moves, t.why))
        };
        placed(home, 9, Why::Started);
        assert_eq!(look(&[]), Some(("0".into(), 0, 0, "started")));
        placed(b, 70, Why::Ordered);
        assert_eq!(
            look(&[(HostId(1), 70, 400), (HostId(2), 70, 999)]),
            Some(("1".into(), 400, 1, "ordered"))
        );
        placed(c, 70, Why::Ordered);
        assert_eq!(
            look(&[(HostId(2), 70, 50)]),
            Some(("2".into(), 450, 2, "ordered")),
            "b keeps what it had"
        );
        placed(b, 71, Why::Ordered);
        assert_eq!(
            look(&[(HostId(1), 71, 1)]),
            Some(("1".into(), 451, 3, "ordered")),
            "another thread there"
        );
        let waited = |place, thread| {
            let waited_us =
                |host, tid| if (host, tid) == (place, thread) { vec![5000, 999, 1_000_000] } else { vec![] };
            let threads = stewards.threads(|host| host.0.to_string(), |_, _| None, waited_us);
            threads[0].waited_ms.clone().into_iter().collect::<Vec<_>>()
        };
        assert_eq!(waited(b, 71), [("0".into(), 5), ("2".into(), 1000)]);
        assert_eq!(waited(c, 70), [], "it is not there");
        placed(home, 9, Why::Signal);
        assert_eq!(look(&[]), Some(("0".into(), 451, 4, "signal")));
        assert_eq!(waited(home, 9).len(), 2);
        placed(home, 9, Why::Ended);
        assert_eq!(look(&[]), None);
    }
}
