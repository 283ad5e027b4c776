//! Shared spaces: real agents, real userfaultfds, and ordinary processes that attach, several on each host.
//!
//! This program is its own children: with `CHILD` in its environment it is a process that attaches, with `--fd` a worker.

#[path = "../common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use attach::{AttachError, Attachment};
use client::{Op, SHARED_BYTES, SHARED_START, env};
use common::{Client, Control, MIB, PAGE, TestAgent, can_fault, value};
use serde_json::{Value, json};

/// A child that is killed must not wait for us for ever, nor we for it.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if let Some(at) = words.iter().position(|word| word == "--fd") {
        return work(words[at + 1].parse().unwrap());
    }
    if let Ok(task) = std::env::var("CHILD") {
        return child(&task);
    }
    if !can_fault() {
        return;
    }
    let cases: [(&str, fn()); 9] = [
        ("processes_of_two_hosts_count_together", processes_of_two_hosts_count_together),
        ("who_walks_by_pages_that_are_here_waits_seldom", who_walks_by_pages_that_are_here_waits_seldom),
        ("a_process_that_dies_takes_nobody_with_it", a_process_that_dies_takes_nobody_with_it),
        ("who_hangs_up_and_still_maps_is_killed", who_hangs_up_and_still_maps_is_killed),
        ("what_is_freed_is_zero_everywhere", what_is_freed_is_zero_everywhere),
        ("what_each_host_has_is_told", what_each_host_has_is_told),
        ("who_touches_a_machine_that_has_ended_is_told", who_touches_a_machine_that_has_ended_is_told),
        ("workers_are_started_where_they_are_asked_for", workers_are_started_where_they_are_asked_for),
        ("who_cannot_attach_is_told_why", who_cannot_attach_is_told_why),
    ];
    let filter = words.iter().skip(1).find(|word| !word.starts_with('-'));
    for (name, case) in cases {
        if filter.is_none_or(|filter| name.contains(filter.as_str())) {
            let begun = Instant::now();
            case();
            println!("test {name} ... ok ({:.2} s)", begun.elapsed().as_secs_f32());
        }
    }
}

/// The word at a page's start.
fn word(page: u64) -> &'static AtomicU64 {
    assert!(page < SHARED_BYTES / PAGE);
    // SAFETY: aligned, in the space, which is mapped as long as anybody asks, and only ever used as an atomic.
    unsafe { AtomicU64::from_ptr((SHARED_START + page * PAGE) as *mut u64) }
}

/// Attaches as the environment says.
fn attach() -> Attachment {
    let var = |name| std::env::var(name).unwrap();
    let machine = u64::from_str_radix(&var(env::MACHINE), 16).unwrap();
    Attachment::open(&PathBuf::from(var(env::SOCKET)), machine, var(env::SPACE).parse().unwrap()).unwrap()
}

/// A worker adds one to the page it is told of, and says what it has become.
fn work(fd: i32) {
    // SAFETY: the agent gives it to us.
    let mut stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let space = attach();
    let mut number = [0; 8];
    while stream.read_exact(&mut number).is_ok() {
        let now = word(u64::from_le_bytes(number)).fetch_add(1, Ordering::Relaxed) + 1;
        stream.write_all(&now.to_le_bytes()).unwrap();
    }
    space.close();
}

/// What a child does; it has said "ready" when it has attached, and goes on when it is told to.
fn child(task: &str) {
    if task == "hang up" {
        return hang_up();
    }
    let space = attach();
    println!("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let numbers: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
    match (task, numbers.as_slice()) {
        // Adds to words of random pages, a quarter of them few; or looks at all pages first.
        ("count" | "look and count", &[seed, times, pages]) => {
            for page in (0..pages).filter(|_| task == "look and count") {
                assert!(word(page).load(Ordering::Relaxed) <= 5 * times);
            }
            for i in 0..times {
                let dice = value(seed, i);
                let page = if dice.is_multiple_of(4) { dice / 4 % 8 } else { dice / 4 % pages };
                word(page).fetch_add(1, Ordering::Relaxed);
            }
        }
        ("held", &[first, pages, expected]) => {
            let held = space.held(SHARED_START + first * PAGE, pages * PAGE).unwrap();
            assert_eq!(held, vec![expected as u8; pages as usize]);
        }
        ("take", &[first, pages, write]) => {
            let begin = SHARED_START + first * PAGE;
            assert_eq!(space.touch(begin, pages * PAGE, write == 1, || false).unwrap(), pages);
        }
        ("add to all", &[pages]) => {
            (0..pages).for_each(|page| _ = word(page).fetch_add(1, Ordering::Relaxed));
        }
        ("look", &[page, expected]) => assert_eq!(word(page).load(Ordering::Relaxed), expected),
        ("touch", &[page]) => {
            attach::say_when_touched().unwrap();
            loop {
                assert_eq!(word(page).load(Ordering::Relaxed), 7);
            }
        }
        other => panic!("{other:?}"),
    }
    space.close();
}

/// Attaches without the care that [`Attachment`] takes: goes on with the space when the connection is no more.
fn hang_up() {
    let var = |name| std::env::var(name).unwrap();
    let machine = u64::from_str_radix(&var(env::MACHINE), 16).unwrap();
    let args = [client::VERSION, machine, var(env::SPACE).parse().unwrap(), 0];
    let (client, _) =
        Client::begin(&PathBuf::from(var(env::SOCKET)), Op::Attach, args, SHARED_START, 16 * PAGE);
    assert_eq!(word(0).load(Ordering::Relaxed), 7);
    println!("ready");
    // SAFETY: a plain system call.
    unsafe { libc::shutdown(client.socket.as_raw_fd(), libc::SHUT_RDWR) };
    loop {
        assert_eq!(word(0).load(Ordering::Relaxed), 7, "what this host has was not to be seen");
    }
}

/// An attached process.
struct Attached(Child);

impl Attached {
    fn start(agent: &TestAgent, machine: u64, space: u64, task: &str) -> Attached {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .env("CHILD", task)
            .env(env::SOCKET, agent.directory.join("client.sock"))
            .env(env::MACHINE, format!("{machine:016x}"))
            .env(env::SPACE, space.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: a system call alone.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            })
        };
        let mut child = Attached(command.spawn().unwrap());
        let mut ready = [0; 6];
        let heard = child.0.stdout.as_mut().unwrap().read_exact(&mut ready);
        assert!(heard.is_ok() && &ready == b"ready\n", "{}", child.last_words());
        child
    }

    fn tell(&mut self, numbers: &[u64]) {
        let words: Vec<String> = numbers.iter().map(u64::to_string).collect();
        writeln!(self.0.stdin.as_mut().unwrap(), "{}", words.join(" ")).unwrap();
    }

    /// How it ends, and what it says then.
    fn end(&mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return (status, self.last_words());
            }
            assert!(Instant::now() < deadline, "a child does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn ends_well(&mut self) {
        let (status, words) = self.end();
        assert!(status.success(), "{status}: {words}");
    }

    fn last_words(&mut self) -> String {
        let mut text = String::new();
        self.0.stderr.take().map(|mut pipe| pipe.read_to_string(&mut text));
        text
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine with a shared space.
struct Shared {
    control: Control,
    machine: u64,
    space: u64,
}

impl Shared {
    fn open(agents: &[&TestAgent], machine: u64) -> Shared {
        let (mut control, opened) = Control::open(agents, machine);
        assert_eq!(opened["event"], "opened", "{opened}");
        control.say(&json!({"op": "share"}));
        let shared = control.hear_until("shared");
        Shared { control, machine, space: shared["space"].as_u64().unwrap() }
    }

    fn child(&self, agent: &TestAgent, task: &str) -> Attached {
        Attached::start(agent, self.machine, self.space, task)
    }

    fn attach(&self, agent: &TestAgent) -> Attachment {
        Attachment::open(&agent.directory.join("client.sock"), self.machine, self.space as u32).unwrap()
    }

    fn close(&mut self) -> Value {
        self.control.say(&json!({"op": "close"}));
        self.control.hear_until("closed")
    }
}

/// Three processes on one host and two on the other add to the same words, while pages are evicted from both.
fn processes_of_two_hosts_count_together() {
    const PAGES: u64 = 5500;
    const TIMES: u64 = 1500;
    let agents = ["a", "b"].map(|name| TestAgent::start(name, 16 * MIB));
    let mut shared = Shared::open(&agents.each_ref(), 0x61);
    let space = shared.attach(&agents[0]);
    assert_eq!((space.start(), space.bytes(), space.hosts()), (SHARED_START, SHARED_BYTES, 2));
    let mut children: Vec<Attached> =
        [0, 0, 1, 1].iter().map(|&host: &usize| shared.child(&agents[host], "look and count")).collect();
    for (seed, child) in (1..).zip(&mut children) {
        child.tell(&[seed, TIMES, PAGES]);
    }
    for i in 0..TIMES {
        word(value(99, i) % PAGES).fetch_add(1, Ordering::Relaxed);
    }
    children.iter_mut().for_each(Attached::ends_well);
    let sum: u64 = (0..PAGES).map(|page| word(page).load(Ordering::Relaxed)).sum();
    assert_eq!(sum, 5 * TIMES, "additions were lost");
    space.close();
    let closed = shared.close();
    let count = |host: usize, what: &str| closed["hosts"][host][what].as_u64().unwrap();
    assert!((0..2).all(|host| count(host, "evicted_pages") > 500), "{closed}");
    assert!(closed["hosts"][0]["faults"]["minor"].as_u64().unwrap() > 100, "{closed}");
}

/// What one process has touched is shown to the others in windows, not page by page; and what they are shown they may write as the
/// first one may.
fn who_walks_by_pages_that_are_here_waits_seldom() {
    const PAGES: u64 = 1500;
    let agents = [TestAgent::start("a", 16 * MIB)];
    let mut shared = Shared::open(&[&agents[0]], 0x64);
    let space = shared.attach(&agents[0]);
    (0..PAGES).for_each(|page| word(page).store(page, Ordering::Relaxed));
    let mut children = [0, 0].map(|_| shared.child(&agents[0], "add to all"));
    for child in &mut children {
        child.tell(&[PAGES]);
        child.ends_well();
    }
    assert!((0..PAGES).all(|page| word(page).load(Ordering::Relaxed) == page + 2));
    space.close();
    let minor = shared.close()["hosts"][0]["faults"]["minor"].as_u64().unwrap();
    assert!((4..100).contains(&minor), "{minor} faults of 2 processes in {PAGES} pages that were here");
}

/// Processes are killed in the middle of counting; those who count on elsewhere, and on the same host, lose nothing.
fn a_process_that_dies_takes_nobody_with_it() {
    const PAGES: u64 = 2000;
    const TIMES: u64 = 2000;
    let agents = ["a", "b"].map(|name| TestAgent::start(name, 16 * MIB));
    let mut shared = Shared::open(&agents.each_ref(), 0x62);
    let space = shared.attach(&agents[0]);
    let mut victims: Vec<Attached> = (0..6).map(|n| shared.child(&agents[n % 2], "count")).collect();
    let mut counts: Vec<Attached> = (0..2).map(|n| shared.child(&agents[n], "count")).collect();
    for (seed, child) in (1..).zip(victims.iter_mut().chain(&mut counts)) {
        child.tell(&[seed, if seed > 6 { TIMES } else { 1 << 40 }, PAGES]);
    }
    let counted = || (0..8).map(|page| word(page).load(Ordering::Relaxed)).sum::<u64>();
    for victim in &mut victims {
        let (begun, before) = (Instant::now(), counted());
        while counted() < before + 50 {
            assert!(begun.elapsed() < PATIENCE, "nobody counts");
            std::thread::sleep(Duration::from_millis(5));
        }
        victim.0.kill().unwrap();
        assert_eq!(victim.end().0.signal(), Some(libc::SIGKILL));
    }
    counts.iter_mut().for_each(Attached::ends_well);
    // What nobody else counts on.
    word(PAGES).store(5, Ordering::Relaxed);
    let mut looks = shared.child(&agents[1], "look");
    looks.tell(&[PAGES, 5]);
    looks.ends_well();
    let sum: u64 = (0..PAGES).map(|page| word(page).load(Ordering::Relaxed)).sum();
    assert!(sum >= 2 * TIMES, "{sum}");
    space.close();
    shared.close();
}

/// When its agent's copy of its userfaultfd is closed, such a process would find whatever its host has.
fn who_hangs_up_and_still_maps_is_killed() {
    let agents = ["a", "b"].map(|name| TestAgent::start(name, 16 * MIB));
    let mut shared = Shared::open(&agents.each_ref(), 0x63);
    let space = shared.attach(&agents[0]);
    word(0).store(7, Ordering::Relaxed);
    let mut child = shared.child(&agents[1], "hang up");
    let (status, words) = child.end();
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{words}");
    word(0).store(8, Ordering::Relaxed);
    space.close();
    shared.close();
}

fn what_is_freed_is_zero_everywhere() {
    let agents = ["a", "b", "c"].map(|name| TestAgent::start(name, 16 * MIB));
    let mut shared = Shared::open(&agents.each_ref(), 0x64);
    let space = shared.attach(&agents[0]);
    (0..100).for_each(|page| word(page).store(7, Ordering::Relaxed));
    for agent in &agents {
        let mut look = shared.child(agent, "look");
        look.tell(&[50, 7]);
        look.ends_well();
    }
    space.discard(SHARED_START + 10 * PAGE, 80 * PAGE).unwrap();
    for (page, expected) in [(9, 7), (10, 0), (89, 0), (90, 7)] {
        assert_eq!(word(page).load(Ordering::Relaxed), expected);
        let mut look = shared.child(&agents[2], "look");
        look.tell(&[page, expected]);
        look.ends_well();
    }
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    assert_eq!(errno(space.discard(SHARED_START + 1, PAGE)), Some(libc::EINVAL));
    assert_eq!(errno(space.discard(SHARED_START - PAGE, 2 * PAGE)), Some(libc::EINVAL));
    assert_eq!(errno(space.discard(SHARED_START + SHARED_BYTES, PAGE)), Some(libc::EINVAL));
    // A space that ends frees all of it, everywhere; the machine goes on.
    shared.control.say(&json!({"op": "unshare", "space": shared.space}));
    let begun = Instant::now();
    while space.is_open() {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(errno(space.discard(SHARED_START, PAGE)), Some(libc::EPIPE));
    space.close();
    let mapped = |status: &Value| (0..3).map(|h| status["hosts"][h]["mapped"].as_u64().unwrap()).sum::<u64>();
    while mapped(&shared.control.hear_until("status")) > 0 {
        assert!(begun.elapsed() < PATIENCE);
    }
    shared.close();
}

fn what_each_host_has_is_told() {
    let agents = ["a", "b", "c"].map(|name| TestAgent::start(name, 16 * MIB));
    let mut shared = Shared::open(&agents.each_ref(), 0x66);
    let space = shared.attach(&agents[0]);
    (0..600).for_each(|page| word(page).store(page, Ordering::Relaxed));
    let tell = |shared: &mut Shared, agent: usize, task: &str, words: [u64; 3]| {
        let mut child = shared.child(&agents[agent], task);
        child.tell(&words);
        child.ends_well();
    };
    let held = |first: u64, pages: u64| space.held(SHARED_START + first * PAGE, pages * PAGE).unwrap();
    assert_eq!(held(0, 600), [2; 600]);
    tell(&mut shared, 2, "held", [0, 1 << 20, 0]);
    // Asking has moved nothing; reading copies, writing moves, and neither changes a byte.
    tell(&mut shared, 1, "take", [500, 50, 0]);
    tell(&mut shared, 2, "take", [550, 50, 1]);
    assert_eq!(held(490, 70), [[2; 60].as_slice(), &[0; 10]].concat());
    tell(&mut shared, 1, "held", [500, 50, 1]);
    tell(&mut shared, 2, "held", [550, 50, 2]);
    (0..600).for_each(|page| assert_eq!(word(page).load(Ordering::Relaxed), page));
    // What is freed nobody has.
    space.discard(SHARED_START, 600 * PAGE).unwrap();
    for agent in 0..3 {
        tell(&mut shared, agent, "held", [0, 600, 0]);
    }
    let stopped = space.touch(SHARED_START, 4096 * PAGE, false, || true).unwrap();
    assert_eq!((stopped, held(0, 1)), (0, vec![0]));
    let errno = |start: u64, bytes: u64| space.held(start, bytes).unwrap_err().raw_os_error();
    assert_eq!(errno(SHARED_START + 1, PAGE), Some(libc::EINVAL));
    assert_eq!(errno(SHARED_START - PAGE, 2 * PAGE), Some(libc::EINVAL));
    assert_eq!(errno(SHARED_START + SHARED_BYTES, PAGE), Some(libc::EINVAL));
    space.close();
    shared.close();
}

/// Wrong data is never seen: who touches what is no more gets SIGBUS, a system call EFAULT; and the process says why it dies.
fn who_touches_a_machine_that_has_ended_is_told() {
    for by_loss in [false, true] {
        let a = TestAgent::start("a", 16 * MIB);
        let b = TestAgent::start("b", 16 * MIB);
        let mut shared = Shared::open(&[&a, &b], 0x65 + u64::from(by_loss));
        let space = shared.attach(&a);
        word(0).store(7, Ordering::Relaxed);
        word(1).store(7, Ordering::Relaxed);
        let mut touching = shared.child(&a, "touch");
        touching.tell(&[0]);
        let mut away = shared.child(&b, "touch");
        away.tell(&[1]);
        std::thread::sleep(Duration::from_millis(50));
        if by_loss {
            drop(b);
            shared.control.hear_until("lost");
        } else {
            shared.close();
        }
        for mut child in [touching, away] {
            let (status, words) = child.end();
            assert_eq!(status.signal(), Some(libc::SIGBUS), "{words}");
            assert!(words.contains("has touched the memory of a machine that has ended"), "{words}");
        }
        let begun = Instant::now();
        while space.is_open() {
            assert!(begun.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(1));
        }
        let (mut near, _far) = UnixStream::pair().unwrap();
        // SAFETY: the bytes are looked at by the kernel alone, which finds none.
        let bytes = unsafe { std::slice::from_raw_parts(SHARED_START as *const u8, 8) };
        assert_eq!(near.write(bytes).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        space.close();
        space.close();
    }
}

fn workers_are_started_where_they_are_asked_for() {
    let exe = std::env::current_exe().unwrap().to_str().unwrap().to_string();
    let agents = ["a", "b"].map(|name| TestAgent::start_for(name, 16 * MIB, b"", std::slice::from_ref(&exe)));
    let mut shared = Shared::open(&agents.each_ref(), 0x67);
    let space = shared.attach(&agents[0]);
    let mut workers: Vec<UnixStream> =
        [0, 1, 1].iter().map(|&host| UnixStream::from(space.start_worker(host).unwrap())).collect();
    for round in 0..20u64 {
        for (number, worker) in (0..).zip(&mut workers) {
            worker.set_read_timeout(Some(PATIENCE)).unwrap();
            worker.write_all(&5u64.to_le_bytes()).unwrap();
            let mut now = [0; 8];
            worker.read_exact(&mut now).unwrap();
            assert_eq!(u64::from_le_bytes(now), 3 * round + number + 1);
        }
    }
    assert_eq!(word(5).load(Ordering::Relaxed), 60);
    let refused = space.start_worker(2).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    // One that is let go ends; the others end with the machine.
    workers[1].shutdown(Shutdown::Write).unwrap();
    assert_eq!(workers[1].read(&mut [0; 8]).unwrap(), 0);
    space.close();
    shared.close();
    for worker in [0, 2] {
        assert!(matches!(workers[worker].read(&mut [0; 8]), Ok(0) | Err(_)));
    }
}

fn who_cannot_attach_is_told_why() {
    let a = TestAgent::start("a", 16 * MIB);
    let mut shared = Shared::open(&[&a], 0x68);
    let path = a.directory.join("client.sock");
    let open = |machine, space| Attachment::open(&path, machine, space).unwrap_err();
    let ended = "the machine or its shared space has ended, or was never there";
    assert_eq!(open(0x99, shared.space as u32).to_string(), ended);
    assert_eq!(open(0x68, shared.space as u32 + 1).to_string(), ended);
    let nobody = Attachment::open(&a.directory.join("nobody.sock"), 0x68, 1).unwrap_err();
    assert!(matches!(nobody, AttachError::Agent(_)), "{nobody}");
    let space = shared.attach(&a);
    let second = open(0x68, shared.space as u32);
    assert!(matches!(second, AttachError::Taken { start: SHARED_START, .. }), "{second}");
    word(3).store(1, Ordering::Relaxed);
    assert_eq!(space.start_worker(0).unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED), "no command");
    space.close();
    assert_eq!(space.discard(SHARED_START, PAGE).unwrap_err().raw_os_error(), Some(libc::EBADF));
    // The space has outlived the process's use of it.
    let again = shared.attach(&a);
    assert_eq!(word(3).load(Ordering::Relaxed), 1);
    again.close();
    shared.close();
}
