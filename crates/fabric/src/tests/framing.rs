//! However the stream is cut, the same frames come out; what is no frame is found out.

use coherence::Epoch;

use super::Random;
use crate::frame::{FRAME_HEADER_BYTES, Frame, FrameBuffer, Kind, MESSAGE_BYTES_MAX, NotAFrame, append};

const EPOCH: Epoch = Epoch(7);

fn feed(buffer: &mut FrameBuffer, bytes: &[u8]) -> usize {
    let space = buffer.space();
    let count = space.len().min(bytes.len());
    space[..count].copy_from_slice(&bytes[..count]);
    buffer.filled(count);
    count
}

#[test]
fn any_chunking_gives_the_same_messages() {
    for seed in 0..60 {
        let mut random = Random(seed);
        // Sizes of every magnitude; some seeds have the largest message.
        let messages: Vec<Vec<u8>> = (0..200)
            .map(|at| {
                let magnitude = random.below(if seed % 6 == 0 && at % 50 == 7 { 21 } else { 14 });
                let length = random.below((1 << magnitude) + 1);
                random.bytes(length)
            })
            .chain((seed % 6 == 0).then(|| vec![seed as u8; MESSAGE_BYTES_MAX]))
            .collect();
        let mut stream = Vec::new();
        for message in &messages {
            let cut = random.below(message.len() + 1);
            append(&mut stream, Kind::Message, EPOCH, &[&message[..cut], &[], &message[cut..]]);
        }
        let chunk_max = [1, 7, 4096, 100_000, usize::MAX >> 1][random.below(5)];
        let mut buffer = FrameBuffer::new();
        let (mut at, mut got) = (0, 0);
        while at < stream.len() {
            let chunk = 1 + random.below(chunk_max.min(stream.len() - at));
            at += feed(&mut buffer, &stream[at..at + chunk]);
            while let Some(frame) = buffer.next().expect("the stream is sane") {
                assert_eq!(
                    frame,
                    Frame { kind: Kind::Message, epoch: EPOCH, payload: &messages[got] },
                    "seed {seed}, message {got}"
                );
                got += 1;
            }
        }
        assert_eq!(got, messages.len(), "seed {seed}");
    }
}

#[test]
fn header_is_eight_bytes_as_drawn() {
    let mut bytes = Vec::new();
    append(&mut bytes, Kind::Goodbye, Epoch(0x0403_0201), &[b"ab", b"c"]);
    assert_eq!(bytes, [3, 0, 0, 5, 1, 2, 3, 4, b'a', b'b', b'c']);
    assert_eq!(bytes.len(), FRAME_HEADER_BYTES + 3);
}

#[test]
fn too_long_and_unknown_are_found_from_the_first_word() {
    for word in [MESSAGE_BYTES_MAX as u32 + 1, 0x00ff_ffff, 6 << 24, u32::MAX] {
        let mut buffer = FrameBuffer::new();
        feed(&mut buffer, &word.to_le_bytes());
        assert_eq!(buffer.next(), Err(NotAFrame(word)));
    }
}

#[test]
fn the_buffer_stays_small_for_small_messages() {
    let mut stream = Vec::new();
    append(&mut stream, Kind::Message, EPOCH, &[&[1; 5000]]);
    let mut buffer = FrameBuffer::new();
    let mut largest = 0;
    // Always leave a piece of a frame behind.
    let mut pending = stream.clone();
    for _ in 0..2000 {
        pending.extend_from_slice(&stream);
        let count = feed(&mut buffer, &pending[..pending.len() - 3000]);
        pending.drain(..count);
        while buffer.next().expect("sane").is_some() {}
        largest = largest.max(buffer.space().len());
    }
    assert!(largest <= 256 << 10, "grew to {largest}");
}

#[test]
#[should_panic(expected = "the largest is 1048576")]
fn a_message_too_long_is_the_callers_bug() {
    append(&mut Vec::new(), Kind::Message, EPOCH, &[&vec![0; MESSAGE_BYTES_MAX], &[0]]);
}
