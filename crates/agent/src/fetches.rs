//! Who waits for whose pages: for each thread here, how long it has waited for pages that came from each host. The scheduler takes
//! threads to their data by it.

use std::cmp::Reverse;
use std::time::Duration;

use coherence::HostId;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

/// Home is told at most so many numbers: with the rest of the figures they must fit into one message.
const TOLD_MAX: usize = 1 << 14;

/// How long one thread has waited, as hosts tell home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// The thread, on the host that tells.
    pub tid: u64,
    /// Microseconds, by the number of the host that sent the pages.
    pub waited_us: Vec<u64>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Fetches {
    by_thread: FxHashMap<u32, Vec<Duration>>,
}

impl Fetches {
    /// A page has come for which a thread has waited so long.
    pub fn came(&mut self, thread: u32, from: HostId, waited: Duration) {
        let hosts = self.by_thread.entry(thread).or_default();
        let host = usize::from(from.0);
        if hosts.len() <= host {
            hosts.resize(host + 1, Duration::ZERO);
        }
        hosts[host] += waited;
    }

    /// How long the threads that are `there` have waited since they were first seen; others are forgotten.
    pub fn report(&mut self, there: impl Fn(u64) -> bool) -> Vec<Fetched> {
        self.by_thread.retain(|&tid, _| there(u64::from(tid)));
        let us = |waited: &Duration| waited.as_micros() as u64;
        let told = self.by_thread.iter();
        told.map(|(&tid, hosts)| Fetched { tid: tid.into(), waited_us: hosts.iter().map(us).collect() })
            .collect()
    }

    /// The same, as home is told of it: those that have waited longest, where there are too many threads to tell of all.
    pub fn tell(&mut self, there: impl Fn(u64) -> bool) -> Vec<Fetched> {
        let mut told = self.report(there);
        told.sort_by_cached_key(|fetched| (Reverse(fetched.waited_us.iter().sum::<u64>()), fetched.tid));
        let mut numbers = 0;
        let mut fits = |fetched: &Fetched| {
            numbers += 1 + fetched.waited_us.len();
            numbers <= TOLD_MAX
        };
        let kept = told.iter().take_while(|fetched| fits(fetched)).count();
        told.truncate(kept);
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_summed_by_thread_and_host() {
        let mut fetches = Fetches::default();
        for (thread, host) in [(7, 1), (7, 1), (7, 0), (8, 2)] {
            fetches.came(thread, HostId(host), Duration::from_micros(10));
        }
        let mut told = fetches.report(|_| true);
        told.sort_by_key(|fetched| fetched.tid);
        assert_eq!(
            told,
            [Fetched { tid: 7, waited_us: vec![10, 20] }, Fetched { tid: 8, waited_us: vec![0, 0, 10] }]
        );
    }

    #[test]
    fn home_is_told_of_those_that_waited_longest() {
        let mut fetches = Fetches::default();
        for thread in 0..10_000 {
            fetches.came(thread, HostId(1), Duration::from_micros(thread.into()));
        }
        let told = fetches.tell(|_| true);
        assert_eq!(told.len(), TOLD_MAX / 3);
        assert!((0u64..).zip(&told).all(|(i, fetched)| fetched.tid == 9_999 - i));
    }

    #[test]
    fn threads_that_have_ended_are_forgotten() {
        let mut fetches = Fetches::default();
        fetches.came(7, HostId(1), Duration::from_micros(10));
        assert_eq!(fetches.report(|tid| tid != 7), []);
        assert_eq!(fetches.report(|_| true), []);
    }
}
