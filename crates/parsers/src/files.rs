//! A user's own executables: whatever is in them, the runtime does not panic, and maps nothing outside of the space.

use runtime::elf::{HEADER_BYTES, Header, SEGMENT_BYTES, SEGMENTS_MAX, Segments};
use runtime::layout::Span;
use runtime::script::{self, HEAD_BYTES};
use runtime::{PAGE, SPACE_END};

/// A header, and a table of program headers right behind it, whatever the header says of its place.
pub fn elf(bytes: &[u8]) {
    let Ok(header) = Header::parse(bytes) else { return };
    let table = &bytes[HEADER_BYTES..];
    let length = usize::from(header.table_count) * SEGMENT_BYTES;
    assert!(usize::from(header.table_count) <= SEGMENTS_MAX);
    let Ok(segments) = Segments::parse(&table[..length.min(table.len())]) else { return };
    let (space, span) = (Span { start: 0, end: SPACE_END }, segments.span());
    assert_eq!(space.clip(span), Some(span).filter(|span| span.start < span.end), "{span:?}");
    assert!(segments.align().is_power_of_two() && segments.align() >= PAGE);
    for load in segments.loads() {
        let parts = load.file.map(|(file, _)| file).into_iter().chain(load.zeros);
        for part in parts {
            assert!(part.start < part.end && span.clip(part) == Some(part), "{load:?} of {span:?}");
            assert!(part.start % PAGE == 0 && part.end % PAGE == 0, "{load:?}");
        }
        if let Some(from) = load.zero_from {
            assert!(load.file.is_some_and(|(file, _)| file.contains(from)), "{load:?}");
        }
    }
    let _ =
        (segments.interpreter(), segments.executable_stack(), segments.table_address(header.table_offset));
}

/// The head of a script: its parts lie in it, and leave room for the end of a path.
pub fn script(bytes: &[u8]) {
    let head = &bytes[..bytes.len().min(HEAD_BYTES)];
    if let Some(script) = script::parse(head) {
        let argument = script.argument.unwrap_or_default();
        assert!(
            !script.interpreter.is_empty() && script.interpreter.len() + argument.len() + 2 <= head.len()
        );
        assert!(!script.interpreter.contains(&0) && !argument.contains(&0));
    }
}
