//! The fabric without a network: one thread, one seed, one order of events.
//!
//! [`SimNet::step`] delivers one event from one ordered pair of hosts, picked at random by the seed. Within a pair
//! events keep their order, as on a TCP stream; across pairs anything may overtake anything. [`SimNet::kill`] cuts
//! each stream at a place of the seed's choosing: what was in flight arrives up to there, then the loss.
//!
//! One lock, `state`; the [`Inbox`] is called with it free, so it may send.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use coherence::HostId;

use crate::error::Lost;
use crate::frame::{FRAME_HEADER_BYTES, MESSAGE_BYTES_MAX};
use crate::sync::lock;
use crate::{Fabric, Inbox, Traffic};

enum Event {
    Batch(Batch),
    Lost(Lost),
    Goodbye,
}

/// Messages, back to back; `ends` says where each ends.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    /// What the same messages weigh on a real network.
    fn weight(&self) -> usize {
        self.bytes.len() + self.ends.len() * FRAME_HEADER_BYTES
    }
}

/// The stream from one host to another.
#[derive(Default)]
struct Pair {
    filling: Batch,
    flushed: VecDeque<Event>,
    /// Nothing enters any more.
    cut: bool,
}

impl Pair {
    fn end(&mut self, event: Event) {
        if !std::mem::replace(&mut self.cut, true) {
            self.filling = Batch::default();
            self.flushed.push_back(event);
        }
    }
}

struct State {
    hosts: usize,
    random: u64,
    pairs: Vec<Pair>,
    inboxes: Vec<Option<Arc<dyn Inbox>>>,
    traffic: Vec<Traffic>,
}

impl State {
    fn pair(&mut self, from: usize, to: usize) -> &mut Pair {
        &mut self.pairs[from * self.hosts + to]
    }

    /// A number below `bound` (splitmix64; the bias is below 2^-32 for any real number of hosts).
    fn random(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// A simulated network of `n` hosts.
pub struct SimNet {
    state: Arc<Mutex<State>>,
}

/// One host's end of a [`SimNet`].
pub struct SimFabric {
    me: HostId,
    state: Arc<Mutex<State>>,
}

impl SimNet {
    /// A network of `hosts` hosts whose order of delivery follows from `seed`.
    pub fn new(hosts: u16, seed: u64) -> SimNet {
        let hosts = usize::from(hosts);
        SimNet {
            state: Arc::new(Mutex::new(State {
                hosts,
                random: seed,
                pairs: (0..hosts * hosts).map(|_| Pair::default()).collect(),
                inboxes: vec![None; hosts],
                traffic: vec![Traffic::default(); hosts],
            })),
        }
    }

    /// The fabric of `host`.
    pub fn fabric(&self, host: HostId) -> Arc<SimFabric> {
        assert!(usize::from(host.0) < lock(&self.state).hosts, "there is no host {}", host.0);
        Arc::new(SimFabric { me: host, state: self.state.clone() })
    }

    /// Where events for `host` go. Events for a host without an inbox are an error of the test, and panic.
    pub fn attach(&self, host: HostId, inbox: Arc<dyn Inbox>) {
        lock(&self.state).inboxes[usize::from(host.0)] = Some(inbox);
    }

    /// Delivers one event (a flushed batch, a loss or a goodbye) of a pair of the seed's choosing; `false` if there is none.
    pub fn step(&self) -> bool {
        let busy = self.busy();
        if busy.is_empty() {
            return false;
        }
        let (from, to) = busy[lock(&self.state).random(busy.len())];
        self.deliver(from, to)
    }

    /// The ordered pairs of hosts of which something is in flight.
    pub fn busy(&self) -> Vec<(HostId, HostId)> {
        let state = lock(&self.state);
        let host = |number: usize| HostId(number as u16);
        let busy = (0..state.pairs.len()).filter(|pair| !state.pairs[*pair].flushed.is_empty());
        busy.map(|pair| (host(pair / state.hosts), host(pair % state.hosts))).collect()
    }

    /// Delivers the next event from one host to another; `false` if there is none.
    pub fn deliver(&self, from: HostId, to: HostId) -> bool {
        let (inbox, event) = {
            let mut state = lock(&self.state);
            let (from, to) = (usize::from(from.0), usize::from(to.0));
            let Some(event) = state.pair(from, to).flushed.pop_front() else { return false };
            if let Event::Batch(batch) = &event {
                let weight = batch.weight() as u64;
                state.traffic[from].sent += weight;
                state.traffic[to].received += weight;
            }
            let inbox = state.inboxes[to].clone();
            (inbox.unwrap_or_else(|| panic!("host {to} has no inbox")), event)
        };
        match event {
            Event::Batch(batch) => {
                let mut start = 0;
                for end in batch.ends {
                    inbox.message(from, &batch.bytes[start..end]);
                    start = end;
                }
                inbox.drained(from);
            }
            Event::Lost(why) => inbox.lost(from, why),
            Event::Goodbye => inbox.goodbye(from),
        }
        true
    }

    /// Ends `host` without warning.
    pub fn kill(&self, host: HostId) {
        let mut state = lock(&self.state);
        let dead = usize::from(host.0);
        for other in (0..state.hosts).filter(|other| *other != dead) {
            let inward = state.pair(other, dead);
            (inward.cut, inward.filling) = (true, Batch::default());
            inward.flushed.clear();
            // An ended stream keeps its end: a goodbye that was said is heard.
            if !state.pair(dead, other).cut {
                let in_flight = state.pair(dead, other).flushed.len();
                let arrive = state.random(in_flight + 1);
                let outward = state.pair(dead, other);
                outward.flushed.truncate(arrive);
                outward.end(Event::Lost(Lost::Closed));
            }
        }
        state.inboxes[dead] = None;
    }

    /// Cuts the link between two hosts, as a silence that lasts does: nothing that is in flight arrives, and each loses the
    /// other.
    pub fn part(&self, one: HostId, other: HostId, why: &Lost) {
        let mut state = lock(&self.state);
        for (from, to) in [(one, other), (other, one)] {
            let pair = state.pair(usize::from(from.0), usize::from(to.0));
            if !pair.cut {
                pair.flushed.clear();
                pair.end(Event::Lost(why.clone()));
            }
        }
    }

    /// Whether nothing is in flight (batches not yet flushed are not).
    pub fn idle(&self) -> bool {
        lock(&self.state).pairs.iter().all(|pair| pair.flushed.is_empty())
    }
}

impl Fabric for SimFabric {
    fn me(&self) -> HostId {
        self.me
    }

    fn hosts(&self) -> u16 {
        lock(&self.state).hosts as u16
    }

    fn send(&self, to: HostId, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        assert!(
            length <= MESSAGE_BYTES_MAX,
            "a message of {length} bytes; the largest is {MESSAGE_BYTES_MAX}"
        );
        let mut state = lock(&self.state);
        let valid = to != self.me && usize::from(to.0) < state.hosts;
        assert!(valid, "host {} has no link to host {}", self.me.0, to.0);
        let pair = state.pair(usize::from(self.me.0), usize::from(to.0));
        if !pair.cut {
            pair.filling.bytes.extend(parts.iter().copied().flatten());
            pair.filling.ends.push(pair.filling.bytes.len());
        }
    }

    fn flush(&self) {
        let mut state = lock(&self.state);
        for to in 0..state.hosts {
            let pair = state.pair(usize::from(self.me.0), to);
            if !pair.filling.ends.is_empty() {
                let batch = std::mem::take(&mut pair.filling);
                pair.flushed.push_back(Event::Batch(batch));
            }
        }
    }

    fn backlog(&self, to: HostId) -> usize {
        let mut state = lock(&self.state);
        let pair = state.pair(usize::from(self.me.0), usize::from(to.0));
        let flushed =
            pair.flushed.iter().map(|event| if let Event::Batch(batch) = event { batch.weight() } else { 0 });
        pair.filling.weight() + flushed.sum::<usize>()
    }

    fn traffic(&self) -> Traffic {
        lock(&self.state).traffic[usize::from(self.me.0)]
    }

    /// Says goodbye to all, after what is in the batches; what others still send here is dropped.
    fn shutdown(&self) {
        self.flush();
        let mut state = lock(&self.state);
        let me = usize::from(self.me.0);
        for other in (0..state.hosts).filter(|other| *other != me) {
            state.pair(me, other).end(Event::Goodbye);
            let inward = state.pair(other, me);
            (inward.cut, inward.filling) = (true, Batch::default());
            inward.flushed.clear();
        }
        state.inboxes[me] = None;
    }
}
