//! Lines to standard error. Each is one write, so that lines of several threads do not mix.

use core::sync::atomic::{AtomicU64, Ordering};

use megalith_runtime::errno::Errno;
use megalith_runtime::nr;

use crate::start;
use crate::sys::{self, safe_call};

/// Exit status for "Megalith itself failed".
pub const FAILED: i32 = 125;

/// Writes `megalith: PARTS` and a newline.
pub fn line(parts: &[&[u8]]) {
    let mut buffer = [0; 1024];
    let mut used = 0;
    for part in [&b"megalith: "[..]].iter().chain(parts) {
        let bytes = part.len().min(buffer.len() - 1 - used);
        buffer[used..used + bytes].copy_from_slice(&part[..bytes]);
        used += bytes;
    }
    buffer[used] = b'\n';
    // Nothing can be done about a closed standard error.
    let _ = safe_call!(nr::WRITE, 2, buffer.as_ptr(), used + 1);
}

/// Writes `megalith: PROGRAM: PARTS` and ends the process with [`FAILED`].
pub fn fatal(parts: &[&[u8]]) -> ! {
    end(FAILED, parts)
}

/// Writes `megalith: PROGRAM: PARTS` and ends the process with `status`.
pub fn end(status: i32, parts: &[&[u8]]) -> ! {
    let mut all: [&[u8]; 12] = [b""; 12];
    all[0] = start::program_path();
    all[1] = b": ";
    let parts = &parts[..parts.len().min(10)];
    all[2..2 + parts.len()].copy_from_slice(parts);
    line(&all);
    sys::exit(status)
}

/// `value` in decimal.
pub fn decimal(mut value: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[at..];
        }
    }
}

/// What has been said: a call's number and the address of the reason, which is the source's own.
static REFUSED: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

fn first_time(number: u32, reason: &'static str) -> bool {
    let key = reason.as_ptr() as u64 ^ u64::from(number) << 48;
    for slot in &REFUSED {
        match slot.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(other) if other == key => return false,
            Err(_) => {}
        }
    }
    true
}

/// Refuses a call with `errno`, and says so the first time for this call. `what` is added to the call's name.
pub fn refuse(number: u32, what: &str, reason: &'static str, errno: Errno) -> Errno {
    if first_time(number, reason) {
        let mut name = [0; 24];
        let upper = nr::name(number).as_bytes();
        let name = &mut name[..upper.len()];
        name.copy_from_slice(upper);
        name.make_ascii_lowercase();
        line(&[
            start::program_path(),
            b": ",
            name,
            what.as_bytes(),
            b" is not supported yet (",
            reason.as_bytes(),
            b"); returned ",
            errno.name().as_bytes(),
        ]);
    }
    errno
}
