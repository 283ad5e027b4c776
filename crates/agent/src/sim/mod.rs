//! Whole agents in a simulation: the code that runs for real, on a simulated clock, fabric and memory, in one thread.
//!
//! One *life* is one machine, from its first page to its end; a seed says all of it. `docs/simulation.md` is the text.
//!
//! | file | what |
//! |---|---|
//! | `life.rs` | what kind of life a seed is |
//! | `world.rs` | the hosts, and who is next |
//! | `process.rs` | programs and their threads |
//! | `memory.rs` | what they should find |
//! | `rest.rs` | what must be true when nothing happens any more |
//! | `dice.rs` | chance |

#![allow(missing_docs, reason = "for the tests of this crate")]

mod dice;
mod life;
mod memory;
mod process;
mod rest;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

pub use life::{KINDS, Kind};
pub use pager::Bug;

/// A check that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub step: u64,
    pub check: &'static str,
    pub why: String,
    /// The last steps before it, the latest last.
    pub recent: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, step, check, why, recent } = self;
        writeln!(f, "{check} failed in step {step} of life {seed}: {why}")?;
        for line in recent {
            writeln!(f, "  {line}")?;
        }
        write!(
            f,
            "MEGALITH_SIM_SEED={seed} MEGALITH_SIM_TRACE=1 cargo test -p megalith-agent --test simulation -- --nocapture"
        )
    }
}

/// What has happened, in one life or in many.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub lives: u64,
    pub steps: u64,
    /// Simulated time, of all hosts together.
    pub host_time: Duration,
    pub accesses: u64,
    pub faults: u64,
    pub frees: u64,
    pub evicted: u64,
    pub handed_over: u64,
    pub dwelled: u64,
    pub healed: u64,
    /// How machines ended, if not by being closed.
    pub ends: BTreeMap<&'static str, u64>,
    /// The longest that a thread waited for a page.
    pub wait_steps_max: u64,
    pub wait_max: Duration,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.lives += other.lives;
        self.steps += other.steps;
        self.host_time += other.host_time;
        self.accesses += other.accesses;
        self.faults += other.faults;
        self.frees += other.frees;
        self.evicted += other.evicted;
        self.handed_over += other.handed_over;
        self.dwelled += other.dwelled;
        self.healed += other.healed;
        for (kind, count) in &other.ends {
            *self.ends.entry(kind).or_default() += count;
        }
        self.wait_steps_max = self.wait_steps_max.max(other.wait_steps_max);
        self.wait_max = self.wait_max.max(other.wait_max);
    }

    /// One line.
    pub fn json(&self) -> String {
        serde_json::json!({
            "lives": self.lives,
            "steps": self.steps,
            "host_hours": (self.host_time.as_secs_f64() / 36.0).round() / 100.0,
            "accesses": self.accesses,
            "faults": self.faults,
            "frees": self.frees,
            "evicted_pages": self.evicted,
            "handed_over_pages": self.handed_over,
            "dwelled": self.dwelled,
            "healed_partitions": self.healed,
            "ends": self.ends,
            "wait_steps_max": self.wait_steps_max,
            "wait_ms_max": self.wait_max.as_millis() as u64,
        })
        .to_string()
    }
}

/// An assertion of the code that failed.
pub const ASSERTIONS: &str = "assertions_hold";

/// Lives the life of a seed, with a bug planted in every host if one is given; adds to `tally`.
///
/// # Errors
/// The first check that failed.
pub fn live(seed: u64, bug: Option<Bug>, trace: bool, tally: &mut Tally) -> Result<(), Box<Failure>> {
    let mut world = world::World::new(seed, bug, trace);
    let lived = panic::catch_unwind(AssertUnwindSafe(|| world.live()));
    let result = lived.unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_string()));
        Err((ASSERTIONS, text.unwrap_or_default()))
    });
    tally.add(&world.tally());
    result.map_err(|(check, why)| {
        let failure = Box::new(world.failure(check, why));
        // Hosts that are broken might not even be dropped.
        std::mem::forget(std::mem::take(&mut world.hosts));
        failure
    })
}
