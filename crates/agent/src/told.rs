//! What another host says of itself: its figures, which home shows, and what home alone needs of them.

use rustc_hash::FxHashMap;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::fetches::Fetched;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Told {
    /// What is shown.
    pub figures: Value,
    /// The CPU time of threads of body processes there, in milliseconds.
    pub times: FxHashMap<u64, u64>,
    /// How long these have waited for pages.
    pub fetches: FxHashMap<u64, Fetched>,
}

impl Told {
    /// Reads a host's figures in a machine of so many hosts; `None` if they are none.
    pub fn read(json: &[u8], hosts: usize) -> Option<Told> {
        let mut figures: Value = serde_json::from_slice(json).ok()?;
        let object = figures.as_object_mut()?;
        let mut take = |name| object.remove(name);
        let times: Vec<(u64, u64)> = take("bodies").and_then(parsed).unwrap_or_default();
        let mut fetches: Vec<Fetched> = take("fetches").and_then(parsed).unwrap_or_default();
        for fetched in &mut fetches {
            // Who waited for a host that is none is not believed.
            fetched.waited_us.truncate(hosts);
        }
        let fetches = fetches.into_iter().map(|f| (f.tid, f)).collect();
        Some(Told { times: times.into_iter().collect(), fetches, figures })
    }
}

fn parsed<T: DeserializeOwned>(value: Value) -> Option<T> {
    serde_json::from_value(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_and_what_home_needs_of_them() {
        let json = br#"{"budget": 7, "bodies": [[9, 40]], "fetches": [{"tid": 9, "waited_us": [0, 5000]}]}"#;
        let told = Told::read(json, 2).unwrap();
        assert_eq!(told.figures, serde_json::json!({"budget": 7}));
        assert_eq!(told.times.get(&9), Some(&40));
        assert_eq!(told.fetches[&9].waited_us, [0, 5000]);
    }

    /// Home once ended when it looked up the name of a host that the machine has not.
    #[test]
    fn waits_for_hosts_that_are_none_are_not_believed() {
        let json = br#"{"fetches": [{"tid": 9, "waited_us": [0, 0, 5000, 7000]}]}"#;
        assert_eq!(Told::read(json, 2).unwrap().fetches[&9].waited_us, [0, 0]);
    }

    #[test]
    fn what_is_no_figures_is_not_taken() {
        for json in [&b"7"[..], b"[]", b"null", b"{", b"", b"\xff", b"{} {}"] {
            assert!(Told::read(json, 2).is_none());
        }
        let odd = Told::read(br#"{"bodies": 7, "fetches": [{"tid": -1}]}"#, 2).unwrap();
        assert!(odd.times.is_empty() && odd.fetches.is_empty());
    }
}
