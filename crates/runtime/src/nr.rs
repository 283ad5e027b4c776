//! System call numbers of x86-64 Linux, those that the runtime makes or catches.

macro_rules! numbers {
    ($($name:ident = $value:literal),* $(,)?) => {
        $(#[doc = concat!("system call ", $value)] pub const $name: u32 = $value;)*

        /// The call's name in capital letters; "?" for one not listed here.
        pub const fn name(number: u32) -> &'static str {
            match number { $($value => stringify!($name),)* _ => "?" }
        }

        #[cfg(test)]
        pub(crate) const ALL: &[u32] = &[$($value),*];
    };
}

numbers! {
    READ = 0, WRITE = 1, OPEN = 2, CLOSE = 3, FSTAT = 5, MMAP = 9, MPROTECT = 10, MUNMAP = 11, BRK = 12,
    RT_SIGACTION = 13, RT_SIGPROCMASK = 14, RT_SIGRETURN = 15, IOCTL = 16, PREAD64 = 17, WRITEV = 20,
    MREMAP = 25, MADVISE = 28, SHMAT = 30, DUP2 = 33, GETPID = 39, SENDFILE = 40, SOCKET = 41, CONNECT = 42,
    SENDMSG = 46, RECVMSG = 47, CLONE = 56, FORK = 57, VFORK = 58, EXECVE = 59, EXIT = 60, KILL = 62,
    FCNTL = 72, FTRUNCATE = 77, READLINK = 89, SYSINFO = 99, SIGALTSTACK = 131, USELIB = 134, MLOCK = 149,
    MUNLOCK = 150, MLOCKALL = 151, MUNLOCKALL = 152, MODIFY_LDT = 154, PRCTL = 157, GETTID = 186, FUTEX = 202,
    SCHED_SETAFFINITY = 203, SCHED_GETAFFINITY = 204,
    REMAP_FILE_PAGES = 216, SET_TID_ADDRESS = 218, EXIT_GROUP = 231, TGKILL = 234, OPENAT = 257,
    READLINKAT = 267, SET_ROBUST_LIST = 273, GET_ROBUST_LIST = 274, VMSPLICE = 278, FALLOCATE = 285, DUP3 = 292,
    RT_TGSIGQUEUEINFO = 297, PRLIMIT64 = 302, PROCESS_VM_READV = 310, PROCESS_VM_WRITEV = 311, SECCOMP = 317,
    MEMFD_CREATE = 319, EXECVEAT = 322, USERFAULTFD = 323, MLOCK2 = 325, PKEY_MPROTECT = 329, RSEQ = 334,
    IO_URING_SETUP = 425, CLONE3 = 435, CLOSE_RANGE = 436, OPENAT2 = 437, FACCESSAT2 = 439,
    PROCESS_MADVISE = 440, MAP_SHADOW_STACK = 453,
}
