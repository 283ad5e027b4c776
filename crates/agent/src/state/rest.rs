//! What simulations may ask of a state: what is half done, and what is remembered.

use coherence::PageId;

use super::State;

impl State {
    /// What is under way here, in words; nothing is when a machine is at rest.
    pub fn half_done(&self) -> Option<String> {
        let waiting: Vec<&PageId> = self.waiting.keys().collect();
        let parts = [
            (!self.node.quiet()).then(|| "an operation or a transaction of the protocol".to_string()),
            (!waiting.is_empty()).then(|| format!("threads wait for {waiting:x?}")),
            (!self.own.is_empty()).then(|| format!("unheard of this host itself: {:?}", self.own)),
            (!self.arrived.is_empty()).then(|| "pages that have arrived are not mapped".to_string()),
            (self.given.answers > 0).then(|| format!("room to come back: {} answers", self.given.answers)),
            self.dwell.half_done(),
            self.sweeps.half_done(),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// Pages of whose use something is remembered.
    pub fn marked(&self) -> Vec<PageId> {
        let mut pages: Vec<PageId> = self.migratory.marked().collect();
        pages.sort_unstable();
        pages
    }
}
