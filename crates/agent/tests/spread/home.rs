//! A home process: opens a space, has body processes made, and plays a scenario with them.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use client::{ChannelKind, Op, Why};

use crate::body::Lines;
use crate::common::{Client, PAGE};
use crate::work;

pub const BASE: u64 = 0x2100_0000_0000;

struct Home {
    client: Client,
    space: u64,
    hosts: u64,
    bodies: Vec<Lines>,
}

pub fn main(scenario: &str) {
    let (name, rest) = scenario.split_once(' ').unwrap_or((scenario, ""));
    match name {
        "facts" => facts(),
        "refusals" => refusals(),
        "refused" => {
            let home = Home::open(16);
            assert_eq!(home.channel(1, ChannelKind::Space as u64).err(), Some(libc::ECONNREFUSED));
        }
        "count" => count(rest),
        "copies" => copies(rest),
        "contend" => contend(rest),
        "order" => order(rest),
        "files" => files(),
        "unreadable" => {
            let mut home = Home::start(16);
            let folder = File::open("/").unwrap();
            let back = home.client.ask(Op::Back, [BASE, 4 * PAGE, 0, 0], Some(folder.as_raw_fd()));
            assert_eq!(back.0.status, 0);
            home.bodies[0].say("back page=0 pages=4");
            assert_eq!(home.bodies[0].hear().as_deref(), Some("0"));
            home.bodies[0].say("sum page=1 pages=1 word=0");
            // The agents end us, before there is an answer.
            let answer = home.bodies[0].hear();
            assert_eq!(answer, None);
            std::thread::sleep(Duration::from_secs(60));
        }
        "free" => free(rest),
        "round" => round(rest),
        "steward" => steward(),
        "body" => {
            let mut home = Home::start(16);
            home.bodies[0].say("die");
            // The agents end us.
            std::thread::sleep(Duration::from_secs(60));
        }
        "stay" => {
            let _home = Home::start(16);
            std::thread::sleep(Duration::from_secs(60));
        }
        other => panic!("{other} is no scenario"),
    }
}

impl Home {
    /// Opens a space of so many pages.
    fn open(pages: u64) -> Home {
        let variable = |name| std::env::var(name).expect("it is set");
        let machine = u64::from_str_radix(&variable(client::env::MACHINE), 16).unwrap();
        let socket = PathBuf::from(variable(client::env::SOCKET));
        let args = [client::VERSION, machine, 0, 0];
        let (client, [space, _, hosts, _]) = Client::begin(&socket, Op::Hello, args, BASE, pages * PAGE);
        assert!(space > 0 && hosts > 0);
        Home { client, space, hosts, bodies: Vec::new() }
    }

    /// And has it joined on all hosts.
    fn start(pages: u64) -> Home {
        let mut home = Home::open(pages);
        for host in 1..home.hosts {
            let mut lines = Lines::new(home.channel(host, ChannelKind::Space as u64).expect("a channel"));
            lines.say(&format!("base={BASE} bytes={}", pages * PAGE));
            assert_eq!(lines.hear().as_deref(), Some("joined"));
            home.bodies.push(lines);
        }
        home
    }

    fn channel(&self, host: u64, kind: u64) -> Result<OwnedFd, i32> {
        match self.client.ask(Op::Channel, [host, kind, 0, 0], None) {
            (reply, Some(socket)) if reply.status == 0 => Ok(socket),
            (reply, None) if reply.status < 0 => Err(-reply.status as i32),
            (reply, _) => panic!("{reply:?}"),
        }
    }

    /// Tells every body process something; what they answer, in order, while `meanwhile` runs here.
    fn all<R>(&mut self, order: &str, meanwhile: impl FnOnce(&Client) -> R) -> (R, Vec<String>) {
        self.bodies.iter_mut().for_each(|body| body.say(order));
        let here = meanwhile(&self.client);
        (here, self.bodies.iter_mut().map(|body| body.hear().expect("an answer")).collect())
    }
}

fn facts() {
    let mut home = Home::start(16);
    assert_eq!(home.hosts, 3);
    for (host, body) in (1..).zip(&mut home.bodies) {
        body.say("facts");
        let names = "MEGALITH_BODY,MEGALITH_CLIENT_SOCKET,MEGALITH_MACHINE,MEGALITH_PROGRAM";
        let want = format!("{names} /dev/null /dev/null 9 true true body");
        assert_eq!(body.hear(), Some(want), "host {host}");
    }
    // Channels of threads come to the same process; each is a connection of its own.
    let mut threads: Vec<_> =
        [1, 2, 1].map(|host| Lines::new(home.channel(host, ChannelKind::Thread as u64).unwrap())).into();
    for (n, lines) in threads.iter_mut().enumerate() {
        lines.say(&n.to_string());
    }
    for (n, lines) in threads.iter_mut().enumerate() {
        assert_eq!(lines.hear(), Some(format!("thread {n}")));
    }
}

fn refusals() {
    let home = Home::open(16);
    for (host, kind, errno) in
        [(0, 0, libc::EINVAL), (2, 0, libc::EINVAL), (1 << 32, 0, libc::EINVAL), (1, 2, libc::EINVAL)]
    {
        assert_eq!(home.channel(host, kind).err(), Some(errno), "host {host}, kind {kind}");
    }
    // Nobody joins a space that is no other host's.
    let socket = PathBuf::from(std::env::var(client::env::SOCKET).unwrap());
    let machine = u64::from_str_radix(&std::env::var(client::env::MACHINE).unwrap(), 16).unwrap();
    for (space, version, errno) in [
        (home.space, client::VERSION, libc::EINVAL),
        (home.space + 1, client::VERSION, libc::EINVAL),
        (9 << 18, client::VERSION, libc::EINVAL),
        (1 << 40, client::VERSION, libc::EINVAL),
        (1 << 18, client::VERSION + 1, libc::EPROTO),
    ] {
        let uffd = crate::common::userfaultfd();
        let args = [version, machine, space, 0];
        let socket = crate::common::seqpacket(&socket);
        let (reply, _) = crate::common::exchange(&socket, Op::Join, args, Some(uffd.as_raw_fd()));
        assert_eq!(reply.status, -i64::from(errno), "space {space}");
    }
    // What only a body process may ask.
    for op in [Op::BackFromHome, Op::Unback, Op::Join, Op::Move] {
        let status = home.client.ask(op, [BASE, PAGE, 0, 0], None).0.status;
        assert_eq!(status, -i64::from(libc::EINVAL), "{op:?}");
    }
}

fn count(rest: &str) {
    let mut s = work::settings(rest);
    let mut home = Home::start(s["pages"]);
    s.insert("hosts".into(), home.hosts);
    if s.contains_key("fill") {
        work::fill(&home.client, 0..s["pages"]);
    }
    let (here, there) =
        home.all(&format!("count hosts={} {rest}", s["hosts"]), |client| work::count(client, &s, 1));
    let made = here + there.iter().map(|answer| answer.parse::<u64>().expect("a number")).sum::<u64>();
    assert_eq!(made, s["threads"] * s["times"] * home.hosts);
    assert_eq!(work::counted(&home.client, s["pages"]), made, "increments were lost, or made twice");
    if s.contains_key("fill") {
        for page in 0..s["pages"] {
            for word in [2, 300, 509] {
                let found = home.client.word(page, word).load(Ordering::Relaxed);
                assert_eq!(found, crate::common::value(page, word), "page {page}, word {word}");
            }
        }
    }
}

/// Another host fills pages, a third reads them, and home then fills more than what is left beside the copies.
fn copies(rest: &str) {
    let s = work::settings(rest);
    let mut home = Home::start(s["shared"] + s["own"]);
    home.bodies[0].say(&format!("noise page=0 pages={}", s["shared"]));
    assert_eq!(home.bodies[0].hear().as_deref(), Some("filled"));
    let noise = |pages: std::ops::Range<u64>| {
        pages.map(|page| crate::common::value(page, 2)).fold(0, u64::wrapping_add).to_string()
    };
    let look = format!("sum page=0 pages={} word=2", s["shared"]);
    home.bodies[1].say(&look);
    assert_eq!(home.bodies[1].hear(), Some(noise(0..s["shared"])));
    work::fill(&home.client, s["shared"]..s["shared"] + s["own"]);
    // All of it is still there.
    let (here, there) = home.all(&look, |client| {
        work::sum(client, &work::settings(&format!("page={} pages={} word=2", s["shared"], s["own"])))
    });
    assert_eq!(here.to_string(), noise(s["shared"]..s["shared"] + s["own"]));
    assert_eq!(there, vec![noise(0..s["shared"]); 2]);
}

fn contend(rest: &str) {
    let mut home = Home::start(4);
    let order = format!("contend hosts={} {rest}", home.hosts);
    let s = work::settings(&order[8..]);
    let (here, there) = home.all(&order, |client| work::contend(client, &s, 0));
    let there: u64 = there.iter().map(|answer| answer.parse::<u64>().expect("a number")).sum();
    let found: u64 = [0, 64].iter().map(|&word| home.client.word(0, word).load(Ordering::Relaxed)).sum();
    assert_eq!(found, here + there);
    println!("{rest}: home made {} increments a millisecond, the other {}", here / 4000, there / 4000);
}

fn order(rest: &str) {
    let mut home = Home::start(1024);
    // Home reads and writes.
    let order = format!("hosts={} {rest}", home.hosts);
    let s = work::settings(&order);
    let (seen, there) = home.all(&format!("read {order}"), |client| {
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| work::ordered_reader(client, &s));
            work::ordered_writer(client, &s);
            reader.join().expect("it reads")
        })
    });
    assert!(seen > 1 && there.iter().all(|seen| seen.parse::<u64>().unwrap() > 1), "{seen}, {there:?}");
}

/// Pages that other hosts touched first, and that home frees.
fn free(rest: &str) {
    let times = work::settings(rest)["times"];
    let mut home = Home::start(2048);
    for i in 0..times {
        // In regions of which each host is the directory in turn, some pages of home's, some of all.
        let (page, pages) = (i * 37 % 2000, 40);
        let writer = (i % 2) as usize;
        let value = i + 1;
        home.bodies[writer].say(&format!("fill page={page} pages={pages} value={value}"));
        assert_eq!(home.bodies[writer].hear().as_deref(), Some("filled"));
        let look = format!("sum page={page} pages={pages} word=1");
        if i % 3 == 0 {
            let (_, there) = home.all(&look, |client| client.word(page + 3, 1).load(Ordering::SeqCst));
            assert_eq!(there, vec![(value * pages).to_string(); 2]);
        }
        let op = if i % 5 == 0 { Op::Clear } else { Op::Discard };
        let range = [BASE + page * PAGE, pages * PAGE, 0, 0];
        assert_eq!(home.client.ask(op, range, None).0.status, 0);
        let (here, there) = home.all(&look, |client| work::sum(client, &work::settings(&look[4..])));
        assert_eq!((here, there), (0, vec!["0".to_owned(); 2]), "round {i}");
    }
}

/// Hosts read a word of the page and write it, one after the other.
fn round(line: &str) {
    let mut home = Home::start(16);
    let (page, times) = (work::settings(line)["page"], work::settings(line)["times"]);
    let mut ask = |body: usize, order: &str| {
        home.bodies[body].say(order);
        home.bodies[body].hear().expect("an answer")
    };
    for turn in 0..times {
        let value = match turn % 3 {
            0 => home.client.word(page, 0).load(Ordering::SeqCst),
            host => ask(host as usize - 1, &format!("sum page={page} pages=1 word=0")).parse().unwrap(),
        };
        assert_eq!(value, turn, "host {}", turn % 3);
        match turn % 3 {
            0 => home.client.word(page, 0).store(turn + 1, Ordering::SeqCst),
            host => _ = ask(host as usize - 1, &format!("set page={page} word=0 value={}", turn + 1)),
        }
    }
}

/// A thread that goes from host to host, as its steward tells the agent.
fn steward() {
    let mut home = Home::start(16);
    let socket = crate::common::seqpacket(&PathBuf::from(std::env::var(client::env::SOCKET).unwrap()));
    let machine = u64::from_str_radix(&std::env::var(client::env::MACHINE).unwrap(), 16).unwrap();
    let begin =
        |space| crate::common::exchange(&socket, Op::Steward, [client::VERSION, machine, space, 0], None);
    assert_eq!(begin(home.space).0.status, 0);
    let (send_tid, tid) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let wanderer = std::thread::Builder::new().name("wanderer".into()).spawn(move || {
        // SAFETY: a plain system call.
        send_tid.send(unsafe { libc::gettid() } as u64).unwrap();
        let _ = ended.recv();
    });
    let tid = tid.recv().unwrap();
    let placed = |host, there, why: Why| {
        crate::common::send(&socket, Op::Placed, [tid, host, there, why as u64], None);
    };
    placed(0, tid, Why::Started);
    home.bodies[0].say("burn");
    let there = home.bodies[0].hear().unwrap().parse().unwrap();
    placed(1, there, Why::Ordered);
    // A page that is fought over.
    let fight = "count hosts=3 pages=1 threads=1 times=2000 hot=1";
    home.all(fight, |client| work::count(client, &work::settings(&fight[6..]), 1));
    let order = || crate::common::hear(&socket).expect("an order").0;
    assert_eq!(order(), [Op::Move as u64, tid, 2, 0, 0]);
    placed(2, 1, Why::Ordered);
    assert_eq!(order(), [Op::Move as u64, tid, 0, 0, 0]);
    drop(end);
    wanderer.unwrap().join().unwrap();
    placed(0, tid, Why::Ended);
    std::thread::sleep(Duration::from_millis(300));
}

/// A file of `pages` pages; the words of page n are n + 1.
fn file(pages: u64) -> File {
    // SAFETY: a constant name; the descriptor is ours.
    let mut file =
        File::from(unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"file".as_ptr(), libc::MFD_CLOEXEC)) });
    for page in 0..pages {
        file.write_all(&(page + 1).to_le_bytes().repeat(PAGE as usize / 8)).unwrap();
    }
    file
}

fn files() {
    const PAGES: u64 = 300;
    let mut home = Home::start(2048);
    let file = file(PAGES + 10);
    let range = [BASE + 400 * PAGE, (PAGES + 20) * PAGE, 10 * PAGE, 0];
    assert_eq!(home.client.ask(Op::Back, range, Some(file.as_raw_fd())).0.status, 0);
    let (_, backed) = home.all(&format!("back page=400 pages={}", PAGES + 20), |_| ());
    assert!(backed.iter().all(|status| status == "0"), "{backed:?}");
    // Of all, in order, on all hosts at once: the first touch of each page is one of theirs.
    let sum = |first: u64, pages: u64| (first..first + pages).map(|page| page - 400 + 10 + 1).sum::<u64>();
    let (here, there) = home.all(&format!("sum page=400 pages={PAGES} word=511"), |client| {
        work::sum(client, &work::settings(&format!("page=400 pages={PAGES} word=511")))
    });
    assert_eq!((here, there), (sum(400, PAGES), vec![sum(400, PAGES).to_string(); 2]));
    // Past the file's end there are zeros; what is written stays.
    let (_, zeros) = home.all(&format!("sum page={} pages=20 word=0", 400 + PAGES), |_| ());
    assert_eq!(zeros, ["0", "0"]);
    home.bodies[0].say("set page=401 word=0 value=77");
    assert_eq!(home.bodies[0].hear().as_deref(), Some("set"));
    assert_eq!(home.client.word(401, 0).load(Ordering::SeqCst), 77);
    assert_eq!(home.client.word(401, 1).load(Ordering::SeqCst), 12);
    // A body that does not touch what home has discarded finds the file again, and after `Unback` and `Clear` zeros.
    assert_eq!(home.client.ask(Op::Discard, [BASE + 400 * PAGE, 4 * PAGE, 0, 0], None).0.status, 0);
    home.bodies[1].say("sum page=400 pages=4 word=0");
    assert_eq!(home.bodies[1].hear(), Some(sum(400, 4).to_string()));
    assert_eq!(home.client.ask(Op::Clear, [BASE + 400 * PAGE, 4 * PAGE, 0, 0], None).0.status, 0);
    let (_, unbacked) = home.all("unback page=400 pages=4", |_| ());
    assert_eq!(unbacked, ["0", "0"]);
    let (_, cleared) = home.all("sum page=400 pages=4 word=0", |_| ());
    assert_eq!(cleared, ["0", "0"]);
    // Home may have forgotten a file that a body process still believes in: then there are zeros.
    assert_eq!(home.client.ask(Op::Clear, [BASE + 500 * PAGE, 2 * PAGE, 0, 0], None).0.status, 0);
    home.bodies[1].say("sum page=500 pages=2 word=3");
    assert_eq!(home.bodies[1].hear().as_deref(), Some("0"));
}
