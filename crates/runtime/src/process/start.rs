//! From the kernel's first instruction to the program's.

use core::arch::{asm, naked_asm};
use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, Ordering};

use client::env;
use megalith_runtime::elf::NotRunnable;
use megalith_runtime::errno::{E2BIG, EACCES, ENAMETOOLONG, ENOENT, ENOTDIR, Errno};
use megalith_runtime::layout::Span;
use megalith_runtime::script::{DEPTH_MAX, HEAD_BYTES};
use megalith_runtime::sigset::SigSet;
use megalith_runtime::startup::{Image as Stack, aux};
use megalith_runtime::{PAGE, SPACE_END, STACK_TOP, nr, page_up};

use crate::agent::{self, Backing};
use crate::block;
use crate::body;
use crate::load::{self, Program};
use crate::say;
use crate::spread::CPUS_MAX;
use crate::sys::{self, Fd, LIMIT_STACK, Limit, safe_call};
use crate::trap::Caught;
use crate::travel::{self, Cpus};
use crate::{affinity, live, machine, own, signals, space, spread, trap};

const PATH_BYTES: usize = 4096;
const ARGUMENTS_MAX: usize = 2 * DEPTH_MAX;
/// Stack of a program whose RLIMIT_STACK is unlimited, or larger than this.
const STACK_BYTES_MAX: u64 = 64 << 20;
const STACK_BYTES_MIN: u64 = 128 << 10;
/// What the runtime says to itself through exec: letters of [`Told`].
const STATE: &str = "MEGALITH_RUNTIME";
/// Where a program without a path is found.
pub const PASSED_PATH: &[u8] = b"/proc/self/fd/1004";

/// A buffer that is written before the program starts, and only read afterwards.
struct Once<T>(UnsafeCell<T>);

// SAFETY: written by the first thread only, before there is a second.
unsafe impl<T> Sync for Once<T> {}

static PROGRAM: Once<([u8; PATH_BYTES], usize)> = Once(UnsafeCell::new(([0; PATH_BYTES], 0)));
static EXECUTABLE: Once<[u8; PATH_BYTES]> = Once(UnsafeCell::new([0; PATH_BYTES]));
/// Addresses of `NAME=value` strings that go through exec as they are; 0 for one that is not set.
static VARIABLES: Once<[u64; PASSED_ON.len()]> = Once(UnsafeCell::new([0; PASSED_ON.len()]));
/// Their names.
const PASSED_ON: [&str; 5] = [env::SOCKET, env::MACHINE, env::SPREAD, env::CPUS, env::VIEW];
static MACHINE: AtomicU64 = AtomicU64::new(0);

/// The path that the program was started by, for messages.
pub fn program_path() -> &'static [u8] {
    // SAFETY: see Once.
    let (path, bytes) = unsafe { &*PROGRAM.0.get() };
    if *bytes == 0 { b"?" } else { &path[..*bytes] }
}

/// The program's executable: what `/proc/self/exe` is to show.
pub fn executable_path() -> &'static CStr {
    // SAFETY: see Once; the last byte is never written.
    let path = unsafe { &*EXECUTABLE.0.get() };
    CStr::from_bytes_until_nul(path).unwrap_or(c"")
}

/// Path of the agent's `client.sock`; empty in bare mode.
pub fn socket_path() -> &'static [u8] {
    // SAFETY: see Once; the kernel's string, which lives for ever.
    match unsafe { (*VARIABLES.0.get())[0] } {
        0 => b"",
        address => {
            // SAFETY: as above.
            let entry = unsafe { CStr::from_ptr(address as *const _) }.to_bytes();
            value_of(entry, env::SOCKET).unwrap_or(b"")
        }
    }
}

/// The machine's id; 0 in bare mode.
pub fn machine_id() -> u64 {
    MACHINE.load(Ordering::Relaxed)
}

/// readlink(2) of `/proc/self/fd/FD`.
pub fn link_of(fd: Fd, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut path = [0; 40];
    let mut digits = [0; 20];
    let number = say::decimal(fd as u64, &mut digits);
    path[..14].copy_from_slice(b"/proc/self/fd/");
    path[14..14 + number.len()].copy_from_slice(number);
    safe_call!(nr::READLINKAT, -100i64, path.as_ptr(), buffer.as_mut_ptr(), buffer.len())
        .map(|bytes| bytes as usize)
}

/// What one runtime tells the next through exec, in the variable `MEGALITH_RUNTIME`.
#[derive(Clone, Copy, Default)]
struct Told {
    /// `f`, `a`, `s`: which filter is inherited.
    caught: Caught,
    /// `p`: the program is the descriptor [`own::PASSED`].
    passed: bool,
    /// `m` and 16 digits: the mask to start with; an exec is made with all signals blocked.
    mask: Option<SigSet>,
    /// `q` and 16 digits for each word: the machine's CPUs that the program may use, if it has said so.
    cpus: Option<Cpus>,
    /// `u`: the soft stack limit was unlimited, and is to be so again.
    unlimited_stack: bool,
}

/// `MEGALITH_RUNTIME=…`, zero-terminated.
type State = [u8; STATE_BYTES];
/// Name, `=`, letters, the mask, the CPUs, and a zero at least.
const STATE_BYTES: usize = STATE.len() + 1 + 4 + 17 + 1 + 16 * (CPUS_MAX as usize / 64) + 1;

/// Letters for filters.
const FILTERS: [(u8, Caught); 3] = [(b'f', Caught::Few), (b'a', Caught::Alone), (b's', Caught::All)];

impl Told {
    fn variable(&self) -> State {
        let mut state = [0; STATE_BYTES];
        let name = STATE.as_bytes();
        state[..name.len()].copy_from_slice(name);
        state[name.len()] = b'=';
        let mut at = name.len() + 1;
        let letter_of =
            |caught| FILTERS.iter().find(|(_, other)| *other == caught).map_or(0, |(letter, _)| *letter);
        for (said, letter) in [
            (self.caught != Caught::Nothing, letter_of(self.caught)),
            (self.passed, b'p'),
            (self.unlimited_stack, b'u'),
        ] {
            if said {
                state[at] = letter;
                at += 1;
            }
        }
        if let Some(mask) = self.mask {
            state[at] = b'm';
            at = write_hexadecimal(&mut state, at + 1, mask.0);
        }
        if let Some(cpus) = self.cpus {
            state[at] = b'q';
            at += 1;
            for word in cpus {
                at = write_hexadecimal(&mut state, at, word);
            }
        }
        state
    }
}

/// Writes 16 digits; returns where they end.
fn write_hexadecimal(state: &mut State, at: usize, word: u64) -> usize {
    for digit in 0..16 {
        state[at + digit] = b"0123456789abcdef"[(word >> (60 - 4 * digit)) as usize & 15];
    }
    at + 16
}

/// The number of 16 digits at `at`.
fn read_hexadecimal(state: &[u8], at: usize) -> Option<u64> {
    u64::from_str_radix(core::str::from_utf8(state.get(at..at + 16)?).ok()?, 16).ok()
}

/// The variables that a program's exec adds to its environment.
pub struct Variables {
    program: [u8; PATH_BYTES + 32],
    program_bytes: usize,
    told: Told,
    state: State,
}

impl Variables {
    /// For a process that has the filter, blocks `mask`, and may use `cpus`.
    pub fn new(mask: SigSet, cpus: &Cpus) -> Variables {
        let cpus = (*cpus != travel::ALL_CPUS).then_some(*cpus);
        let told = Told { caught: trap::caught(), mask: Some(mask), cpus, ..Told::default() };
        Variables { program: [0; PATH_BYTES + 32], program_bytes: 0, told, state: told.variable() }
    }

    /// The program's path.
    pub fn set_program(&mut self, path: &[u8]) -> Result<(), Errno> {
        if path.is_empty() {
            return Err(ENOENT);
        }
        if path.len() >= PATH_BYTES {
            return Err(ENAMETOOLONG);
        }
        let name = env::PROGRAM.as_bytes();
        self.program[..name.len()].copy_from_slice(name);
        self.program[name.len()] = b'=';
        let start = name.len() + 1;
        self.program[start..start + path.len()].copy_from_slice(path);
        self.program[start + path.len()] = 0;
        self.program_bytes = path.len() + 1;
        Ok(())
    }

    /// The program's path, with its terminating zero.
    pub fn program(&self) -> &[u8] {
        let start = env::PROGRAM.len() + 1;
        &self.program[start..start + self.program_bytes]
    }

    /// The program is the descriptor [`own::PASSED`].
    pub fn set_passed(&mut self) {
        self.told.passed = true;
        self.state = self.told.variable();
    }

    /// `NAME=value` strings for the new environment.
    pub fn pointers(&self) -> impl Iterator<Item = u64> {
        // SAFETY: see Once.
        let passed_on = unsafe { *VARIABLES.0.get() };
        let own = [self.program.as_ptr() as u64, self.state.as_ptr() as u64];
        own.into_iter().chain(passed_on.into_iter().filter(|pointer| *pointer != 0))
    }
}

/// The kernel's entry.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn _start() -> ! {
    naked_asm!("xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {main}", "ud2", main = sym main)
}

/// A zero-terminated list of strings on the kernel's stack.
#[derive(Clone, Copy)]
struct Strings(*const *const u8);

impl Iterator for Strings {
    type Item = &'static [u8];
    fn next(&mut self) -> Option<&'static [u8]> {
        // SAFETY: the kernel's argv or envp, which ends in a null pointer and lives for ever.
        unsafe {
            let string = *self.0;
            if string.is_null() {
                return None;
            }
            self.0 = self.0.add(1);
            Some(CStr::from_ptr(string.cast()).to_bytes())
        }
    }
}

/// What the kernel left on the stack.
struct Given {
    arguments: Strings,
    environment: Strings,
    vector: &'static [(u64, u64)],
}

impl Given {
    fn read(stack: *const u64) -> Given {
        // SAFETY: the layout that the kernel gives every process: argc, argv, 0, envp, 0, auxv.
        unsafe {
            let count = *stack as usize;
            let arguments = stack.add(1);
            let environment = arguments.add(count + 1);
            let mut vector = environment;
            while *vector != 0 {
                vector = vector.add(1);
            }
            let vector = vector.add(1).cast::<(u64, u64)>();
            let mut entries = 0;
            while (*vector.add(entries)).0 != aux::NULL {
                entries += 1;
            }
            Given {
                arguments: Strings(arguments.cast()),
                environment: Strings(environment.cast()),
                vector: core::slice::from_raw_parts(vector, entries),
            }
        }
    }

    fn variable(&self, name: &str) -> Option<&'static [u8]> {
        { self.environment }.find_map(|entry| value_of(entry, name))
    }
}

fn value_of<'a>(entry: &'a [u8], name: &str) -> Option<&'a [u8]> {
    entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

fn is_ours(entry: &[u8]) -> bool {
    PASSED_ON.iter().chain(&[env::PROGRAM, STATE]).any(|name| value_of(entry, name).is_some())
}

unsafe extern "C" fn main(stack: *const u64) -> ! {
    let given = Given::read(stack);
    if let Some(space) = given.variable(env::BODY) {
        be_body(&given, space);
    }
    let told = told(&given);
    remember(&given);
    choose_mode(&given, told);
    keep_out_of_the_space(&given, told);
    if told.unlimited_stack {
        let hard = sys::limit(LIMIT_STACK).hard;
        // It was so before; the hard limit has not changed.
        let _ = sys::set_limit(LIMIT_STACK, Limit { soft: hard, hard });
    }
    keep_runtime();
    // Before there is an agent that could choose.
    affinity::record();

    let mut path = [0; PATH_BYTES];
    let name = program_path();
    path[..name.len()].copy_from_slice(name);
    let mut scripts = Scripts::new();
    let program = scripts.follow(&path[..=name.len()]);
    if told.passed {
        sys::close(own::PASSED);
    }

    let (backing, bytes) = open_space(&given);
    check(space::open(backing, bytes), b"no memory for the runtime");
    run(&given, told, program, &scripts)
}

fn check<T>(result: Result<T, Errno>, what: &[u8]) -> T {
    match result {
        Ok(value) => value,
        Err(errno) => say::fatal(&[what, b": ", errno.name().as_bytes()]),
    }
}

fn told(given: &Given) -> Told {
    let letters = given.variable(STATE).unwrap_or(b"");
    // Neither is a hexadecimal digit.
    let find = |wanted: u8| letters.iter().position(|letter| *letter == wanted);
    let mask = find(b'm').and_then(|at| read_hexadecimal(letters, at + 1)).map(SigSet);
    let cpus = find(b'q').and_then(|at| {
        let mut cpus: Cpus = [0; _];
        for (word, at) in cpus.iter_mut().zip((at + 1..).step_by(16)) {
            *word = read_hexadecimal(letters, at)?;
        }
        Some(cpus)
    });
    let letters = letters.split(|letter| matches!(letter, b'm' | b'q')).next().unwrap_or(b"");
    let has = |letter: u8| letters.contains(&letter);
    let caught =
        FILTERS.iter().find(|(letter, _)| has(*letter)).map_or(Caught::Nothing, |(_, caught)| *caught);
    Told { caught, mask, cpus, passed: has(b'p'), unlimited_stack: has(b'u') }
}

/// Spread mode, if the environment says so, or if the filter that is inherited is that mode's: calls are caught then that expand
/// mode has no answer for.
fn choose_mode(given: &Given, told: Told) {
    let starts = given.variable(env::SPREAD);
    if starts.is_none() && told.caught < Caught::Alone {
        return;
    }
    let other = |name: &str| given.variable(name).unwrap_or(b"");
    if spread::turn_on(starts.unwrap_or(b""), other(env::CPUS), other(env::VIEW)).is_err() {
        say::fatal(&[
            env::SPREAD.as_bytes(),
            b" or ",
            env::CPUS.as_bytes(),
            b" is no list of numbers that can be",
        ]);
    }
}

fn remember(given: &Given) {
    let Some(path) = given.variable(env::PROGRAM) else {
        say::fatal(&[env::PROGRAM.as_bytes(), b" names no program; start programs with `megalith run`"]);
    };
    if path.is_empty() || path.len() >= PATH_BYTES {
        say::end(127, &[b"not a path: ", path]);
    }
    let pointer = |name: &str| {
        let found = { given.environment }.find(|entry| value_of(entry, name).is_some());
        found.map_or(0, |entry| entry.as_ptr() as u64)
    };
    // SAFETY: see Once: there is no second thread yet.
    unsafe {
        let program = &mut *PROGRAM.0.get();
        program.0[..path.len()].copy_from_slice(path);
        program.1 = path.len();
        *VARIABLES.0.get() = PASSED_ON.map(pointer);
    }
}

/// With a very large RLIMIT_STACK the kernel places what it chooses itself (System V memory, AIO rings) below
/// [`SPACE_END`]. The limit counts at exec: so the runtime executes itself with a smaller one.
fn keep_out_of_the_space(given: &Given, told: Told) {
    let Ok(chosen) = safe_call!(nr::MMAP, 0, PAGE, 0, 0x22, u64::MAX, 0) else { return };
    // SAFETY: mapped just now, and never used.
    let _ = unsafe { sys::unmap(Span::new(chosen, PAGE)) };
    if chosen >= SPACE_END {
        return;
    }
    let limit = sys::limit(LIMIT_STACK);
    if told.unlimited_stack || limit.soft <= STACK_BYTES_MAX {
        say::fatal(&[b"the kernel places mappings at low addresses here (vm.legacy_va_layout?)"]);
    }
    let state = Told { unlimited_stack: true, ..told }.variable();
    let count = given.environment.count();
    let span = check(own::allocate((count as u64 + 2) * 8, PAGE), b"no memory for the runtime");
    // SAFETY: fresh memory of that size.
    let pointers = unsafe { core::slice::from_raw_parts_mut(span.start as *mut u64, count + 2) };
    let kept = given.environment.filter(|entry| value_of(entry, STATE).is_none());
    let entries = kept.map(|entry| entry.as_ptr() as u64).chain([state.as_ptr() as u64, 0]);
    pointers.iter_mut().zip(entries).for_each(|(slot, entry)| *slot = entry);
    check(
        sys::set_limit(LIMIT_STACK, Limit { soft: 8 << 20, hard: limit.hard }),
        b"the stack limit cannot be set",
    );
    let failed = safe_call!(nr::EXECVE, c"/proc/self/exe".as_ptr(), given.arguments.0, span.start);
    check(failed, b"the runtime cannot execute itself");
}

fn keep_runtime() {
    let runtime = safe_call!(nr::OPENAT, -100i64, c"/proc/self/exe".as_ptr(), 0o12000000);
    let kept = runtime.and_then(|fd| own::keep(fd as Fd, own::RUNTIME, true));
    check(kept, b"no descriptor 1003 for the runtime (RLIMIT_NOFILE?)");
}

/// Scripts between the path that was asked for and the program that runs.
struct Scripts {
    /// What is put in front of argv, instead of argv\[0\], last first.
    front: [([u8; HEAD_BYTES], usize); ARGUMENTS_MAX],
    used: usize,
}

impl Scripts {
    fn new() -> Scripts {
        Scripts { front: [([0; HEAD_BYTES], 0); ARGUMENTS_MAX], used: 0 }
    }

    fn push(&mut self, argument: &[u8]) {
        let slot = &mut self.front[self.used];
        slot.0[..argument.len()].copy_from_slice(argument);
        slot.1 = argument.len();
        self.used += 1;
    }

    /// Opens the program at `path` (with its terminating zero), through its interpreters.
    fn follow(&mut self, path: &[u8]) -> Program {
        let mut program = open(path);
        loop {
            let mut next = [0; HEAD_BYTES + 1];
            let bytes = match program.script() {
                None => return program,
                Some(_) if self.used + 2 > ARGUMENTS_MAX => say::end(126, &[b"too many interpreters"]),
                Some(script) => {
                    if let Some(argument) = script.argument {
                        self.push(argument);
                    }
                    self.push(script.interpreter);
                    next[..script.interpreter.len()].copy_from_slice(script.interpreter);
                    script.interpreter.len()
                }
            };
            program = open(&next[..=bytes]);
        }
    }

    /// argv: interpreters and their arguments, then the script's path in place of argv\[0\].
    fn arguments<'a>(&'a self, given: &Given) -> impl Iterator<Item = &'a [u8]> + Clone + 'a {
        let front = self.front[..self.used].iter().rev().map(|(bytes, used)| -> &'a [u8] { &bytes[..*used] });
        let script = (self.used > 0).then(program_path);
        let given = given.arguments.skip(usize::from(self.used > 0)).map(|argument| -> &'a [u8] { argument });
        front.chain(script.map(|path| -> &'a [u8] { path })).chain(given)
    }
}

fn open(path: &[u8]) -> Program {
    let name = &path[..path.len() - 1];
    let program = match Program::open(path) {
        Ok(program) => program,
        Err(ENOENT | ENOTDIR) => say::end(127, &[b"not found: ", name]),
        Err(EACCES) => say::end(126, &[b"not an executable file: ", name]),
        Err(errno) => say::end(126, &[b"cannot be opened: ", name, b": ", errno.name().as_bytes()]),
    };
    if program.script().is_none() {
        match program.header() {
            Ok(_) => {}
            Err(NotRunnable::NotElf) => say::end(126, &[b"neither ELF nor a script: ", name]),
            Err(NotRunnable::OtherMachine(3)) => {
                say::end(126, &[b"built for i386; only x86-64 runs here: ", name])
            }
            Err(NotRunnable::OtherMachine(_)) => {
                say::end(126, &[b"built for another machine than x86-64: ", name])
            }
            Err(NotRunnable::Malformed) => say::end(126, &[b"a malformed executable: ", name]),
        }
    }
    program
}

fn open_space(given: &Given) -> (Backing, u64) {
    let Some(socket) = given.variable(env::SOCKET) else {
        return (Backing::Bare, check(agent::open_bare(), b"no memfd"));
    };
    let machine = machine(given);
    let (space, bytes) = agent::open(socket, machine);
    spread::set_space(space);
    MACHINE.store(machine, Ordering::Relaxed);
    (Backing::Agent, bytes)
}

/// The machine's id.
fn machine(given: &Given) -> u64 {
    let digits = given.variable(env::MACHINE).unwrap_or(b"");
    let machine = core::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let Some(machine) = machine.filter(|_| digits.len() == 16) else {
        say::fatal(&[env::MACHINE.as_bytes(), b" is not 16 hexadecimal digits"]);
    };
    machine
}

/// Not a program's process, but where threads of one on another host run.
fn be_body(given: &Given, space: &[u8]) -> ! {
    let number = core::str::from_utf8(space).ok().and_then(|digits| digits.parse().ok());
    let (Some(space), Some(socket)) = (number, given.variable(env::SOCKET)) else {
        say::fatal(&[env::BODY.as_bytes(), b" names no space, or there is no ", env::SOCKET.as_bytes()]);
    };
    body::main(space, machine(given), socket)
}

fn run(given: &Given, told: Told, program: Program, scripts: &Scripts) -> ! {
    // SAFETY: see Once: there is no second thread yet.
    let executable = unsafe { &mut *EXECUTABLE.0.get() };
    check(link_of(program.fd(), &mut executable[..PATH_BYTES - 1]), b"the program's path is unknown");
    let image = match load::load(&program) {
        Ok(image) => image,
        Err(ENOENT) => say::end(127, &[b"its interpreter (PT_INTERP) is not found"]),
        Err(errno) => say::end(126, &[b"cannot be loaded: ", errno.name().as_bytes()]),
    };
    let limit = sys::limit(LIMIT_STACK).soft.clamp(STACK_BYTES_MIN, STACK_BYTES_MAX);
    let stack_bytes = page_up(limit).unwrap_or(STACK_BYTES_MAX);
    {
        let mut space = space::lock();
        check(space.map_stack(STACK_TOP, stack_bytes, image.executable_stack), b"no stack");
        space.start_heap(image.end);
    }
    let rsp = write_stack(given, &image, scripts, stack_bytes);
    set_name();
    drop(program);
    arm(told);
    // SAFETY: the program's memory is complete; registers are as the kernel leaves them for a new program.
    unsafe {
        asm!("mov rsp, {}", "push {}", "xor eax, eax", "xor ebx, ebx", "xor ecx, ecx", "xor edx, edx",
            "xor esi, esi", "xor edi, edi", "xor ebp, ebp", "xor r8d, r8d", "xor r9d, r9d", "xor r10d, r10d",
            "xor r11d, r11d", "xor r12d, r12d", "xor r13d, r13d", "xor r14d, r14d", "xor r15d, r15d", "ret",
            in(reg) rsp, in(reg) image.start, options(noreturn))
    }
}

fn write_stack<'a>(given: &Given, image: &load::Image, scripts: &'a Scripts, stack_bytes: u64) -> u64 {
    let mut random = [0; 16];
    let platform = given.vector.iter().find(|entry| entry.0 == aux::PLATFORM).map_or(0, |entry| entry.1);
    let kernels = given.vector.iter().find(|entry| entry.0 == aux::RANDOM).map_or(0, |entry| entry.1);
    if kernels != 0 {
        // SAFETY: the kernel's 16 bytes, for this process alone.
        random = unsafe { *(kernels as *const [u8; 16]) };
    }
    let platform = match platform {
        0 => c"x86_64",
        // SAFETY: the kernel's string.
        address => unsafe { CStr::from_ptr(address as *const _) },
    };
    let contents = Stack {
        arguments: scripts.arguments(given),
        environment: given.environment.filter(|entry| !is_ours(entry)).map(|entry| -> &'a [u8] { entry }),
        kernel_vector: given.vector,
        loaded: image.loaded,
        path: program_path(),
        platform: platform.to_bytes(),
        random,
        hides_vdso: spread::on(),
    };
    let bytes = (contents.bytes() as u64 + 15) & !15;
    if bytes > stack_bytes / 4 * 3 {
        say::end(126, &[b"arguments and environment do not fit onto the stack: ", E2BIG.name().as_bytes()]);
    }
    let buffer = check(own::allocate(bytes, PAGE), b"no memory for the stack's contents");
    // SAFETY: fresh memory of that size; and the program's stack, mapped and not yet in use.
    let (own, target) = unsafe {
        (
            core::slice::from_raw_parts_mut(buffer.start as *mut u8, bytes as usize),
            core::slice::from_raw_parts_mut((STACK_TOP - bytes) as *mut u8, bytes as usize),
        )
    };
    let rsp = check(contents.write(own, STACK_TOP), b"arguments do not fit");
    let used = (rsp - (STACK_TOP - bytes)) as usize;
    target[used..].copy_from_slice(&own[used..]);
    own::free(buffer);
    rsp
}

/// The thread's name is the program's, as after a plain exec.
fn set_name() {
    const PR_SET_NAME: u64 = 15;
    let path = program_path();
    let start = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let mut name = [0; 16];
    let bytes = (path.len() - start).min(15);
    name[..bytes].copy_from_slice(&path[start..start + bytes]);
    let _ = safe_call!(nr::PRCTL, PR_SET_NAME, name.as_ptr());
}

/// The first thread's block, its signals, and the filter.
fn arm(told: Told) {
    let first = check(block::take(), b"no memory for the runtime");
    // SAFETY: taken just now; this thread's from here on.
    let block = unsafe { &mut *first };
    block.own_table.take().inherit();
    block.table = &raw const block.own_table;
    let _ = safe_call!(nr::SET_TID_ADDRESS, block.kernel_tid.as_ptr());
    check(block.use_stack(), b"no signal stack");
    if spread::on() {
        block.travel.may_leave = true;
        if let Some(cpus) = told.cpus {
            machine::restrict(&mut block.travel, &cpus);
        }
        // SAFETY: this thread's block, from here on.
        unsafe { live::list().add(first, sys::tid()) };
    }
    check(trap::arm(told.caught), b"seccomp is not permitted");
    signals::start_with(told.mask);
}
