//! What travels with a forwarded call: the bytes that its pointers point to, so that the pages they lie in need not.
//!
//! A deputy makes the very call of its thread, with the very pointers; then their pages come home, and go back when the thread
//! uses them next, two journeys and more for what may be a few bytes. So the body sends the bytes that the kernel is to read
//! beside the call, and stores those that it writes when they come beside the result. What the table does not name, what is too
//! long or cannot be read or written where the thread is, goes by pages, as ever: then the kernel at home judges. A call that
//! writes a list of buffers (writev(2)) travels as one that writes a single one.

use crate::nr;

/// Longest freight in one direction, in bytes.
pub const BYTES_MAX: u64 = 128 << 10;
/// Longest string, with its zero.
pub const STRING_BYTES_MAX: u64 = 4096;

/// How long the bytes are that a pointer points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// So many.
    Fixed(u64),
    /// So many of `unit` bytes as another argument says; of those that come back as many as the result says.
    Counted {
        /// Which.
        argument: usize,
        /// Bytes of one.
        unit: u64,
    },
    /// The same, but all come back whatever the result is, if it is no error.
    Whole {
        /// Which.
        argument: usize,
        /// Bytes of one.
        unit: u64,
    },
    /// Up to a zero, and that too.
    String,
}

/// Bytes that one argument points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Which of the six.
    pub argument: usize,
    /// How many.
    pub size: Size,
}

impl Buffer {
    /// The most bytes there can be, if they may travel. Not for no bytes, and not for a null pointer.
    pub fn room(&self, arguments: &[u64; 6]) -> Option<u64> {
        let bytes = match self.size {
            Size::Fixed(bytes) => bytes,
            Size::Counted { argument, unit } | Size::Whole { argument, unit } => {
                arguments[argument].checked_mul(unit)?
            }
            Size::String => STRING_BYTES_MAX,
        };
        ((1..=BYTES_MAX).contains(&bytes) && arguments[self.argument] != 0).then_some(bytes)
    }

    /// How many of `room` bytes a call with this result has written.
    pub fn written(&self, room: u64, result: i64) -> u64 {
        match self.size {
            _ if result < 0 => 0,
            Size::Counted { unit, .. } => room.min((result as u64).saturating_mul(unit)),
            Size::Fixed(_) | Size::Whole { .. } | Size::String => room,
        }
    }
}

/// What a call's pointers point to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freight {
    /// What the kernel reads.
    pub sent: Option<Buffer>,
    /// What it writes.
    pub back: Option<Buffer>,
}

/// The freight of call `number` with these arguments.
pub const fn of(number: u32, arguments: &[u64; 6]) -> Freight {
    const fn buffer(argument: usize, size: Size) -> Option<Buffer> {
        Some(Buffer { argument, size })
    }
    const fn counted(argument: usize, count: usize, unit: u64) -> Option<Buffer> {
        buffer(argument, Size::Counted { argument: count, unit })
    }
    const fn fixed(argument: usize, bytes: u64) -> Option<Buffer> {
        buffer(argument, Size::Fixed(bytes))
    }
    const fn path(argument: usize) -> Option<Buffer> {
        buffer(argument, Size::String)
    }
    const fn events(argument: usize, count: usize) -> Option<Buffer> {
        counted(argument, count, 12)
    }
    /// Of struct stat, statx, timespec, rusage, sigset_t, stack_t, sigaction, pollfd.
    const STAT: u64 = 144;
    const STATX: u64 = 256;
    const TIME: u64 = 16;
    const USAGE: u64 = 144;
    const SET: u64 = 8;
    const STACK: u64 = 24;
    const ACTION: u64 = 32;
    const POLL: u64 = 8;
    let (sent, back) = match number {
        nr::READ | nr::PREAD64 | nr::GETDENTS64 => (None, counted(1, 2, 1)),
        nr::WRITE | nr::PWRITE64 => (counted(1, 2, 1), None),
        // With an address beside it there are more pointers.
        nr::RECVFROM if arguments[4] == 0 => (None, counted(1, 2, 1)),
        nr::SENDTO if arguments[4] == 0 => (counted(1, 2, 1), None),
        nr::GETRANDOM | nr::GETCWD => (None, counted(0, 1, 1)),
        nr::POLL => {
            let all = buffer(0, Size::Whole { argument: 1, unit: POLL });
            (all, all)
        }
        nr::EPOLL_WAIT => (None, events(1, 2)),
        nr::EPOLL_PWAIT if arguments[4] == 0 => (None, events(1, 2)),
        nr::EPOLL_CTL => (fixed(3, 12), None),
        nr::FSTAT => (None, fixed(1, STAT)),
        nr::OPEN | nr::ACCESS => (path(0), None),
        nr::OPENAT | nr::FACCESSAT | nr::FACCESSAT2 => (path(1), None),
        nr::STAT | nr::LSTAT => (path(0), fixed(1, STAT)),
        nr::NEWFSTATAT => (path(1), fixed(2, STAT)),
        nr::STATX => (path(1), fixed(4, STATX)),
        nr::READLINK => (path(0), counted(1, 2, 1)),
        nr::READLINKAT => (path(1), counted(2, 3, 1)),
        nr::CLOCK_GETTIME => (None, fixed(1, TIME)),
        nr::GETRUSAGE => (None, fixed(1, USAGE)),
        // What is left of the time is written only when a signal comes, and that brings the thread home.
        nr::NANOSLEEP => (fixed(0, TIME), None),
        nr::CLOCK_NANOSLEEP => (fixed(2, TIME), None),
        nr::FUTEX if is_timed(arguments[1]) => (fixed(3, TIME), None),
        nr::RT_SIGPROCMASK if arguments[3] == SET => (fixed(1, SET), fixed(2, SET)),
        nr::RT_SIGACTION if arguments[3] == SET => (fixed(1, ACTION), fixed(2, ACTION)),
        nr::SIGALTSTACK => (fixed(0, STACK), fixed(1, STACK)),
        _ => (None, None),
    };
    Freight { sent, back }
}

/// Whether a futex(2) operation's fourth argument is a time: FUTEX_WAIT, LOCK_PI, WAIT_BITSET, LOCK_PI2.
const fn is_timed(operation: u64) -> bool {
    matches!(operation & 0x7f, 0 | 6 | 9 | 13)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::{Class, class};

    const ADDRESS: u64 = 0x7000;

    #[test]
    fn only_what_deputies_do_has_freight() {
        let named = |number: &&u32| of(**number, &[0, 0, 0, 8, 0, 0]) != Freight::default();
        assert!(nr::ALL.iter().filter(named).count() > 25);
        for number in nr::ALL.iter().filter(named) {
            // A clock that the body does not know is the deputy's to read.
            let done = matches!(class(*number), Class::Forwarded { .. } | Class::Thread | Class::Local);
            assert!(done, "{}", nr::name(*number));
        }
    }

    #[test]
    fn what_is_no_pointer_does_not_travel() {
        const WAKE: u64 = 1;
        const WAIT_BITSET_PRIVATE: u64 = 9 | 128;
        let sent = |number, arguments: [u64; 6]| of(number, &arguments).sent.and_then(|b| b.room(&arguments));
        assert_eq!(sent(nr::FUTEX, [ADDRESS, WAIT_BITSET_PRIVATE, 0, ADDRESS, 0, 0]), Some(16));
        assert_eq!(sent(nr::FUTEX, [ADDRESS, WAIT_BITSET_PRIVATE, 0, 0, 0, 0]), None, "no time");
        assert_eq!(sent(nr::FUTEX, [ADDRESS, WAKE, 0, ADDRESS, 0, 0]), None, "a number");
        assert_eq!(sent(nr::RT_SIGPROCMASK, [0, ADDRESS, 0, 4, 0, 0]), None, "the kernel refuses it");
    }

    #[test]
    fn all_polled_files_come_back() {
        let arguments = [ADDRESS, 3, 0, 0, 0, 0];
        let Freight { sent: Some(sent), back: Some(back) } = of(nr::POLL, &arguments) else {
            panic!("both ways")
        };
        assert_eq!((sent.room(&arguments), back.room(&arguments)), (Some(24), Some(24)));
        assert_eq!([-4, 0, 1].map(|result| back.written(24, result)), [0, 24, 24]);
    }

    #[test]
    fn as_many_bytes_travel_as_the_call_says() {
        let arguments = [3, ADDRESS, 100, 0, 0, 0];
        let Freight { sent: Some(sent), back: None } = of(nr::WRITE, &arguments) else { panic!("a write") };
        assert_eq!((sent.argument, sent.room(&arguments)), (1, Some(100)));
        let back = of(nr::EPOLL_WAIT, &[5, ADDRESS, 10, 0, 0, 0]).back.expect("events");
        assert_eq!(back.room(&[5, ADDRESS, 10, 0, 0, 0]), Some(120));
        assert_eq!([-4, 0, 3, 99].map(|result| back.written(120, result)), [0, 0, 36, 120]);
        let stat = of(nr::FSTAT, &arguments).back.expect("a struct");
        assert_eq!([-2, 0].map(|result| stat.written(144, result)), [0, 144]);
    }

    #[test]
    fn what_is_too_long_empty_or_nowhere_does_not_travel() {
        let room = |number, arguments: [u64; 6]| of(number, &arguments).back.and_then(|b| b.room(&arguments));
        assert_eq!(room(nr::READ, [3, ADDRESS, BYTES_MAX, 0, 0, 0]), Some(BYTES_MAX));
        for (address, bytes) in [(ADDRESS, BYTES_MAX + 1), (ADDRESS, 0), (0, 10), (ADDRESS, u64::MAX)] {
            assert_eq!(room(nr::READ, [3, address, bytes, 0, 0, 0]), None);
        }
        assert_eq!(room(nr::EPOLL_WAIT, [3, ADDRESS, u64::MAX / 2, 0, 0, 0]), None);
        assert_eq!(room(nr::RECVFROM, [3, ADDRESS, 10, 0, ADDRESS, ADDRESS]), None);
    }
}
