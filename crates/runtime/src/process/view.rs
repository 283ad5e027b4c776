//! Paths that show the machine: in spread mode `/proc/cpuinfo` and the like are read from the folder that MEGALITH_VIEW names.

use megalith_runtime::errno::{ENAMETOOLONG, Errno};
use megalith_runtime::procfs;

use crate::{spread, user};

/// Room for a path, with its terminating zero.
pub const PATH_BYTES: usize = 4096;

/// The address of `VIEW` + `path`, written into `room`; `None` if there is no view.
pub fn inside(path: &[u8], room: &mut [u8; PATH_BYTES]) -> Result<Option<u64>, Errno> {
    let view = spread::settings().view;
    if view.is_empty() {
        return Ok(None);
    }
    let end = view.len() + path.len();
    if end >= PATH_BYTES {
        return Err(ENAMETOOLONG);
    }
    room[..view.len()].copy_from_slice(view);
    room[view.len()..end].copy_from_slice(path);
    room[end] = 0;
    Ok(Some(room.as_ptr() as u64))
}

/// Where the file is really that the program's path at `address` names; `None`: where it says.
pub fn redirected(address: u64, room: &mut [u8; PATH_BYTES]) -> Result<Option<u64>, Errno> {
    if spread::settings().view.is_empty() {
        return Ok(None);
    }
    let mut start = [0; procfs::MACHINE_PREFIX_BYTES];
    let Ok(read) = user::read_some(address, &mut start) else { return Ok(None) };
    if !procfs::may_show_machine(&start[..read]) {
        return Ok(None);
    }
    let mut path = [0; PATH_BYTES];
    // What cannot be read is for the kernel to refuse.
    let Ok(path) = user::read_string(address, &mut path) else { return Ok(None) };
    procfs::shown_as(path).map_or(Ok(None), |shown| inside(shown, room))
}
