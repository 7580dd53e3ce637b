//! [`Stream`]: bytes of a connection that wait to be read, or to be sent.

use std::collections::VecDeque;
use sync::{Mutex, Rank};

/// Pieces of up to this size are filled before another one is begun.
pub const PIECE: usize = 64 << 10;
/// A new piece has at least this room, so that many small writes share one.
const LEAST: usize = 256;

/// A queue of bytes in pieces.
#[derive(Debug, Default)]
pub struct Stream {
    pieces: VecDeque<Vec<u8>>,
    /// Bytes of the first piece that are gone.
    off: usize,
    len: usize,
}

impl Stream {
    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a whole piece, or its bytes to the last one where there is room.
    pub fn push(&mut self, piece: Vec<u8>) {
        if piece.is_empty() {
            return;
        }
        self.len += piece.len();
        match self.pieces.back_mut() {
            Some(last) if last.capacity() - last.len() >= piece.len() && piece.len() < PIECE / 4 => last.extend_from_slice(&piece),
            _ => self.pieces.push_back(piece),
        }
    }

    /// Adds bytes.
    pub fn extend(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            let full = self.pieces.back().is_none_or(|p| p.len() == p.capacity());
            if full {
                self.pieces.push_back(Vec::with_capacity(bytes.len().clamp(LEAST, PIECE)));
            }
            let Some(last) = self.pieces.back_mut() else { return };
            let (now, later) = bytes.split_at(bytes.len().min(last.capacity() - last.len()));
            last.extend_from_slice(now);
            bytes = later;
        }
    }

    /// Takes the first `n` bytes away; what is emptied is given back, to be freed without a lock.
    pub fn consume(&mut self, n: usize) -> Vec<Vec<u8>> {
        let mut n = n.min(self.len);
        self.len -= n;
        let mut gone = Vec::new();
        while let Some(first) = self.pieces.front() {
            let here = first.len() - self.off;
            if here > n {
                self.off += n;
                break;
            }
            n -= here;
            self.off = 0;
            gone.extend(self.pieces.pop_front());
            if n == 0 {
                break;
            }
        }
        gone
    }

    /// The bytes from `at` on, at most `max`, as slices.
    pub fn slices(&self, at: usize, max: usize) -> impl Iterator<Item = &[u8]> {
        let mut skip = at + self.off;
        let mut left = max;
        self.pieces.iter().filter_map(move |p| {
            let here = skip.min(p.len());
            skip -= here;
            let rest = p.get(here..).unwrap_or_default();
            let part = rest.get(..left.min(rest.len())).unwrap_or_default();
            left -= part.len();
            (!part.is_empty()).then_some(part)
        })
    }

    /// The byte at this place.
    pub fn at(&self, at: usize) -> Option<u8> {
        self.slices(at, 1).next()?.first().copied()
    }

    /// Empties it.
    pub fn clear(&mut self) {
        *self = Stream::default();
    }
}

/// Pieces that were read, for the next senders: their memory is there, and need not be cleared again. The network's, and shared by all
/// connections, but nobody waits for it.
pub struct Pieces(Mutex<Vec<Vec<u8>>>);

impl Default for Pieces {
    fn default() -> Self {
        Pieces(Mutex::new(Rank::Leaf, Vec::new()))
    }
}

impl Pieces {
    /// Pieces that are kept at most: 2 MiB.
    const MAX: usize = 32;

    /// A piece of this length, with anything in it.
    pub fn take(&self, len: usize) -> Vec<u8> {
        let found = if len >= PIECE / 2 { self.0.try_lock().and_then(|mut all| all.pop()) } else { None };
        let mut piece = found.unwrap_or_default();
        piece.resize(len, 0);
        piece
    }

    /// Keeps the full ones of these.
    pub fn give_back(&self, pieces: Vec<Vec<u8>>) {
        let mut full = pieces.into_iter().filter(|p| p.len() == PIECE).peekable();
        if full.peek().is_none() {
            return;
        }
        if let Some(mut all) = self.0.try_lock() {
            let room = Self::MAX.saturating_sub(all.len());
            all.extend(full.take(room));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_in_pieces() {
        let mut s = Stream::default();
        let all: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        for part in all.chunks(777) {
            s.extend(part);
        }
        s.push(vec![1; 100_000]);
        assert_eq!(s.len(), 300_000);
        let got: Vec<u8> = s.slices(0, 200_000).flatten().copied().collect();
        assert_eq!(got, all);
        s.consume(70_001);
        assert_eq!(s.at(0), Some(all[70_001]));
        let got: Vec<u8> = s.slices(5, 10).flatten().copied().collect();
        assert_eq!(got, all[70_006..70_016]);
        s.consume(usize::MAX);
        assert!(s.is_empty() && s.at(0).is_none());
    }
}
