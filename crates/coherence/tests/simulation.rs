//! Long random histories: see `lives`. A failure names its seed and step.

mod lives;
mod world;

use std::time::{Duration, Instant};

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

/// All lives with seeds from `MEGALITH_SIM_SEED` on, for `MEGALITH_SIM_SECONDS`. Prints a line of JSON. A failure names the seed:
/// with that one and a second it is found again.
#[test]
#[ignore = "takes as long as MEGALITH_SIM_SECONDS says"]
fn new_seeds() {
    let number = |name: &str| {
        let text = std::env::var(name).unwrap_or_else(|_| panic!("{name} is set"));
        text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is a number"))
    };
    let (seconds, first): (u64, u64) = (number("MEGALITH_SIM_SECONDS"), number("MEGALITH_SIM_SEED"));
    let begin = Instant::now();
    let mut tally = Tally::default();
    let mut seed = first;
    while begin.elapsed() < Duration::from_secs(seconds) {
        for lives in &LIVES {
            if let Err(failure) = lives.live_one(seed, None, &mut tally) {
                panic!("{}: {failure}", lives.name);
            }
        }
        seed += 1;
    }
    let Tally { steps, delivered, writes, strays } = tally;
    assert!(delivered > steps / 10 && writes > steps / 100 && strays > 0, "{tally:?}");
    println!(
        r#"{{"lives":{},"steps":{steps},"delivered":{delivered},"writes":{writes},"seconds":{:.1}}}"#,
        (seed - first) * LIVES.len() as u64,
        begin.elapsed().as_secs_f64()
    );
}
