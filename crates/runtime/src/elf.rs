//! What an ELF executable asks for (elf(5)), for x86-64.

use crate::errno::{ENOEXEC, Errno};
use crate::layout::{Prot, Span};
use crate::{PAGE, SPACE_END, page_down, page_up};

/// Bytes of an ELF header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of a program header.
pub const SEGMENT_BYTES: usize = 56;
/// More program headers than this are refused (Linux: one page and a bit of them).
pub const SEGMENTS_MAX: usize = 128;

/// The parts of an ELF header that loading needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Position-independent (ET_DYN): it may be loaded anywhere.
    pub movable: bool,
    /// First instruction, before the bias.
    pub entry: u64,
    /// Where the program headers are in the file.
    pub table_offset: u64,
    /// How many there are.
    pub table_count: u16,
}

/// Why a file cannot be run as an x86-64 executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRunnable {
    /// It is not ELF at all.
    NotElf,
    /// It is for another instruction set (`e_machine`).
    OtherMachine(u16),
    /// Its headers are broken, or it is not an executable.
    Malformed,
}

impl NotRunnable {
    /// What execve(2) says: always ENOEXEC.
    pub const fn errno(self) -> Errno {
        ENOEXEC
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl Header {
    /// Reads the header from the head of a file.
    pub fn parse(head: &[u8]) -> Result<Header, NotRunnable> {
        if head.len() < 20 || &head[..4] != b"\x7fELF" {
            return Err(NotRunnable::NotElf);
        }
        let machine = u16_at(head, 18);
        if head[4] != 2 || machine != 62 {
            return Err(NotRunnable::OtherMachine(machine));
        }
        if head.len() < HEADER_BYTES {
            return Err(NotRunnable::Malformed);
        }
        let (kind, count) = (u16_at(head, 16), u16_at(head, 56));
        if head[5] != 1
            || !(kind == 2 || kind == 3)
            || usize::from(u16_at(head, 54)) != SEGMENT_BYTES
            || count == 0
            || usize::from(count) > SEGMENTS_MAX
        {
            return Err(NotRunnable::Malformed);
        }
        Ok(Header {
            movable: kind == 3,
            entry: u64_at(head, 24),
            table_offset: u64_at(head, 32),
            table_count: count,
        })
    }
}

/// One program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_bytes: u64,
    memory_bytes: u64,
    align: u64,
}

/// One PT_LOAD, ready to be mapped; addresses are before the bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Pages that come from the file, and the offset of the first.
    pub file: Option<(Span, u64)>,
    /// Bytes from here to the end of the last file page are to be zeroed.
    pub zero_from: Option<u64>,
    /// Pages of zeros after it.
    pub zeros: Option<Span>,
    /// Protection.
    pub prot: Prot,
}

/// An executable's program headers.
#[derive(Clone, Copy)]
pub struct Segments<'a> {
    table: &'a [u8],
}

impl<'a> Segments<'a> {
    /// Over the bytes of the program header table; checks every PT_LOAD.
    pub fn parse(table: &'a [u8]) -> Result<Segments<'a>, NotRunnable> {
        let segments = Segments { table };
        let mut last_end = 0;
        let mut any = false;
        for segment in segments.iter().filter(|segment| segment.kind == 1) {
            let end = segment.address.checked_add(segment.memory_bytes).ok_or(NotRunnable::Malformed)?;
            segment.offset.checked_add(segment.file_bytes).ok_or(NotRunnable::Malformed)?;
            if segment.file_bytes > segment.memory_bytes
                || end > SPACE_END - PAGE
                || segment.offset % PAGE != segment.address % PAGE
                || segment.address < last_end
            {
                return Err(NotRunnable::Malformed);
            }
            last_end = end;
            any = true;
        }
        if any { Ok(segments) } else { Err(NotRunnable::Malformed) }
    }

    fn iter(self) -> impl Iterator<Item = Segment> + 'a {
        self.table.chunks_exact(SEGMENT_BYTES).map(|raw| Segment {
            kind: u32_at(raw, 0),
            flags: u32_at(raw, 4),
            offset: u64_at(raw, 8),
            address: u64_at(raw, 16),
            file_bytes: u64_at(raw, 32),
            memory_bytes: u64_at(raw, 40),
            align: u64_at(raw, 48),
        })
    }

    /// The PT_LOADs that have memory.
    pub fn loads(self) -> impl Iterator<Item = Load> + 'a {
        self.iter()
            .filter(|segment| segment.kind == 1 && segment.memory_bytes > 0)
            .map(|segment| segment.load())
    }

    /// From the first to the last byte, in whole pages.
    pub fn span(self) -> Span {
        let mut span = Span { start: u64::MAX, end: 0 };
        for segment in self.iter().filter(|segment| segment.kind == 1) {
            span.start = span.start.min(page_down(segment.address));
            // No overflow: parse() has bounded the end.
            span.end = span.end.max(page_up(segment.address + segment.memory_bytes).unwrap_or(SPACE_END));
        }
        span
    }

    /// The largest alignment that a PT_LOAD asks for.
    pub fn align(self) -> u64 {
        let asked = self.iter().filter(|segment| segment.kind == 1).map(|segment| segment.align);
        asked.filter(|align| align.is_power_of_two()).max().unwrap_or(PAGE).clamp(PAGE, 1 << 30)
    }

    /// Where the interpreter's path is in the file (offset and length), if there is one.
    pub fn interpreter(self) -> Option<(u64, u64)> {
        self.iter().find(|segment| segment.kind == 3).map(|segment| (segment.offset, segment.file_bytes))
    }

    /// Whether the stack is to be executable: PT_GNU_STACK says so. A file without one is taken not to want it,
    /// as Linux does for x86-64.
    pub fn executable_stack(self) -> bool {
        self.iter().any(|segment| segment.kind == 0x6474_e551 && segment.flags & 1 != 0)
    }

    /// The address of the program header table in memory, before the bias.
    pub fn table_address(self, table_offset: u64) -> u64 {
        if let Some(segment) = self.iter().find(|segment| segment.kind == 6) {
            return segment.address;
        }
        let holds = |segment: &Segment| {
            segment.kind == 1
                && segment.offset <= table_offset
                && table_offset - segment.offset < segment.file_bytes
        };
        self.iter().find(holds).map_or(0, |segment| table_offset - segment.offset + segment.address)
    }
}

impl Segment {
    fn load(&self) -> Load {
        let prot = Prot((self.flags >> 2 & 1) | (self.flags & 2) | (self.flags & 1) << 2);
        let start = page_down(self.address);
        let end = page_up(self.address + self.memory_bytes).unwrap_or(SPACE_END);
        let file_end = self.address + self.file_bytes;
        let pages_end = if self.file_bytes == 0 { start } else { page_up(file_end).unwrap_or(SPACE_END) };
        let file = (pages_end > start).then(|| (Span { start, end: pages_end }, page_down(self.offset)));
        let zero = self.memory_bytes > self.file_bytes && file.is_some() && !file_end.is_multiple_of(PAGE);
        Load {
            file,
            zero_from: zero.then_some(file_end),
            zeros: (end > pages_end).then_some(Span { start: pages_end, end }),
            prot,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(
        kind: u32,
        flags: u32,
        offset: u64,
        address: u64,
        file: u64,
        memory: u64,
        align: u64,
    ) -> Vec<u8> {
        let mut raw = Vec::new();
        raw.extend(kind.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        for word in [offset, address, address, file, memory, align] {
            raw.extend(word.to_le_bytes());
        }
        raw
    }

    #[test]
    fn the_running_test_is_runnable() {
        let image = std::fs::read("/proc/self/exe").unwrap();
        let header = Header::parse(&image).unwrap();
        let start = header.table_offset as usize;
        let table = &image[start..start + usize::from(header.table_count) * SEGMENT_BYTES];
        let segments = Segments::parse(table).unwrap();
        let (offset, bytes) = segments.interpreter().unwrap();
        let path = &image[offset as usize..(offset + bytes) as usize];
        assert!(path.starts_with(b"/lib"), "{path:?}");
        assert_eq!(segments.table_address(header.table_offset), header.table_offset);
        assert!(!segments.executable_stack());
        let span = segments.span();
        assert!(segments.loads().all(|load| load.file.is_none_or(|(file, _)| span.clip(file) == Some(file))));
    }

    #[test]
    fn data_and_bss_split_at_the_page() {
        let raw = segment(1, 6, 0x1e00, 0x3e00, 0x300, 0x2000, 0x1000);
        let load = Segments::parse(&raw).unwrap().loads().next().unwrap();
        assert_eq!(load.file, Some((Span { start: 0x3000, end: 0x5000 }, 0x1000)));
        assert_eq!(load.zero_from, Some(0x4100));
        assert_eq!(load.zeros, Some(Span { start: 0x5000, end: 0x6000 }));
        assert_eq!(load.prot, Prot::READ_WRITE);
    }

    #[test]
    fn bss_alone_reads_no_file() {
        let raw = segment(1, 6, 0x10, 0x3010, 0, 0x20, 0x1000);
        let load = Segments::parse(&raw).unwrap().loads().next().unwrap();
        assert_eq!((load.file, load.zero_from), (None, None));
        assert_eq!(load.zeros, Some(Span { start: 0x3000, end: 0x4000 }));
    }

    #[test]
    fn broken_tables_are_refused() {
        let overflow = segment(1, 6, 0, 0, 1, u64::MAX, 0x1000);
        let misaligned = segment(1, 6, 0x10, 0, 1, 1, 0x1000);
        let shrunk = segment(1, 6, 0, 0, 2, 1, 0x1000);
        let none = segment(2, 6, 0, 0, 2, 2, 8);
        let high = segment(1, 6, 0, SPACE_END, 1, 1, 0x1000);
        for raw in [overflow, misaligned, shrunk, none, high] {
            assert_eq!(Segments::parse(&raw).err(), Some(NotRunnable::Malformed));
        }
    }

    #[test]
    fn other_machines_are_told_apart() {
        let mut head = vec![0; 64];
        head[..5].copy_from_slice(b"\x7fELF\x01");
        head[18] = 3;
        assert_eq!(Header::parse(&head), Err(NotRunnable::OtherMachine(3)));
        assert_eq!(Header::parse(b"MZ"), Err(NotRunnable::NotElf));
        assert_eq!(Header::parse(&[]), Err(NotRunnable::NotElf));
    }
}
