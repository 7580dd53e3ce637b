//! A pipe's buffer: Linux's slots of one page each, laid out so that neighbouring full slots are one piece of memory.

use crate::io::IoBuffer;
use abi::{Result, bail};
use std::collections::VecDeque;

/// Bytes of one slot, and the size up to which writes are atomic (`PIPE_BUF`).
pub const SLOT: usize = 4096;

/// A page's worth of data or less.
struct Slot {
    off: usize,
    len: usize,
    /// One write in packet mode: read as one, never added to.
    packet: bool,
}

/// Slots in order. Slot `i` lives in page `(head + i) % max` of `data`, which grows to the highest page used: an often emptied
/// pipe stays in its first page.
pub struct Ring {
    data: Vec<u8>,
    slots: VecDeque<Slot>,
    head: usize,
    max: usize,
    /// Slots promised to splices that are on their way.
    reserved: usize,
    /// Bytes that a splice took and could not place: read before the slots.
    front: VecDeque<u8>,
}

impl Ring {
    /// An empty ring of `max` slots.
    pub fn new(max: usize) -> Ring {
        Ring { data: Vec::new(), slots: VecDeque::new(), head: 0, max: max.max(1), reserved: 0, front: VecDeque::new() }
    }

    /// Bytes that can be read.
    pub fn len(&self) -> usize {
        self.front.len() + self.slots.iter().map(|s| s.len).sum::<usize>()
    }

    /// Whether nothing can be read.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.front.is_empty()
    }

    /// Whether no slot is free.
    pub fn is_full(&self) -> bool {
        self.free() == 0
    }

    /// Free slots.
    pub fn free(&self) -> usize {
        self.max.saturating_sub(self.slots.len() + self.reserved)
    }

    /// Capacity in bytes.
    pub fn capacity(&self) -> usize {
        self.max * SLOT
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.front.clear();
        self.data = Vec::new();
        self.head = 0;
    }

    /// Changes the number of slots; false if more are in use.
    pub fn resize(&mut self, max: usize) -> bool {
        if self.slots.len() + self.reserved > max {
            return false;
        }
        let mut data = Vec::with_capacity(self.slots.len() * SLOT);
        for i in 0..self.slots.len() {
            let at = (self.head + i) % self.max * SLOT;
            data.extend_from_slice(&self.data[at..at + SLOT]);
        }
        (self.data, self.head, self.max) = (data, 0, max.max(1));
        true
    }

    /// Promises up to `n` slots to a splice, which gives them back with [`unreserve`](Self::unreserve).
    pub fn reserve(&mut self, n: usize) -> usize {
        let n = n.min(self.free());
        self.reserved += n;
        n
    }

    /// Gives promised slots back.
    pub fn unreserve(&mut self, n: usize) {
        self.reserved -= n.min(self.reserved);
    }

    /// Writes as Linux does: the odd bytes are added to the last slot if they fit there, the rest takes free slots. `packet`: each
    /// slot is a packet. Returns what was taken; a write of up to [`SLOT`] bytes is taken whole or not at all.
    pub fn write(&mut self, buf: &mut IoBuffer<'_>, packet: bool) -> Result<usize> {
        let mut done = 0;
        let odd = buf.remaining() % SLOT;
        if odd > 0 && !packet {
            let page = (self.head + self.slots.len().saturating_sub(1)) % self.max;
            if let Some(last) = self.slots.back_mut().filter(|s| !s.packet && s.off + s.len + odd <= SLOT) {
                let at = page * SLOT + last.off + last.len;
                let start = buf.done();
                done = buf.read(&mut self.data[at..at + odd])?;
                // What a slot does not get as a whole it does not get at all.
                if done < odd {
                    buf.rewind_to(start);
                    bail!(EFAULT);
                }
                last.len += done;
            }
        }
        while buf.remaining() > 0 && !self.is_full() {
            let page = (self.head + self.slots.len()) % self.max;
            let run = if packet { 1 } else { self.free().min(self.max - page) };
            let want = (run * SLOT).min(buf.remaining());
            let at = page * SLOT;
            let end = at + want.next_multiple_of(SLOT);
            if self.data.len() < end {
                self.data.resize(end, 0);
            }
            let start = buf.done();
            let got = match buf.read(&mut self.data[at..at + want]) {
                Ok(n) if n < want => n - n % SLOT,
                Ok(n) => n,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            };
            buf.rewind_to(start + got);
            if got == 0 && done == 0 {
                bail!(EFAULT);
            }
            let mut left = got;
            while left > 0 {
                let len = left.min(SLOT);
                self.slots.push_back(Slot { off: 0, len, packet });
                left -= len;
            }
            done += got;
            if got < want {
                break;
            }
        }
        Ok(done)
    }

    /// The first bytes that lie together, up to a packet's end, and whether they are a packet.
    fn run(&self) -> Option<(std::ops::Range<usize>, bool)> {
        let first = self.slots.front()?;
        let start = self.head * SLOT + first.off;
        let mut end = start + first.len;
        if !first.packet {
            for (i, s) in self.slots.iter().enumerate().skip(1) {
                let at = (self.head + i) % self.max * SLOT;
                if s.packet || at + s.off != end {
                    break;
                }
                end += s.len;
            }
        }
        Some((start..end, first.packet))
    }

    /// Removes `n` bytes from the slots; `packet`: the first slot, whatever its length.
    fn consume(&mut self, mut n: usize, packet: bool) {
        while let Some(first) = self.slots.front_mut() {
            if !packet && n < first.len {
                first.off += n;
                first.len -= n;
                break;
            }
            n -= first.len.min(n);
            self.slots.pop_front();
            self.head = (self.head + 1) % self.max;
            if packet || n == 0 {
                break;
            }
        }
        if self.slots.is_empty() {
            self.head = 0;
        }
    }

    /// Reads and removes: one packet, or bytes up to the next packet.
    pub fn read(&mut self, buf: &mut IoBuffer<'_>) -> Result<usize> {
        let mut done = 0;
        while buf.remaining() > 0 && !self.front.is_empty() {
            let n = buf.write(self.front.as_slices().0)?;
            self.front.drain(..n);
            done += n;
        }
        while buf.remaining() > 0 {
            let Some((range, packet)) = self.run() else { break };
            if packet && done > 0 {
                break;
            }
            let want = range.len().min(buf.remaining());
            let got = match buf.write(&self.data[range.start..range.start + want]) {
                Ok(n) => n,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            };
            self.consume(got, packet);
            done += got;
            if packet || got < want {
                break;
            }
        }
        Ok(done)
    }

    /// Copies up to `max` bytes without removing them (tee).
    pub fn peek(&self, max: usize) -> Vec<u8> {
        let mut out: Vec<u8> = self.front.iter().copied().take(max).collect();
        for (i, s) in self.slots.iter().enumerate() {
            let n = s.len.min(max - out.len());
            if n == 0 {
                break;
            }
            let at = (self.head + i) % self.max * SLOT + s.off;
            out.extend_from_slice(&self.data[at..at + n]);
        }
        out
    }

    /// Puts bytes back that [`read`](Self::read) removed: they are read first.
    pub fn unread(&mut self, bytes: &[u8]) {
        for &b in bytes.iter().rev() {
            self.front.push_front(b);
        }
    }
}
