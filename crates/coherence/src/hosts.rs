//! A set of hosts.

use crate::HostId;

/// A set of hosts in 16 bytes; it allocates only for hosts from the 65th on.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub(crate) struct HostSet {
    first: u64,
    /// The 64 hosts of each further word; absent or cut short when these are all zero.
    rest: Option<Box<[u64]>>,
}

impl HostSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.first == 0 && self.rest.is_none()
    }

    pub(crate) fn contains(&self, host: HostId) -> bool {
        let (word, bit) = place(host);
        self.words().nth(word).is_some_and(|word| word & bit != 0)
    }

    pub(crate) fn insert(&mut self, host: HostId) {
        let (word, bit) = place(host);
        if word == 0 {
            self.first |= bit;
            return;
        }
        let mut rest = self.rest.take().unwrap_or_default().into_vec();
        rest.resize(rest.len().max(word), 0);
        rest[word - 1] |= bit;
        self.rest = Some(rest.into_boxed_slice());
    }

    pub(crate) fn remove(&mut self, host: HostId) {
        let (word, bit) = place(host);
        if word == 0 {
            self.first &= !bit;
        } else if let Some(mut rest) = self.rest.take().map(<[u64]>::into_vec) {
            if let Some(word) = rest.get_mut(word - 1) {
                *word &= !bit;
            }
            while rest.last() == Some(&0) {
                rest.pop();
            }
            self.rest = (!rest.is_empty()).then(|| rest.into_boxed_slice());
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = HostSet::default();
    }

    /// The hosts, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = HostId> + '_ {
        self.words().enumerate().flat_map(|(word, bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 != 0).map(move |bit| HostId((word * 64 + bit) as u16))
        })
    }

    fn words(&self) -> impl Iterator<Item = u64> + '_ {
        std::iter::once(self.first).chain(self.rest.iter().flat_map(|rest| rest.iter().copied()))
    }
}

fn place(host: HostId) -> (usize, u64) {
    (usize::from(host.0 / 64), 1 << (host.0 % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn agrees_with_a_plain_set() {
        let mut seed = 7u64;
        let (mut set, mut plain) = (HostSet::default(), BTreeSet::new());
        for _ in 0..if cfg!(miri) { 300 } else { 20_000 } {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let host = HostId((seed >> 33) as u16 % 200);
            if seed >> 60 < 5 {
                set.insert(host);
                plain.insert(host);
            } else {
                set.remove(host);
                plain.remove(&host);
            }
            assert_eq!(set.contains(host), plain.contains(&host));
            assert_eq!(set.iter().count(), plain.len());
            assert_eq!(set.is_empty(), plain.is_empty());
        }
        assert!(set.iter().eq(plain.iter().copied()));
        for host in plain {
            set.remove(host);
        }
        assert_eq!(set, HostSet::default(), "an emptied set is the empty set, whatever was in it");
    }
}
