//! The simulated network: one seed, one history; FIFO in a pair; kills cut streams.

use std::sync::Arc;

use coherence::HostId;

use super::Random;
use super::parties::{Recorder, Told};
use crate::{FRAME_HEADER_BYTES, Fabric, Lost, SimFabric, SimNet};

struct Run {
    net: SimNet,
    fabrics: Vec<Arc<SimFabric>>,
    recorders: Vec<Arc<Recorder>>,
}

impl Run {
    fn new(hosts: u16, seed: u64) -> Run {
        let net = SimNet::new(hosts, seed);
        let fabrics = (0..hosts).map(|host| net.fabric(HostId(host))).collect();
        let recorders: Vec<Arc<Recorder>> = (0..hosts).map(|_| Arc::default()).collect();
        for (host, recorder) in recorders.iter().enumerate() {
            net.attach(HostId(host as u16), recorder.clone());
        }
        Run { net, fabrics, recorders }
    }

    fn told(&self, host: usize) -> Vec<Told> {
        self.recorders[host].told.change(|told| told.clone())
    }

    /// Random sends between three hosts, a random kill of host 2, everything delivered.
    fn history(seed: u64, kill: bool) -> Vec<Vec<Told>> {
        let run = Run::new(3, seed);
        let mut random = Random(!seed);
        for number in 0..300_u32 {
            let from = random.below(3);
            let to = (from + 1 + random.below(2)) % 3;
            run.fabrics[from].send(HostId(to as u16), &[&number.to_le_bytes()]);
            if random.below(3) == 0 {
                run.fabrics[from].flush();
            }
            if random.below(2) == 0 {
                run.net.step();
            }
            if kill && number == 200 {
                run.net.kill(HostId(2));
            }
        }
        run.fabrics.iter().for_each(|fabric| fabric.flush());
        while run.net.step() {}
        assert!(run.net.idle());
        (0..3).map(|host| run.told(host)).collect()
    }
}

#[test]
fn one_seed_is_one_history_and_seeds_differ() {
    for kill in [false, true] {
        assert_eq!(Run::history(1, kill), Run::history(1, kill));
        assert_ne!(Run::history(1, kill), Run::history(2, kill));
    }
}

#[test]
fn pairs_are_fifo_and_nothing_is_lost() {
    for seed in 0..50 {
        let told = Run::history(seed, false);
        assert_eq!(told.iter().map(Vec::len).sum::<usize>(), 300, "seed {seed}");
        for told in told {
            for from in 0..3 {
                let numbers: Vec<u32> = told
                    .iter()
                    .filter_map(|told| match told {
                        Told::Message(host, bytes) if host.0 == from => {
                            Some(u32::from_le_bytes(bytes[..].try_into().ok()?))
                        }
                        _ => None,
                    })
                    .collect();
                assert!(numbers.is_sorted(), "seed {seed}: {numbers:?}");
            }
        }
    }
}

#[test]
fn a_kill_is_told_once_to_each_and_is_the_last_of_that_host() {
    for seed in 0..50 {
        let told = Run::history(seed, true);
        for (host, told) in told[..2].iter().enumerate() {
            let loss =
                told.iter().position(|told| *told == Told::Lost(HostId(2), Lost::Closed)).expect("told");
            let after = &told[loss + 1..];
            let silent =
                after.iter().all(|told| !matches!(told, Told::Message(HostId(2), _) | Told::Lost(..)));
            assert!(silent, "seed {seed}, host {host}");
        }
    }
}

#[test]
fn who_is_parted_loses_what_was_in_flight_and_each_other() {
    let run = Run::new(3, 0);
    run.fabrics[0].send(HostId(1), &[b"lost"]);
    run.fabrics[0].send(HostId(2), &[b"kept"]);
    run.fabrics[0].flush();
    let silent = Lost::Silent(std::time::Duration::from_secs(3));
    run.net.part(HostId(0), HostId(1), &silent);
    assert_eq!(run.net.busy(), [(HostId(0), HostId(1)), (HostId(0), HostId(2)), (HostId(1), HostId(0))]);
    while run.net.step() {}
    assert_eq!(run.told(1), [Told::Lost(HostId(0), silent.clone())]);
    assert_eq!(run.told(0), [Told::Lost(HostId(1), silent)]);
    assert_eq!(run.told(2), [Told::Message(HostId(0), b"kept".to_vec())]);
    assert!(!run.net.deliver(HostId(0), HostId(1)));
}

#[test]
fn unflushed_messages_stay_and_weigh() {
    let run = Run::new(2, 0);
    run.fabrics[0].send(HostId(1), &[b"ab", b"cd"]);
    assert!(run.net.idle() && !run.net.step());
    assert_eq!(run.fabrics[0].backlog(HostId(1)), 4 + FRAME_HEADER_BYTES);
    run.fabrics[0].flush();
    assert!(!run.net.idle() && run.net.step());
    assert_eq!(run.told(1), [Told::Message(HostId(0), b"abcd".to_vec())]);
    assert_eq!(run.fabrics[0].backlog(HostId(1)), 0);
    assert_eq!(run.fabrics[1].traffic().received, run.fabrics[0].traffic().sent);
}

#[test]
fn shutdown_says_goodbye_after_the_last_message() {
    let run = Run::new(2, 0);
    run.fabrics[0].send(HostId(1), &[b"last"]);
    run.fabrics[1].send(HostId(0), &[b"too late"]);
    run.fabrics[0].shutdown();
    run.fabrics[0].shutdown();
    while run.net.step() {}
    assert_eq!(run.told(1), [Told::Message(HostId(0), b"last".to_vec()), Told::Goodbye(HostId(0))]);
    assert_eq!(run.told(0), []);
}
