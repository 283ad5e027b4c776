//! Which strangers have been spoken of: a line for each address and reason a minute, however often they come.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sync::lock;

/// So long the same is not said again.
const QUIET: Duration = Duration::from_secs(60);
/// Most addresses and reasons that are remembered.
const REMEMBERED_MAX: usize = 1024;

/// Who was spoken of, and when.
#[derive(Default)]
pub(crate) struct Strangers(Mutex<HashMap<(IpAddr, String), Instant>>);

impl Strangers {
    /// What is to be said at `now` of a stranger at `address`, if anything.
    pub(crate) fn say(&self, address: IpAddr, reason: &str, now: Instant) -> Option<(IpAddr, String)> {
        let mut known = lock(&self.0);
        known.retain(|_, said| now.duration_since(*said) < QUIET);
        let mut what = (address, reason.to_owned());
        if known.len() >= REMEMBERED_MAX && !known.contains_key(&what) {
            what = (Ipv4Addr::UNSPECIFIED.into(), "there are more than can be told apart".to_owned());
        }
        if known.contains_key(&what) {
            return None;
        }
        known.insert(what.clone(), now);
        Some(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_a_minute() {
        let (strangers, begin) = (Strangers::default(), Instant::now());
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(strangers.say(address(1), "garbage", begin), Some((address(1), "garbage".into())));
        assert_eq!(strangers.say(address(1), "garbage", after(59)), None);
        assert!(strangers.say(address(1), "silence", after(59)).is_some(), "another reason");
        assert!(strangers.say(address(2), "garbage", after(59)).is_some(), "another address");
        assert!(strangers.say(address(1), "garbage", after(60)).is_some());
    }

    #[test]
    fn a_crowd_costs_one_line_more() {
        let (strangers, begin) = (Strangers::default(), Instant::now());
        let crowd = (0..5000_u32).map(|number| IpAddr::from(number.to_be_bytes()));
        let said = crowd.filter(|address| strangers.say(*address, "silence", begin).is_some()).count();
        assert_eq!(said, REMEMBERED_MAX + 1);
        assert_eq!(lock(&strangers.0).len(), REMEMBERED_MAX + 1);
        assert!(strangers.say(IpAddr::from([10, 0, 0, 1]), "silence", begin + QUIET).is_some());
        assert_eq!(lock(&strangers.0).len(), 1, "forgotten");
    }
}
