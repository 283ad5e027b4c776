//! Tests that need the inside of the crate. Sockets are on loopback, port 0.
//!
//! Every wait is for a condition and has an end ([`PATIENCE`]); a test that sleeps does so to prove that
//! something does *not* happen.

mod channels;
mod framing;
mod handshakes;
mod loss;
mod meshes;
mod parties;
mod pressure;
mod simulated;
mod tls;

use std::time::Duration;

/// Longer than anything here takes on a busy computer.
const PATIENCE: Duration = Duration::from_secs(60);

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(length);
        bytes
    }
}
