//! The protocol's messages, and the pages beside them.

use coherence::Message;
use pager::{PAGE, Packed, Packing};

/// A message that is accepted is spelt as we spell it.
pub fn message(bytes: &[u8]) {
    if let Ok((message, length)) = Message::decode(bytes) {
        assert!(length <= bytes.len() && length <= Message::ENCODED_BYTES_MAX);
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(again, bytes[..length], "{message:?}");
    }
}

/// A packed page that is accepted unpacks; an LZ4 block that unpacks to a page, and is short enough, is accepted.
pub fn packed(bytes: &[u8]) {
    let mut page = [0xEE; PAGE];
    if let Ok(packed) = Packed::from_wire(bytes) {
        packed.unpack(&mut page).expect("it was looked through");
        assert_eq!([&packed.header()[..], packed.bytes].concat(), bytes);
    }
    let block = Packed { packing: Packing::Lz4, bytes };
    let wire = [&block.header()[..], bytes].concat();
    if (1..=3072).contains(&bytes.len()) {
        assert_eq!(block.unpack(&mut page).is_ok(), Packed::from_wire(&wire).is_ok());
    }
}
