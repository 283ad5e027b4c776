//! A simulation that finds nothing proves something only if it finds what is there. Bugs are planted in the agents, one at a time
//! ([`Bug`]); the lives of plain `cargo test` must find each of them, and the table of that in `docs/simulation.md` is what this
//! test finds. `MEGALITH_SIM_BUG=name` looks for that one alone.

use std::time::Instant;

use megalith_agent::sim::{Bug, KINDS, Tally, live};

/// Seeds that are tried.
const LIVES: u64 = 200;

fn plants() -> Vec<(Bug, &'static str)> {
    vec![
        (Bug::PackBeforeProtect, "the evictor reads a page before it stops its writers"),
        (Bug::CallBackIgnored, "a page that was called back while it was packed leaves all the same"),
        (Bug::CopyWhileWritten, "a page goes to another host before its writers are stopped"),
        (Bug::WakeForgotten, "pages go, and who waits in them is not woken"),
        (Bug::GrantNotWoken, "a page that waited for others' copies to go wakes nobody"),
        (Bug::HalfIsAll, "a mapping call that got through half of its pages is taken for done"),
        (Bug::EvictedKept, "what evicted pages took of the budget is not given back"),
        (Bug::HandOverDrops, "the evictor drops a page that nobody took"),
        (Bug::RoomUnreserved, "a promise of room is not taken from the budget"),
        (Bug::RoomUsedTwice, "a promise of room is used again and again"),
        (Bug::PromiseLost, "a promise that a hand-over did not need is forgotten"),
        (Bug::OvertakesHeld, "a message passes those about its page that are held back"),
        (Bug::NeverDue, "what is held back is not delivered when it is due"),
        (Bug::MarksKept, "what is known of a page's use stays when the page goes"),
        (Bug::SweptEarly, "a sweep is answered before its pages are gone"),
        (Bug::SweepUnsaid, "who waits for a sweep is not told of the last answer"),
        (Bug::EndForgotten, "the protocol is not told that a space has ended"),
        (Bug::ProtectOne, "write protection reaches only one of a space's processes"),
        (Bug::OthersNotWoken, "a page that comes wakes only the process that it is mapped for"),
        (
            Bug::ShowWritable,
            "a process that does not see a page yet may write it when it does, whatever its host may",
        ),
        (Bug::WriteUnasked, "who writes page after page may write the next ones, whatever its host may"),
        (Bug::ShowLeaving, "pages that are on their way out are shown to a process, and leave all the same"),
    ]
}

/// Two hundred lives do not show these; the document says why.
const UNSEEN: [Bug; 3] = [Bug::ArrivedLate, Bug::OldAnswer, Bug::LossUntold];

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/simulation.md");

#[test]
fn every_planted_bug_is_found() {
    let plants = plants();
    for bug in Bug::ALL {
        let named = plants.iter().map(|plant| plant.0).chain(UNSEEN).filter(|&other| other == bug);
        assert_eq!(named.count(), 1, "{bug:?}");
    }
    let mut table = vec![
        "| bug | what it breaks | found by | in life | a kind of | after steps of all lives |".to_string(),
        "|---|---|---|---|---|---|".to_string(),
    ];
    let alone = std::env::var("MEGALITH_SIM_BUG").ok();
    for (bug, breaks) in plants {
        if alone.as_ref().is_some_and(|alone| *alone != format!("{bug:?}")) {
            continue;
        }
        let begun = Instant::now();
        let mut tally = Tally::default();
        let failure = (0..LIVES).find_map(|seed| live(seed, Some(bug), false, &mut tally).err());
        let found = failure.map_or("– | – | – | –".to_string(), |failure| {
            let kind = KINDS[(failure.seed % KINDS.len() as u64) as usize];
            format!("`{}` | {} | {kind:?} | {}", failure.check, failure.seed, grouped(tally.steps))
        });
        table.push(format!("| `{bug:?}` | {breaks} | {found} |"));
        println!("{:.2} s: {}", begun.elapsed().as_secs_f32(), table[table.len() - 1]);
    }
    if alone.is_some() {
        return;
    }
    let table = table.join("\n");
    let document = std::fs::read_to_string(DOCUMENT).expect("the simulation's text can be read");
    assert!(document.contains(&table), "docs/simulation.md has another table than this:\n{table}");
    assert!(!table.contains('–'), "a bug that nothing finds");
}

/// Thousands apart: 12 345.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group));
    groups.collect::<Vec<_>>().join(" ")
}
