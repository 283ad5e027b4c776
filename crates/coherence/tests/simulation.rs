//! Long random histories: see `lives`. A failure names its seed and step.

mod lives;
mod world;

use lives::{LIVES, Tally};

/// Nothing fails, and what happens is worth the checking.
fn live(name: &str) {
    let lives = LIVES.iter().find(|lives| lives.name == name).expect("lives of that name");
    let mut tally = Tally::default();
    if let Err(failure) = lives.live(None, &mut tally) {
        panic!("{name}: {failure}");
    }
    println!("{name}: {tally:?}");
    let Tally { steps, delivered, writes, strays } = tally;
    assert!(delivered > steps / 10 && writes > steps / 100, "{name}: {tally:?}");
    assert_eq!(strays > steps / 20, lives.have_a_past(), "{name}: {tally:?}");
}

#[test]
fn four_hosts_that_share_much() {
    live("sharing much");
}

#[test]
fn eight_hosts_that_hand_over_much() {
    live("handing over much");
}

#[test]
fn six_hosts_that_discard_much() {
    live("discarding much");
}

#[test]
fn five_hosts_over_a_slow_network() {
    live("a slow network");
}

#[test]
fn hosts_that_hold_messages_back() {
    live("holding back");
    live("holding back much");
}

#[test]
fn many_short_lives() {
    live("short lives");
    live("first moments");
}

/// A machine ends and its name is used again: what its hosts once sent, pages and all, arrives late and more than once.
#[test]
fn five_hosts_that_hear_an_earlier_incarnation() {
    live("second lives");
}
