//! Whole agents in one process: real TCP, real userfaultfds, and a client that is this test itself.

mod common;

use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use client::Op;
use common::{Client, Control, MIB, PAGE, TestAgent, can_fault, value};
use megalith_agent::MACHINES_MAX;
use serde_json::json;

/// A client's pages, filled and checked.
trait Filled {
    fn fill(&self, noise: bool);
    fn check(&self, page: u64, noise: bool);
    fn leave(self, control: &mut Control);
}

impl Filled for Client {
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

/// Each host tells how far the others are, by the time the machine is open.
#[test]
fn hosts_know_how_far_the_others_are() {
    let agents = ["a", "b", "c"].map(|name| TestAgent::start(name, 16 * MIB));
    let begun = Instant::now();
    let (mut control, opened) = Control::open(&agents.each_ref(), 0x5c);
    let took = begun.elapsed().as_micros() as u64;
    assert_eq!(opened["event"], "opened", "{opened}");
    let plausible = |event: &serde_json::Value, most: u64| {
        for host in 0..3 {
            let row = event["hosts"][host]["rtt_us"].as_array().expect("a row");
            assert_eq!((row.len(), row[host].as_u64()), (3, Some(0)), "{event}");
            for us in (0..3).filter(|&other| other != host).map(|other| row[other].as_u64()) {
                assert!(
                    us.is_some_and(|us| (1..=most).contains(&us)),
                    "host {host}, at most {most}: {event}"
                );
            }
        }
    };
    plausible(&opened, took);
    plausible(&control.hear_until("status"), took);
    control.say(&json!({"op": "close"}));
    control.hear_until("closed");
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

#[test]
fn an_agent_takes_so_many_machines_and_no_more() {
    let agent = TestAgent::start("a", 32 * MIB);
    let mut machines = Vec::new();
    for machine in 0..MACHINES_MAX as u64 {
        let (control, opened) = Control::open(&[&agent], 0x1000 + machine);
        assert_eq!(opened["event"], "opened", "{machine}: {opened}");
        machines.push(control);
    }
    let (_, refused) = Control::open(&[&agent], 0x2000);
    assert_eq!((&refused["event"], &refused["kind"]), (&json!("failed"), &json!("refused")), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("takes no more"), "{refused}");
    // One that ends makes room.
    let mut last = machines.pop().unwrap();
    last.say(&json!({"op": "close"}));
    last.hear_until("closed");
    let (_control, opened) = Control::open(&[&agent], 0x2000);
    assert_eq!(opened["event"], "opened", "{opened}");
}
