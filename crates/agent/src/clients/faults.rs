//! The thread that serves the faults of one space on this host.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use pager::{SpaceId, Uffd};

use super::socket::{Connection, Peer};
use crate::affinity::{Companion, QUIET};
use crate::machine::Machine;

/// Reads a client's faults until `stop` can be read. Once the space is `spread` its threads are left to the scheduler. When the
/// process has ended, its connection is ended too: others that it has made may keep that open.
pub fn serve(
    machine: &Machine,
    space: SpaceId,
    uffd: &Uffd,
    stop: &OwnedFd,
    spread: &AtomicBool,
    (peer, connection): (&Peer, &Connection),
) {
    let pid = peer.pid;
    let mut companion = Companion::new(pid);
    let mut faults = Vec::new();
    let mut watched = [
        libc::pollfd { fd: uffd.raw(), events: libc::POLLIN, revents: 0 },
        libc::pollfd { fd: stop.as_raw_fd(), events: libc::POLLIN, revents: 0 },
        libc::pollfd { fd: peer.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 },
    ];
    loop {
        let timeout = if companion.is_tied() { QUIET.as_millis() as i32 } else { -1 };
        // SAFETY: three entries, as we say. It ends at the latest with `stop`, which the session always writes.
        let n = unsafe { libc::poll(watched.as_mut_ptr(), 3, timeout) };
        if n == 0 {
            companion.quiet();
            machine.serve_near(None);
            continue;
        }
        if n < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return;
        }
        if watched[1].revents != 0 {
            return;
        }
        if watched[2].revents != 0 {
            connection.shutdown();
            return;
        }
        faults.clear();
        if uffd.read(&mut faults).is_err() {
            return;
        }
        if !spread.load(Ordering::Relaxed) {
            machine.serve_near(companion.faulted());
        } else if companion.is_tied() {
            companion.quiet();
            machine.serve_near(None);
        }
        for &fault in &faults {
            machine.fault(space, uffd.id(), fault);
        }
    }
}
