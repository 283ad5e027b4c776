//! What this host has of a range of a shared space, as an attached process asks ([`client::Op::Held`]).

use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};

use client::{HELD_BYTES_MAX, PAGE_BYTES, SHARED_BYTES, SHARED_START};
use coherence::{Has, REGION_PAGES, RegionId};
use pager::{SpaceId, offset};

use super::socket::check;
use crate::machine::Machine;

/// A file in memory with a byte for each page of `[start, start + len)`.
///
/// Regions are looked at one after the other, the machine goes on meanwhile: this is no picture of one moment.
///
/// # Errors
/// An errno: `EINVAL` for a range that is not in the space or too long, those of making the file.
pub fn held(machine: &Machine, space: SpaceId, start: u64, len: u64) -> Result<OwnedFd, i32> {
    let within = start >= SHARED_START && start + len <= SHARED_START + SHARED_BYTES;
    if !within || len > HELD_BYTES_MAX {
        return Err(libc::EINVAL);
    }
    let first = space.page(start);
    let end = offset(first, len / PAGE_BYTES);
    let mut bytes = Vec::with_capacity((len / PAGE_BYTES) as usize);
    for region in first.region().0..=offset(first, len / PAGE_BYTES - 1).region().0 {
        let region = RegionId(region);
        let from = if region == first.region() { first.index() } else { 0 };
        let to = if region == end.region() { end.index() } else { REGION_PAGES };
        match machine.lock().node.has(region) {
            Some(pages) => bytes.extend(pages.skip(from).take(to - from).map(|has| has as u8)),
            None => bytes.extend(std::iter::repeat_n(Has::Nothing as u8, to - from)),
        }
    }
    file(&bytes).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
}

fn file(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    // SAFETY: a constant string and no pointers kept.
    let fd = check(unsafe { libc::memfd_create(c"megalith-held".as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the descriptor was just made and is nobody else's.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes)?;
    Ok(file.into())
}
