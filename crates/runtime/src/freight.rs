//! What travels with a forwarded call: the bytes that its pointers point to, so that the pages they lie in need not.
//!
//! A deputy makes the very call of its thread, with the very pointers; then their pages come home, and go back when the thread
//! uses them next, two journeys and more for what may be a few bytes. So the body sends the bytes that the kernel is to read
//! beside the call, and stores those that it writes when they come beside the result. What the table does not name, what is too
//! long or cannot be read or written where the thread is, goes by pages, as ever: then the kernel at home judges.

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
            Size::Counted { argument, unit } => arguments[argument].checked_mul(unit)?,
            Size::String => STRING_BYTES_MAX,
        };
        ((1..=BYTES_MAX).contains(&bytes) && arguments[self.argument] != 0).then_some(bytes)
    }

    /// How many of `room` bytes a call with this result has written.
    pub fn written(&self, room: u64, result: i64) -> u64 {
        match self.size {
            _ if result < 0 => 0,
            Size::Counted { unit, .. } => room.min((result as u64).saturating_mul(unit)),
            Size::Fixed(_) | Size::String => room,
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
    const STAT: Size = Size::Fixed(144);
    const STATX: Size = Size::Fixed(256);
    const TIMESPEC: Size = Size::Fixed(16);
    let (sent, back) = match number {
        nr::READ | nr::PREAD64 | nr::GETDENTS64 => (None, counted(1, 2, 1)),
        nr::WRITE | nr::PWRITE64 => (counted(1, 2, 1), None),
        // With an address beside it there are more pointers.
        nr::RECVFROM if arguments[4] == 0 => (None, counted(1, 2, 1)),
        nr::SENDTO if arguments[4] == 0 => (counted(1, 2, 1), None),
        nr::GETRANDOM | nr::GETCWD => (None, counted(0, 1, 1)),
        nr::EPOLL_WAIT => (None, counted(1, 2, 12)),
        nr::FSTAT => (None, buffer(1, STAT)),
        nr::OPEN | nr::ACCESS => (buffer(0, Size::String), None),
        nr::OPENAT | nr::FACCESSAT | nr::FACCESSAT2 => (buffer(1, Size::String), None),
        nr::STAT | nr::LSTAT => (buffer(0, Size::String), buffer(1, STAT)),
        nr::NEWFSTATAT => (buffer(1, Size::String), buffer(2, STAT)),
        nr::STATX => (buffer(1, Size::String), buffer(4, STATX)),
        nr::READLINK => (buffer(0, Size::String), counted(1, 2, 1)),
        nr::READLINKAT => (buffer(1, Size::String), counted(2, 3, 1)),
        // What is left of the time is written only when a signal comes, and that brings the thread home.
        nr::NANOSLEEP => (buffer(0, TIMESPEC), None),
        nr::CLOCK_NANOSLEEP => (buffer(2, TIMESPEC), None),
        _ => (None, None),
    };
    Freight { sent, back }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::{Class, class};

    const ADDRESS: u64 = 0x7000;

    #[test]
    fn only_forwarded_calls_have_freight() {
        let named = |number: &&u32| of(**number, &[0; 6]) != Freight::default();
        assert!(nr::ALL.iter().filter(named).count() > 15);
        for number in nr::ALL.iter().filter(named) {
            assert!(matches!(class(*number), Class::Forwarded { .. }), "{}", nr::name(*number));
        }
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
