//! Packets to and from the agent: what `crates/client` says, over Unix `SOCK_SEQPACKET`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use client::{Op, Reply, Request};

use crate::check;

/// A connection to an agent's `client.sock`.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    /// Held from a request to its reply.
    turn: Mutex<()>,
}

#[repr(align(8))]
struct Control([u8; 64]);

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Socket {
    /// Connects.
    pub fn connect(path: &Path) -> io::Result<Socket> {
        let bytes = path.as_os_str().as_encoded_bytes();
        // SAFETY: all zeros is a valid sockaddr_un.
        let mut name: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        name.sun_family = libc::AF_UNIX as u16;
        if bytes.len() >= name.sun_path.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is too long for a socket"));
        }
        for (to, from) in name.sun_path.iter_mut().zip(bytes) {
            *to = *from as libc::c_char;
        }
        // SAFETY: a plain system call.
        let fd = check(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: the descriptor was just made and is nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let length = size_of::<libc::sockaddr_un>() as u32;
        // SAFETY: `name` is a sockaddr_un of the length we say.
        check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const name).cast(), length) })?;
        Ok(Socket { fd, turn: Mutex::default() })
    }

    /// Ends the connection, for whoever waits for an answer too.
    pub fn shut_down(&self) {
        // SAFETY: a plain system call; it fails only if there is no connection any more.
        unsafe { libc::shutdown(self.fd.as_raw_fd(), libc::SHUT_RDWR) };
    }

    /// Asks, and waits for the answer: an agent that is there gives one, and one that ends ends the connection.
    pub fn exchange(
        &self,
        op: Op,
        args: [u64; 4],
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<(Reply, Option<OwnedFd>)> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.send(Request { op: op as u64, args }, descriptor)?;
        self.receive()
    }

    fn send(&self, request: Request, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut part =
            libc::iovec { iov_base: (&raw const request).cast_mut().cast(), iov_len: size_of::<Request>() };
        let mut control = Control([0; 64]);
        // SAFETY: all zeros is a valid msghdr; it points to buffers that live on and are as long as it says, and `control` has room for
        // one header and one descriptor.
        unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = &raw mut part;
            header.msg_iovlen = 1;
            if let Some(descriptor) = descriptor {
                header.msg_control = control.0.as_mut_ptr().cast();
                header.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as usize;
                let first = libc::CMSG_FIRSTHDR(&raw const header);
                (*first).cmsg_level = libc::SOL_SOCKET;
                (*first).cmsg_type = libc::SCM_RIGHTS;
                (*first).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
                libc::CMSG_DATA(first).cast::<RawFd>().write_unaligned(descriptor.as_raw_fd());
            }
            if libc::sendmsg(self.fd.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    fn receive(&self) -> io::Result<(Reply, Option<OwnedFd>)> {
        let mut reply = Reply { status: 0, values: [0; 4] };
        let mut part = libc::iovec { iov_base: (&raw mut reply).cast(), iov_len: size_of::<Reply>() };
        let mut control = Control([0; 64]);
        // SAFETY: as above; any bytes are a valid Reply, and a descriptor that has come is nobody else's. The agent sends one at most.
        unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = &raw mut part;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = size_of::<Control>();
            let n = loop {
                let n = libc::recvmsg(self.fd.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC);
                if n >= 0 {
                    break n as usize;
                }
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            };
            let first = libc::CMSG_FIRSTHDR(&raw const header).as_ref();
            let carries = |part: &&libc::cmsghdr| {
                (part.cmsg_level, part.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS)
            };
            let descriptor = first
                .filter(carries)
                .map(|part| OwnedFd::from_raw_fd(libc::CMSG_DATA(part).cast::<RawFd>().read_unaligned()));
            match n {
                0 => Err(io::Error::from_raw_os_error(libc::EPIPE)),
                n if n == size_of::<Reply>() => Ok((reply, descriptor)),
                _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a packet of the wrong length")),
            }
        }
    }
}
