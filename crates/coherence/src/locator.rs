//! Who leases a region. Every host can compute which host knows; that one, the region's *locator*, remembers who
//! asked first.

use rustc_hash::FxHashMap;

use crate::fault::{Fault, Planted};
use crate::{HostId, RegionId};

/// The host that remembers who leases `region`, among `hosts` hosts. By rendezvous hashing: each host draws a lot
/// for the region, and the highest lot wins.
pub(crate) fn locator_of(region: RegionId, hosts: u16) -> HostId {
    let lot = |host: &u16| mix(region.0 ^ mix(u64::from(*host) + 1));
    HostId((0..hosts).max_by_key(lot).expect("a machine has at least its home host"))
}

/// The finaliser of MurmurHash3: every bit of the input changes half of the bits of the output.
fn mix(mut word: u64) -> u64 {
    word = (word ^ word >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    word = (word ^ word >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ word >> 33
}

/// What a host remembers as a locator.
#[derive(Clone, Default, Debug)]
pub(crate) struct Locator {
    leases: FxHashMap<RegionId, HostId>,
    planted: Planted,
}

impl Locator {
    #[cfg(feature = "check")]
    pub(crate) fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// Answers `asker`; gives it the lease if it claims one that nobody has.
    pub(crate) fn locate(&mut self, region: RegionId, asker: HostId, claim: bool) -> Option<HostId> {
        if claim && self.planted.has(Fault::LeaseTwice) {
            self.leases.insert(region, asker);
            Some(asker)
        } else if claim {
            Some(*self.leases.entry(region).or_insert(asker))
        } else {
            self.leases.get(&region).copied()
        }
    }

    /// Forgets the regions that `gone` accepts.
    pub(crate) fn close(&mut self, gone: impl Fn(RegionId) -> bool) {
        self.leases.retain(|region, _| !gone(*region));
    }

    #[cfg(feature = "check")]
    pub(crate) fn leases(&self) -> impl Iterator<Item = (RegionId, HostId)> + '_ {
        self.leases.iter().map(|(region, host)| (*region, *host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "arithmetic on 10,000 regions, without unsafe code, takes minutes")]
    fn locators_are_spread_and_few_move_when_a_host_joins() {
        let mut share = [0; 5];
        let mut moved = 0;
        for region in (0..10_000).map(RegionId) {
            let (before, after) = (locator_of(region, 4), locator_of(region, 5));
            share[usize::from(after.0)] += 1;
            assert!(before == after || after == HostId(4), "a region moves to the new host or not at all");
            moved += usize::from(before != after);
        }
        assert!(share.iter().all(|share| (1_800..2_200).contains(share)), "{share:?}");
        assert!((1_800..2_200).contains(&moved), "{moved}");
    }

    #[test]
    fn the_first_claimant_leases_and_a_mere_question_does_not() {
        let (mut locator, region) = (Locator::default(), RegionId(3));
        assert_eq!(locator.locate(region, HostId(2), false), None);
        assert_eq!(locator.locate(region, HostId(1), true), Some(HostId(1)));
        assert_eq!(locator.locate(region, HostId(2), true), Some(HostId(1)));
        locator.close(|closed| closed == region);
        assert_eq!(locator.locate(region, HostId(2), false), None);
    }
}
