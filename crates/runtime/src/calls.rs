//! What kind of call each system call is in spread mode (docs/spread.md): who makes it when its thread is away.

use crate::nr;

/// Who makes a call of a thread that is away from home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The body makes or answers it; what it cannot answer (another clock, say) it hands to the deputy.
    Local,
    /// The deputy answers, about the whole machine.
    Machine,
    /// The deputy changes the space's layout, as at home.
    Layout,
    /// The deputy answers: what the runtime or the kernel at home knows of the thread.
    Thread,
    /// The deputy makes the very same call.
    Forwarded {
        /// Whether a signal may interrupt it: then it is made with the program's mask.
        may_block: bool,
    },
    /// The thread comes home and makes it there.
    Home,
    /// Nobody makes it.
    Refused,
}

/// The class of call `number`. A call that this table does not know is refused.
pub const fn class(number: u32) -> Class {
    match listed(number) {
        Some(class) => class,
        None => Class::Refused,
    }
}

/// Calls that the filter lets pass at home even in spread mode: they take no time, and say the same wherever asked.
pub const PASSED: &[u32] = &[
    nr::RT_SIGRETURN,
    nr::GETPID,
    nr::GETTIMEOFDAY,
    nr::GETUID,
    nr::GETGID,
    nr::GETEUID,
    nr::GETEGID,
    nr::GETPPID,
    nr::GETPGRP,
    nr::GETTID,
    nr::TIME,
    nr::CLOCK_GETRES,
];

/// Which argument of a call is a path, which may name a file that shows the machine ([`crate::procfs`]).
pub const fn path_argument(number: u32) -> Option<usize> {
    match number {
        nr::OPEN | nr::STAT | nr::LSTAT | nr::ACCESS | nr::READLINK | nr::CHDIR => Some(0),
        nr::OPENAT
        | nr::OPENAT2
        | nr::NEWFSTATAT
        | nr::STATX
        | nr::FACCESSAT
        | nr::FACCESSAT2
        | nr::READLINKAT => Some(1),
        _ => None,
    }
}

const fn listed(number: u32) -> Option<Class> {
    Some(match number {
        nr::SCHED_YIELD
        | nr::ARCH_PRCTL
        | nr::GETTIMEOFDAY
        | nr::TIME
        | nr::CLOCK_GETTIME
        | nr::CLOCK_GETRES => Class::Local,
        nr::SCHED_SETAFFINITY | nr::SCHED_GETAFFINITY | nr::GETCPU | nr::SYSINFO | nr::MEMBARRIER => {
            Class::Machine
        }
        nr::MMAP
        | nr::MPROTECT
        | nr::MUNMAP
        | nr::BRK
        | nr::MREMAP
        | nr::MADVISE
        | nr::MLOCK
        | nr::MUNLOCK
        | nr::MLOCKALL
        | nr::MUNLOCKALL
        | nr::MLOCK2
        | nr::PKEY_MPROTECT => Class::Layout,
        nr::RT_SIGACTION
        | nr::RT_SIGPROCMASK
        | nr::SIGALTSTACK
        | nr::SET_TID_ADDRESS
        | nr::SET_ROBUST_LIST
        | nr::GET_ROBUST_LIST => Class::Thread,
        nr::RT_SIGRETURN
        | nr::CLONE
        | nr::FORK
        | nr::VFORK
        | nr::EXECVE
        | nr::EXIT
        | nr::EXECVEAT
        | nr::CLONE3 => Class::Home,
        nr::USELIB
        | nr::MODIFY_LDT
        | nr::REMAP_FILE_PAGES
        | nr::VMSPLICE
        | nr::SECCOMP
        | nr::USERFAULTFD
        | nr::RSEQ
        | nr::IO_URING_SETUP
        | nr::PROCESS_MADVISE
        | nr::MAP_SHADOW_STACK => Class::Refused,
        _ if prompt(number) => Class::Forwarded { may_block: false },
        _ if waits(number) => Class::Forwarded { may_block: true },
        _ => return None,
    })
}

/// Forwarded calls that no signal interrupts: they ask for or set something that the kernel has at hand.
const fn prompt(number: u32) -> bool {
    matches!(
        number,
        nr::LSEEK | nr::MSYNC | nr::MINCORE | nr::SHMGET..=nr::SHMCTL | nr::DUP
            | nr::GETITIMER..=nr::GETPID | nr::SOCKET | nr::SHUTDOWN..=nr::GETSOCKOPT
            | nr::KILL..=nr::SEMGET | nr::SEMCTL..=nr::MSGGET | nr::MSGCTL
            | nr::GETCWD | nr::FCHDIR | nr::UMASK | nr::GETRLIMIT | nr::GETRUSAGE | nr::TIMES
            | nr::GETUID | nr::GETGID..=nr::CAPSET | nr::RT_SIGQUEUEINFO | nr::PERSONALITY
            | nr::GETPRIORITY..=nr::SCHED_RR_GET_INTERVAL | nr::PRCTL..=nr::SETRLIMIT
            | nr::SETTIMEOFDAY | nr::SETHOSTNAME..=nr::IOPERM | nr::GETTID | nr::TKILL
            | nr::SET_THREAD_AREA | nr::GET_THREAD_AREA | nr::LOOKUP_DCOOKIE | nr::EPOLL_CREATE
            | nr::TIMER_CREATE..=nr::CLOCK_SETTIME | nr::EXIT_GROUP | nr::EPOLL_CTL | nr::TGKILL
            | nr::MBIND..=nr::GET_MEMPOLICY | nr::MQ_NOTIFY | nr::MQ_GETSETATTR | nr::IOPRIO_SET
            | nr::IOPRIO_GET | nr::INOTIFY_INIT..=nr::MIGRATE_PAGES | nr::UNSHARE | nr::MOVE_PAGES
            | nr::TIMERFD_CREATE | nr::TIMERFD_SETTIME..=nr::TIMERFD_GETTIME | nr::SIGNALFD | nr::EVENTFD
            | nr::SIGNALFD4..=nr::EPOLL_CREATE1 | nr::PIPE2 | nr::INOTIFY_INIT1 | nr::RT_TGSIGQUEUEINFO | nr::PRLIMIT64
            | nr::CLOCK_ADJTIME | nr::KCMP | nr::SCHED_SETATTR | nr::SCHED_GETATTR | nr::MEMFD_CREATE
            | nr::PKEY_ALLOC | nr::PKEY_FREE | nr::PIDFD_SEND_SIGNAL | nr::PIDFD_OPEN
            | nr::PIDFD_GETFD | nr::SET_MEMPOLICY_HOME_NODE | nr::FUTEX_WAKE | nr::FUTEX_REQUEUE
            | nr::MSEAL | nr::PIPE
    )
}

/// Forwarded calls that may wait: for a device, a file system, another thread.
const fn waits(number: u32) -> bool {
    matches!(
        number,
        nr::READ..=nr::LSEEK | nr::IOCTL..=nr::SELECT | nr::DUP2..=nr::NANOSLEEP
            | nr::SENDFILE..=nr::RECVMSG | nr::WAIT4 | nr::SEMOP..=nr::FCNTL | nr::FLOCK..=nr::CHDIR
            | nr::RENAME..=nr::LCHOWN | nr::PTRACE | nr::SYSLOG | nr::RT_SIGPENDING..=nr::RT_SIGSUSPEND
            | nr::UTIME..=nr::SYSFS | nr::VHANGUP | nr::PIVOT_ROOT | nr::SYSCTL
            | nr::CHROOT..=nr::REBOOT | nr::CREATE_MODULE..=nr::SECURITY | nr::READAHEAD..=nr::FREMOVEXATTR
            | nr::FUTEX | nr::IO_SETUP..=nr::IO_CANCEL | nr::EPOLL_CTL_OLD..=nr::EPOLL_WAIT_OLD
            | nr::GETDENTS64..=nr::FADVISE64 | nr::CLOCK_NANOSLEEP..=nr::UTIMES | nr::VSERVER
            | nr::MQ_OPEN..=nr::MQ_TIMEDRECEIVE | nr::KEXEC_LOAD..=nr::KEYCTL
            | nr::OPENAT..=nr::PPOLL | nr::SPLICE..=nr::SYNC_FILE_RANGE | nr::UTIMENSAT..=nr::EPOLL_PWAIT
            | nr::FALLOCATE | nr::ACCEPT4 | nr::DUP3 | nr::PREADV..=nr::PWRITEV | nr::PERF_EVENT_OPEN
            | nr::RECVMMSG..=nr::FANOTIFY_MARK | nr::NAME_TO_HANDLE_AT..=nr::OPEN_BY_HANDLE_AT
            | nr::SYNCFS..=nr::SETNS | nr::PROCESS_VM_READV..=nr::PROCESS_VM_WRITEV | nr::FINIT_MODULE
            | nr::RENAMEAT2 | nr::GETRANDOM | nr::KEXEC_FILE_LOAD | nr::BPF | nr::COPY_FILE_RANGE..=nr::PWRITEV2
            | nr::STATX..=nr::IO_PGETEVENTS | nr::URETPROBE | nr::IO_URING_ENTER..=nr::FSPICK
            | nr::CLOSE_RANGE..=nr::OPENAT2 | nr::FACCESSAT2 | nr::EPOLL_PWAIT2..=nr::LANDLOCK_RESTRICT_SELF
            | nr::MEMFD_SECRET..=nr::FUTEX_WAITV | nr::CACHESTAT..=nr::FCHMODAT2 | nr::FUTEX_WAIT
            | nr::STATMOUNT..=nr::LSM_LIST_MODULES | nr::SETXATTRAT..=nr::FILE_SETATTR
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{RULES, Rule};

    #[test]
    fn no_call_is_missing() {
        for &number in nr::ALL {
            assert!(listed(number).is_some(), "{} has no class", nr::name(number));
        }
        assert_eq!(class(471), Class::Refused);
        assert_eq!(class(400), Class::Refused);
    }

    #[test]
    fn calls_that_wait_are_known_to() {
        for number in [
            nr::READ,
            nr::FUTEX,
            nr::POLL,
            nr::NANOSLEEP,
            nr::WAIT4,
            nr::RT_SIGSUSPEND,
            nr::CONNECT,
            nr::PAUSE,
            nr::RT_SIGTIMEDWAIT,
            nr::SEMTIMEDOP,
            nr::EPOLL_PWAIT2,
            nr::FUTEX_WAITV,
            nr::FCNTL,
            nr::RT_SIGPENDING,
        ] {
            assert_eq!(class(number), Class::Forwarded { may_block: true }, "{}", nr::name(number));
        }
        for number in [nr::LSEEK, nr::KILL, nr::TGKILL, nr::PRCTL, nr::EXIT_GROUP, nr::SETITIMER, nr::PIPE2] {
            assert_eq!(class(number), Class::Forwarded { may_block: false }, "{}", nr::name(number));
        }
    }

    #[test]
    fn what_is_caught_at_home_is_answered_there() {
        for (number, rule) in RULES {
            let class = class(*number);
            match rule {
                Rule::Answer(_) => assert_eq!(class, Class::Refused, "{}", nr::name(*number)),
                Rule::Catch(_) => assert_ne!(class, Class::Local, "{}", nr::name(*number)),
            }
        }
        for &number in nr::ALL {
            if matches!(class(number), Class::Layout | Class::Refused) {
                assert!(
                    RULES.iter().any(|rule| rule.0 == number),
                    "{} passes in expand mode",
                    nr::name(number)
                );
            }
        }
    }

    #[test]
    fn what_passes_is_never_waited_in() {
        assert!(PASSED.is_sorted());
        for &number in PASSED {
            let class = class(number);
            let harmless = matches!(class, Class::Local | Class::Forwarded { may_block: false });
            assert!(harmless || number == nr::RT_SIGRETURN, "{}", nr::name(number));
        }
    }
}
