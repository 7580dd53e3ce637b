//! How long an instruction of 64-bit code is, and whether it does the same elsewhere.
//!
//! Instructions can only be told apart forwards. What lies before a known instruction is found by reading from many places before it: wrong
//! beginnings meet the right ones within a few instructions, and only where all agree is the answer believed.

/// An instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Bytes.
    pub len: usize,
    /// It is one of the plain ones that compute, load or store, and does not depend on where it is.
    pub movable: bool,
    /// The next one is never executed after it.
    pub ends: bool,
}

/// What follows an opcode.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Nothing but an immediate of so many bytes.
    Plain(usize),
    /// A ModRM byte, and an immediate.
    Modrm(usize),
    /// An immediate as wide as the operand, up to 4 bytes.
    Wide,
    /// The same behind a ModRM byte.
    ModrmWide,
}

/// The longest that the processor takes.
const LONGEST: usize = 15;

/// The instruction that `b` begins with. `None`: none that there is, or it is cut off.
pub fn instruction(b: &[u8]) -> Option<Instruction> {
    let (mut at, mut narrow, mut small_address, mut rex) = (0, false, false, 0);
    loop {
        match *b.get(at)? {
            0x66 => narrow = true,
            0x67 => small_address = true,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf0 | 0xf2 | 0xf3 => {}
            _ => break,
        }
        at += 1;
    }
    let prefixed = at > 0;
    if let r @ 0x40..=0x4f = *b.get(at)? {
        rex = r;
        at += 1;
    }
    let op = *b.get(at)?;
    at += 1;
    let wide_rex = rex & 8 != 0;
    let (form, movable, ends) = match op {
        0x0f => {
            let op = *b.get(at)?;
            at += 1;
            match op {
                0x38 => {
                    at += 1;
                    (Form::Modrm(0), false, false)
                }
                0x3a => {
                    at += 1;
                    (Form::Modrm(1), false, false)
                }
                _ => (second(op)?, matches!(op, 0x40..=0x4f | 0xb6 | 0xb7 | 0xbe | 0xbf), op == 0x0b),
            }
        }
        0xc4 | 0xc5 | 0x62 => {
            // VEX and EVEX: which table, and then the opcode.
            let (payload, table) = match op {
                0xc4 => (2, *b.get(at)? & 0x1f),
                0xc5 => (1, 1),
                _ => (3, *b.get(at)? & 7),
            };
            let op = *b.get(at + payload)?;
            at += payload + 1;
            let form = match (table, op) {
                (1, 0x77) => Form::Plain(0),
                (1, 0x70..=0x73 | 0xc2 | 0xc4..=0xc6) | (3, _) => Form::Modrm(1),
                (1 | 2 | 5 | 6, _) => Form::Modrm(0),
                _ => return None,
            };
            (form, false, false)
        }
        _ => (
            first(op, wide_rex, small_address, *b.get(at).unwrap_or(&0))?,
            is_plain(op, *b.get(at).unwrap_or(&0)),
            is_end(op, *b.get(at).unwrap_or(&0)),
        ),
    };
    let mut fixed = true;
    let immediate = match form {
        Form::Plain(n) => n,
        Form::Wide => {
            if narrow {
                2
            } else {
                4
            }
        }
        Form::Modrm(n) => {
            fixed = !modrm(b, &mut at)?;
            n
        }
        Form::ModrmWide => {
            fixed = !modrm(b, &mut at)?;
            if narrow { 2 } else { 4 }
        }
    };
    let len = at + immediate;
    (len <= LONGEST && len <= b.len()).then_some(Instruction { len, movable: movable && fixed && !prefixed, ends })
}

/// Goes behind a ModRM byte with what belongs to it. Returns whether it names an address by the instruction's own.
fn modrm(b: &[u8], at: &mut usize) -> Option<bool> {
    let m = *b.get(*at)?;
    *at += 1;
    let (mode, rm) = (m >> 6, m & 7);
    let mut base = rm;
    if mode != 3 && rm == 4 {
        base = *b.get(*at)? & 7;
        *at += 1;
    }
    *at += match (mode, base) {
        (1, _) => 1,
        (2, _) | (0, 5) => 4,
        _ => 0,
    };
    Some(mode == 0 && rm == 5)
}

/// Opcodes of one byte.
fn first(op: u8, wide: bool, small_address: bool, next: u8) -> Option<Form> {
    Some(match op {
        0x00..=0x3f => match op & 7 {
            0..=3 => Form::Modrm(0),
            4 => Form::Plain(1),
            5 => Form::Wide,
            _ => return None,
        },
        0x50..=0x5f | 0x6c..=0x6f | 0x90..=0x99 | 0x9b..=0x9f | 0xa4..=0xa7 | 0xaa..=0xaf => Form::Plain(0),
        0xc3 | 0xc9 | 0xcb | 0xcc | 0xcf | 0xd7 | 0xec..=0xef | 0xf1 | 0xf4 | 0xf5 | 0xf8..=0xfd => Form::Plain(0),
        0x6a | 0x70..=0x7f | 0xa8 | 0xb0..=0xb7 | 0xcd | 0xe0..=0xe7 | 0xeb => Form::Plain(1),
        0x63 | 0x84..=0x8f | 0xd0..=0xd3 | 0xd8..=0xdf | 0xfe | 0xff => Form::Modrm(0),
        0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 => Form::Modrm(1),
        0x69 | 0x81 | 0xc7 => Form::ModrmWide,
        0x68 | 0xa9 => Form::Wide,
        // Jumps and calls: an operand-size prefix makes no difference.
        0xe8 | 0xe9 => Form::Plain(4),
        0xa0..=0xa3 => Form::Plain(if small_address { 4 } else { 8 }),
        0xb8..=0xbf => {
            if wide {
                Form::Plain(8)
            } else {
                Form::Wide
            }
        }
        0xc2 | 0xca => Form::Plain(2),
        0xc8 => Form::Plain(3),
        // TEST, the first two of the group, has an immediate.
        0xf6 => Form::Modrm((next >> 3 & 7 < 2).into()),
        0xf7 => {
            if next >> 3 & 7 < 2 {
                Form::ModrmWide
            } else {
                Form::Modrm(0)
            }
        }
        _ => return None,
    })
}

/// Opcodes behind 0f.
fn second(op: u8) -> Option<Form> {
    Some(match op {
        0x05..=0x09 | 0x0b | 0x0e | 0x30..=0x35 | 0x37 | 0x77 | 0xa0..=0xa2 | 0xa8..=0xaa | 0xc8..=0xcf => Form::Plain(0),
        0x80..=0x8f => Form::Plain(4),
        0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => Form::Modrm(1),
        0x04 | 0x0a | 0x0c | 0x0f | 0x24..=0x27 | 0x36 | 0x38..=0x3f | 0x7a | 0x7b | 0xa6 | 0xa7 => return None,
        _ => Form::Modrm(0),
    })
}

/// What computes, loads or stores, and nothing more.
fn is_plain(op: u8, modrm: u8) -> bool {
    match op {
        // add, or, and, sub, xor, cmp
        0x00..=0x3f => op & 7 < 6 && !matches!(op >> 3, 2 | 3),
        // pop; movsxd; test, mov; lea; mov; shifts; not, neg
        0x58..=0x5f | 0x63 | 0x81 | 0x83..=0x85 | 0x88..=0x8b | 0x8d | 0xb0..=0xbf | 0xc0 | 0xc1 => true,
        0xc7 => modrm >> 3 & 7 == 0,
        0xf7 => matches!(modrm >> 3 & 7, 2 | 3),
        _ => false,
    }
}

fn is_end(op: u8, modrm: u8) -> bool {
    match op {
        0xc2 | 0xc3 | 0xe9 | 0xeb => true,
        0xff => matches!(modrm >> 3 & 7, 4 | 5),
        _ => false,
    }
}

/// Where reading begins before a known instruction: so far away at most, and so far at least that wrong beginnings have met the right ones.
const FAR: usize = 96;
const SETTLED: usize = 32;
/// So many readings must have come to the known instruction.
const WITNESSES: usize = 8;

/// The instruction directly before the one that is known to begin at offset `known`: its offset and what it is.
pub fn before(code: &[u8], known: usize) -> Option<(usize, Instruction)> {
    let mut found: Option<(usize, Instruction)> = None;
    let mut witnesses = 0;
    for start in known.saturating_sub(FAR)..=known.checked_sub(SETTLED)? {
        let mut at = start;
        while let Some(i) = instruction(code.get(at..)?) {
            if at + i.len == known {
                if found.is_some_and(|(f, _)| f != at) {
                    return None;
                }
                found = Some((at, i));
                witnesses += 1;
            }
            at += i.len;
            if at >= known {
                break;
            }
        }
    }
    found.filter(|_| witnesses >= WITNESSES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        let all: &[&[u8]] = &[
            &[0x90],
            &[0xc3],
            &[0x0f, 0x05],
            &[0x41, 0x5a],
            &[0x48, 0x89, 0xf8],
            &[0x4c, 0x8b, 0x4c, 0x24, 0x08],
            &[0xb8, 39, 0, 0, 0],
            &[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x48, 0xc7, 0xc0, 1, 0, 0, 0],
            &[0x66, 0xb8, 1, 0],
            &[0x48, 0x8b, 0x0d, 1, 2, 3, 4],
            &[0x64, 0x89, 0x01],
            &[0xf6, 0x04, 0x25, 0x18, 0, 0, 0, 1],
            &[0xf7, 0xd8],
            &[0xf7, 0xc0, 1, 0, 0, 0],
            &[0x0f, 0x84, 1, 2, 3, 4],
            &[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
            &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
            &[0xc5, 0xf8, 0x77],
            &[0xc5, 0xfe, 0x6f, 0x06],
            &[0x62, 0xe1, 0xfe, 0x28, 0x6f, 0x46, 0x01],
            &[0xc4, 0xe3, 0x7d, 0x19, 0xc1, 0x01],
            &[0x66, 0x0f, 0x38, 0x17, 0xc0],
            &[0x66, 0x0f, 0x3a, 0x63, 0xc1, 0x1a],
            &[0xf3, 0x0f, 0x1e, 0xfa],
            &[0xc8, 1, 0, 0],
            &[0x48, 0x83, 0xc8, 0xff],
            &[0x8b, 0x84, 0x24, 1, 0, 0, 0],
            &[0x8b, 0x04, 0x25, 1, 0, 0, 0],
            &[0x48, 0xa1, 1, 2, 3, 4, 5, 6, 7, 8],
        ];
        for code in all {
            assert_eq!(instruction(code).map(|i| i.len), Some(code.len()), "{code:x?}");
            assert_eq!(instruction(&code[..code.len() - 1]).filter(|i| i.len == code.len()), None, "{code:x?}");
        }
        assert_eq!(instruction(&[0x06]), None);
        assert_eq!(instruction(&[]), None);
        assert_eq!(instruction(&[0x66; 20]), None);
    }

    #[test]
    fn what_may_be_moved() {
        let movable = |b: &[u8]| instruction(b).is_some_and(|i| i.movable);
        for b in [
            &[0x4c, 0x8b, 0x4c, 0x24, 0x08][..],
            &[0xbe, 1, 0, 0, 0],
            &[0x31, 0xc0],
            &[0x48, 0x8d, 0x74, 0x24, 8],
            &[0x41, 0x81, 0xe0, 1, 0, 0, 0],
        ] {
            assert!(movable(b), "{b:x?}");
        }
        // By its own address; jumps, calls, returns; syscall; with prefixes; hlt; xbegin.
        for b in [
            &[0x48, 0x8b, 0x0d, 1, 2, 3, 4][..],
            &[0xe8, 0, 0, 0, 0],
            &[0x74, 0],
            &[0xc3],
            &[0x0f, 0x05],
            &[0x64, 0x8b, 0x04, 0x25, 1, 0, 0, 0],
            &[0xf4],
            &[0xc7, 0xf8, 0, 0, 0, 0],
            &[0xff, 0x25, 0, 0, 0, 0],
            &[0x0f, 0x84, 1, 2, 3, 4],
            &[0xcc],
        ] {
            assert!(!movable(b), "{b:x?}");
        }
        assert!(instruction(&[0xc3]).is_some_and(|i| i.ends) && instruction(&[0xff, 0xe0]).is_some_and(|i| i.ends));
        assert!(instruction(&[0xff, 0xd0]).is_some_and(|i| !i.ends));
    }

    #[test]
    fn looks_back_only_where_there_is_no_doubt() {
        let mut code = vec![0x90; 64];
        code.extend([0x4c, 0x8b, 0x4c, 0x24, 0x08, 0x0f, 0x05]);
        assert_eq!(before(&code, 69).map(|(at, i)| (at, i.len)), Some((64, 5)));
        assert_eq!(before(&code, 20), None);
        // mov eax, 0x4c000000: the same bytes belong to two instructions.
        let mut code = vec![0x90; 64];
        code.extend([0xb8, 0, 0, 0, 0x4c, 0x8b, 0x4c, 0x24, 0x08, 0x0f, 0x05]);
        assert_eq!(before(&code, 73).map(|(at, i)| (at, i.len)), Some((69, 4)));
        // Data before it may be read in two ways that do not meet.
        let mut code: Vec<u8> = [0x00, 0xb8].repeat(40);
        code.extend([0x8b, 0x4c, 0x24, 0x08]);
        let at = code.len();
        code.extend([0x0f, 0x05]);
        assert!(before(&code, at).is_none_or(|(_, i)| !i.movable || i.len < 5));
    }
}
