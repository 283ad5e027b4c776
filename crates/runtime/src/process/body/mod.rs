//! The half of the runtime that runs threads away from home (docs/spread.md).

use crate::say;

/// A body process, from its first step to its end.
pub fn main(space: u64, machine: u64, socket: &'static [u8]) -> ! {
    let mut digits = [0; 20];
    let _ = machine;
    say::fatal(&[b"no body for space ", say::decimal(space, &mut digits), b" at ", socket])
}
