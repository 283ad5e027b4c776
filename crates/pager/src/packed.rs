//! A page's bytes when nobody maps them: nothing for zeros, LZ4 where it pays, else as they are.
//!
//! The same form is stowed and sent, so a page is packed once on its way out and unpacked once where it is used.

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

use crate::slab::SMALL_MAX;

/// Bytes of a page.
pub const PAGE: usize = client::PAGE_BYTES as usize;

/// How a page's bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// All zeros: no bytes.
    Zero,
    /// An LZ4 block (github.com/lz4/lz4, doc/lz4_Block_format.md).
    Lz4,
    /// The page itself.
    Raw,
}

/// A packed page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed<'a> {
    /// How to read `bytes`.
    pub packing: Packing,
    /// 0, 1 to 3072, or 4096 bytes.
    pub bytes: &'a [u8],
}

/// The bytes are not a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bytes that do not unpack to a page")
    }
}

impl std::error::Error for Malformed {}

impl Packed<'_> {
    /// Unpacks into a page.
    ///
    /// # Errors
    /// [`Malformed`] where the bytes are not what [`Packer::pack`] makes.
    pub fn unpack(&self, page: &mut [u8]) -> Result<(), Malformed> {
        debug_assert_eq!(page.len(), PAGE);
        match self.packing {
            Packing::Zero => page.fill(0),
            Packing::Raw if self.bytes.len() == PAGE => page.copy_from_slice(self.bytes),
            Packing::Raw => return Err(Malformed),
            Packing::Lz4 => match decompress_into(self.bytes, page) {
                Ok(PAGE) => {}
                _ => return Err(Malformed),
            },
        }
        Ok(())
    }

    /// The form on the wire: one byte for the packing, two for the length (little endian), the bytes.
    pub fn header(&self) -> [u8; 3] {
        let [low, high] = (self.bytes.len() as u16).to_le_bytes();
        [self.packing as u8, low, high]
    }
}

impl<'a> Packed<'a> {
    /// A page of zeros.
    pub const ZERO: Packed<'static> = Packed { packing: Packing::Zero, bytes: &[] };

    /// Reads the form that [`Packed::header`] begins. What it accepts unpacks: who keeps it need not look again.
    ///
    /// # Errors
    /// [`Malformed`] where lengths and packing do not fit, or the bytes do not unpack to a page.
    pub fn from_wire(wire: &'a [u8]) -> Result<Packed<'a>, Malformed> {
        let (header, bytes) = wire.split_at_checked(3).ok_or(Malformed)?;
        let len = usize::from(u16::from_le_bytes([header[1], header[2]]));
        let packing = match header[0] {
            0 if len == 0 => Packing::Zero,
            1 if (1..=SMALL_MAX).contains(&len) => Packing::Lz4,
            2 if len == PAGE => Packing::Raw,
            _ => return Err(Malformed),
        };
        if bytes.len() != len || (packing == Packing::Lz4 && !fills_a_page(bytes)) {
            return Err(Malformed);
        }
        Ok(Packed { packing, bytes })
    }
}

/// Whether an LZ4 block unpacks, to a page. It walks the block's sequences and copies nothing.
fn fills_a_page(block: &[u8]) -> bool {
    let (mut rest, mut made) = (block, 0);
    while let Some((&token, tail)) = rest.split_first() {
        rest = tail;
        let Some(literals) = run_length(token >> 4, &mut rest) else { return false };
        let Some((_, tail)) = rest.split_at_checked(literals) else { return false };
        rest = tail;
        made += literals;
        if rest.is_empty() {
            // The last sequence has no match.
            return made == PAGE;
        }
        let Some((offset, tail)) = rest.split_first_chunk::<2>() else { return false };
        rest = tail;
        let offset = usize::from(u16::from_le_bytes(*offset));
        let Some(matched) = run_length(token & 15, &mut rest) else { return false };
        if offset == 0 || offset > made {
            return false;
        }
        made += matched + 4;
        if made > PAGE {
            return false;
        }
    }
    false
}

/// A length of four bits, and the bytes that go on with it from the front of `rest`.
fn run_length(nibble: u8, rest: &mut &[u8]) -> Option<usize> {
    let mut length = usize::from(nibble);
    if nibble == 15 {
        loop {
            let (&more, tail) = rest.split_first()?;
            *rest = tail;
            length += usize::from(more);
            if more != 255 {
                break;
            }
        }
    }
    Some(length)
}

/// Packs pages; keeps its tables between calls.
pub struct Packer {
    table: CompressTable,
    out: Box<[u8]>,
}

impl Default for Packer {
    fn default() -> Self {
        Self { table: CompressTable::small(), out: vec![0; get_maximum_output_size(PAGE)].into() }
    }
}

impl Packer {
    /// Packs a page; the result borrows from the page or from the packer.
    pub fn pack<'a>(&'a mut self, page: &'a [u8]) -> Packed<'a> {
        debug_assert_eq!(page.len(), PAGE);
        if is_zero(page) {
            return Packed::ZERO;
        }
        match compress_into_with_table(page, &mut self.out, &mut self.table) {
            Ok(len) if len <= SMALL_MAX => Packed { packing: Packing::Lz4, bytes: &self.out[..len] },
            _ => Packed { packing: Packing::Raw, bytes: page },
        }
    }
}

/// Whether a page is all zeros.
pub fn is_zero(page: &[u8]) -> bool {
    // Eight words at a time: the compiler makes vectors of it, and most pages end it at the first step.
    page.chunks(64).all(|chunk| chunk.iter().fold(0, |sum, byte| sum | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(page: &[u8], packing: Packing) {
        let mut packer = Packer::default();
        let packed = packer.pack(page);
        assert_eq!(packed.packing, packing);
        let mut wire = packed.header().to_vec();
        wire.extend_from_slice(packed.bytes);
        let mut back = vec![0xEE; PAGE];
        Packed::from_wire(&wire).unwrap().unpack(&mut back).unwrap();
        assert_eq!(back, page);
        wire.push(0);
        assert_eq!(Packed::from_wire(&wire), Err(Malformed));
    }

    #[test]
    fn pages_survive_packing() {
        round_trip(&[0; PAGE], Packing::Zero);
        let mut sparse = [0; PAGE];
        for i in (0..PAGE).step_by(256) {
            sparse[i] = i as u8 | 1;
        }
        round_trip(&sparse, Packing::Lz4);
        let mut seed = 1u64;
        let noise: Vec<u8> = (0..PAGE)
            .map(|_| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 56) as u8
            })
            .collect();
        round_trip(&noise, Packing::Raw);
        let mut last = [0; PAGE];
        last[PAGE - 1] = 1;
        round_trip(&last, Packing::Lz4);
    }

    #[test]
    fn garbage_is_refused() {
        let mut page = vec![0; PAGE];
        assert_eq!(Packed { packing: Packing::Lz4, bytes: &[0xFF; 40] }.unpack(&mut page), Err(Malformed));
        assert_eq!(Packed::from_wire(&[2, 1, 0, 9]), Err(Malformed));
        assert_eq!(Packed::from_wire(&[]), Err(Malformed));
    }

    /// A peer's LZ4 block that unpacked to nothing was once taken, and the agent ended when it used the page.
    #[test]
    fn a_block_is_looked_through_before_it_is_taken() {
        let mut packer = Packer::default();
        let mut page = [0; PAGE];
        for i in (0..PAGE).step_by(if cfg!(miri) { 512 } else { 64 }) {
            page[i] = (i / 64) as u8 | 1;
        }
        let packed = packer.pack(&page);
        assert_eq!(packed.packing, Packing::Lz4);
        let block = packed.bytes.to_vec();
        let accepted = |block: &[u8]| {
            let packed = Packed { packing: Packing::Lz4, bytes: block };
            let wire = [&packed.header()[..], block].concat();
            let accepted = Packed::from_wire(&wire).is_ok();
            assert!(!accepted || packed.unpack(&mut [0; PAGE]).is_ok(), "accepted, and does not unpack");
            accepted
        };
        assert!(accepted(&block));
        assert!((0..block.len()).all(|end| !accepted(&block[..end])), "cut");
        assert!(!accepted(&[&block[..], &[0]].concat()), "more than a page");
        assert!(!accepted(&[0xFF; 40]), "a length without an end");
        assert!(!accepted(&[0x0F, 0, 0, 0]), "a match with itself");
        assert!(!accepted(&[0x10, 7, 2, 0, 0]), "a match before the beginning");
        // Every byte of the block changed in turn: what is accepted unpacks.
        for at in 0..block.len() {
            for flip in [1, 0x10, 0x80, 0xFF] {
                let mut changed = block.clone();
                changed[at] ^= flip;
                accepted(&changed);
            }
        }
    }
}
