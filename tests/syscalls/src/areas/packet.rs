//! Packet sockets (packet(7)): rings that are mapped (PACKET_RX_RING), options, statistics.

use super::inet::{A, LO, bind, events, get, port, recv, send_to, set, udp, up, wait_for};
use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["packet"; ring_args, ring_v1, ring_v2, ring_full, ring_v3, ring_v3_full_blocks, ring_goes, header_lengths, statistics, proc_packet];

const VERSION: i32 = 10;
const HDRLEN: i32 = 11;
const RESERVE: i32 = 12;
const PAGE: u32 = 4096;

fn sock() -> i32 {
    up();
    // All protocols.
    ok!(sys!(socket, AF_PACKET, SOCK_RAW, i32::from(0x0300u16))) as i32
}

fn ring(s: i32, request: &[u32]) -> R {
    sys!(setsockopt, s, SOL_PACKET, PACKET_RX_RING, request.as_ptr() as i64, request.len() * 4)
}

fn map(s: i32, len: u32) -> *const u8 {
    ok!(sys!(mmap, 0, len, PROT_READ | PROT_WRITE, MAP_SHARED, s, 0)) as *const u8
}

fn word(at: *const u8, offset: usize) -> u32 {
    unsafe { at.add(offset).cast::<u32>().read_volatile() }
}

fn half(at: *const u8, offset: usize) -> usize {
    usize::from(unsafe { at.add(offset).cast::<u16>().read_volatile() })
}

fn slice(at: *const u8, offset: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| unsafe { at.add(offset + i).read_volatile() }).collect()
}

fn store(at: *const u8, offset: usize, value: u32) {
    unsafe { at.add(offset).cast_mut().cast::<u32>().write_volatile(value) }
}

/// Sends a datagram to a port where somebody listens; two frames of it are seen, one that leaves and one that comes.
fn talk(text: &[u8]) -> i32 {
    let r = udp();
    ok!(bind(r, A::V4(LO, 0)));
    ok!(send_to(udp(), text, A::V4(LO, port(r))));
    r
}

fn ring_args() {
    let s = sock();
    err!(set(s, SOL_PACKET, VERSION, 3), EINVAL);
    err!(set(s, SOL_PACKET, VERSION, -1), EINVAL);
    ok!(set(s, SOL_PACKET, VERSION, 1));
    eq!(ok!(get(s, SOL_PACKET, VERSION)), 1);
    for bad in [
        &[PAGE, 2, 2048][..],
        &[0, 2, 2048, 4],
        &[1000, 2, 500, 4],
        &[PAGE, 2, 2047, 4],
        &[PAGE, 2, 32, 256],
        &[PAGE, 2, 2048, 5],
        &[PAGE, 2, 8192, 1],
        &[PAGE, 0, 2048, 4],
        &[0x8000_0000, 1, 2048, 1 << 20],
    ] {
        eq!((bad, ring(s, bad)), (bad, Err(EINVAL)));
    }
    err!(sys!(mmap, 0, PAGE, PROT_READ, MAP_SHARED, s, 0), EINVAL);
    ok!(ring(s, &[PAGE, 2, 2048, 4]));
    err!(ring(s, &[PAGE, 2, 2048, 4]), EBUSY);
    err!(set(s, SOL_PACKET, VERSION, 2), EBUSY);
    err!(set(s, SOL_PACKET, RESERVE, 4), EBUSY);
    let at = map(s, PAGE * 2);
    err!(ring(s, &[0, 0, 0, 0]), EBUSY);
    ok!(sys!(munmap, at as i64, PAGE * 2));
    ok!(ring(s, &[0, 0, 0, 0]));
    ok!(set(s, SOL_PACKET, VERSION, 2));
    err!(ring(s, &[PAGE, 2, 2048, 4]), EINVAL);
    err!(ring(s, &[PAGE, 2, 2048, 4, 10, 4096, 0]), EINVAL);
    ok!(ring(s, &[PAGE, 2, 2048, 4, 10, 0, 0]));
}

fn header_lengths() {
    let s = sock();
    for version in [0, 1, 2, 3] {
        let (mut v, mut n) = (version, 4u32);
        say!("{version}: {:?} {v} {n}", sys!(getsockopt, s, SOL_PACKET, HDRLEN, m(&mut v), m(&mut n)));
        say!("{v}");
    }
}

/// The frames of a ring of versions 1 and 2 in turn: what the header says and what the frame holds.
fn frame(at: *const u8, i: usize, v1: bool) -> (u32, u32, usize, usize, Vec<u8>, Vec<u8>) {
    let at = unsafe { at.add(i * 2048) };
    let from = if v1 { 8 } else { 4 };
    let (len, snap, mac, net) = (word(at, from), word(at, from + 4), half(at, from + 8), half(at, from + 10));
    // sockaddr_ll: family, protocol, index, hardware, kind.
    (len, snap, mac, net, slice(at, 32, 12), slice(at, mac, snap as usize))
}

fn ring_of(version: i32) {
    let s = sock();
    ok!(set(s, SOL_PACKET, VERSION, version));
    ok!(ring(s, &[PAGE, 2, 2048, 4]));
    let at = map(s, PAGE * 2);
    eq!(events(s), "OUT");
    talk(b"hello");
    wait_for(s, POLLIN);
    until("both frames", || word(at, 2048) & 1 == 1);
    for i in 0..2 {
        let (len, snap, mac, net, address, data) = frame(at, i, version == 0);
        say!("{len} {snap} {mac} {net} {address:?} {:?} {:?}", &data[12..14], &data[42..]);
        check!(word(at, i * 2048 + if version == 0 { 20 } else { 16 }) > 1_500_000_000);
        store(at, i * 2048, 0);
    }
    eq!(events(s), "OUT");
    err!(recv(s, 100, MSG_DONTWAIT), EAGAIN);
}

fn ring_v1() {
    ring_of(0);
}

fn ring_v2() {
    ring_of(1);
}

fn ring_full() {
    let s = sock();
    ok!(set(s, SOL_PACKET, VERSION, 1));
    ok!(ring(s, &[PAGE, 2, 2048, 4]));
    let at = map(s, PAGE * 2);
    for _ in 0..4 {
        talk(b"x");
    }
    until("the ring is full", || word(at, 3 * 2048) & 1 == 1);
    let (mut n, mut words) = (8u32, [0u32; 2]);
    ok!(sys!(getsockopt, s, SOL_PACKET, PACKET_STATISTICS, m(&mut words), m(&mut n)));
    eq!(words, [8, 4]);
    for i in 0..4 {
        store(at, i * 2048, 0);
    }
    talk(b"y");
    until("there is room again", || word(at, 2048) & 1 == 1);
    // That some were lost is told once.
    say!("{} {}", word(at, 0) & 5, word(at, 2048) & 5);
    // A frame holds what it has room for.
    for i in 0..4 {
        store(at, i * 2048, 0);
    }
    talk(&[7; 3000]);
    until("a long one", || word(at, 2 * 2048) & 1 == 1);
    let (len, snap, ..) = frame(at, 2, false);
    say!("{len} {snap}");
}

fn ring_v3() {
    let s = sock();
    ok!(set(s, SOL_PACKET, VERSION, 2));
    ok!(ring(s, &[4 * PAGE, 3, 2048, 24, 20, 13, 0]));
    let at = map(s, PAGE * 12);
    talk(b"hello");
    talk(b"again");
    // Time hands the block over.
    wait_for(s, POLLIN);
    check!(word(at, 8) & 1 == 1);
    let (count, first) = (word(at, 12), word(at, 16));
    say!("{} {} {} first {first} sequence {}", word(at, 0), word(at, 4), count % 2, word(at, 24));
    let mut next = first as usize;
    for i in 0..count.min(2) {
        let (step, len, snap) = (word(at, next), word(at, next + 16), word(at, next + 12));
        let (mac, net) = (half(at, next + 24), half(at, next + 26));
        check!(word(at, next + 4) > 1_500_000_000);
        say!("{i} {len} {snap} {mac} {net} {:?} {:?}", slice(at, next + 48, 12), &slice(at, next + mac, snap as usize)[42..]);
        if i + 1 < count {
            say!("step {step}");
        }
        next += step as usize;
    }
    store(at, 8, 0);
    let (mut n, mut words) = (12u32, [9u32; 3]);
    ok!(sys!(getsockopt, s, SOL_PACKET, PACKET_STATISTICS, m(&mut words), m(&mut n)));
    eq!((n, words), (12, [4, 0, 0]));
}

fn ring_v3_full_blocks() {
    let s = sock();
    ok!(set(s, SOL_PACKET, VERSION, 2));
    // No time: a minute.
    ok!(ring(s, &[PAGE, 3, 2048, 6, 60_000, 0, 0]));
    let at = map(s, PAGE * 3);
    for _ in 0..20 {
        talk(&[1; 400]);
    }
    until("blocks fill", || word(at, 2 * PAGE as usize + 8) & 1 == 1);
    for block in 0..3 {
        let at = unsafe { at.add(block * PAGE as usize) };
        say!("{} packets, {} bytes, sequence {}", word(at, 12), word(at, 20), word(at, 24));
    }
    let (mut n, mut words) = (12u32, [9u32; 3]);
    ok!(sys!(getsockopt, s, SOL_PACKET, PACKET_STATISTICS, m(&mut words), m(&mut n)));
    say!("{words:?}");
    for block in 0..3 {
        store(at, block * PAGE as usize + 8, 0);
    }
    for _ in 0..10 {
        talk(&[1; 400]);
    }
    until("the first block is used again", || word(at, 8) & 1 == 1);
    say!("sequence {}", word(at, 24));
}

fn ring_goes() {
    // The memory outlives the socket.
    let s = sock();
    ok!(set(s, SOL_PACKET, VERSION, 1));
    ok!(ring(s, &[PAGE, 2, 2048, 4]));
    let at = map(s, PAGE * 2);
    talk(b"x");
    until("a frame", || word(at, 0) & 1 == 1);
    close(s);
    talk(b"y");
    store(at, 0, 0);
    eq!(word(at, 0), 0);
}

fn statistics() {
    let s = sock();
    talk(b"x");
    wait_for(s, POLLIN);
    let (mut n, mut words) = (8u32, [0u32; 2]);
    ok!(sys!(getsockopt, s, SOL_PACKET, PACKET_STATISTICS, m(&mut words), m(&mut n)));
    eq!(words, [2, 0]);
    ok!(sys!(getsockopt, s, SOL_PACKET, PACKET_STATISTICS, m(&mut words), m(&mut n)));
    eq!(words, [0, 0]);
}

fn proc_packet() {
    let s = sock();
    let text = String::from_utf8_lossy(&crate::sys::get("/proc/net/packet")).to_string();
    let lines: Vec<&str> = text.lines().collect();
    eq!(lines.len(), 2);
    let words: Vec<&str> = lines[1].split_whitespace().collect();
    say!("{} {:?}", lines[0].split_whitespace().collect::<Vec<_>>().join(" "), &words[1..8]);
    close(s);
}
