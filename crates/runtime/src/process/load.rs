//! Opening an executable and mapping it into the space.

use megalith_runtime::elf::{Header, NotRunnable, SEGMENT_BYTES, SEGMENTS_MAX, Segments};
use megalith_runtime::errno::{EACCES, EIO, ELOOP, ENOEXEC, ENOMEM, Errno};
use megalith_runtime::layout::Span;
use megalith_runtime::mapping::{Request, flag};
use megalith_runtime::script::{self, HEAD_BYTES, Script};
use megalith_runtime::startup::Loaded;
use megalith_runtime::{EXECUTABLE_BASE, PAGE, nr, page_down, page_up};

use crate::space;
use crate::sys::{self, Fd, safe_call};

const O_RDONLY_CLOEXEC: u64 = 0o2000000;
const AT_FDCWD: i64 = -100;
const AT_EACCESS: u64 = 0x200;
const X_OK: u64 = 1;
const PATH_BYTES: usize = 4096;

/// An executable file, open.
pub struct Program {
    fd: Fd,
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
}

impl Drop for Program {
    fn drop(&mut self) {
        sys::close(self.fd);
    }
}

impl Program {
    /// Opens `path` (with its terminating zero) as execve(2) would.
    pub fn open(path: &[u8]) -> Result<Program, Errno> {
        debug_assert!(path.last() == Some(&0));
        let fd = safe_call!(nr::OPENAT, AT_FDCWD, path.as_ptr(), O_RDONLY_CLOEXEC | 0o4000)? as Fd;
        let mut program = Program { fd, head: [0; HEAD_BYTES], head_bytes: 0 };
        if !sys::stat(fd)?.is_regular() {
            return Err(EACCES);
        }
        safe_call!(nr::FACCESSAT2, AT_FDCWD, path.as_ptr(), X_OK, AT_EACCESS)?;
        program.head_bytes = sys::read_at(fd, &mut program.head, 0)?;
        Ok(program)
    }

    /// The open file.
    pub fn fd(&self) -> Fd {
        self.fd
    }

    /// What its first line asks for, if it is a script.
    pub fn script(&self) -> Option<Script<'_>> {
        script::parse(&self.head[..self.head_bytes])
    }

    /// Its ELF header.
    pub fn header(&self) -> Result<Header, NotRunnable> {
        Header::parse(&self.head[..self.head_bytes])
    }

    /// Follows scripts to the end and interpreters once: the errno that execve(2) would give.
    pub fn check(self) -> Result<(), Errno> {
        check_depth(self, script::DEPTH_MAX)
    }

    fn table<'a>(&self, header: &Header, buffer: &'a mut [u8]) -> Result<Segments<'a>, Errno> {
        let table = &mut buffer[..usize::from(header.table_count) * SEGMENT_BYTES];
        if sys::read_at(self.fd, table, header.table_offset)? != table.len() {
            return Err(EIO);
        }
        Segments::parse(table).map_err(NotRunnable::errno)
    }

    /// The path of its ELF interpreter, with its terminating zero, in `path`.
    fn interpreter<'a>(&self, segments: Segments, path: &'a mut [u8]) -> Result<Option<&'a [u8]>, Errno> {
        let Some((offset, bytes)) = segments.interpreter() else { return Ok(None) };
        if bytes < 2 || bytes > path.len() as u64 {
            return Err(ENOEXEC);
        }
        let path = &mut path[..bytes as usize];
        if sys::read_at(self.fd, path, offset)? != path.len() || path.last() != Some(&0) {
            return Err(ENOEXEC);
        }
        Ok(Some(path))
    }
}

fn check_depth(program: Program, depth: usize) -> Result<(), Errno> {
    if let Some(script) = program.script() {
        if depth == 0 {
            return Err(ELOOP);
        }
        let mut path = [0; HEAD_BYTES + 1];
        path[..script.interpreter.len()].copy_from_slice(script.interpreter);
        return check_depth(Program::open(&path[..=script.interpreter.len()])?, depth - 1);
    }
    check_elf(program)
}

// Not inlined: its buffers would be on the stack once for every script.
#[inline(never)]
fn check_elf(program: Program) -> Result<(), Errno> {
    let header = program.header().map_err(NotRunnable::errno)?;
    let mut buffer = [0; SEGMENTS_MAX * SEGMENT_BYTES];
    let segments = program.table(&header, &mut buffer)?;
    let mut path = [0; PATH_BYTES];
    match program.interpreter(segments, &mut path)? {
        None => Ok(()),
        Some(path) => Program::open(path)?.header().map(|_| ()).map_err(NotRunnable::errno),
    }
}

/// A loaded program.
pub struct Image {
    /// What its auxiliary vector says.
    pub loaded: Loaded,
    /// The first instruction to run: the interpreter's, if there is one.
    pub start: u64,
    /// One past its last byte: the heap starts here.
    pub end: u64,
    /// PT_GNU_STACK wants the stack executable.
    pub executable_stack: bool,
}

/// Maps `program`, and its interpreter.
pub fn load(program: &Program) -> Result<Image, Errno> {
    let header = program.header().map_err(NotRunnable::errno)?;
    let mut buffer = [0; SEGMENTS_MAX * SEGMENT_BYTES];
    let segments = program.table(&header, &mut buffer)?;
    let bias = map_image(program, &header, segments, EXECUTABLE_BASE)?;
    let entry = header.entry.wrapping_add(bias);
    let mut image = Image {
        loaded: Loaded {
            headers: segments.table_address(header.table_offset).wrapping_add(bias),
            header_count: u64::from(header.table_count),
            interpreter_base: 0,
            entry,
        },
        start: entry,
        end: segments.span().end.wrapping_add(bias),
        executable_stack: segments.executable_stack(),
    };
    let mut path = [0; PATH_BYTES];
    if let Some(path) = program.interpreter(segments, &mut path)? {
        let interpreter = Program::open(path)?;
        let header = interpreter.header().map_err(NotRunnable::errno)?;
        let mut buffer = [0; SEGMENTS_MAX * SEGMENT_BYTES];
        let segments = interpreter.table(&header, &mut buffer)?;
        let bias = map_image(&interpreter, &header, segments, 0)?;
        image.loaded.interpreter_base = bias.wrapping_add(segments.span().start);
        image.start = header.entry.wrapping_add(bias);
    }
    Ok(image)
}

/// Maps the segments, and returns what is added to the file's addresses.
fn map_image(program: &Program, header: &Header, segments: Segments, wish: u64) -> Result<u64, Errno> {
    let span = segments.span();
    let bias = if header.movable {
        let base = space::lock().place_for_image(wish, span.bytes(), segments.align())?;
        base.wrapping_sub(span.start)
    } else {
        0
    };
    for load in segments.loads() {
        let at = |address: u64| address.wrapping_add(bias);
        if let Some((file, offset)) = load.file {
            map(file, bias, load.prot.0, Some((program.fd(), offset)))?;
        }
        if let Some(from) = load.zero_from.filter(|_| load.prot.writes()) {
            let end = page_up(from).ok_or(ENOMEM)?;
            // SAFETY: just mapped, private, writable, and nobody runs in the space yet.
            unsafe { core::ptr::write_bytes(at(from) as *mut u8, 0, (end - from) as usize) };
        }
        if let Some(zeros) = load.zeros {
            map(zeros, bias, load.prot.0, None)?;
        }
    }
    Ok(bias)
}

fn map(span: Span, bias: u64, prot: u32, file: Option<(Fd, u64)>) -> Result<(), Errno> {
    let flags = flag::PRIVATE | flag::FIXED | if file.is_none() { flag::ANONYMOUS } else { 0 };
    let (fd, offset) = file.unwrap_or((-1, 0));
    let request = Request {
        addr: span.start.wrapping_add(bias),
        length: span.bytes(),
        prot: u64::from(prot),
        flags,
        offset: page_down(offset),
    };
    debug_assert!(request.addr.is_multiple_of(PAGE));
    space::lock().mmap(request, fd).map(|_| ())
}
