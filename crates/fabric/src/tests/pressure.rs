//! A slow receiver: the sender sees it, never blocks, keeps no more than was sent, loses nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coherence::HostId;

use super::parties::{Hall, Told, Watched, shutdown, wait_sent};
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
