//! `client.sock` and its packets: what `crates/client` says, over Unix `SOCK_SEQPACKET`.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::{Reply, Request};

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
        let fd = check(
            // SAFETY: a plain system call.
            unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) },
        )?;
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
        // SAFETY: `name` is a sockaddr_un of the length we say.
        check(unsafe {
            libc::bind(fd.as_raw_fd(), (&raw const name).cast(), size_of::<libc::sockaddr_un>() as u32)
        })?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        // SAFETY: a plain system call.
        check(unsafe { libc::listen(fd.as_raw_fd(), 64) })?;
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

/// A client's process.
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
        let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut length = size_of::<libc::ucred>() as u32;
        // SAFETY: `credentials` is as long as we say.
        check(unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut credentials).cast(),
                &raw mut length,
            )
        })?;
        // SAFETY: a plain system call.
        let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, credentials.pid, 0) } as i32)?;
        // SAFETY: the descriptor was just made and is nobody else's.
        let pidfd = Arc::new(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Peer { pid: credentials.pid, pidfd })
    }

    /// The next packet and the descriptor beside it; `None` when the client has closed.
    ///
    /// # Errors
    /// Those of recvmsg(2); a packet of the wrong length.
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
        let mut descriptor = None;
        // SAFETY: the kernel has filled in `header`'s control part.
        let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        // SAFETY: where it is not null, it points into `control`.
        if let Some(first) = unsafe { first.as_ref() }
            && (first.cmsg_level, first.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS)
        {
            // SAFETY: SCM_RIGHTS carries at least one descriptor, which is ours from now on. A client that sends
            // more only fills our table until the connection ends; we keep room for a few in `control`.
            descriptor = Some(unsafe {
                OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<RawFd>().read_unaligned())
            });
        }
        if n == 0 {
            return Ok(None);
        }
        if n as usize != size_of::<Request>() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet of the wrong length"));
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

/// The result of a system call.
pub fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
