//! Sequence numbers: they wrap, so they are compared by their distance (RFC 9293, 3.4).

/// Whether `a` comes before `b`.
pub fn lt(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether `a` is `b` or comes before it.
pub fn le(a: u32, b: u32) -> bool {
    !lt(b, a)
}

/// The later of both.
pub fn max(a: u32, b: u32) -> u32 {
    if lt(a, b) { b } else { a }
}

/// Bytes from `from` to `to`; zero if that is behind.
pub fn span(from: u32, to: u32) -> u32 {
    if lt(from, to) { to.wrapping_sub(from) } else { 0 }
}
