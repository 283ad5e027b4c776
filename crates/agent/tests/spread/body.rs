//! A body process: joins the space that its home process names, and does what it says.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use client::{ChannelKind, Op};

use crate::common::{Client, PAGE, hear};
use crate::work;

/// Lines of text over a channel.
pub struct Lines(BufReader<TcpStream>);

impl Lines {
    pub fn new(socket: OwnedFd) -> Lines {
        Lines(BufReader::new(TcpStream::from(socket)))
    }

    pub fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).expect("the other end reads");
    }

    /// `None` when the other end has closed.
    pub fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
        }
    }
}

/// The signal that the main thread gets when the agent dies.
static DEATH_SIGNAL: AtomicI32 = AtomicI32::new(0);

pub fn main() {
    let mut signal = 0;
    // SAFETY: a plain system call, which fills in the signal.
    assert_eq!(unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut signal) }, 0);
    DEATH_SIGNAL.store(signal, Ordering::Relaxed);
    // SAFETY: the agent has put the door there.
    let door = unsafe { OwnedFd::from_raw_fd(client::env::DOOR) };
    let mut client = None;
    while let Some(([op, kind, ..], socket)) = hear(&door) {
        assert_eq!(op, Op::Channel as u64);
        let mut lines = Lines::new(socket.expect("the channel"));
        if kind == ChannelKind::Thread as u64 {
            std::thread::spawn(move || {
                while let Some(line) = lines.hear() {
                    lines.say(&format!("thread {line}"));
                }
            });
            continue;
        }
        assert!(client.is_none(), "one space channel");
        // A home process that is killed at once says nothing.
        let Some(join) = lines.hear() else { return };
        let joined = Arc::new(join_space(&join));
        lines.say("joined");
        client = Some(joined.clone());
        std::thread::spawn(move || {
            while let Some(line) = lines.hear() {
                let answer = obey(&joined, &line);
                lines.say(&answer);
            }
            // The home process is no more.
            std::process::exit(0);
        });
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is set"))
}

fn join_space(line: &str) -> Client {
    let place: BTreeMap<_, _> = work::settings(line);
    let machine = u64::from_str_radix(&variable(client::env::MACHINE), 16).unwrap();
    let space = variable(client::env::BODY).parse().unwrap();
    let socket = PathBuf::from(variable(client::env::SOCKET));
    assert!(socket.is_absolute());
    let args = [client::VERSION, machine, space, 0];
    let (client, values) = Client::begin(&socket, Op::Join, args, place["base"], place["bytes"]);
    assert_eq!(values, [0; 4]);
    client
}

fn obey(client: &Client, line: &str) -> String {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "facts" => facts(),
        "count" => work::count(client, &work::settings(rest), 2).to_string(),
        "contend" => work::contend(client, &work::settings(rest), 1).to_string(),
        "read" => work::ordered_reader(client, &work::settings(rest)).to_string(),
        "back" | "unback" => {
            let s = work::settings(rest);
            let op = if word == "back" { Op::BackFromHome } else { Op::Unback };
            let range = [client.base + s["page"] * PAGE, s["pages"] * PAGE, 0, 0];
            client.ask(op, range, None).0.status.to_string()
        }
        "sum" => work::sum(client, &work::settings(rest)).to_string(),
        "set" => {
            let s = work::settings(rest);
            client.word(s["page"], s["word"]).store(s["value"], Ordering::SeqCst);
            "set".into()
        }
        "burn" => {
            // SAFETY: plain system calls.
            let tid = unsafe { libc::gettid() };
            let begun = thread_time();
            while thread_time() < begun + std::time::Duration::from_millis(300) {}
            tid.to_string()
        }
        "fill" => {
            let s = work::settings(rest);
            for page in s["page"]..s["page"] + s["pages"] {
                client.word(page, 1).store(s["value"], Ordering::SeqCst);
            }
            "filled".into()
        }
        "noise" => {
            let s = work::settings(rest);
            work::fill(client, s["page"]..s["page"] + s["pages"]);
            "filled".into()
        }
        "die" => {
            // SAFETY: plain system calls.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            unreachable!("killed")
        }
        other => panic!("{other} is none of our words"),
    }
}

/// The CPU time of the calling thread.
fn thread_time() -> std::time::Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call fills `time` in.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What this process is, one word each.
fn facts() -> String {
    let mut names: Vec<String> =
        std::env::vars().map(|(name, _)| name).filter(|name| !name.starts_with("__LLVM_PROFILE")).collect();
    names.sort();
    let stdin = std::fs::read_link("/proc/self/fd/0").unwrap();
    let stdout = std::fs::read_link("/proc/self/fd/1").unwrap();
    let signal = DEATH_SIGNAL.load(Ordering::Relaxed);
    let mut files = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain system calls; the pointers are to what the calls fill in.
    let alone = unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut files), 0);
        libc::getsid(0) == libc::getpid()
    };
    format!(
        "{} {} {} {signal} {} {alone} {}",
        names.join(","),
        stdin.display(),
        stdout.display(),
        files.rlim_cur == files.rlim_max,
        variable(client::env::PROGRAM),
    )
}
