//! A slow receiver: the sender sees it, never blocks, keeps no more than was sent, loses nothing.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coherence::{Epoch, HostId};

use super::parties::{Hall, Told, Watched, shutdown, wait_sent};
use crate::frame::Kind;
use crate::link::{Counters, Link};
use crate::stream::Stream;
use crate::{FRAME_HEADER_BYTES, Fabric, Inbox, Lost};

/// Takes nothing until its gate is open.
#[derive(Default)]
struct Gated {
    open: Watched<bool>,
    got: Watched<Vec<u32>>,
    other: Watched<Vec<Told>>,
}

impl Inbox for Gated {
    fn message(&self, _from: HostId, bytes: &[u8]) {
        self.open.wait_for("the gate", |open| open.then_some(()));
        let number = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
        assert!(bytes[4..].iter().all(|byte| *byte == number as u8));
        self.got.change(|got| got.push(number));
    }
    fn drained(&self, _from: HostId) {}
    fn lost(&self, host: HostId, reason: Lost) {
        self.other.change(|other| other.push(Told::Lost(host, reason)));
    }
}

#[test]
fn backlog_grows_and_nothing_is_lost() {
    const MESSAGES: u32 = 1500;
    const PAYLOAD: usize = 64 << 10;
    let inboxes = [Arc::new(Gated::default()), Arc::new(Gated::default())];
    let hall = Hall::new(&inboxes);
    let meshes = hall.open();
    let begin = Instant::now();
    for number in 0..MESSAGES {
        meshes[0].send(HostId(1), &[&number.to_le_bytes(), &vec![number as u8; PAYLOAD - 4]]);
        meshes[0].flush();
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "send or flush blocked");
    let sent = MESSAGES as usize * (FRAME_HEADER_BYTES + PAYLOAD);
    let backlog = meshes[0].backlog(HostId(1));
    // The kernel's buffers hold a part (at most 4 MiB, doubled, on either side, and the reader's own).
    assert!(backlog <= sent && backlog > sent - (40 << 20), "backlog {backlog} of {sent}");
    // A receiver that is busy for longer than lost_after is not lost, nor thinks the sender lost.
    std::thread::sleep(super::parties::SETTINGS.lost_after * 2);
    inboxes[1].open.change(|open| *open = true);
    inboxes[1].got.wait_for("all messages", |got| (got.len() == MESSAGES as usize).then_some(()));
    assert!(inboxes[1].got.change(|got| got.iter().copied().eq(0..MESSAGES)));
    wait_sent(&meshes[0], HostId(1));
    for inbox in &inboxes {
        assert_eq!(inbox.other.change(|other| other.clone()), []);
    }
    shutdown(&meshes);
}

/// Counts what each sending thread has sent; the numbers of a thread must come in order.
#[derive(Default)]
struct Counting {
    next: Watched<[u32; THREADS]>,
}

const THREADS: usize = 4;

impl Inbox for Counting {
    fn message(&self, _from: HostId, bytes: &[u8]) {
        let thread = usize::from(bytes[0]);
        let number = u32::from_le_bytes(bytes[1..5].try_into().expect("four bytes"));
        assert!(bytes[5..].iter().all(|byte| *byte == number as u8));
        self.next.change(|next| {
            assert_eq!(next[thread], number, "thread {thread}");
            next[thread] += 1;
        });
    }
    fn drained(&self, _from: HostId) {}
    fn lost(&self, host: HostId, reason: Lost) {
        panic!("{host:?} lost: {reason}");
    }
}

#[test]
fn many_threads_send_and_flush_to_one_peer_at_once() {
    const MESSAGES: u32 = 5000;
    let inboxes = [Arc::new(Counting::default()), Arc::new(Counting::default())];
    let hall = Hall::new(&inboxes);
    let meshes = hall.open();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let mesh = &meshes[0];
            scope.spawn(move || {
                for number in 0..MESSAGES {
                    // Mostly small; now and then more than the socket takes at once.
                    let length = if number % 500 == 250 { 1 << 19 } else { 100 };
                    let header = [&[thread as u8][..], &number.to_le_bytes()].concat();
                    mesh.send(HostId(1), &[&header, &vec![number as u8; length]]);
                    mesh.flush();
                }
            });
        }
    });
    // Nobody flushes any more: whatever was flushed while another thread wrote must go out by itself.
    inboxes[1].next.wait_for("all messages", |next| (*next == [MESSAGES; THREADS]).then_some(()));
    wait_sent(&meshes[0], HostId(1));
    shutdown(&meshes);
}

const LIMIT: usize = 8 << 20;

fn link() -> Link {
    Link::new(HostId(1), Epoch(1), Arc::new(Counters::default()), LIMIT).expect("a descriptor")
}

/// A peer that asks for much and takes nothing once made an agent keep all of its answers.
#[test]
fn a_peer_that_takes_nothing_is_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let mut theirs = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (ours, link) = (listener.accept().expect("somebody dials").0, link());
    link.stand(Stream::plain(ours));
    let mut sent = 0;
    while link.broken.get().is_none() {
        link.push(Kind::Message, &[&vec![7; 1 << 20]]);
        link.flush();
        sent += 1;
        assert!(link.backlog() <= LIMIT);
        assert!(sent < 1000, "nobody takes it, and it is kept");
    }
    assert_eq!(link.broken.get(), Some(&Lost::Overrun(LIMIT)));
    assert_eq!(link.backlog(), 0, "nothing is kept for a host that is lost");
    link.push(Kind::Message, &[b"late"]);
    assert_eq!(link.backlog(), 0);
    // The stream ends, so both sides' readers do.
    theirs.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    let mut taken = Vec::new();
    let end = theirs.read_to_end(&mut taken);
    assert!(end.is_ok_and(|count| count < sent << 20), "a part, and its end");
}

#[test]
fn a_link_that_overran_before_it_stood_ends_when_it_stands() {
    let link = link();
    for _ in 0..9 {
        link.push(Kind::Message, &[&vec![7; 1 << 20]]);
    }
    assert_eq!(link.broken.get(), Some(&Lost::Overrun(LIMIT)));
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let mut theirs = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    link.stand(Stream::plain(listener.accept().expect("somebody dials").0));
    theirs.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    assert_eq!(theirs.read(&mut [0; 8]).expect("its end"), 0);
}
