//! What a host counts, and how it is shown.

use std::time::Duration;

use coherence::HostId;
use serde::Serialize;

use crate::fetches::Fetched;

/// Faults by what they found.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Faults {
    /// A page that nobody had touched.
    pub first_touch: u64,
    /// A page stowed on this host.
    pub local: u64,
    /// A page that another host held.
    pub remote: u64,
    /// A page that was here all along (called back from eviction, or shown to another client).
    pub minor: u64,
    /// A write to a page held for reading.
    pub write: u64,
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// See [`Faults::first_touch`].
    FirstTouch,
    /// See [`Faults::local`].
    Local,
    /// See [`Faults::remote`].
    Remote,
    /// See [`Faults::minor`].
    Minor,
    /// See [`Faults::write`].
    Write,
}

/// Counters of one machine on one host.
#[derive(Debug, Default)]
pub struct Counters {
    /// Faults by kind.
    pub faults: Faults,
    /// Their latencies, from the kernel's event to the page being there.
    pub latency: Histogram,
    /// Pages that went from mapped to stowed.
    pub evicted_pages: u64,
    /// Pages that went to another host for want of room here.
    pub handed_over_pages: u64,
    /// Pages that came from another host for want of room there.
    pub received_pages: u64,
    /// Copies in use here that went because another host writes.
    pub invalidated_pages: u64,
    /// Pages in use here that another host wanted: given away, or copied.
    pub forwarded_pages: u64,
    /// How often one of those had to wait because the page had only just come.
    pub dwelled: u64,
    /// Pages whose bytes came from each host, by its number.
    pub pages_from: Vec<u64>,
}

impl Counters {
    /// A page's bytes have come.
    pub fn came_from(&mut self, host: HostId) {
        let host = usize::from(host.0);
        if self.pages_from.len() <= host {
            self.pages_from.resize(host + 1, 0);
        }
        self.pages_from[host] += 1;
    }

    /// Counts a fault.
    pub fn fault(&mut self, kind: Kind, latency: Duration) {
        let f = &mut self.faults;
        *match kind {
            Kind::FirstTouch => &mut f.first_touch,
            Kind::Local => &mut f.local,
            Kind::Remote => &mut f.remote,
            Kind::Minor => &mut f.minor,
            Kind::Write => &mut f.write,
        } += 1;
        self.latency.add(latency);
    }
}

/// A host's figures, as `status` shows them (bytes, pages, microseconds).
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// The host's name.
    pub name: String,
    /// Bytes it lends.
    pub budget: u64,
    /// Bytes held or promised now, over all its machines.
    pub held: u64,
    /// The most that was held since the agent started.
    pub peak: u64,
    /// Bytes that clients can see.
    pub mapped: u64,
    /// Bytes that packed pages take.
    pub stowed: u64,
    /// Packed pages.
    pub stowed_pages: u64,
    /// Faults by kind.
    pub faults: Faults,
    /// From the other hosts.
    pub bytes_in: u64,
    /// To the other hosts.
    pub bytes_out: u64,
    /// See [`Counters::evicted_pages`].
    pub evicted_pages: u64,
    /// See [`Counters::handed_over_pages`].
    pub handed_over_pages: u64,
    /// See [`Counters::received_pages`].
    pub received_pages: u64,
    /// Latency of faults.
    pub fault_us: Percentiles,
    /// CPUs that the agent may use.
    pub cpus: usize,
    /// How many of them were busy lately, with whatever.
    pub load: Option<f64>,
    /// See [`Counters::invalidated_pages`].
    pub invalidated_pages: u64,
    /// See [`Counters::forwarded_pages`].
    pub forwarded_pages: u64,
    /// See [`Counters::dwelled`].
    pub dwelled: u64,
    /// See [`Counters::pages_from`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pages_from: Vec<u64>,
    /// The shortest round trip to each member by number, in microseconds: 0 to itself, `None` where not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rtt_us: Vec<Option<u32>>,
    /// The pages that leave most often of late.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hot: Vec<HotPage>,
    /// To home alone: the threads of body processes here, and their CPU time in milliseconds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bodies: Vec<(u64, u64)>,
    /// To home alone: how long they have waited for pages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fetches: Vec<Fetched>,
}

/// A page that hosts take from each other.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct HotPage {
    /// Its address.
    pub page: u64,
    /// Its space; home shows the process in its place.
    pub space: u32,
    /// How often it has left here.
    pub moves: u64,
}

/// Of a latency, in microseconds; 0 when nothing was measured.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
}

const STEPS: u32 = 8;
const OCTAVES: u32 = 32;

/// Counts of durations in 8 logarithmic steps an octave, from 100 ns on (12 % wide at most).
#[derive(Debug)]
pub struct Histogram {
    counts: [u64; (STEPS * OCTAVES) as usize],
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; (STEPS * OCTAVES) as usize], total: 0 }
    }
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, duration: Duration) {
        let tenths = (duration.as_nanos() / 100).clamp(1, u128::from(u64::MAX)) as u64;
        let octave = tenths.ilog2();
        let step =
            if octave >= 3 { (tenths >> (octave - 3)) & 7 } else { (tenths << (3 - octave)) & 7 } as u32;
        self.counts[(octave * STEPS + step).min(STEPS * OCTAVES - 1) as usize] += 1;
        self.total += 1;
    }

    /// The upper bound, in microseconds, of the step in which the `share` (0 to 1) lies.
    pub fn percentile(&self, share: f64) -> f64 {
        let rank = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (i, &count) in (0u32..).zip(&self.counts) {
            seen += count;
            if count > 0 && seen >= rank {
                let (octave, step) = (i / STEPS, i % STEPS);
                return f64::from(2f32).powi(octave as i32) * (1.0 + f64::from(step + 1) / f64::from(STEPS))
                    / 10.0;
            }
        }
        0.0
    }

    /// Median and 99th percentile.
    pub fn percentiles(&self) -> Percentiles {
        Percentiles { p50: self.percentile(0.5), p99: self.percentile(0.99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_step() {
        let mut h = Histogram::default();
        assert_eq!(h.percentile(0.5), 0.0);
        for us in 1..=1000u64 {
            h.add(Duration::from_micros(us));
        }
        for (share, want) in [(0.5, 500.0), (0.99, 990.0), (0.01, 10.0)] {
            let got = h.percentile(share);
            assert!((want..=want * 1.13).contains(&got), "{share}: {got}");
        }
        h.add(Duration::ZERO);
        h.add(Duration::from_secs(1 << 20));
        assert!(h.percentile(1.0) > 1e8);
    }
}
