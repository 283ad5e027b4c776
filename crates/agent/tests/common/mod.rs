//! What the tests of whole agents share: agents in this process, a control connection, and clients.

// Each test uses its own part of it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Write};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use client::{Op, Reply, Request};
use megalith_agent::{AgentError, Config, cluster_id, serve};
use serde_json::{Value, json};

pub const PAGE: u64 = client::PAGE_BYTES;
/// Long enough for a computer that has much else to do.
const LOST_AFTER_MS: u64 = 4000;
pub const MIB: u64 = 1 << 20;

pub static COUNT: AtomicU64 = AtomicU64::new(1);

pub struct TestAgent {
    pub name: String,
    pub address: String,
    pub directory: PathBuf,
    pub stop: Option<OwnedFd>,
    pub thread: Option<JoinHandle<Result<(), AgentError>>>,
}

pub fn pipe() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: two descriptors are made, and are ours.
    unsafe {
        assert_eq!(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    }
}

impl TestAgent {
    pub fn start(name: &str, budget: u64) -> TestAgent {
        TestAgent::start_with(name, budget, b"")
    }

    /// `runtime` is the program of its body processes.
    pub fn start_with(name: &str, budget: u64, runtime: &'static [u8]) -> TestAgent {
        TestAgent::start_for(name, budget, runtime, &[])
    }

    /// `worker` is the command of its workers.
    pub fn start_for(name: &str, budget: u64, runtime: &'static [u8], worker: &[String]) -> TestAgent {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("megalith-agent-{}-{n}", std::process::id()));
        let config = Config {
            name: name.into(),
            listen: "127.0.0.1:0".into(),
            directory: directory.clone(),
            budget,
            cluster: cluster_id("test"),
            keys: None,
            runtime,
            worker: worker.to_vec(),
        };
        let (ready_read, ready_write) = pipe();
        let (stop_read, stop_write) = pipe();
        let thread = std::thread::spawn(move || serve(&config, ready_write.as_fd(), stop_read.as_fd()));
        let mut line = String::new();
        BufReader::new(std::fs::File::from(ready_read)).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).expect("the agent starts");
        let address = ready["address"].as_str().unwrap().to_owned();
        TestAgent { name: name.into(), address, directory, stop: Some(stop_write), thread: Some(thread) }
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        self.stop.take();
        // One that is only a name and an address has none.
        let Some(thread) = self.thread.take() else { return };
        thread.join().unwrap().unwrap();
        assert!(!self.directory.join("control.sock").exists());
        let _ = std::fs::remove_dir(&self.directory);
    }
}

pub struct Control {
    pub lines: BufReader<UnixStream>,
}

impl Control {
    pub fn open(agents: &[&TestAgent], machine: u64) -> (Control, Value) {
        let stream = UnixStream::connect(agents[0].directory.join("control.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut control = Control { lines: BufReader::new(stream) };
        let members: Vec<Value> =
            agents.iter().map(|a| json!({"name": a.name, "address": a.address})).collect();
        control.say(&json!({
            "op": "open", "machine": format!("{machine:016x}"), "members": members,
            "heartbeat_ms": 50, "lost_after_ms": LOST_AFTER_MS, "join_timeout_ms": 5000,
        }));
        let first = control.hear();
        (control, first)
    }

    pub fn say(&mut self, order: &Value) {
        writeln!(self.lines.get_mut(), "{order}").unwrap();
    }

    pub fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or(Value::Null)
    }

    pub fn hear_until(&mut self, event: &str) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let heard = self.hear();
            if heard["event"] == event {
                return heard;
            }
            assert!(!heard.is_null() && Instant::now() < deadline, "waiting for {event}, heard {heard}");
        }
    }
}

/// A client: a mapped and registered range of a space.
pub struct Client {
    pub socket: OwnedFd,
    pub uffd: OwnedFd,
    pub base: u64,
    pub bytes: u64,
}

pub fn userfaultfd() -> OwnedFd {
    // SAFETY: a descriptor made here; `api` is what the call takes.
    unsafe {
        let uffd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK);
        assert!(uffd >= 0);
        let uffd = OwnedFd::from_raw_fd(uffd as i32);
        let mut api = Api { api: 0xAA, features: client::UFFD_FEATURES, ioctls: 0 };
        assert_eq!(libc::ioctl(uffd.as_raw_fd(), 0xc018_aa3f, &raw mut api), 0);
        uffd
    }
}

/// A connection to a `client.sock`.
pub fn seqpacket(path: &Path) -> OwnedFd {
    // SAFETY: plain system calls on a descriptor made here; `name` is a sockaddr_un of the length we say.
    unsafe {
        let socket = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
        let socket = OwnedFd::from_raw_fd(socket);
        let mut name: libc::sockaddr_un = std::mem::zeroed();
        name.sun_family = libc::AF_UNIX as u16;
        for (to, from) in name.sun_path.iter_mut().zip(path.as_os_str().as_encoded_bytes()) {
            *to = *from as libc::c_char;
        }
        let length = size_of::<libc::sockaddr_un>() as u32;
        assert_eq!(libc::connect(socket.as_raw_fd(), (&raw const name).cast(), length), 0);
        socket
    }
}

pub fn exchange(
    socket: &OwnedFd,
    op: Op,
    args: [u64; 4],
    descriptor: Option<RawFd>,
) -> (Reply, Option<OwnedFd>) {
    send(socket, op, args, descriptor);
    let (bytes, fd) = receive(socket);
    let word = |n: usize| u64::from_le_bytes(bytes[n * 8..][..8].try_into().unwrap());
    assert_eq!(bytes.len(), size_of::<Reply>());
    (Reply { status: word(0) as i64, values: [word(1), word(2), word(3), word(4)] }, fd)
}

pub fn send(socket: &OwnedFd, op: Op, args: [u64; 4], descriptor: Option<RawFd>) {
    let mut control = Aligned([0; 64]);
    let request = Request { op: op as u64, args };
    // SAFETY: headers point to buffers that live on, as long as they say.
    unsafe {
        let mut part =
            libc::iovec { iov_base: (&raw const request).cast_mut().cast(), iov_len: size_of::<Request>() };
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        if let Some(fd) = descriptor {
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(4) as usize;
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(4) as usize;
            libc::CMSG_DATA(first).cast::<RawFd>().write_unaligned(fd);
        }
        assert_eq!(
            libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL),
            size_of::<Request>() as isize
        );
    }
}

/// The next request that an agent sends; `None` at the end of the connection.
pub fn hear(socket: &OwnedFd) -> Option<([u64; 5], Option<OwnedFd>)> {
    let (bytes, fd) = receive(socket);
    let word = |n: usize| u64::from_le_bytes(bytes[n * 8..][..8].try_into().unwrap());
    (!bytes.is_empty()).then(|| (std::array::from_fn(word), fd))
}

#[repr(align(8))]
struct Aligned([u8; 64]);

fn receive(socket: &OwnedFd) -> (Vec<u8>, Option<OwnedFd>) {
    let mut control = Aligned([0; 64]);
    let mut bytes = vec![0; 64];
    // SAFETY: headers point to buffers that live on, as long as they say.
    unsafe {
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = 64;
        let n = libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC);
        bytes.truncate(usize::try_from(n).unwrap_or(0));
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        let fd = (!first.is_null())
            .then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<RawFd>().read_unaligned()));
        (bytes, fd)
    }
}

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

impl Client {
    /// A client that opens a space.
    pub fn connect(agent: &TestAgent, machine: u64, bytes: u64) -> Client {
        let base = 0x2000_0000_0000 + COUNT.fetch_add(1, Ordering::Relaxed) * (1 << 40);
        let path = agent.directory.join("client.sock");
        Client::begin(&path, Op::Hello, [client::VERSION, machine, 0, 0], base, bytes).0
    }

    /// A client that begins with `op`; and the values of the reply.
    pub fn begin(path: &Path, op: Op, args: [u64; 4], base: u64, bytes: u64) -> (Client, [u64; 4]) {
        let client = Client { socket: seqpacket(path), uffd: userfaultfd(), base, bytes };
        let (reply, memfd) = client.ask(op, args, Some(client.uffd.as_raw_fd()));
        assert_eq!(reply.status, 0);
        // SAFETY: the caller's addresses are this client's alone.
        unsafe { client.map(base, bytes, memfd.expect("the memfd").as_raw_fd()) };
        (client, reply.values)
    }

    pub unsafe fn map(&self, at: u64, bytes: u64, memfd: RawFd) {
        // SAFETY: addresses that nothing else in this process uses.
        unsafe {
            let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            assert_eq!(libc::mmap(at as *mut _, bytes as usize, prot, flags, memfd, at as i64) as u64, at);
            let mut register = Register { start: at, len: bytes, mode: 7, ioctls: 0 };
            assert_eq!(libc::ioctl(self.uffd.as_raw_fd(), 0xc020_aa00, &raw mut register), 0);
        }
    }

    pub fn ask(&self, op: Op, args: [u64; 4], descriptor: Option<RawFd>) -> (Reply, Option<OwnedFd>) {
        exchange(&self.socket, op, args, descriptor)
    }

    pub fn word(&self, page: u64, word: u64) -> &AtomicU64 {
        assert!((page + 1) * PAGE <= self.bytes && word < 512);
        // SAFETY: in the mapping, aligned, and only ever used as atomics.
        unsafe { &*((self.base + page * PAGE + word * 8) as *const AtomicU64) }
    }

    pub fn pages(&self) -> u64 {
        self.bytes / PAGE
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: our own mapping, not used any more.
        unsafe { libc::munmap(self.base as *mut _, self.bytes as usize) };
    }
}

pub fn value(page: u64, word: u64) -> u64 {
    let mut x = (page << 9 | word).wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

pub fn can_fault() -> bool {
    // SAFETY: a plain system call; the descriptor is closed again.
    unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK);
        if fd < 0 {
            eprintln!("skipped: no userfaultfd here: {}", std::io::Error::last_os_error());
            return false;
        }
        libc::close(fd as i32);
        true
    }
}
