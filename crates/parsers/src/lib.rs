//! Every parser of bytes that come from outside of a process, and what holds of it whatever the bytes: it does not panic, what it
//! accepts is what it says, and nothing is larger than its bound.
//!
//! `fuzz/` (outside of the workspace: it needs a nightly compiler) looks for bytes of which that is not true; `tests/seeds.rs`
//! tries those that are kept in `fuzz/seeds`. A new parser has its line in [`PARSERS`], a folder there, and a file in
//! `fuzz/fuzz_targets`.

mod files;
mod pages;

/// A parser's name, and a function that panics if something does not hold of the bytes.
pub type Parser = (&'static str, fn(&[u8]));

/// All parsers, in the order of the way in: strangers, other agents, clients, users.
pub const PARSERS: [Parser; 11] = [
    ("fabric_hello", fabric::fuzz::hello),
    ("fabric_reply", fabric::fuzz::reply),
    ("fabric_frames", fabric::fuzz::frames),
    ("coherence_message", pages::message),
    ("pager_packed", pages::packed),
    ("agent_message", agent::fuzz::message),
    ("agent_figures", agent::fuzz::figures),
    ("agent_packet", agent::fuzz::packet),
    ("agent_orders", agent::fuzz::orders),
    ("runtime_elf", files::elf),
    ("runtime_script", files::script),
];

/// Gives bytes to a parser.
///
/// # Panics
/// If something does not hold of them, or there is no such parser.
pub fn feed(name: &str, bytes: &[u8]) {
    let found = PARSERS.iter().find(|(known, _)| *known == name);
    let (_, parser) = found.unwrap_or_else(|| panic!("no parser is named {name}"));
    parser(bytes);
}
