//! The sizes of small blocks: multiples of 64 bytes up to 1 KiB, then four to each power of two.

use crate::ALIGNMENT;

/// Longer blocks are whole pages.
pub const SMALL_BYTES_MAX: u64 = 16 << 10;
/// How many sizes there are.
pub const CLASSES: usize = 32;

/// Up to here each multiple of [`ALIGNMENT`] is a size.
const FINE_BYTES_MAX: u64 = 1 << FINE_BITS;
const FINE_BITS: u32 = 10;
const FINE_CLASSES: u64 = FINE_BYTES_MAX / ALIGNMENT;

/// The class of the smallest blocks that hold `bytes`, which are at least one and at most [`SMALL_BYTES_MAX`].
pub fn class_of(bytes: u64) -> usize {
    debug_assert!((1..=SMALL_BYTES_MAX).contains(&bytes));
    let last = bytes - 1;
    let class = if bytes <= FINE_BYTES_MAX {
        last / ALIGNMENT
    } else {
        let bits = last.ilog2();
        FINE_CLASSES + u64::from(bits - FINE_BITS) * 4 + ((last >> (bits - 2)) & 3)
    };
    class as usize
}

/// How long blocks of a class are.
pub fn bytes_of(class: usize) -> u64 {
    debug_assert!(class < CLASSES);
    let class = class as u64;
    if class < FINE_CLASSES {
        return (class + 1) * ALIGNMENT;
    }
    let coarse = class - FINE_CLASSES;
    (FINE_BYTES_MAX << (coarse / 4)) / 4 * (5 + coarse % 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_the_smallest_that_holds_it() {
        for bytes in 1..=SMALL_BYTES_MAX {
            let class = class_of(bytes);
            assert!(bytes <= bytes_of(class), "{bytes}");
            assert!(class == 0 || bytes > bytes_of(class - 1), "{bytes}");
        }
        assert_eq!(class_of(SMALL_BYTES_MAX), CLASSES - 1);
        assert_eq!(bytes_of(CLASSES - 1), SMALL_BYTES_MAX);
    }

    #[test]
    fn little_is_wasted() {
        for bytes in ALIGNMENT..=SMALL_BYTES_MAX {
            let waste = bytes_of(class_of(bytes)) - bytes;
            assert!(waste < ALIGNMENT || waste <= bytes / 4, "{bytes}: {waste}");
        }
    }
}
