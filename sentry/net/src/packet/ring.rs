//! Receive rings of packet sockets (`PACKET_RX_RING`; Documentation/networking/packet_mmap.rst): frames in memory that the application
//! has mapped, in versions 1 to 3. Version 3 fills blocks, which a timer hands over when they do not fill.
//!
//! The memory is the application's to write: what stands there is only ever asked whether a frame or block is free.

use abi::{PAGE_SIZE, Result, bail, error, libc};
use kernel::{
    Kernel,
    mm::{Extent, Hint, MemoryPool},
    time::Timer,
    vfs::{Mappable, MappedPages},
};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

/// The most memory of one ring: what a driver's page allocator might give Linux, too.
const SIZE_MAX: u64 = 256 << 20;
/// Frames and what is before them are aligned to this (`TPACKET_ALIGNMENT`).
const ALIGNMENT: usize = 16;
/// `sizeof(struct sockaddr_ll)`
const ADDRESS: usize = 20;
/// `BLK_HDR_LEN`: of version 3's blocks.
const BLOCK_HEADER: usize = 48;
/// Of a block that is not full: how long until it is handed over, unless asked for (`DEFAULT_PRB_RETIRE_TOV`).
const RETIRE_MS: u32 = 8;

/// `TP_STATUS_*`
mod status {
    pub const KERNEL: u32 = 0;
    pub const USER: u32 = 1;
    pub const LOSING: u32 = 4;
    pub const BLOCK_TIMEOUT: u32 = 32;
    pub const SOFTWARE_TIME: u32 = 1 << 29;
}

/// How frames are written (`PACKET_VERSION`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum Version {
    #[default]
    V1,
    V2,
    V3,
}

impl Version {
    /// From the option's value.
    pub fn from_raw(raw: i32) -> Option<Version> {
        [Version::V1, Version::V2, Version::V3].into_iter().find(|v| *v as i32 == raw)
    }

    /// Bytes of a frame's header (`PACKET_HDRLEN`).
    pub fn header(self) -> usize {
        if self == Version::V3 { 48 } else { 32 }
    }

    /// Bytes of `struct tpacket_req` or `tpacket_req3`.
    pub fn request(self) -> usize {
        if self == Version::V3 { 28 } else { 16 }
    }
}

/// What `PACKET_RX_RING` asks for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub block_size: u32,
    pub block_count: u32,
    frame_size: u32,
    frame_count: u32,
    /// Version 3: milliseconds until a block is handed over, and bytes in it that are the application's.
    retire_ms: u32,
    private: u32,
}

impl Request {
    /// From the option's value. `EINVAL` if it is too short.
    pub fn read(version: Version, value: &[u8]) -> Result<Request> {
        if value.len() < version.request() {
            bail!(EINVAL, "length of the request");
        }
        let word = |i: usize| value.get(i * 4..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_ne_bytes(*b));
        let v3 = |i| if version == Version::V3 { word(i) } else { 0 };
        Ok(Request {
            block_size: word(0),
            block_count: word(1),
            frame_size: word(2),
            frame_count: word(3),
            retire_ms: v3(4),
            private: v3(5),
        })
    }

    /// A request for no ring.
    pub fn check_none(&self) -> Result {
        if self.frame_count > 0 { bail!(EINVAL, "frames without blocks") } else { Ok(()) }
    }

    /// Linux's checks (`packet_set_ring`).
    fn check(&self, version: Version, reserve: usize) -> Result {
        let least = version.header().next_multiple_of(ALIGNMENT) + ADDRESS + reserve;
        let block = self.block_size as usize;
        if i32::try_from(self.block_size).is_err() || block == 0 || u64::from(self.block_size) % PAGE_SIZE != 0 {
            bail!(EINVAL, "size of blocks");
        }
        if version == Version::V3 && (self.private as usize).saturating_add(BLOCK_HEADER + 8 + least) > block {
            bail!(EINVAL, "no room in a block");
        }
        let frame = self.frame_size as usize;
        if frame < least || frame % ALIGNMENT != 0 || frame > block {
            bail!(EINVAL, "size of frames");
        }
        if u64::from(self.block_size / self.frame_size) * u64::from(self.block_count) != u64::from(self.frame_count) {
            bail!(EINVAL, "number of frames");
        }
        if u64::from(self.block_size) * u64::from(self.block_count) > SIZE_MAX {
            bail!(ENOMEM, "larger than any ring");
        }
        Ok(())
    }
}

/// The memory.
pub struct RingMemory {
    pool: Arc<MemoryPool>,
    extent: Extent,
    /// Mappings.
    mapped: AtomicI32,
}

impl RingMemory {
    fn write(&self, at: usize, bytes: &[u8]) {
        // What is not there (the host is out of memory) is lost, as a frame may be.
        if at as u64 + bytes.len() as u64 <= self.extent.len
            && let Ok(span) = self.pool.span(self.extent.offset + at as u64, bytes.len())
        {
            let _ = span.write(bytes);
        }
    }

    /// A word that both sides look at.
    fn load(&self, at: usize) -> u32 {
        self.pool.span(self.extent.offset + at as u64, 4).ok().and_then(|s| s.load_u32().ok()).unwrap_or(u32::MAX)
    }

    fn store(&self, at: usize, value: u32) {
        if let Ok(span) = self.pool.span(self.extent.offset + at as u64, 4) {
            let _ = span.swap_u32(value);
        }
    }
}

impl Mappable for RingMemory {
    fn pages(&self, offset: u64, len: u64, _write: bool) -> Result<MappedPages> {
        let left = self.extent.len.checked_sub(offset).filter(|l| *l > 0).ok_or_else(|| error!(ENXIO, "behind the ring"))?;
        Ok(MappedPages { fd: self.pool.fd(), is_memory_file: true, offset: self.extent.offset + offset, len: left.min(len) })
    }

    fn mapped(&self, delta: i32, _writable_shared: bool) {
        self.mapped.fetch_add(delta, Relaxed);
    }
}

impl Drop for RingMemory {
    fn drop(&mut self) {
        self.pool.decref(self.extent.range());
    }
}

/// What a frame says about its packet.
pub struct Frame<'a> {
    /// The `struct sockaddr_ll`.
    pub address: &'a [u8],
    /// What the socket gets of it.
    pub data: &'a [u8],
    /// Its length on the wire, and bytes before the network header.
    pub len: usize,
    pub link: usize,
    /// `CLOCK_REALTIME`
    pub time: u64,
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is in the ring, and readers have something new.
    Ready,
    /// It is in a block that is not handed over yet.
    Held,
    /// There was no room.
    Lost,
}

/// Version 3's block that is being filled.
#[derive(Default)]
struct Block {
    open: bool,
    /// Where the next frame goes and where the last one is, from the ring's beginning.
    next: usize,
    last: usize,
    packets: u32,
    sequence: u64,
    last_time: u64,
}

/// A ring.
pub struct Ring {
    pub memory: Arc<RingMemory>,
    version: Version,
    request: Request,
    reserve: usize,
    /// The next frame, or the block that is being filled.
    head: usize,
    block: Block,
    /// Some were lost since somebody asked how many.
    pub losing: bool,
    /// Version 3: no block was free.
    frozen: bool,
    /// Version 3: hands blocks over.
    pub timer: Option<Timer>,
    /// Version 3: how often there was no block.
    pub freezes: u32,
}

impl Ring {
    /// A ring of this shape, without its timer.
    pub fn new(kernel: &Kernel, version: Version, request: Request, reserve: usize) -> Result<Ring> {
        request.check(version, reserve)?;
        let size = u64::from(request.block_size) * u64::from(request.block_count);
        let extent = kernel.memory.alloc(size, Hint::default())?;
        let memory = Arc::new(RingMemory { pool: kernel.memory.clone(), extent, mapped: AtomicI32::new(0) });
        let mut ring = Ring {
            memory,
            version,
            request,
            reserve,
            head: 0,
            block: Block::default(),
            losing: false,
            frozen: false,
            timer: None,
            freezes: 0,
        };
        if version == Version::V3 {
            ring.open_block();
        }
        Ok(ring)
    }

    /// Whether somebody has it mapped.
    pub fn is_mapped(&self) -> bool {
        self.memory.mapped.load(Relaxed) > 0
    }

    /// Nanoseconds until a block is handed over that does not fill.
    pub fn retire_after(&self) -> u64 {
        let ms = if self.request.retire_ms == 0 { RETIRE_MS } else { self.request.retire_ms };
        u64::from(ms) * 1_000_000
    }

    /// Whether the application has something to read (`packet_previous_rx_frame`).
    pub fn is_readable(&self) -> bool {
        let count = if self.version == Version::V3 { self.request.block_count } else { self.request.frame_count } as usize;
        let before = if self.head == 0 { count.saturating_sub(1) } else { self.head - 1 };
        let at = if self.version == Version::V3 { self.block_at(before) + 8 } else { self.frame_at(before) };
        self.memory.load(at) != status::KERNEL
    }

    fn block_at(&self, i: usize) -> usize {
        i * self.request.block_size as usize
    }

    fn frame_at(&self, i: usize) -> usize {
        let each = (self.request.block_size / self.request.frame_size).max(1) as usize;
        self.block_at(i / each) + i % each * self.request.frame_size as usize
    }

    /// Where data begins in a frame, and the network header (`tpacket_rcv`).
    fn offsets(&self, link: usize) -> (usize, usize) {
        let header = self.version.header().next_multiple_of(ALIGNMENT) + ADDRESS;
        if link == 0 {
            let at = header.next_multiple_of(ALIGNMENT) + 16 + self.reserve;
            return (at, at);
        }
        let net = (header + link.max(16)).next_multiple_of(ALIGNMENT) + self.reserve;
        (net - link, net)
    }

    /// Puts a packet in.
    pub fn take(&mut self, f: &Frame<'_>) -> Taken {
        if self.version == Version::V3 { self.take_in_block(f) } else { self.take_in_frame(f) }
    }

    fn take_in_frame(&mut self, f: &Frame<'_>) -> Taken {
        let at = self.frame_at(self.head);
        if self.memory.load(at) != status::KERNEL {
            return Taken::Lost;
        }
        self.head = (self.head + 1) % (self.request.frame_count.max(1) as usize);
        let (mac, net) = self.offsets(f.link);
        let room = (self.request.frame_size as usize).saturating_sub(mac);
        let data = f.data.get(..f.data.len().min(room)).unwrap_or(f.data);
        let mut header = Vec::with_capacity(64);
        let word = |h: &mut Vec<u8>, n: u32| h.extend_from_slice(&n.to_ne_bytes());
        let v1 = self.version == Version::V1;
        // The status comes last; version 1's is a long.
        header.resize(if v1 { 8 } else { 4 }, 0);
        word(&mut header, f.len as u32);
        word(&mut header, data.len() as u32);
        header.extend_from_slice(&(mac as u16).to_ne_bytes());
        header.extend_from_slice(&(net as u16).to_ne_bytes());
        word(&mut header, (f.time / 1_000_000_000) as u32);
        word(&mut header, (f.time % 1_000_000_000 / if v1 { 1000 } else { 1 }) as u32);
        header.resize(self.version.header().next_multiple_of(ALIGNMENT), 0);
        header.extend_from_slice(f.address);
        let first = if v1 { 8 } else { 4 };
        self.memory.write(at + first, header.get(first..).unwrap_or_default());
        self.memory.write(at + mac, data);
        self.memory.store(at, status::USER | status::SOFTWARE_TIME | if self.losing { status::LOSING } else { 0 });
        Taken::Ready
    }

    fn block_start(&self) -> usize {
        BLOCK_HEADER + (self.request.private as usize).next_multiple_of(8)
    }

    /// Begins the block at the head, if the application has given it back.
    fn open_block(&mut self) -> bool {
        let at = self.block_at(self.head);
        if self.memory.load(at + 8) != status::KERNEL {
            return false;
        }
        let start = self.block_start();
        let sequence = self.block.sequence + 1;
        self.block = Block { open: true, next: at + start, last: at + start, packets: 0, sequence, last_time: 0 };
        let now = host::time::realtime_ns();
        let mut header = Vec::with_capacity(BLOCK_HEADER);
        for word in [2, BLOCK_HEADER as u32, status::KERNEL, 0, start as u32, start as u32] {
            header.extend_from_slice(&word.to_ne_bytes());
        }
        header.extend_from_slice(&sequence.to_ne_bytes());
        for word in [(now / 1_000_000_000) as u32, (now % 1_000_000_000) as u32, 0, 0] {
            header.extend_from_slice(&word.to_ne_bytes());
        }
        self.memory.write(at, &header);
        true
    }

    /// Hands the block at the head over, and goes on to the next.
    fn close_block(&mut self, extra: u32) {
        let at = self.block_at(self.head);
        let b = std::mem::take(&mut self.block);
        self.block.sequence = b.sequence;
        // The last frame has no next one.
        self.memory.write(b.last, &0u32.to_ne_bytes());
        for (i, word) in [(3, b.packets), (5, (b.next - at) as u32)] {
            self.memory.write(at + i * 4, &word.to_ne_bytes());
        }
        for (i, word) in [(10, (b.last_time / 1_000_000_000) as u32), (11, (b.last_time % 1_000_000_000) as u32)] {
            self.memory.write(at + i * 4, &word.to_ne_bytes());
        }
        self.memory.store(at + 8, status::USER | extra | if self.losing { status::LOSING } else { 0 });
        self.head = (self.head + 1) % (self.request.block_count.max(1) as usize);
    }

    fn take_in_block(&mut self, f: &Frame<'_>) -> Taken {
        let (mac, net) = self.offsets(f.link);
        let block = self.request.block_size as usize;
        let room = block.saturating_sub(self.block_start() + mac + 8);
        let data = f.data.get(..f.data.len().min(room)).unwrap_or(f.data);
        let whole = (mac + data.len()).next_multiple_of(8);
        let mut taken = Taken::Held;
        if self.block.open && self.block.next + whole >= self.block_at(self.head) + block {
            self.close_block(0);
            taken = Taken::Ready;
        }
        if !self.block.open && !self.open_block() {
            self.freezes = self.freezes.saturating_add(u32::from(!self.frozen));
            self.frozen = true;
            return Taken::Lost;
        }
        self.frozen = false;
        let at = self.block.next;
        let (seconds, nanos) = ((f.time / 1_000_000_000) as u32, (f.time % 1_000_000_000) as u32);
        let mut header = Vec::with_capacity(80);
        for word in [whole as u32, seconds, nanos, data.len() as u32, f.len as u32, status::SOFTWARE_TIME] {
            header.extend_from_slice(&word.to_ne_bytes());
        }
        header.extend_from_slice(&(mac as u16).to_ne_bytes());
        header.extend_from_slice(&(net as u16).to_ne_bytes());
        header.resize(self.version.header(), 0);
        header.extend_from_slice(f.address);
        self.memory.write(at, &header);
        self.memory.write(at + mac, data);
        let b = &mut self.block;
        (b.last, b.next, b.packets, b.last_time) = (at, at + whole, b.packets + 1, f.time);
        taken
    }

    /// The timer of blocks; whether one was handed over.
    pub fn retire(&mut self) -> bool {
        if self.block.open && self.block.packets > 0 {
            self.close_block(status::BLOCK_TIMEOUT);
            // Where there is none, the next packet tries again.
            self.open_block();
            return true;
        }
        false
    }
}

/// `PACKET_RX_RING` names.
pub mod option {
    pub const VERSION: i32 = 10;
    pub const HDRLEN: i32 = 11;
    pub const RESERVE: i32 = 12;
    pub const RX_RING: i32 = super::libc::PACKET_RX_RING;
    pub const TX_RING: i32 = super::libc::PACKET_TX_RING;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_checked() {
        let request = |words: [u32; 7]| {
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
            Request::read(Version::V3, &bytes).and_then(|r| r.check(Version::V3, 0))
        };
        assert!(request([1 << 17, 4, 2048, 256, 10, 0, 0]).is_ok());
        for bad in [
            [0, 4, 2048, 256, 10, 0, 0],
            [1 << 17, 4, 2047, 256, 10, 0, 0],
            [1 << 17, 4, 2048, 255, 10, 0, 0],
            [1000, 4, 16, 4, 10, 0, 0],
            [4096, 1, 4096, 1, 10, 4090, 0],
            [4096, u32::MAX, 4096, u32::MAX, 10, 0, 0],
            [1 << 31, 1, 1 << 31, 1, 10, 0, 0],
            [4096, 1, 16, 256, 10, 0, 0],
            [4096, 1, 4096, 1, 10, u32::MAX, 0],
        ] {
            assert!(request(bad).is_err(), "{bad:?}");
        }
    }
}
