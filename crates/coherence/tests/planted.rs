//! A checker that finds nothing proves something only if it finds what is there. Bugs are planted in the nodes, one at a
//! time ([`Fault`]); the model and the simulation must find each of them, and the table of that in `docs/coherence.md`
//! is what this test finds.

mod lives;
mod protocol;
mod world;

use std::time::Instant;

use lives::{LIVES, Tally};
use megalith_coherence::{Access, Fault};
use protocol::{NEAR, PAGE, Protocol, discard, untouched, want};
use stateright::{Checker, HasDiscoveries, Model};
use world::{PROPERTIES, SILENCE, Step};

/// A bug, what it breaks, and the property that must find it.
struct Plant {
    fault: Fault,
    breaks: &'static str,
    property: &'static str,
    /// Where the model looks for it.
    model: Protocol,
}

/// One page, which nobody has touched.
fn one_page() -> Protocol {
    Protocol::new(2, &[PAGE], untouched(), 4, 1)
}

fn plants() -> Vec<Plant> {
    let plant = |fault, property, model, breaks| Plant { fault, breaks, property, model };
    // Host 0 discards a page that it had: found while the protocol was designed. The directory forgets the page and grants
    // it to host 2, which writes and hands it over to host 0; that arrives before the word that the discard is over.
    let discarded = Protocol::new(3, &[PAGE], vec![vec![want(0, Access::Read), discard(0)]], 3, 1);
    // A region that nobody leases, and two pages of it.
    let no_region = Protocol::new(2, &[PAGE, NEAR], untouched(), 4, 1);
    vec![
        plant(Fault::NoProtect, "single_writer", one_page(), "an owner that sends a copy goes on writing"),
        plant(
            Fault::CopyBeforeProtect,
            "reads_see_last_write",
            one_page(),
            "the copy is sent before its writers are stopped",
        ),
        plant(Fault::NoWaitForAcks, "single_writer", one_page(), "a writer does not wait for the sharers"),
        plant(Fault::NoAck, "every_request_ends", one_page(), "a sharer that drops its copy does not say so"),
        plant(
            Fault::AckUndropped,
            "held_is_true",
            one_page(),
            "a sharer says that its copy is gone, and its clients read on",
        ),
        plant(
            Fault::ForgetSharer,
            "directory_agrees",
            one_page(),
            "the directory does not write down who reads",
        ),
        plant(
            Fault::ServeWhileBusy,
            "actions_can_be_done",
            one_page(),
            "the directory begins a second transaction of a page",
        ),
        plant(Fault::DropUnasked, "last_copy_survives", one_page(), "who hands over drops its copy at once"),
        plant(Fault::ReleaseLast, "last_copy_survives", one_page(), "the only copy goes to nobody"),
        plant(
            Fault::ReleaseUnconfirmed,
            "single_writer",
            one_page(),
            "the next is served before a sharer that hands over has dropped its copy",
        ),
        plant(
            Fault::PromoteUnsaid,
            "actions_can_be_done",
            one_page(),
            "who becomes the owner is not told that it is",
        ),
        plant(
            Fault::ResurrectDiscarded,
            "actions_can_be_done",
            one_page(),
            "a grant that comes after a discard is installed",
        ),
        plant(
            Fault::DiscardUnconfirmed,
            "directory_agrees",
            discarded,
            "the next is served before who discarded knows that it is over",
        ),
        plant(
            Fault::LeaseTwice,
            "directory_agrees",
            no_region.clone(),
            "the locator lets a region to two hosts",
        ),
        plant(
            Fault::BelieveOldAnswer,
            "actions_can_be_done",
            no_region,
            "\"nobody leases it\" ends a discard younger than the question",
        ),
        plant(
            Fault::StealBack,
            SILENCE,
            Protocol::new(2, &[PAGE], untouched(), 2, 1),
            "an owner whose page is taken asks for it again at once",
        ),
        plant(
            Fault::EpochIgnored,
            "epochs_apart",
            Protocol::new(2, &[PAGE], untouched(), 1, 0).with_strays(),
            "a message of another incarnation is taken for one of this",
        ),
    ]
}

/// How the model found a bug.
struct ByModel {
    states: usize,
    /// Of the shortest history that leads to it.
    steps: usize,
}

fn by_model(plant: &Plant) -> ByModel {
    let protocol = Protocol { fault: Some(plant.fault), ..plant.model.clone() };
    let Plant { fault, property, .. } = *plant;
    if property == SILENCE {
        let (states, steps) = protocol.comes_to_rest().expect_err("a history without end");
        return ByModel { states, steps: steps.len() };
    }
    // One thread: then it is the same every time. And again, each time less deep, as long as there is a shorter way.
    let (mut found, mut depth): (Option<ByModel>, Option<usize>) = (None, None);
    loop {
        let checker = protocol.clone().checker().finish_when(HasDiscoveries::AnyOf([property].into()));
        let checker = match depth {
            Some(depth) => checker.target_max_depth(depth),
            None => checker,
        };
        let checker = checker.spawn_bfs().join();
        let Some(path) = checker.discovery(property) else { break };
        let steps: Vec<Step> = path.into_actions();
        let states = found.as_ref().map_or(checker.unique_state_count(), |found| found.states);
        depth = Some(steps.len() + 1);
        found = Some(ByModel { states, steps: steps.len() });
    }
    found.unwrap_or_else(|| panic!("{property} holds in spite of {fault:?}"))
}

/// How the simulation found a bug.
struct BySimulation {
    lives: &'static str,
    steps: usize,
    property: &'static str,
}

/// `None` if nothing fails in all lives.
fn by_simulation(fault: Fault) -> Option<BySimulation> {
    let mut tally = Tally::default();
    LIVES.iter().find_map(|lives| {
        let failure = lives.live(Some(fault), &mut tally).err()?;
        Some(BySimulation { lives: lives.name, steps: tally.steps, property: failure.property })
    })
}

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/coherence.md");

#[test]
fn every_planted_bug_is_found() {
    let plants = plants();
    for fault in Fault::ALL {
        assert_eq!(plants.iter().filter(|plant| plant.fault == fault).count(), 1, "{fault:?}");
    }
    for name in PROPERTIES.iter().map(|(name, _)| *name).chain([SILENCE]) {
        assert!(plants.iter().any(|plant| plant.property == name), "no bug shows that {name} can fail");
    }
    let mut table = vec![
        "| bug | what it breaks | the model finds it by | states | steps | the simulation finds it by | steps | lives |"
            .to_string(),
        "|---|---|---|---|---|---|---|---|".to_string(),
    ];
    for plant in &plants {
        let Plant { fault, breaks, property, .. } = plant;
        let begin = Instant::now();
        let ByModel { states, steps } = by_model(plant);
        let model_seconds = begin.elapsed().as_secs_f32();
        let begin = Instant::now();
        let simulated = by_simulation(*fault);
        let simulation_seconds = begin.elapsed().as_secs_f32();
        let simulated = simulated.map_or("– | – | – |".to_string(), |found| {
            format!("`{}` | {} | {} |", found.property, grouped(found.steps), found.lives)
        });
        let model = format!("`{property}` | {} | {steps}", grouped(states));
        table.push(format!("| `{fault:?}` | {breaks} | {model} | {simulated}"));
        println!("{model_seconds:.2} s, {simulation_seconds:.2} s: {}", table[table.len() - 1]);
    }
    let table = table.join("\n");
    let document = std::fs::read_to_string(DOCUMENT).expect("the protocol's text can be read");
    assert!(document.contains(&table), "docs/coherence.md has another table than this:\n{table}");
}

/// Thousands apart: 12 345.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group));
    groups.collect::<Vec<_>>().join(" ")
}
