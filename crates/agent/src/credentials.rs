//! Who is at the other end of a Unix socket, as the kernel says.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::clients::check;

/// The credentials of the process that has connected, or made the pair (SO_PEERCRED).
///
/// # Errors
/// Those of getsockopt(2).
pub fn of_peer(socket: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `credentials` is as long as we say.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    })?;
    Ok(credentials)
}

/// Whether it is this user's or root's. Modes keep others out; this holds where somebody has widened them.
pub fn are_ours(socket: BorrowedFd<'_>) -> bool {
    // SAFETY: a plain system call.
    let own = unsafe { libc::geteuid() };
    of_peer(socket).is_ok_and(|peer| may_connect(peer.uid, own))
}

fn may_connect(peer: libc::uid_t, own: libc::uid_t) -> bool {
    peer == own || peer == 0
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_user_and_root_may_connect_and_nobody_else() {
        let (near, _far) = UnixStream::pair().unwrap();
        assert!(are_ours(near.as_fd()));
        assert_eq!(of_peer(near.as_fd()).unwrap().pid as u32, std::process::id());
        assert!(may_connect(1000, 1000) && may_connect(0, 1000));
        assert!(!may_connect(1001, 1000) && !may_connect(1000, 0));
        assert!(!are_ours(std::fs::File::open("/dev/null").unwrap().as_fd()), "no socket");
    }
}
