//! The first line of a script: `#!interpreter [argument]`.

/// What a script asks for. As in Linux, everything after the interpreter is one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script<'a> {
    /// Path of the interpreter.
    pub interpreter: &'a [u8],
    /// Its argument, if there is one.
    pub argument: Option<&'a [u8]>,
}

/// Bytes of a file that Linux looks at to see what it is.
pub const HEAD_BYTES: usize = 256;

/// How many interpreters may stand behind each other.
pub const DEPTH_MAX: usize = 5;

/// Parses the head of a file; `None` if it is no script, or its line names nothing, or the path does not end
/// within [`HEAD_BYTES`].
pub fn parse(head: &[u8]) -> Option<Script<'_>> {
    let line = head.strip_prefix(b"#!")?;
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let (line, whole) = match line.iter().position(|byte| *byte == b'\n' || *byte == 0) {
        Some(end) => (&line[..end], true),
        None => (line, head.len() < HEAD_BYTES),
    };
    let start = line.iter().position(|byte| !blank(byte))?;
    let line = &line[start..];
    let end = line.iter().position(blank);
    if end.is_none() && !whole {
        return None;
    }
    let (interpreter, rest) = line.split_at(end.unwrap_or(line.len()));
    let argument = rest.trim_ascii();
    Some(Script { interpreter, argument: (!argument.is_empty()).then_some(argument) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let plain = Script { interpreter: b"/bin/sh", argument: None };
        assert_eq!(parse(b"#!/bin/sh\necho"), Some(plain));
        assert_eq!(parse(b"#! /bin/sh  \n"), Some(plain));
        let one = Script { interpreter: b"/usr/bin/env", argument: Some(b"-S python3 -u") };
        assert_eq!(parse(b"#!/usr/bin/env -S python3 -u\n"), Some(one));
        assert_eq!(parse(b"#!\n"), None);
        assert_eq!(parse(b"\x7fELF"), None);
        let mut long = vec![b'x'; HEAD_BYTES];
        long[..3].copy_from_slice(b"#!/");
        assert_eq!(parse(&long), None, "a path that is cut off");
    }
}
