//! Whole agents in one process: real TCP, real userfaultfds, and a client that is this test itself.

use std::io::{BufRead, BufReader, Write};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use client::{Op, Reply, Request};
use megalith_agent::{AgentError, Config, cluster_id, serve};
use serde_json::{Value, json};

const PAGE: u64 = client::PAGE_BYTES;
const MIB: u64 = 1 << 20;

static COUNT: AtomicU64 = AtomicU64::new(1);

struct TestAgent {
    name: String,
    address: String,
    directory: PathBuf,
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<Result<(), AgentError>>>,
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: two descriptors are made, and are ours.
    unsafe {
        assert_eq!(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    }
}

impl TestAgent {
    fn start(name: &str, budget: u64) -> TestAgent {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("megalith-agent-{}-{n}", std::process::id()));
        let config = Config {
            name: name.into(),
            listen: "127.0.0.1:0".into(),
            directory: directory.clone(),
            budget,
            cluster: cluster_id("test"),
            runtime: b"",
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
        self.thread.take().unwrap().join().unwrap().unwrap();
        assert!(!self.directory.join("control.sock").exists());
        let _ = std::fs::remove_dir(&self.directory);
    }
}

struct Control {
    lines: BufReader<UnixStream>,
}

impl Control {
    fn open(agents: &[&TestAgent], machine: u64) -> (Control, Value) {
        let stream = UnixStream::connect(agents[0].directory.join("control.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut control = Control { lines: BufReader::new(stream) };
        let members: Vec<Value> =
            agents.iter().map(|a| json!({"name": a.name, "address": a.address})).collect();
        control.say(&json!({
            "op": "open", "machine": format!("{machine:016x}"), "members": members,
            "heartbeat_ms": 50, "lost_after_ms": 1000, "join_timeout_ms": 3000,
        }));
        let first = control.hear();
        (control, first)
    }

    fn say(&mut self, order: &Value) {
        writeln!(self.lines.get_mut(), "{order}").unwrap();
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or(Value::Null)
    }

    fn hear_until(&mut self, event: &str) -> Value {
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
struct Client {
    socket: OwnedFd,
    uffd: OwnedFd,
    base: u64,
    bytes: u64,
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
    fn connect(agent: &TestAgent, machine: u64, bytes: u64) -> Client {
        // SAFETY: plain system calls on descriptors made here; structures are what the calls take.
        unsafe {
            let uffd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK);
            assert!(uffd >= 0);
            let uffd = OwnedFd::from_raw_fd(uffd as i32);
            let mut api = Api { api: 0xAA, features: client::UFFD_FEATURES, ioctls: 0 };
            assert_eq!(libc::ioctl(uffd.as_raw_fd(), 0xc018_aa3f, &raw mut api), 0);
            let socket = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
            let socket = OwnedFd::from_raw_fd(socket);
            let mut name: libc::sockaddr_un = std::mem::zeroed();
            name.sun_family = libc::AF_UNIX as u16;
            let path = agent.directory.join("client.sock");
            for (to, from) in name.sun_path.iter_mut().zip(path.as_os_str().as_encoded_bytes()) {
                *to = *from as libc::c_char;
            }
            let length = size_of::<libc::sockaddr_un>() as u32;
            assert_eq!(libc::connect(socket.as_raw_fd(), (&raw const name).cast(), length), 0);
            let base = 0x2000_0000_0000 + COUNT.fetch_add(1, Ordering::Relaxed) * (1 << 40);
            let client = Client { socket, uffd, base, bytes };
            let (reply, memfd) =
                client.ask(Op::Hello, [client::VERSION, machine, 0, 0], Some(client.uffd.as_raw_fd()));
            assert_eq!(reply.status, 0);
            client.map(base, bytes, memfd.expect("the memfd").as_raw_fd());
            client
        }
    }

    unsafe fn map(&self, at: u64, bytes: u64, memfd: RawFd) {
        // SAFETY: addresses that nothing else in this process uses.
        unsafe {
            let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            assert_eq!(libc::mmap(at as *mut _, bytes as usize, prot, flags, memfd, at as i64) as u64, at);
            let mut register = Register { start: at, len: bytes, mode: 7, ioctls: 0 };
            assert_eq!(libc::ioctl(self.uffd.as_raw_fd(), 0xc020_aa00, &raw mut register), 0);
        }
    }

    fn ask(&self, op: Op, args: [u64; 4], descriptor: Option<RawFd>) -> (Reply, Option<OwnedFd>) {
        #[repr(align(8))]
        struct Control([u8; 64]);
        let mut control = Control([0; 64]);
        let request = Request { op: op as u64, args };
        let mut reply = Reply { status: 1, values: [0; 4] };
        // SAFETY: headers point to buffers that live on, as long as they say.
        unsafe {
            let mut part = libc::iovec {
                iov_base: (&raw const request).cast_mut().cast(),
                iov_len: size_of::<Request>(),
            };
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
                libc::sendmsg(self.socket.as_raw_fd(), &raw const header, 0),
                size_of::<Request>() as isize
            );
            part = libc::iovec { iov_base: (&raw mut reply).cast(), iov_len: size_of::<Reply>() };
            header.msg_iov = &raw mut part;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = 64;
            assert_eq!(
                libc::recvmsg(self.socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC),
                size_of::<Reply>() as isize
            );
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            let fd = (!first.is_null())
                .then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<RawFd>().read_unaligned()));
            (reply, fd)
        }
    }

    fn word(&self, page: u64, word: u64) -> &AtomicU64 {
        assert!((page + 1) * PAGE <= self.bytes && word < 512);
        // SAFETY: in the mapping, aligned, and only ever used as atomics.
        unsafe { &*((self.base + page * PAGE + word * 8) as *const AtomicU64) }
    }

    fn pages(&self) -> u64 {
        self.bytes / PAGE
    }

    fn fill(&self, noise: bool) {
        for page in 0..self.pages() {
            for word in 0..if noise { 512 } else { 8 } {
                self.word(page, word).store(value(page, word), Ordering::Relaxed);
            }
        }
    }

    fn check(&self, page: u64, noise: bool) {
        for word in [0, 7, 8, 511] {
            let want = if noise || word < 8 { value(page, word) } else { 0 };
            assert_eq!(self.word(page, word).load(Ordering::Relaxed), want, "page {page}, word {word}");
        }
    }
}

impl Client {
    /// Leaves, and waits until home knows: a machine that ends kills the clients it still has, and that is us.
    fn leave(self, control: &mut Control) {
        drop(self);
        let begun = Instant::now();
        loop {
            let home = &control.hear_until("status")["hosts"][0];
            if home["mapped"] == 0 && home["stowed_pages"] == 0 {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "{home}");
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: our own mapping, not used any more.
        unsafe { libc::munmap(self.base as *mut _, self.bytes as usize) };
    }
}

fn value(page: u64, word: u64) -> u64 {
    let mut x = (page << 9 | word).wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn can_fault() -> bool {
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

/// More than home holds, in noise that does not pack, written in order and read at random, from two threads.
#[test]
fn memory_of_three_hosts() {
    if !can_fault() {
        return;
    }
    let agents = ["a", "b", "c"].map(|name| TestAgent::start(name, 32 * MIB));
    let (mut control, opened) = Control::open(&agents.each_ref(), 0x51);
    assert_eq!(opened["event"], "opened", "{opened}");
    assert_eq!(opened["hosts"][2]["budget"], 32 * MIB);
    let client = Client::connect(&agents[0], 0x51, 64 * MIB);
    client.fill(true);
    std::thread::scope(|scope| {
        for seed in [3u64, 5] {
            let client = &client;
            scope.spawn(move || {
                for i in 0..4_000 {
                    client.check(value(seed, i) % client.pages(), true);
                }
            });
        }
    });
    for page in 0..client.pages() {
        client.check(page, true);
    }
    // The statuses of the run so far come first.
    let begun = Instant::now();
    let mut status = control.hear_until("status");
    while (0..3).map(|h| status["hosts"][h]["held"].as_u64().unwrap()).sum::<u64>() < 64 * MIB {
        assert!(begun.elapsed() < Duration::from_secs(10), "{status}");
        status = control.hear_until("status");
    }
    for host in 0..3 {
        assert!(status["hosts"][host]["peak"].as_u64().unwrap() <= 32 * MIB, "{status}");
    }
    // What is freed is gone everywhere, and reads as zeros.
    let (reply, _) = client.ask(Op::Discard, [client.base, 32 * MIB, 0, 0], None);
    assert_eq!(reply.status, 0);
    assert_eq!(client.word(17, 0).load(Ordering::Relaxed), 0);
    client.check(client.pages() - 1, true);
    client.leave(&mut control);
    control.say(&json!({"op": "close"}));
    let closed = control.hear_until("closed");
    assert!(closed["hosts"][0]["handed_over_pages"].as_u64().unwrap() > 8_000, "{closed}");
    assert!(closed["hosts"][0]["faults"]["remote"].as_u64().unwrap() > 0, "{closed}");
}

/// Pages that pack well stay near: nothing need cross the network.
#[test]
fn sparse_pages_stay_home() {
    if !can_fault() {
        return;
    }
    let agents = ["a", "b"].map(|name| TestAgent::start(name, 24 * MIB));
    let (mut control, opened) = Control::open(&agents.each_ref(), 0x52);
    assert_eq!(opened["event"], "opened", "{opened}");
    let client = Client::connect(&agents[0], 0x52, 64 * MIB);
    client.fill(false);
    for i in 0..8_000 {
        client.check(value(9, i) % client.pages(), false);
    }
    client.leave(&mut control);
    control.say(&json!({"op": "close"}));
    let closed = control.hear_until("closed");
    assert!(closed["hosts"][0]["evicted_pages"].as_u64().unwrap() > 8_000, "{closed}");
    assert_eq!(closed["hosts"][0]["faults"]["remote"], 0, "{closed}");
}

/// Files behind untouched pages.
#[test]
fn backed_pages_read_the_file() {
    if !can_fault() {
        return;
    }
    let agent = TestAgent::start("a", 16 * MIB);
    let (mut control, opened) = Control::open(&[&agent], 0x53);
    assert_eq!(opened["event"], "opened", "{opened}");
    let client = Client::connect(&agent, 0x53, MIB);
    let mut file = std::fs::File::from({
        // SAFETY: a constant name; the descriptor is ours.
        unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"file".as_ptr(), libc::MFD_CLOEXEC)) }
    });
    for i in 0..20u64 {
        file.write_all(&[i as u8 + 1; PAGE as usize]).unwrap();
    }
    client.word(3, 0).store(1, Ordering::Relaxed);
    let (reply, _) =
        client.ask(Op::Back, [client.base + 2 * PAGE, 10 * PAGE, 5 * PAGE, 0], Some(file.as_raw_fd()));
    assert_eq!(reply.status, 0);
    assert_eq!(client.word(2, 0).load(Ordering::Relaxed), 0x0606_0606_0606_0606);
    assert_eq!(client.word(3, 511).load(Ordering::Relaxed), 0x0707_0707_0707_0707);
    assert_eq!(client.word(12, 0).load(Ordering::Relaxed), 0);
    client.word(2, 0).store(7, Ordering::Relaxed);
    let discard = |op| client.ask(op, [client.base, 16 * PAGE, 0, 0], None).0.status;
    assert_eq!(discard(Op::Discard), 0);
    assert_eq!(client.word(2, 0).load(Ordering::Relaxed), 0x0606_0606_0606_0606, "the file again");
    assert_eq!(discard(Op::Clear), 0);
    assert_eq!(client.word(2, 0).load(Ordering::Relaxed), 0, "no file any more");
    assert_eq!(client.ask(Op::Discard, [1, PAGE, 0, 0], None).0.status, -i64::from(libc::EINVAL));
    client.leave(&mut control);
}

/// Bad invitations are refused in one line that names the host.
#[test]
fn machines_that_do_not_come_about() {
    let a = TestAgent::start("a", 16 * MIB);
    let b = TestAgent::start("b", 16 * MIB);
    let nowhere = TestAgent {
        name: "c".into(),
        address: "127.0.0.1:1".into(),
        directory: PathBuf::new(),
        stop: None,
        thread: None,
    };
    let (_, failed) = Control::open(&[&a, &b, &nowhere], 1);
    assert_eq!(
        (&failed["event"], &failed["kind"], &failed["host"]),
        (&json!("failed"), &json!("unreachable"), &json!("c"))
    );
    std::mem::forget(nowhere);
    let renamed = TestAgent {
        name: "x".into(),
        address: b.address.clone(),
        directory: PathBuf::new(),
        stop: None,
        thread: None,
    };
    let (_, failed) = Control::open(&[&a, &renamed], 2);
    assert_eq!(
        (&failed["event"], &failed["kind"], &failed["host"]),
        (&json!("failed"), &json!("name"), &json!("x"))
    );
    std::mem::forget(renamed);
    let (_, failed) = Control::open(&[&b, &a], 3);
    assert_eq!(failed["event"], "opened", "{failed}");
}

/// An agent that goes takes the machine with it, and home says which.
#[test]
fn a_host_that_goes_is_named() {
    let a = TestAgent::start("a", 16 * MIB);
    let b = TestAgent::start("b", 16 * MIB);
    let c = TestAgent::start("c", 16 * MIB);
    let (mut control, opened) = Control::open(&[&a, &b, &c], 4);
    assert_eq!(opened["event"], "opened", "{opened}");
    drop(b);
    let lost = control.hear_until("lost");
    assert_eq!(lost["host"], "b", "{lost}");
    drop(control);
    let (_, again) = Control::open(&[&a, &c], 5);
    assert_eq!(again["event"], "opened", "the others go on: {again}");
}
