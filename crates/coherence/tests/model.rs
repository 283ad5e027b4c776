//! Every order of events and messages, at small sizes: the protocol is explored exhaustively with stateright.

mod protocol;
mod world;

use std::time::Instant;

use protocol::{FAR, NEAR, PAGE, Protocol, settled, settled_pairs, untouched};
use stateright::{Checker, Model};
use world::Own;

fn explore(name: &str, protocol: Protocol) {
    let begin = Instant::now();
    let about = format!("{name}, {} events, {} writes", protocol.fuel, protocol.writes);
    let checker = protocol.checker().threads(2).spawn_dfs().join();
    let (states, seconds) = (checker.unique_state_count(), begin.elapsed().as_secs_f32());
    println!("{about}: {states} states, {seconds:.1} s");
    checker.assert_properties();
}

/// Hosts hear themselves as late as others.
fn explore_own(name: &str, protocol: Protocol) {
    explore(&format!("{name}, own messages later"), Protocol { own: Own::Later, ..protocol });
}

#[test]
fn two_hosts_one_page() {
    explore("2 hosts, 1 page", Protocol::new(2, &[PAGE], untouched(), 4, 2));
}

#[test]
fn two_hosts_two_pages() {
    explore("2 hosts, 2 pages of a region", Protocol::new(2, &[PAGE, NEAR], untouched(), 4, 1));
    explore("2 hosts, 2 pages of two regions", Protocol::new(2, &[PAGE, FAR], untouched(), 3, 1));
}

#[test]
fn three_hosts_one_untouched_page() {
    explore("3 hosts, 1 untouched page", Protocol::new(3, &[PAGE], untouched(), 4, 1));
}

#[test]
fn three_hosts_one_settled_page() {
    explore("3 hosts, 1 settled page", Protocol::new(3, &[PAGE], settled(), 3, 1));
}

#[test]
fn hosts_that_hear_themselves_later() {
    explore_own("2 hosts, 1 page", Protocol::new(2, &[PAGE], untouched(), 4, 1));
    explore_own("2 hosts, 2 pages of two regions", Protocol::new(2, &[PAGE, FAR], untouched(), 3, 1));
    explore_own("3 hosts, 1 settled page", Protocol::new(3, &[PAGE], settled(), 3, 1));
}

/// A machine ends and its name is used again: whatever its hosts once sent may arrive at any moment, again and again.
#[test]
fn messages_of_an_earlier_incarnation() {
    let states = |protocol: Protocol| {
        let checker = protocol.checker().threads(2).spawn_dfs().join();
        println!("{} strays: {} states", checker.model().strays.len(), checker.unique_state_count());
        let failed = world::PROPERTIES.iter().find(|(name, _)| checker.discovery(name).is_some());
        assert!(failed.is_none(), "{:?}", failed.map(|(name, _)| (name, checker.discovery(name))));
        checker.unique_state_count()
    };
    for quiet in [Protocol::new(2, &[PAGE], untouched(), 3, 1), Protocol::new(3, &[PAGE], settled(), 1, 1)] {
        assert_eq!(states(quiet.clone().with_strays()), states(quiet), "not one state more");
    }
}

/// `silence`: every history ends, whatever the order in which messages arrive.
#[test]
fn every_history_comes_to_rest() {
    let rests = |name: &str, protocol: Protocol| {
        let states = protocol.comes_to_rest().unwrap_or_else(|(_, steps)| panic!("{name}: {steps:#?}"));
        println!("{name}: all histories end, {states} states");
    };
    rests("2 hosts, 1 page", Protocol::new(2, &[PAGE], untouched(), 4, 1));
    rests("2 hosts, 2 pages of a region", Protocol::new(2, &[PAGE, NEAR], untouched(), 3, 0));
    let settled = Protocol::new(3, &[PAGE], settled(), 3, 0);
    rests("3 hosts, 1 settled page", settled.clone());
    rests("3 hosts, 1 settled page, own messages later", Protocol { own: Own::Later, ..settled });
}

/// The same, further: minutes with optimisation (`cargo test --release -- --ignored --nocapture`).
#[test]
#[ignore = "takes minutes"]
fn further() {
    explore("2 hosts, 1 page", Protocol::new(2, &[PAGE], untouched(), 6, 2));
    explore("2 hosts, 2 pages of a region", Protocol::new(2, &[PAGE, NEAR], untouched(), 5, 2));
    explore("2 hosts, 2 pages of two regions", Protocol::new(2, &[PAGE, FAR], untouched(), 4, 2));
    explore("3 hosts, 1 untouched page", Protocol::new(3, &[PAGE], untouched(), 5, 1));
    explore("3 hosts, 1 settled page", Protocol::new(3, &[PAGE], settled(), 4, 2));
    explore_own("2 hosts, 1 page", Protocol::new(2, &[PAGE], untouched(), 6, 2));
    explore_own("2 hosts, 2 pages of a region", Protocol::new(2, &[PAGE, NEAR], untouched(), 4, 1));
    explore_own("3 hosts, 1 untouched page", Protocol::new(3, &[PAGE], untouched(), 4, 1));
    explore_own("3 hosts, 1 settled page", Protocol::new(3, &[PAGE], settled(), 4, 1));
}

/// More of everything at once.
#[test]
#[ignore = "takes minutes"]
fn wider() {
    explore("3 hosts, 2 untouched pages of a region", Protocol::new(3, &[PAGE, NEAR], untouched(), 4, 1));
    explore("4 hosts, 1 settled page", Protocol::new(4, &[PAGE], settled(), 3, 1));
    explore("3 hosts, 2 untouched pages of two regions", Protocol::new(3, &[PAGE, FAR], untouched(), 4, 1));
    explore("3 hosts, 2 settled pages of a region", Protocol::new(3, &[PAGE, NEAR], settled_pairs(), 3, 2));
    let one_more = Protocol::new(3, &[PAGE, NEAR], settled_pairs(), 3, 1);
    explore_own("3 hosts, 2 settled pages of a region", one_more);
}

/// As far as memory and patience go.
#[test]
#[ignore = "takes ten minutes, and gigabytes"]
fn furthest() {
    explore("3 hosts, 2 untouched pages of a region", Protocol::new(3, &[PAGE, NEAR], untouched(), 5, 1));
}
