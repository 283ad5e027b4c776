//! `client.sock` and its packets: what `crates/client` says, over Unix `SOCK_SEQPACKET`.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::{Reply, Request};

use crate::credentials;

/// Listens on a Unix `SOCK_SEQPACKET` socket.
pub struct ClientListener {
    fd: OwnedFd,
}

impl ClientListener {
    /// Makes the socket, for its owner alone.
    ///
    /// # Errors
    /// Those of socket(2), bind(2), listen(2).
    pub fn bind(path: &Path) -> io::Result<Self> {
        let fd = listen(path, libc::SOCK_SEQPACKET)?;
        Ok(Self { fd })
    }

    /// Ends [`ClientListener::accept`].
    pub fn shutdown(&self) {
        // SAFETY: a plain system call on our descriptor.
        unsafe { libc::shutdown(self.fd.as_raw_fd(), libc::SHUT_RDWR) };
    }

    /// The next client; `None` after [`ClientListener::shutdown`].
    pub fn accept(&self) -> Option<Connection> {
        loop {
            // SAFETY: a plain system call; no address is asked for.
            let fd = unsafe {
                libc::accept4(
                    self.fd.as_raw_fd(),
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    libc::SOCK_CLOEXEC,
                )
            };
            if fd >= 0 {
                // SAFETY: the descriptor was just made and is nobody else's.
                return Some(Connection { fd: unsafe { OwnedFd::from_raw_fd(fd) } });
            }
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR | libc::ECONNABORTED) => {}
                // Out of descriptors or memory: some will be given back.
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                _ => return None,
            }
        }
    }
}

/// A Unix socket that listens at `path`, of a kind such as `SOCK_STREAM`: its owner's alone from its first moment on.
///
/// # Errors
/// Those of socket(2), bind(2), listen(2).
pub fn listen(path: &Path, kind: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made and is nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeros is a valid sockaddr_un.
    let mut name: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    name.sun_family = libc::AF_UNIX as u16;
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.len() >= name.sun_path.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is too long for a socket"));
    }
    for (to, from) in name.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    // SAFETY: plain system calls; `name` is a sockaddr_un of the length we say. On Linux the file that bind(2) makes gets the
    // mode that the socket has.
    unsafe {
        check(libc::fchmod(fd.as_raw_fd(), 0o600))?;
        check(libc::bind(fd.as_raw_fd(), (&raw const name).cast(), size_of::<libc::sockaddr_un>() as u32))?;
        check(libc::listen(fd.as_raw_fd(), 64))?;
    }
    Ok(fd)
}

/// A client's process.
#[derive(Clone)]
pub struct Peer {
    /// Its process id.
    pub pid: i32,
    /// The process, whatever becomes of the id.
    pub pidfd: Arc<OwnedFd>,
}

/// A client's connection.
pub struct Connection {
    fd: OwnedFd,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const CONTROL_BYTES: usize = 64;

impl Connection {
    /// Two connected ends: one for us, one for a process that we make.
    ///
    /// # Errors
    /// Those of socketpair(2).
    pub fn pair() -> io::Result<(Connection, OwnedFd)> {
        let mut ends = [-1; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: there is room for two descriptors.
        check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
        // SAFETY: both were just made and are nobody else's.
        let [ours, theirs] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        Ok((Connection { fd: ours }, theirs))
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// Those of getsockopt(2) and pidfd_open(2).
    pub fn peer(&self) -> io::Result<Peer> {
        let credentials = credentials::of_peer(self.fd.as_fd())?;
        // SAFETY: a plain system call.
        let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, credentials.pid, 0) } as i32)?;
        // SAFETY: the descriptor was just made and is nobody else's.
        let pidfd = Arc::new(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Peer { pid: credentials.pid, pidfd })
    }

    /// The next packet and the descriptor beside it; `None` when the client has closed.
    ///
    /// # Errors
    /// Those of recvmsg(2); a packet of the wrong length, or with more than one descriptor.
    pub fn receive(&self) -> io::Result<Option<(Request, Option<OwnedFd>)>> {
        let mut request = MaybeUninit::<Request>::zeroed();
        let mut part = libc::iovec { iov_base: request.as_mut_ptr().cast(), iov_len: size_of::<Request>() };
        #[repr(align(8))]
        struct Control([u8; CONTROL_BYTES]);
        let mut control = Control([0; CONTROL_BYTES]);
        // SAFETY: all zeros is a valid msghdr.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_BYTES;
        let n = loop {
            // SAFETY: `header` points to buffers that live on and are as long as it says.
            let n = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
            if n >= 0 {
                break n;
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::ECONNRESET) => return Ok(None),
                _ => return Err(error),
            }
        };
        let mut descriptors = descriptors(&header);
        if n == 0 {
            return Ok(None);
        }
        if n as usize != size_of::<Request>() || header.msg_flags & libc::MSG_TRUNC != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet of the wrong length"));
        }
        // Where our table is full the kernel keeps the descriptor: the request comes without, and is refused.
        let descriptor = descriptors.pop().filter(|_| header.msg_flags & libc::MSG_CTRUNC == 0);
        if !descriptors.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more descriptors than a packet carries"));
        }
        // SAFETY: all of it was filled in; any bytes are a valid Request.
        Ok(Some((unsafe { request.assume_init() }, descriptor)))
    }

    /// Answers a request.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn reply(&self, reply: Reply, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        // SAFETY: four words and one, without padding.
        let bytes =
            unsafe { std::slice::from_raw_parts((&raw const reply).cast::<u8>(), size_of::<Reply>()) };
        self.send(bytes, descriptor)
    }

    /// Sends a request to the client: a steward, or a body process on its door.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn request(&self, request: Request, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        // SAFETY: five words, without padding.
        let bytes =
            unsafe { std::slice::from_raw_parts((&raw const request).cast::<u8>(), size_of::<Request>()) };
        self.send(bytes, descriptor)
    }

    fn send(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        #[repr(align(8))]
        struct Control([u8; CONTROL_BYTES]);
        let mut control = Control([0; CONTROL_BYTES]);
        // SAFETY: all zeros is a valid msghdr.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        if let Some(descriptor) = descriptor {
            header.msg_control = control.0.as_mut_ptr().cast();
            // SAFETY: arithmetic alone.
            header.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as usize;
            // SAFETY: `control` has room for one header and one descriptor.
            unsafe {
                let first = libc::CMSG_FIRSTHDR(&raw const header);
                (*first).cmsg_level = libc::SOL_SOCKET;
                (*first).cmsg_type = libc::SCM_RIGHTS;
                (*first).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
                libc::CMSG_DATA(first).cast::<RawFd>().write_unaligned(descriptor.as_raw_fd());
            }
        }
        // SAFETY: `header` points to buffers that live on and are as long as it says.
        let n = unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Ends the connection, for who receives here too.
    pub fn shutdown(&self) {
        // SAFETY: a plain system call on our descriptor.
        unsafe { libc::shutdown(self.fd.as_raw_fd(), libc::SHUT_RDWR) };
    }

    /// From now on a packet that cannot be sent for so long is an error.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn limit_sends(&self, time: Duration) -> io::Result<()> {
        let limit = libc::timeval { tv_sec: time.as_secs() as i64, tv_usec: i64::from(time.subsec_micros()) };
        // SAFETY: `limit` is as long as we say.
        check(unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDTIMEO,
                (&raw const limit).cast(),
                size_of::<libc::timeval>() as u32,
            )
        })?;
        Ok(())
    }
}

/// All descriptors beside a packet: the kernel has put them into our table, so each needs an owner.
fn descriptors(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut owned = Vec::new();
    // SAFETY: the kernel has filled in `header`'s control part, which lives on; the macros stay inside of it, and the
    // descriptors are ours from now on.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(header);
        while let Some(part) = next.as_ref() {
            if (part.cmsg_level, part.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let count = (part.cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                let first = libc::CMSG_DATA(next).cast::<RawFd>();
                owned.extend((0..count).map(|at| OwnedFd::from_raw_fd(first.add(at).read_unaligned())));
            }
            next = libc::CMSG_NXTHDR(header, next);
        }
    }
    owned
}

/// The result of a system call.
pub fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a request with so many descriptors beside it.
    fn send(socket: &OwnedFd, request: &Request, descriptors: &[RawFd]) {
        #[repr(align(8))]
        struct Control([u8; 256]);
        let mut control = Control([0; 256]);
        let bytes = size_of_val(descriptors);
        let mut part =
            libc::iovec { iov_base: (&raw const *request).cast_mut().cast(), iov_len: size_of::<Request>() };
        // SAFETY: headers point to buffers that live on, as long as they say.
        unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = &raw mut part;
            header.msg_iovlen = 1;
            if bytes > 0 {
                header.msg_control = control.0.as_mut_ptr().cast();
                header.msg_controllen = libc::CMSG_SPACE(bytes as u32) as usize;
                let first = libc::CMSG_FIRSTHDR(&raw const header);
                (*first).cmsg_level = libc::SOL_SOCKET;
                (*first).cmsg_type = libc::SCM_RIGHTS;
                (*first).cmsg_len = libc::CMSG_LEN(bytes as u32) as usize;
                libc::CMSG_DATA(first).copy_from(descriptors.as_ptr().cast(), bytes);
            }
            let sent = libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL);
            assert_eq!(sent, size_of::<Request>() as isize);
        }
    }

    /// A process that holds the read end of a pipe, and does not show it: the write end says when all have gone.
    fn has_readers(write: &OwnedFd) -> bool {
        let mut watched = libc::pollfd { fd: write.as_raw_fd(), events: 0, revents: 0 };
        // SAFETY: one entry, as we say.
        assert!(unsafe { libc::poll(&raw mut watched, 1, 0) } >= 0);
        watched.revents & libc::POLLERR == 0
    }

    /// An agent once kept what came beside the first descriptor open for ever: a client could use up its table.
    #[test]
    fn descriptors_that_a_packet_should_not_have_are_closed() {
        let request = Request { op: 1, args: [2, 3, 4, 5] };
        for count in [0, 1, 2, 3, 12, 13, 40] {
            let mut ends = [-1; 2];
            // SAFETY: there is room for two descriptors, which are nobody else's.
            let [read, write] = unsafe {
                assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
                ends.map(|fd| OwnedFd::from_raw_fd(fd))
            };
            let (ours, theirs) = Connection::pair().unwrap();
            send(&theirs, &request, &vec![read.as_raw_fd(); count]);
            drop(read);
            let received = ours.receive();
            match count {
                0 => assert!(matches!(&received, Ok(Some((heard, None))) if *heard == request)),
                1 => assert!(matches!(&received, Ok(Some((heard, Some(_)))) if *heard == request)),
                _ => {
                    assert_eq!(received.as_ref().err().map(io::Error::kind), Some(io::ErrorKind::InvalidData))
                }
            }
            assert_eq!(has_readers(&write), count == 1, "{count} descriptors");
            drop(received);
            assert!(!has_readers(&write), "{count} descriptors");
        }
    }
}
