//! Client processes: who maps a space, what they ask, and the faults of their threads.

use std::fs::File;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use client::{Op, PAGE_BYTES, Reply, Request, SPACE_END};
use fabric::MachineId;
use pager::{SpaceId, SpaceMemory, Uffd, offset};

use crate::affinity::{Companion, QUIET};
use crate::machine::Machine;

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
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                _ => return None,
            }
        }
    }
}

/// A client's process.
struct Peer {
    pid: i32,
    pidfd: Arc<OwnedFd>,
}

/// A client's connection.
pub struct Connection {
    fd: OwnedFd,
}

const CONTROL_BYTES: usize = 64;

impl Connection {
    /// Who is at the other end.
    fn peer(&self) -> io::Result<Peer> {
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
    fn receive(&self) -> io::Result<Option<(Request, Option<OwnedFd>)>> {
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

    fn reply(&self, reply: Reply, descriptor: Option<RawFd>) -> io::Result<()> {
        let mut part =
            libc::iovec { iov_base: (&raw const reply).cast_mut().cast(), iov_len: size_of::<Reply>() };
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
                libc::CMSG_DATA(first).cast::<RawFd>().write_unaligned(descriptor);
            }
        }
        // SAFETY: `header` points to buffers that live on and are as long as it says.
        let n = unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Serves one client until it closes. `find` gives the machine that it names.
pub fn serve(connection: &Connection, find: impl Fn(MachineId) -> Option<Arc<Machine>>) {
    let refuse = |errno: i32, value: u64| {
        let reply = Reply { status: -i64::from(errno), values: [value, 0, 0, 0] };
        // A client that has gone need not be told.
        let _ = connection.reply(reply, None);
    };
    let Ok(Some((hello, Some(uffd)))) = connection.receive() else { return refuse(libc::EINVAL, 0) };
    if hello.op != Op::Hello as u64 {
        return refuse(libc::EINVAL, 0);
    }
    if hello.args[0] != client::VERSION {
        return refuse(libc::EPROTO, client::VERSION);
    }
    let Some(machine) = find(MachineId(hello.args[1])) else { return refuse(libc::ENOENT, 0) };
    let Ok(peer) = connection.peer() else { return refuse(libc::ESRCH, 0) };
    match Session::begin(machine, peer, Uffd::new(uffd)) {
        Ok(session) => {
            let memfd = session.memory.memfd().as_fd().as_raw_fd();
            let bytes = session.machine_bytes();
            let reply = Reply { status: 0, values: [u64::from(session.space.0), bytes, 0, 0] };
            if connection.reply(reply, Some(memfd)).is_ok() {
                session.serve(connection);
            }
            session.finish();
        }
        Err(error) => refuse(error.raw_os_error().unwrap_or(libc::EIO), 0),
    }
}

/// One client's space, for as long as it is connected.
struct Session {
    machine: Arc<Machine>,
    peer: Peer,
    space: SpaceId,
    memory: Arc<SpaceMemory>,
    /// Written to end the thread that serves faults.
    stop: Arc<OwnedFd>,
    faults: std::thread::JoinHandle<()>,
}

impl Session {
    fn begin(machine: Arc<Machine>, peer: Peer, uffd: Uffd) -> io::Result<Self> {
        let space = machine.new_space();
        let memory = Arc::new(SpaceMemory::new()?);
        let uffd = Arc::new(uffd);
        memory.add_client(uffd.clone());
        // SAFETY: a plain system call.
        let stop = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
        // SAFETY: the descriptor was just made and is nobody else's.
        let stop = Arc::new(unsafe { OwnedFd::from_raw_fd(stop) });
        machine.lock().pager.open(space, memory.clone());
        let faults = std::thread::Builder::new().name(format!("faults {}", space.0)).spawn({
            let (machine, stop) = (machine.clone(), stop.clone());
            let pid = peer.pid;
            move || serve_faults(&machine, space, &uffd, &stop, pid)
        })?;
        if !machine.add_client(&peer.pidfd) {
            // It ended between the look-up and now, and has not seen this client.
            machine.remove_client(&peer.pidfd);
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        Ok(Self { machine, peer, space, memory, stop, faults })
    }

    fn machine_bytes(&self) -> u64 {
        let state = self.machine.lock();
        let others = state.others.iter().flatten().filter_map(|f| f["budget"].as_u64());
        self.machine.budget.limit() + others.sum::<u64>()
    }

    fn serve(&self, connection: &Connection) {
        while let Ok(Some((request, descriptor))) = connection.receive() {
            let status = self.answer(&request, descriptor).map_or_else(|errno| -i64::from(errno), |()| 0);
            if connection.reply(Reply { status, values: [0; 4] }, None).is_err() {
                break;
            }
        }
    }

    fn answer(&self, request: &Request, descriptor: Option<OwnedFd>) -> Result<(), i32> {
        let [start, len, at, _] = request.args;
        let end = start.checked_add(len).filter(|&end| end <= SPACE_END).ok_or(libc::EINVAL)?;
        if len == 0 || start % PAGE_BYTES != 0 || len % PAGE_BYTES != 0 {
            return Err(libc::EINVAL);
        }
        let file = match (request.op, descriptor) {
            (op, None) if op == Op::Discard as u64 || op == Op::Clear as u64 => None,
            (op, Some(file)) if op == Op::Back as u64 && at % PAGE_BYTES == 0 => {
                Some((Arc::new(File::from(file)), at))
            }
            _ => return Err(libc::EINVAL),
        };
        let first = self.space.page(start);
        let pages = first..offset(first, (end - start) / PAGE_BYTES);
        let Some(fabric) = self.machine.fabric() else { return Err(libc::EIO) };
        let mut state = self.machine.lock();
        for region in state.node.touched_regions(pages.clone()) {
            if let Err(violation) = state.discard(region, &pages, &**fabric) {
                drop(state);
                self.machine.violated(&violation);
                return Err(libc::EIO);
            }
            // A program may free terabytes at once: let faults and signs of life in between.
            drop(state);
            state = self.machine.lock();
        }
        if request.op != Op::Discard as u64 {
            state.pager.back(self.space, start, len, file);
        }
        drop(state);
        fabric::Fabric::flush(&**fabric);
        Ok(())
    }

    fn finish(self) {
        self.machine.remove_client(&self.peer.pidfd);
        // SAFETY: eight bytes that live on.
        unsafe { libc::write(self.stop.as_raw_fd(), (&raw const ONE).cast(), 8) };
        if self.faults.join().is_err() {
            eprintln!("megalith agent: the thread that serves faults of space {} ended badly", self.space.0);
        }
        self.machine.close_space(self.space);
    }
}

static ONE: u64 = 1;

/// Reads a client's faults until `stop` can be read.
fn serve_faults(machine: &Machine, space: SpaceId, uffd: &Uffd, stop: &OwnedFd, pid: i32) {
    let mut companion = Companion::new(pid);
    let mut faults = Vec::new();
    let mut watched = [
        libc::pollfd { fd: uffd.raw(), events: libc::POLLIN, revents: 0 },
        libc::pollfd { fd: stop.as_raw_fd(), events: libc::POLLIN, revents: 0 },
    ];
    loop {
        let timeout = if companion.is_tied() { QUIET.as_millis() as i32 } else { -1 };
        // SAFETY: two entries, as we say. It ends at the latest with `stop`, which the session always writes.
        let n = unsafe { libc::poll(watched.as_mut_ptr(), 2, timeout) };
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
        faults.clear();
        if uffd.read(&mut faults).is_err() {
            return;
        }
        machine.serve_near(companion.faulted());
        for &fault in &faults {
            machine.fault(space, fault);
        }
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
