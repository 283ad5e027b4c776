//! Ranges that a program frees while several hosts use its space.
//!
//! Home cannot know all pages of the range: another host may have been the first to touch some of them, and keep their directory
//! entries. So each host is asked to discard those of which it keeps the entry, and says when no copy is left. Of every page that is
//! anywhere, or on its way, somebody keeps the entry.

use std::ops::Range;

use coherence::{Event, HostId, PageId, Violation};
use fabric::Fabric;
use pager::{Bug, SpaceId};
use rustc_hash::FxHashMap;

use super::State;
use crate::wire;

/// Sweeps of one host that have not ended.
const SWEEPS_MAX: usize = 1 << 16;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Sweeps {
    /// Those that other hosts have asked for.
    asked: Vec<Asked>,
    /// Those that we have asked for: how many hosts have not answered.
    own: FxHashMap<u32, u16>,
    tokens: u32,
}

#[cfg(feature = "sim")]
impl Sweeps {
    /// What is under way, in words.
    pub fn half_done(&self) -> Option<String> {
        let some = !self.asked.is_empty() || !self.own.is_empty();
        some.then(|| format!("sweeps: asked for {:?}, own {:?}", self.asked, self.own))
    }
}

#[derive(Debug)]
struct Asked {
    by: HostId,
    token: u32,
    /// Pages of which copies may be left.
    going: Vec<PageId>,
}

impl State {
    /// Whether a host has asked for more sweeps that have not ended than its programs' threads can have: each waits for its own.
    pub fn has_too_many_sweeps(&self, by: HostId) -> bool {
        self.sweeps.asked.len() >= SWEEPS_MAX
            && self.sweeps.asked.iter().filter(|asked| asked.by == by).count() >= SWEEPS_MAX
    }

    /// Another host asks to discard a range.
    ///
    /// # Errors
    /// A [`Violation`] found on the way.
    pub fn sweep(
        &mut self,
        by: HostId,
        token: u32,
        pages: &Range<PageId>,
        fabric: &dyn Fabric,
    ) -> Result<(), Violation> {
        let mut going = Vec::new();
        if !self.is_closed(SpaceId::of(pages.start)) {
            going = self.node.kept(pages);
            for &page in &going {
                self.tell(Event::Discard { page })?;
            }
            self.settle(fabric)?;
        }
        self.sweeps.asked.push(Asked { by, token, going });
        Ok(())
    }

    /// Answers those whose pages are nowhere any more.
    pub fn end_sweeps(&mut self, fabric: &dyn Fabric) {
        let Self { sweeps, node, closed, pager, .. } = self;
        sweeps.asked.retain_mut(|asked| {
            if pager.planted.has(Bug::SweptEarly) {
                asked.going.clear();
            }
            asked.going.retain(|&page| node.discarding(page) && !closed.contains(&SpaceId::of(page)));
            if asked.going.is_empty() {
                fabric.send(asked.by, &[&wire::swept(asked.token)]);
            }
            !asked.going.is_empty()
        });
    }

    /// Asks all other hosts; the token by which their answers are known.
    pub fn begin_sweep(&mut self, pages: &Range<PageId>, fabric: &dyn Fabric) -> u32 {
        self.sweeps.tokens = self.sweeps.tokens.wrapping_add(1);
        let token = self.sweeps.tokens;
        for host in (0..fabric.hosts()).map(HostId).filter(|&host| host != self.me) {
            fabric.send(host, &[&wire::sweep(token, pages)]);
        }
        self.sweeps.own.insert(token, fabric.hosts() - 1);
        token
    }

    /// A host has answered.
    pub fn swept(&mut self, token: u32) {
        if let Some(left) = self.sweeps.own.get_mut(&token) {
            *left = left.saturating_sub(1);
        }
    }

    /// Whether all hosts have answered, and no copy of `going` is left. Then the token is forgotten.
    pub fn sweep_is_over(&mut self, token: u32, going: &mut Vec<PageId>) -> bool {
        going.retain(|&page| self.node.discarding(page));
        let over = going.is_empty() && self.sweeps.own.get(&token) == Some(&0);
        if over {
            self.sweeps.own.remove(&token);
        }
        over
    }

    /// Whether somebody here waits for answers.
    pub fn has_sweepers(&self) -> bool {
        !self.sweeps.own.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use coherence::Epoch;
    use pager::Budget;

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn sweeps_of_a_host_are_bounded() {
        let budget = Arc::new(Budget::new(16 << 20));
        let (many, few) = (HostId(1), HostId(2));
        let mut state = State::new(HostId(0), 3, Epoch(1), budget, Clock::default(), Arc::default()).unwrap();
        let asked = |by| move |token| Asked { by, token, going: vec![PageId(7)] };
        state.sweeps.asked.extend((0..SWEEPS_MAX as u32 - 1).map(asked(many)));
        state.sweeps.asked.extend((0..2).map(asked(few)));
        assert!(!state.has_too_many_sweeps(many) && !state.has_too_many_sweeps(few));
        state.sweeps.asked.extend([asked(many)(0)]);
        assert!(state.has_too_many_sweeps(many) && !state.has_too_many_sweeps(few));
    }
}
