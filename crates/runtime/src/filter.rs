//! The seccomp programs (seccomp(2)) that decide which system calls are caught: in expand mode, which the next lines are
//! about, in spread mode ([`build_alone`] while the program has one thread, [`build_spread`] from its second on), and in a
//! body process ([`build_body`]).
//!
//! A call is caught if its number is listed, its arguments match, and it is made from below
//! [`crate::SPACE_END`]: the runtime's own calls, and the vDSO's, pass. Numbers are compared first, so that for
//! every number not listed the answer does not depend on anything else and the kernel caches it.

use crate::errno::{ENOSYS, Errno};
use crate::{SPACE_END, calls, nr};

/// One instruction of classic BPF (struct sock_filter).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    operand: u32,
}

/// Longest filter that [`build`] makes.
pub const INSTRUCTIONS_MAX: usize = 1024;

/// The runtime's descriptors are kept at these numbers: first, and one past the last.
pub const OWN_DESCRIPTORS: (u32, u32) = (1000, 1008);

/// In the upper half of the mode argument of open(2) and openat(2), and of futex(2)'s operation: the runtime has looked at this
/// call. The kernel ignores those bits.
pub const SEEN: u32 = 0x4d45_4741;

const RET_ALLOW: u32 = 0x7fff_0000;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const X32_BIT: u32 = 0x4000_0000;

const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const IF_ANY_BIT: u16 = 0x45;
const AND: u16 = 0x54;

const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ADDRESS_HIGH_AT: u32 = 12;

const fn low_at(argument: u32) -> u32 {
    16 + 8 * argument
}

/// What must hold of an argument (counted from 0) for a call to be caught.
#[derive(Clone, Copy, Debug)]
pub enum Condition {
    /// Its lower half is one of the runtime's descriptors.
    OwnDescriptor(u32),
    /// Its lower half is this.
    Is(u32, u32),
    /// Its lower half is one of two.
    IsEither(u32, u32, u32),
    /// Its lower half is not this.
    IsNot(u32, u32),
    /// Its lower half has one of these bits.
    HasAny(u32, u32),
    /// Its upper half is not this.
    UpperIsNot(u32, u32),
    /// It is not 0.
    NotZero(u32),
    /// It is an operation of futex(2) with which the kernel itself writes a word.
    WritesFutex(u32),
}

/// What happens to a listed call.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// Caught if all conditions hold and the program makes it.
    Catch(&'static [Condition]),
    /// Answered with an errno, whoever makes it.
    Answer(Errno),
}

const ALWAYS: Rule = Rule::Catch(&[]);

const F_SETFL: u32 = 4;
const O_DIRECT: u32 = 0x4000;
const SIG_UNBLOCK: u32 = 1;

/// prctl(2) options that are caught.
pub mod option {
    /// Seccomp, the old way.
    pub const SET_SECCOMP: u32 = 22;
    /// Moves the kernel's idea of the program's memory.
    pub const SET_MM: u32 = 35;
}

/// futex(2)'s operations. Those before `WAKE_OP`, and the two others, leave words as they are.
mod futex {
    pub const OPERATION: u32 = 0x7f;
    pub const WAKE_OP: u32 = 5;
    pub const WAIT_BITSET: u32 = 9;
    pub const WAKE_BITSET: u32 = 10;
}

/// The listed calls, sorted by number.
pub const RULES: &[(u32, Rule)] = &[
    (nr::OPEN, Rule::Catch(&[Condition::UpperIsNot(2, SEEN)])),
    (nr::CLOSE, Rule::Catch(&[Condition::OwnDescriptor(0)])),
    (nr::MMAP, ALWAYS),
    (nr::MPROTECT, ALWAYS),
    (nr::MUNMAP, ALWAYS),
    (nr::BRK, ALWAYS),
    (nr::RT_SIGACTION, ALWAYS),
    // Asking for the mask, and unblocking, cannot let SIGSYS in.
    (nr::RT_SIGPROCMASK, Rule::Catch(&[Condition::IsNot(0, SIG_UNBLOCK), Condition::NotZero(1)])),
    (nr::MREMAP, ALWAYS),
    (nr::MADVISE, ALWAYS),
    (nr::SHMAT, Rule::Catch(&[Condition::NotZero(1)])),
    (nr::DUP2, Rule::Catch(&[Condition::OwnDescriptor(1)])),
    (nr::CLONE, ALWAYS),
    (nr::FORK, ALWAYS),
    (nr::VFORK, ALWAYS),
    (nr::EXECVE, ALWAYS),
    (nr::EXIT, ALWAYS),
    (nr::FCNTL, Rule::Catch(&[Condition::Is(1, F_SETFL), Condition::HasAny(2, O_DIRECT)])),
    (nr::READLINK, ALWAYS),
    (nr::SIGALTSTACK, ALWAYS),
    (nr::USELIB, ALWAYS),
    (nr::MLOCK, ALWAYS),
    (nr::MUNLOCK, ALWAYS),
    (nr::MLOCKALL, ALWAYS),
    (nr::MUNLOCKALL, ALWAYS),
    (nr::MODIFY_LDT, ALWAYS),
    (nr::PRCTL, Rule::Catch(&[Condition::IsEither(0, option::SET_SECCOMP, option::SET_MM)])),
    (nr::FUTEX, Rule::Catch(&[Condition::WritesFutex(1), Condition::UpperIsNot(1, SEEN)])),
    (nr::SCHED_SETAFFINITY, ALWAYS),
    (nr::SCHED_GETAFFINITY, ALWAYS),
    (nr::REMAP_FILE_PAGES, ALWAYS),
    (nr::SET_TID_ADDRESS, ALWAYS),
    (nr::OPENAT, Rule::Catch(&[Condition::UpperIsNot(3, SEEN)])),
    (nr::READLINKAT, ALWAYS),
    (nr::VMSPLICE, ALWAYS),
    (nr::DUP3, Rule::Catch(&[Condition::OwnDescriptor(1)])),
    (nr::SECCOMP, ALWAYS),
    (nr::EXECVEAT, ALWAYS),
    (nr::USERFAULTFD, ALWAYS),
    (nr::MLOCK2, ALWAYS),
    (nr::PKEY_MPROTECT, ALWAYS),
    (nr::RSEQ, Rule::Answer(ENOSYS)),
    (nr::IO_URING_SETUP, ALWAYS),
    (nr::CLONE3, ALWAYS),
    (nr::CLOSE_RANGE, ALWAYS),
    (nr::OPENAT2, ALWAYS),
    (nr::PROCESS_MADVISE, ALWAYS),
    (nr::MAP_SHADOW_STACK, Rule::Answer(ENOSYS)),
];

/// Beside [`RULES`], what is caught in spread mode while the program has one thread: what shows the whole machine, and
/// all that spread mode's own answers refuse.
const ALONE: &[u32] = &[
    nr::STAT,
    nr::LSTAT,
    nr::ACCESS,
    nr::CHDIR,
    nr::SYSINFO,
    nr::PRCTL,
    nr::NEWFSTATAT,
    nr::FACCESSAT,
    nr::GETCPU,
    nr::STATX,
    nr::FACCESSAT2,
];

/// Whether [`build`]'s filter catches calls of this number, under some condition.
pub fn is_caught(number: u32) -> bool {
    RULES.iter().any(|rule| rule.0 == number && matches!(rule.1, Rule::Catch(_)))
}

/// A filter under construction, and finished.
pub struct Filter {
    instructions: [Instruction; INSTRUCTIONS_MAX],
    used: usize,
}

/// Builds the filter for [`RULES`].
pub fn build() -> Filter {
    let mut filter = start();
    filter.tree(RULES);
    filter
}

/// A filter that knows no other instruction set than x86-64, and has loaded the call's number.
fn start() -> Filter {
    let none = Instruction { code: RETURN, jump_true: 0, jump_false: 0, operand: RET_ALLOW };
    let mut filter = Filter { instructions: [none; INSTRUCTIONS_MAX], used: 0 };
    filter.load(ARCH_AT);
    filter.branch(IF_EQUAL, AUDIT_ARCH_X86_64, 1, 0);
    filter.ret(RET_ERRNO | ENOSYS.0 as u32);
    filter.load(NUMBER_AT);
    filter.branch(IF_AT_LEAST, X32_BIT, 0, 1);
    filter.ret(RET_ERRNO | ENOSYS.0 as u32);
    filter
}

/// Builds the first filter of spread mode: a program of one thread stays at home, so that most of its calls need not be caught.
pub fn build_alone() -> Filter {
    let mut filter = start();
    for number in ALONE {
        // False skips the four instructions of `catch`.
        filter.branch(IF_EQUAL, *number, 0, 4);
        filter.catch();
    }
    filter.tree(RULES);
    filter
}

/// Builds the filter of spread mode, on top of the first: catches every call of the program but [`calls::PASSED`] and the
/// clocks of time.
pub fn build_spread() -> Filter {
    let mut filter = start();
    for number in calls::PASSED {
        filter.branch(IF_EQUAL, *number, 0, 1);
        filter.ret(RET_ALLOW);
    }
    // Clocks of time pass; those of CPU time, which threads use elsewhere too, are numbers 2, 3, and the negative ones.
    const CPU_CLOCKS: [u32; 2] = [2, 4];
    // True skips the four instructions of `catch`.
    filter.branch(IF_EQUAL, nr::CLOCK_GETTIME, 4, 0);
    filter.catch();
    filter.load(low_at(0));
    filter.branch(IF_AT_LEAST, 1 << 31, 3, 0);
    filter.branch(IF_AT_LEAST, CPU_CLOCKS[0], 0, 1);
    filter.branch(IF_AT_LEAST, CPU_CLOCKS[1], 0, 1);
    filter.ret(RET_ALLOW);
    filter.catch();
    filter
}

/// Builds the filter of a body process: catches every call of the program.
pub fn build_body() -> Filter {
    let mut filter = start();
    filter.catch();
    filter
}

impl Filter {
    /// The finished program.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions[..self.used]
    }

    fn push(&mut self, code: u16, jump_true: u8, jump_false: u8, operand: u32) -> usize {
        self.instructions[self.used] = Instruction { code, jump_true, jump_false, operand };
        self.used += 1;
        self.used - 1
    }

    fn load(&mut self, at: u32) {
        self.push(LOAD, 0, 0, at);
    }

    fn branch(&mut self, code: u16, operand: u32, jump_true: u8, jump_false: u8) {
        self.push(code, jump_true, jump_false, operand);
    }

    fn ret(&mut self, value: u32) {
        self.push(RETURN, 0, 0, value);
    }

    /// A binary tree over sorted numbers; every leaf ends in a return.
    fn tree(&mut self, rules: &[(u32, Rule)]) {
        if let [(number, rule)] = rules {
            self.branch(IF_EQUAL, *number, 1, 0);
            self.ret(RET_ALLOW);
            return self.leaf(*rule);
        }
        let (lower, upper) = rules.split_at(rules.len() / 2);
        self.branch(IF_AT_LEAST, upper[0].0, 0, 1);
        let far = self.push(JUMP, 0, 0, 0);
        self.tree(lower);
        self.instructions[far].operand = (self.used - far - 1) as u32;
        self.tree(upper);
    }

    fn leaf(&mut self, rule: Rule) {
        let conditions = match rule {
            Rule::Answer(errno) => return self.ret(RET_ERRNO | errno.0 as u32),
            Rule::Catch(conditions) => conditions,
        };
        for condition in conditions {
            self.condition(*condition);
        }
        self.catch();
    }

    /// Catches the call if the program makes it.
    fn catch(&mut self) {
        self.load(ADDRESS_HIGH_AT);
        self.branch(IF_AT_LEAST, (SPACE_END >> 32) as u32, 0, 1);
        self.ret(RET_ALLOW);
        self.ret(RET_TRAP);
    }

    /// Falls through if the condition holds; allows the call if not.
    fn condition(&mut self, condition: Condition) {
        match condition {
            Condition::OwnDescriptor(argument) => {
                self.load(low_at(argument));
                self.branch(IF_AT_LEAST, OWN_DESCRIPTORS.0, 0, 1);
                self.branch(IF_AT_LEAST, OWN_DESCRIPTORS.1, 0, 1);
            }
            Condition::Is(argument, value) => {
                self.load(low_at(argument));
                self.branch(IF_EQUAL, value, 1, 0);
            }
            Condition::IsEither(argument, one, other) => {
                self.load(low_at(argument));
                self.branch(IF_EQUAL, one, 2, 0);
                self.branch(IF_EQUAL, other, 1, 0);
            }
            Condition::IsNot(argument, value) => {
                self.load(low_at(argument));
                self.branch(IF_EQUAL, value, 0, 1);
            }
            Condition::HasAny(argument, bits) => {
                self.load(low_at(argument));
                self.branch(IF_ANY_BIT, bits, 1, 0);
            }
            Condition::UpperIsNot(argument, value) => {
                self.load(low_at(argument) + 4);
                self.branch(IF_EQUAL, value, 0, 1);
            }
            Condition::NotZero(argument) => {
                self.load(low_at(argument));
                self.branch(IF_EQUAL, 0, 0, 3);
                self.load(low_at(argument) + 4);
                self.branch(IF_EQUAL, 0, 0, 1);
            }
            Condition::WritesFutex(argument) => {
                self.load(low_at(argument));
                self.push(AND, 0, 0, futex::OPERATION);
                self.branch(IF_AT_LEAST, futex::WAKE_OP, 0, 2);
                self.branch(IF_EQUAL, futex::WAIT_BITSET, 1, 0);
                self.branch(IF_EQUAL, futex::WAKE_BITSET, 0, 1);
            }
        }
        self.ret(RET_ALLOW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Call {
        number: u32,
        arch: u32,
        address: u64,
        arguments: [u64; 6],
    }

    fn word(call: &Call, at: u32) -> u32 {
        let long = |value: u64| if at.is_multiple_of(8) { value as u32 } else { (value >> 32) as u32 };
        match at {
            0 => call.number,
            4 => call.arch,
            8 | 12 => long(call.address),
            _ => long(call.arguments[(at as usize - 16) / 8]),
        }
    }

    fn run(program: &[Instruction], call: &Call) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction { code, jump_true, jump_false, operand } = program[at];
            at += 1;
            let holds = match code {
                RETURN => return operand,
                LOAD => {
                    accumulator = word(call, operand);
                    continue;
                }
                JUMP => {
                    at += operand as usize;
                    continue;
                }
                AND => {
                    accumulator &= operand;
                    continue;
                }
                IF_EQUAL => accumulator == operand,
                IF_AT_LEAST => accumulator >= operand,
                IF_ANY_BIT => accumulator & operand != 0,
                other => panic!("an unknown instruction {other:#x}"),
            };
            at += usize::from(if holds { jump_true } else { jump_false });
        }
    }

    const LOW: u64 = 0x40_1000;

    #[test]
    fn spread_mode_catches_all_but_a_few() {
        let of = |filter: &Filter, number, address| {
            let call = Call { number, arch: AUDIT_ARCH_X86_64, address, arguments: [0; 6] };
            run(filter.instructions(), &call)
        };
        let (spread, body) = (build_spread(), build_body());
        for number in 0..600 {
            let passes = calls::PASSED.contains(&number) || number == nr::CLOCK_GETTIME;
            assert_eq!(of(&spread, number, LOW), if passes { RET_ALLOW } else { RET_TRAP }, "{number}");
            assert_eq!(of(&body, number, LOW), RET_TRAP, "{number} away");
            for filter in [&spread, &body] {
                assert_eq!(of(filter, number, SPACE_END), RET_ALLOW, "{number} from the runtime");
            }
        }
    }

    #[test]
    fn alone_all_is_caught_that_shows_the_machine() {
        let (alone, expand) = (build_alone(), build());
        let of = |filter: &Filter, number, address| {
            let call = Call { number, arch: AUDIT_ARCH_X86_64, address, arguments: [0; 6] };
            run(filter.instructions(), &call)
        };
        for &number in nr::ALL {
            let shows = match calls::class(number) {
                // It is about threads, of which there is one, and about whose caches nobody asks.
                calls::Class::Machine => number != nr::MEMBARRIER,
                _ => calls::path_argument(number).is_some() || number == nr::PRCTL,
            };
            let expected = if shows { RET_TRAP } else { of(&expand, number, LOW) };
            assert_eq!(of(&alone, number, LOW), expected, "{}", nr::name(number));
            if expected == RET_TRAP {
                assert_eq!(of(&alone, number, SPACE_END), RET_ALLOW, "{} from the runtime", nr::name(number));
            }
        }
    }

    #[test]
    fn clocks_of_cpu_time_are_caught_in_spread_mode() {
        let filter = build_spread();
        let ask = |clock: i32| {
            let arguments = [clock as u32 as u64, 0, 0, 0, 0, 0];
            let call = Call { number: nr::CLOCK_GETTIME, arch: AUDIT_ARCH_X86_64, address: LOW, arguments };
            run(filter.instructions(), &call)
        };
        for clock in [0, 1, 4, 5, 6, 7, 11, i32::MAX] {
            assert_eq!(ask(clock), RET_ALLOW, "{clock}");
        }
        for clock in [2, 3, -1, -6, i32::MIN] {
            assert_eq!(ask(clock), RET_TRAP, "{clock}");
        }
    }

    fn ask(number: u32, address: u64, arguments: [u64; 6]) -> u32 {
        let filter = build();
        run(filter.instructions(), &Call { number, arch: AUDIT_ARCH_X86_64, address, arguments })
    }

    #[test]
    fn rules_are_sorted_and_unique() {
        assert!(RULES.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn every_number_gets_its_answer() {
        for number in 0..600 {
            let expected = match RULES.iter().find(|rule| rule.0 == number) {
                None => RET_ALLOW,
                Some((_, Rule::Answer(errno))) => RET_ERRNO | errno.0 as u32,
                Some((_, Rule::Catch([]))) => RET_TRAP,
                Some(_) => continue,
            };
            assert_eq!(ask(number, LOW, [0; 6]), expected, "{number}");
            if expected == RET_TRAP {
                assert_eq!(ask(number, SPACE_END, [0; 6]), RET_ALLOW, "{number} from the runtime");
                assert_eq!(ask(number, SPACE_END - 1, [0; 6]), RET_TRAP, "{number} from the last byte");
            }
        }
    }

    #[test]
    fn conditions_look_at_arguments() {
        let ask = |number, arguments| ask(number, LOW, arguments) == RET_TRAP;
        assert!(ask(nr::CLOSE, [1000, 0, 0, 0, 0, 0]) && ask(nr::CLOSE, [1007, 0, 0, 0, 0, 0]));
        assert!(!ask(nr::CLOSE, [999, 0, 0, 0, 0, 0]) && !ask(nr::CLOSE, [1008, 0, 0, 0, 0, 0]));
        assert!(!ask(nr::RT_SIGPROCMASK, [1, 8, 0, 8, 0, 0]), "unblock");
        assert!(!ask(nr::RT_SIGPROCMASK, [0, 0, 8, 8, 0, 0]), "query");
        assert!(ask(nr::RT_SIGPROCMASK, [2, 8, 0, 8, 0, 0]));
        assert!(ask(nr::RT_SIGPROCMASK, [2, 1 << 40, 0, 8, 0, 0]), "a pointer whose lower half is 0");
        assert!(ask(nr::RT_SIGPROCMASK, [2, 1, 0, 8, 0, 0]));
        assert!(ask(nr::FCNTL, [3, 4, 0x4800, 0, 0, 0]) && !ask(nr::FCNTL, [3, 4, 0x800, 0, 0, 0]));
        assert!(!ask(nr::FCNTL, [3, 3, 0x4000, 0, 0, 0]));
        assert!(ask(nr::PRCTL, [22, 0, 0, 0, 0, 0]) && ask(nr::PRCTL, [35, 0, 0, 0, 0, 0]));
        assert!(!ask(nr::PRCTL, [15, 0, 0, 0, 0, 0]));
        let seen = u64::from(SEEN) << 32;
        for operation in 0..16 {
            let futex = |operation| ask(nr::FUTEX, [0, operation, 0, 0, 0, 0]);
            let writes = [5, 6, 7, 8, 11, 12, 13, 14, 15].contains(&operation);
            for flags in [0, 128, 128 | 256] {
                assert_eq!(futex(operation | flags), writes, "{operation}");
                assert!(!futex(operation | flags | seen), "{operation}");
            }
        }
        assert!(ask(nr::OPENAT, [0; 6]) && !ask(nr::OPENAT, [0, 0, 0, seen | 0o644, 0, 0]));
        assert!(ask(nr::OPEN, [0; 6]) && !ask(nr::OPEN, [0, 0, seen, 0, 0, 0]));
        assert!(ask(nr::DUP3, [0, 1001, 0, 0, 0, 0]) && !ask(nr::DUP3, [1001, 5, 0, 0, 0, 0]));
    }

    #[test]
    fn other_instruction_sets_do_not_exist() {
        let i386 = Call { number: 11, arch: 0x4000_0003, address: LOW, arguments: [0; 6] };
        let x32 = Call { number: 1 | X32_BIT, arch: AUDIT_ARCH_X86_64, address: LOW, arguments: [0; 6] };
        for call in [i386, x32] {
            for filter in [build(), build_alone(), build_spread(), build_body()] {
                assert_eq!(run(filter.instructions(), &call), RET_ERRNO | 38);
            }
        }
    }

    #[test]
    fn it_fits() {
        assert!(build_alone().instructions().len() < INSTRUCTIONS_MAX / 2);
        assert!(nr::ALL.windows(2).all(|pair| pair[0] < pair[1]), "numbers are sorted");
        assert_eq!(nr::name(nr::MMAP), "MMAP");
    }
}
