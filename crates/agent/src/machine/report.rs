//! A machine's figures.

use std::cmp::Reverse;

use coherence::HostId;
use fabric::Fabric;
use pager::{PAGE, SpaceId, address};
use serde_json::{Value, json};

use super::Machine;
use crate::clients::Thread;
use crate::figures::{Figures, HotPage};
use crate::procfs;
use crate::rtt;
use crate::wire;

const HOME: HostId = HostId(0);
/// Home is told the CPU time of at most so many threads of body processes: a message has an end.
const BODY_THREADS_MAX: usize = 1 << 13;

impl Machine {
    /// This host's figures.
    pub fn figures(&self) -> Figures {
        let (cpus, load) = {
            let mut load = self.load.lock();
            (load.cpus(), load.take())
        };
        let bodies = self.body_threads();
        let rtt_us = self.rtt_us();
        let mut state = self.lock();
        // Home's own are told by thread.
        let fetches = match self.invitation.me {
            HOME => Vec::new(),
            _ => state.fetches.tell(|tid| bodies.iter().any(|&(body, _)| body == tid)),
        };
        let hot = |(page, moves)| HotPage { page: address(page), space: SpaceId::of(page).0, moves };
        let hot = state.hot.report().into_iter().map(hot).collect();
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
            cpus,
            load,
            invalidated_pages: state.counters.invalidated_pages,
            forwarded_pages: state.counters.forwarded_pages,
            dwelled: state.counters.dwelled,
            pages_from: state.counters.pages_from.clone(),
            rtt_us,
            hot,
            bodies,
            fetches,
        }
    }

    /// The shortest round trip to each member, as far as known.
    fn rtt_us(&self) -> Vec<Option<u32>> {
        let Some(fabric) = self.mesh() else { return Vec::new() };
        let to = |host| match fabric.link_socket(host) {
            None if host == fabric.me() => Some(0),
            socket => socket.and_then(rtt::shortest_us),
        };
        (0..fabric.hosts()).map(HostId).map(to).collect()
    }

    /// The threads of body processes here, and their CPU time in milliseconds; those with most of it, where they are too many.
    fn body_threads(&self) -> Vec<(u64, u64)> {
        let processes = self.joined.lock().clone();
        let threads = |&pid: &i32| procfs::threads(pid).into_iter().map(move |tid| (pid, tid));
        let times = processes.iter().flat_map(threads);
        let mut times: Vec<(u64, u64)> =
            times.filter_map(|(pid, tid)| Some((tid, procfs::cpu_ms(pid, tid)?))).collect();
        if times.len() > BODY_THREADS_MAX {
            times.select_nth_unstable_by_key(BODY_THREADS_MAX, |&(_, ms)| Reverse(ms));
            times.truncate(BODY_THREADS_MAX);
        }
        times
    }

    /// Where the threads of spread programs are.
    pub fn threads(&self) -> Vec<Thread> {
        let known = self.stewards.tids();
        let (times, fetches) = {
            let mut state = self.lock();
            let here = state.fetches.report(|tid| known.contains(&tid));
            let mut fetches = state.body_fetches.clone();
            fetches[usize::from(self.invitation.me.0)] = here.into_iter().map(|f| (f.tid, f)).collect();
            (state.body_times.clone(), fetches)
        };
        let waited = |host: HostId, tid| fetches[usize::from(host.0)].get(&tid).map(|f| f.waited_us.clone());
        let member = |host: HostId| self.invitation.members[usize::from(host.0)].name.clone();
        let cpu_ms = |host: HostId, tid| times[usize::from(host.0)].get(&tid).copied();
        self.stewards.threads(member, cpu_ms, |host, tid| waited(host, tid).unwrap_or_default())
    }

    /// Puts the process in place of the space of each hot page; of programs that have ended there is none.
    fn name_processes(&self, figures: &mut Value) {
        let Some(hot) = figures.get_mut("hot").and_then(Value::as_array_mut) else { return };
        hot.retain_mut(|page| {
            let space = page["space"].as_u64().and_then(|space| u32::try_from(space).ok());
            let pid = space.and_then(|space| self.stewards.process(SpaceId(space)));
            if let Some(pid) = pid {
                *page = json!({"page": page["page"], "pid": pid, "moves": page["moves"]});
            }
            pid.is_some()
        });
    }

    /// All hosts' figures, as known now.
    pub fn all_figures(&self) -> Vec<Value> {
        let own = serde_json::to_value(self.figures()).expect("figures are plain");
        let state = self.lock();
        let mut all: Vec<Value> = (0u16..)
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
            .collect();
        drop(state);
        all.iter_mut().for_each(|figures| self.name_processes(figures));
        all
    }

    /// Sends this host's figures to home.
    pub fn send_figures(&self) {
        if let Some(fabric) = self.fabric() {
            let json = serde_json::to_vec(&self.figures()).expect("figures are plain");
            fabric.send(HOME, &[&wire::FIGURES_HEAD, &json]);
            fabric.flush();
        }
    }
}
