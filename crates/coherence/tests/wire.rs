//! Messages as bytes: every message survives the journey, and nothing else is taken for one.

use megalith_coherence::{Access, Bytes, HostId, Message, Outcome, PageId, RegionId};

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.word() as usize % among.len()]
    }

    fn message(&mut self) -> Message {
        let (page, into) = (PageId(self.word() >> (self.word() % 64)), PageId(self.word()));
        let region = RegionId(self.word());
        let (host, acks) = (HostId(self.word() as u16), self.word() as u16);
        let (yes, access) = (self.pick(&[false, true]), self.pick(&[Access::Read, Access::Write]));
        let bytes = self.pick(&[Bytes::Initial, Bytes::Carried, Bytes::Held]);
        let outcome = self.pick(&[Outcome::Exclusive, Outcome::Shared, Outcome::Unchanged]);
        self.pick(&[
            Message::Locate { region, claim: yes },
            Message::Located { region, directory: yes.then_some(host) },
            Message::Request { page, access },
            Message::HandOver { page, to: None },
            Message::HandOver { page, to: Some(host) },
            Message::Discard { page },
            Message::Forward { page, into, access, requester: host, alone: yes, acks },
            Message::Invalidate { page, requester: host },
            Message::Ack { page },
            Message::Grant { page, access, bytes, acks },
            Message::Done { page, outcome },
            Message::Relinquish { page, to: host },
            Message::Give { page, directory: host },
            Message::Promote { page },
            Message::Release { page },
            Message::Moot { page },
            Message::Drop { page },
            Message::Dropped { page },
            Message::Discarded { page },
        ])
    }
}

const ROUNDS: u64 = 100_000;

#[test]
fn a_message_survives_the_journey() {
    for seed in 0..ROUNDS {
        let message = Dice(seed).message();
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        assert!(bytes.len() <= Message::ENCODED_BYTES_MAX, "seed {seed}: {} bytes", bytes.len());
        let length = bytes.len();
        bytes.extend([0xff; 3]);
        assert_eq!(Message::decode(&bytes), Ok((message, length)), "seed {seed}");
        for cut in 0..length {
            assert!(Message::decode(&bytes[..cut]).is_err(), "seed {seed}: {message:?} cut to {cut} bytes");
        }
    }
}

/// Bytes that are accepted are the encoding of what they were accepted as: there is one spelling of a message.
#[test]
fn garbage_is_refused_or_is_a_message() {
    let mut accepted = 0;
    for seed in 0..ROUNDS {
        let mut dice = Dice(seed);
        let mut bytes: Vec<u8> =
            (0..dice.word() % 30).map(|_| dice.word() as u8 >> (dice.word() % 8)).collect();
        if let (Some(tag), true) = (bytes.first_mut(), dice.pick(&[false, true])) {
            *tag = dice.word() as u8 % 20;
        }
        if let Ok((message, length)) = Message::decode(&bytes) {
            let mut again = Vec::new();
            message.encode(&mut again);
            assert_eq!(again, bytes[..length], "seed {seed}: {message:?}");
            accepted += 1;
        }
    }
    assert!(accepted > 1_000, "only {accepted} of {ROUNDS} were messages: the test tests little");
}

#[test]
fn bytes_travel_beside_grants_that_say_so_and_gifts_only() {
    for seed in 0..ROUNDS {
        let message = Dice(seed).message();
        let carries = match message {
            Message::Grant { bytes, .. } => bytes == Bytes::Carried,
            Message::Give { .. } => true,
            _ => false,
        };
        assert_eq!(message.carries_page(), message.page().filter(|_| carries), "seed {seed}");
    }
}
