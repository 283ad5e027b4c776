//! Lives of whole agents, simulated (docs/simulation.md).
//!
//! `MEGALITH_SIM_SECONDS=n` lives for so long, `MEGALITH_SIM_SEED=n` lives the life of that seed (and those that follow, if there is time
//! given), `MEGALITH_SIM_TRACE=1` prints its steps, `MEGALITH_SIM_ALL=1` goes on after failures.

use std::time::{Duration, Instant};

use megalith_agent::sim::{KINDS, Tally, live};

/// Lives of a plain `cargo test`: the same ones each time.
const LIVES: u64 = 96;

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}

#[test]
fn lives_go_well() {
    let (seed, seconds) = (setting("MEGALITH_SIM_SEED"), setting("MEGALITH_SIM_SECONDS"));
    let trace = setting("MEGALITH_SIM_TRACE").is_some_and(|on| on != 0);
    let all = setting("MEGALITH_SIM_ALL").is_some_and(|on| on != 0);
    let mut failures = Vec::new();
    let begun = Instant::now();
    let first = seed.unwrap_or(0);
    let goes_on = |lived: u64| match (seconds, seed) {
        (Some(seconds), _) => begun.elapsed() < Duration::from_secs(seconds),
        (None, Some(_)) => lived < 1,
        (None, None) => lived < LIVES,
    };
    let mut tally = Tally::default();
    let mut lived = 0;
    while goes_on(lived) {
        if let Err(failure) = live(first + lived, None, trace, &mut tally) {
            assert!(all, "{failure}");
            println!("{failure}");
            failures.push((failure.seed, failure.check));
        }
        lived += 1;
    }
    println!("{}", tally.json());
    assert!(failures.is_empty(), "lives and the checks that failed: {failures:?}");
    if lived >= LIVES {
        // What is not simulated is not checked.
        let ends = |kind| tally.ends.get(kind).copied().unwrap_or(0);
        assert!(ends("killed") > 0 && ends("parted") > 0 && ends("program") > 0, "{tally:?}");
        let rare = [tally.evicted, tally.handed_over, tally.dwelled, tally.frees, tally.healed];
        assert!(rare.iter().all(|&count| count > LIVES), "{tally:?}");
        assert!(tally.faults > 100 * LIVES && tally.accesses > 2 * tally.faults, "{tally:?}");
    }
}

#[test]
fn one_seed_is_one_life() {
    for seed in 0..KINDS.len() as u64 {
        let lives = [(); 2].map(|()| {
            let mut tally = Tally::default();
            let result = live(seed, None, false, &mut tally).map_err(|failure| failure.to_string());
            (result, tally.json())
        });
        assert_eq!(lives[0], lives[1], "seed {seed}");
    }
}
