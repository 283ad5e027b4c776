//! A slow receiver: the sender sees it, never blocks, keeps no more than was sent, loses nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coherence::HostId;

use super::parties::{Hall, Told, Watched, shutdown};
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
    assert_eq!(meshes[0].backlog(HostId(1)), 0);
    for inbox in &inboxes {
        assert_eq!(inbox.other.change(|other| other.clone()), []);
    }
    shutdown(&meshes);
}
