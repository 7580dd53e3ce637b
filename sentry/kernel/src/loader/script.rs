//! `#!` lines, as fs/binfmt_script.c reads them.

use super::HEAD;
use abi::{Result, bail};

/// What a `#!` line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The interpreter's path.
    pub interpreter: Vec<u8>,
    /// Everything behind it, as one argument.
    pub argument: Option<Vec<u8>>,
}

fn blank(b: &u8) -> bool {
    matches!(b, b' ' | b'\t')
}

fn terminator(b: &u8) -> bool {
    blank(b) || *b == 0
}

/// Reads the line in a file's first bytes. `None`: no script. `ENOEXEC`: the line names nothing, or its interpreter's path is cut off.
pub fn parse(head: &[u8]) -> Result<Option<Script>> {
    let Some(rest) = head.strip_prefix(b"#!") else { return Ok(None) };
    // A short file reads as if zeros followed, which end a path as well as a blank does.
    let mut padded = rest.to_vec();
    padded.resize(HEAD - 2, 0);
    let line = match padded.iter().position(|&b| b == b'\n') {
        Some(end) => padded.get(..end).unwrap_or_default(),
        None => {
            let line = padded.get(..HEAD - 3).unwrap_or_default();
            let Some(name) = line.iter().position(|b| !blank(b)) else { bail!(ENOEXEC, "no interpreter") };
            if !line.iter().skip(name).any(terminator) {
                bail!(ENOEXEC, "interpreter's path is cut off");
            }
            line
        }
    };
    let end = line.iter().rposition(|b| !blank(b)).map_or(0, |i| i + 1);
    let line = line.get(..end).unwrap_or_default();
    let Some(from) = line.iter().position(|b| !blank(b)) else { bail!(ENOEXEC, "no interpreter") };
    let line = line.get(from..).unwrap_or_default();
    let stop = line.iter().position(terminator).unwrap_or(line.len());
    let (interpreter, tail) = line.split_at(stop);
    if interpreter.is_empty() {
        bail!(ENOEXEC, "no interpreter");
    }
    let argument = match tail.first() {
        Some(b) if blank(b) => {
            let skip = tail.iter().position(|b| !blank(b)).unwrap_or(tail.len());
            let text = tail.get(skip..).unwrap_or_default();
            let text: Vec<u8> = text.iter().copied().take_while(|&b| b != 0).collect();
            (!text.is_empty()).then_some(text)
        }
        _ => None,
    };
    Ok(Some(Script { interpreter: interpreter.to_vec(), argument }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::Errno;

    fn ok(line: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
        let s = parse(line).expect("script").expect("script");
        (s.interpreter, s.argument)
    }

    #[test]
    fn lines() {
        assert_eq!(parse(b"\x7fELF"), Ok(None));
        assert_eq!(ok(b"#!/bin/sh\necho"), (b"/bin/sh".to_vec(), None));
        assert_eq!(ok(b"#! \t/usr/bin/env  python3 -u \t\nx"), (b"/usr/bin/env".to_vec(), Some(b"python3 -u".to_vec())));
        assert_eq!(ok(b"#!/bin/sh"), (b"/bin/sh".to_vec(), None));
        assert_eq!(ok(b"#!/bin/sh -e"), (b"/bin/sh".to_vec(), Some(b"-e".to_vec())));
        for bad in [&b"#!"[..], b"#!\n", b"#! \t \n/bin/sh", &[&b"#!"[..], &[b'a'; 300]].concat()[..256]] {
            assert_eq!(parse(bad).map_err(|e| e.errno()), Err(Errno::ENOEXEC), "{bad:?}");
        }
        // A long argument is cut, as Linux does.
        let long = [&b"#!/bin/sh "[..], &[b'a'; 300]].concat();
        assert_eq!(ok(&long[..256]).1.map(|a| a.len()), Some(255 - 10));
    }
}
