//! The first bytes of a program's stack: argc, argv, envp and the auxiliary vector, as Linux lays them out.
//!
//! ```text
//! low   argc | argv … 0 | envp … 0 | auxv … AT_NULL | random, platform | strings | execfn   top
//!       ▲ rsp, a multiple of 16
//! ```

use crate::errno::{E2BIG, Errno};

/// Entries of the auxiliary vector (getauxval(3)).
pub mod aux {
    /// End of the vector.
    pub const NULL: u64 = 0;
    /// Address of the program headers.
    pub const PHDR: u64 = 3;
    /// Bytes of a program header.
    pub const PHENT: u64 = 4;
    /// Number of program headers.
    pub const PHNUM: u64 = 5;
    /// Base of the interpreter.
    pub const BASE: u64 = 7;
    /// First instruction of the program.
    pub const ENTRY: u64 = 9;
    /// Address of the platform's name.
    pub const PLATFORM: u64 = 15;
    /// Address of the real platform's name.
    pub const BASE_PLATFORM: u64 = 24;
    /// Address of 16 random bytes.
    pub const RANDOM: u64 = 25;
    /// Bytes of the rseq area the kernel knows.
    pub const RSEQ_FEATURE_SIZE: u64 = 27;
    /// Its alignment.
    pub const RSEQ_ALIGN: u64 = 28;
    /// Address of the program's path.
    pub const EXECFN: u64 = 31;
    /// The vDSO.
    pub const SYSINFO_EHDR: u64 = 33;
}

/// What the vector says about the loaded program.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// Address of its program headers.
    pub headers: u64,
    /// How many.
    pub header_count: u64,
    /// Base of its interpreter, or 0.
    pub interpreter_base: u64,
    /// Its first instruction (not the interpreter's).
    pub entry: u64,
}

/// What goes onto the stack.
pub struct Image<'a, A, E> {
    /// argv, in order; each without its terminating zero.
    pub arguments: A,
    /// envp, in order.
    pub environment: E,
    /// The kernel's own vector for this process, pairs of key and value; addresses in it are replaced.
    pub kernel_vector: &'a [(u64, u64)],
    /// The loaded program.
    pub loaded: Loaded,
    /// Its path.
    pub path: &'a [u8],
    /// The platform's name, e.g. `x86_64`.
    pub platform: &'a [u8],
    /// Random bytes.
    pub random: [u8; 16],
    /// No vDSO: a thread that is on another host does not find this host's, and its clock is not the program's.
    pub hides_vdso: bool,
}

impl<'a, A, E> Image<'a, A, E>
where
    A: Iterator<Item = &'a [u8]> + Clone,
    E: Iterator<Item = &'a [u8]> + Clone,
{
    /// Bytes that the image takes at most.
    pub fn bytes(&self) -> usize {
        let strings = |strings: &mut dyn Iterator<Item = &'a [u8]>| -> usize {
            strings.map(|string| string.len() + 1 + 8).sum()
        };
        strings(&mut self.arguments.clone())
            + strings(&mut self.environment.clone())
            + self.path.len()
            + self.platform.len()
            + (self.kernel_vector.len() + 8) * 16
            + 256
    }

    /// Writes the image into `buffer`, whose end will be at the address `top` (a multiple of 16), and returns
    /// the stack pointer.
    pub fn write(&self, buffer: &mut [u8], top: u64) -> Result<u64, Errno> {
        let mut writer = Writer { at: buffer.len(), base: top - buffer.len() as u64, buffer };
        writer.word(0)?;
        let path = writer.string(self.path)?;
        // The strings lie in order, lowest first: some programs count on it when they write over argv.
        let bytes =
            |strings: &mut dyn Iterator<Item = &'a [u8]>| -> usize { strings.map(|s| s.len() + 1).sum() };
        let environment = writer.reserve(bytes(&mut self.environment.clone()))?;
        let arguments = writer.reserve(bytes(&mut self.arguments.clone()))?;
        let platform = writer.string(self.platform)?;
        writer.align()?;
        let random = writer.bytes(&self.random)?;

        let replaced = |key: u64, value: u64| match key {
            aux::PHDR => Some(self.loaded.headers),
            aux::PHENT => Some(crate::elf::SEGMENT_BYTES as u64),
            aux::PHNUM => Some(self.loaded.header_count),
            aux::BASE => Some(self.loaded.interpreter_base),
            aux::ENTRY => Some(self.loaded.entry),
            aux::PLATFORM | aux::BASE_PLATFORM => Some(platform),
            aux::RANDOM => Some(random),
            aux::EXECFN => Some(path),
            // rseq(2) answers ENOSYS: the kernel would write into the space at every preemption.
            aux::RSEQ_FEATURE_SIZE | aux::RSEQ_ALIGN | aux::NULL => None,
            aux::SYSINFO_EHDR if self.hides_vdso => None,
            _ => Some(value),
        };
        let vector = self.kernel_vector.iter().filter_map(|&(key, value)| Some((key, replaced(key, value)?)));
        let argc = self.arguments.clone().count();
        let words = 1 + argc + 1 + self.environment.clone().count() + 1 + (vector.clone().count() + 1) * 2;
        if words % 2 == 1 {
            writer.word(0)?;
        }
        let start = writer.reserve(words * 8)?;

        let mut cursor = start;
        let mut put = |writer: &mut Writer, word: u64| {
            writer.word_at(cursor, word);
            cursor += 8;
        };
        put(&mut writer, argc as u64);
        let mut at = arguments;
        for string in self.arguments.clone() {
            put(&mut writer, at);
            at = writer.string_at(at, string);
        }
        put(&mut writer, 0);
        let mut at = environment;
        for string in self.environment.clone() {
            put(&mut writer, at);
            at = writer.string_at(at, string);
        }
        put(&mut writer, 0);
        for (key, value) in vector {
            put(&mut writer, key);
            put(&mut writer, value);
        }
        put(&mut writer, aux::NULL);
        put(&mut writer, 0);
        Ok(start)
    }
}

struct Writer<'b> {
    buffer: &'b mut [u8],
    at: usize,
    base: u64,
}

impl Writer<'_> {
    fn reserve(&mut self, bytes: usize) -> Result<u64, Errno> {
        self.at = self.at.checked_sub(bytes).ok_or(E2BIG)?;
        Ok(self.base + self.at as u64)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<u64, Errno> {
        let address = self.reserve(bytes.len())?;
        self.buffer[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        Ok(address)
    }

    fn string(&mut self, string: &[u8]) -> Result<u64, Errno> {
        self.bytes(&[0])?;
        self.bytes(string)
    }

    fn word(&mut self, word: u64) -> Result<u64, Errno> {
        self.bytes(&word.to_le_bytes())
    }

    fn align(&mut self) -> Result<(), Errno> {
        let odd = (self.base + self.at as u64) % 16;
        self.reserve(odd as usize).map(|_| ())
    }

    fn word_at(&mut self, address: u64, word: u64) {
        let at = (address - self.base) as usize;
        self.buffer[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }

    fn string_at(&mut self, address: u64, string: &[u8]) -> u64 {
        let at = (address - self.base) as usize;
        self.buffer[at..at + string.len()].copy_from_slice(string);
        self.buffer[at + string.len()] = 0;
        address + string.len() as u64 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(buffer: &[u8], base: u64, address: u64) -> u64 {
        let at = (address - base) as usize;
        u64::from_le_bytes(buffer[at..at + 8].try_into().unwrap())
    }

    fn string(buffer: &[u8], base: u64, address: u64) -> Vec<u8> {
        buffer[(address - base) as usize..].iter().copied().take_while(|byte| *byte != 0).collect()
    }

    #[test]
    fn reads_back_as_a_program_would() {
        for count in 0..5usize {
            let arguments: Vec<Vec<u8>> = (0..count).map(|i| vec![b'a' + i as u8; i * 3]).collect();
            let environment = [&b"PATH=/bin"[..], b"", b"X=1"];
            let loaded = Loaded { headers: 0x1040, header_count: 9, interpreter_base: 0x7000, entry: 0x1100 };
            let vector = [
                (aux::PHDR, 1),
                (6, 4096),
                (aux::RANDOM, 1),
                (aux::EXECFN, 1),
                (aux::RSEQ_ALIGN, 32),
                (aux::SYSINFO_EHDR, 0x7000_0000),
                (0, 0),
            ];
            let image = Image {
                arguments: arguments.iter().map(|a| &a[..]),
                environment: environment.iter().copied(),
                kernel_vector: &vector,
                loaded,
                path: b"/bin/program",
                platform: b"x86_64",
                random: [7; 16],
                hides_vdso: count > 0,
            };
            let mut buffer = vec![0xff; image.bytes()];
            let top = 0x5fff_0000;
            let base = top - buffer.len() as u64;
            let mut at = image.write(&mut buffer, top).unwrap();
            assert_eq!(at % 16, 0);
            let mut next = || {
                at += 8;
                word(&buffer, base, at - 8)
            };
            assert_eq!(next(), count as u64);
            for argument in &arguments {
                assert_eq!(&string(&buffer, base, next()), argument);
            }
            assert_eq!(next(), 0);
            for variable in environment {
                assert_eq!(string(&buffer, base, next()), variable);
            }
            assert_eq!(next(), 0);
            assert_eq!((next(), next()), (aux::PHDR, 0x1040));
            assert_eq!((next(), next()), (6, 4096));
            assert_eq!(next(), aux::RANDOM);
            assert_eq!(word(&buffer, base, next()), 0x0707_0707_0707_0707);
            assert_eq!(next(), aux::EXECFN);
            assert_eq!(string(&buffer, base, next()), b"/bin/program");
            if count == 0 {
                assert_eq!((next(), next()), (aux::SYSINFO_EHDR, 0x7000_0000));
            }
            assert_eq!((next(), next()), (0, 0), "rseq's entries are dropped");
        }
    }

    #[test]
    fn a_small_buffer_is_too_small() {
        let image = Image {
            arguments: [&b"a"[..]].into_iter(),
            environment: [].into_iter(),
            kernel_vector: &[],
            loaded: Loaded { headers: 0, header_count: 0, interpreter_base: 0, entry: 0 },
            path: b"a",
            platform: b"x86_64",
            random: [0; 16],
            hides_vdso: false,
        };
        assert_eq!(image.write(&mut [0; 48], 4096), Err(E2BIG));
    }
}
