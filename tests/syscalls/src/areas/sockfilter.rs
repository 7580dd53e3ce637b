//! Filters of sockets: SO_ATTACH_FILTER and its kin (socket(7)), programs of the classic Berkeley packet filter.

use super::inet::{A, LO, accept, bind, connect, get, listener, port, recv, send, send_to, set, tcp, udp, up, wait_for};
use crate::sys::*;
use crate::{eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["sockfilter"; refused_programs, udp_by_port, udp_cut, locked, read_back, inherited, unix_datagrams, ancillary, arithmetic, packet_frames, raw_and_ping];

const ATTACH: i32 = 26;
const DETACH: i32 = 27;
const LOCK: i32 = 44;

type I = (u16, u8, u8, u32);
const RET_ALL: I = (6, 0, 0, u32::MAX);
const RET_NONE: I = (6, 0, 0, 0);

fn encode(code: &[I]) -> Vec<u8> {
    code.iter().flat_map(|(code, jt, jf, k)| [&code.to_ne_bytes()[..], &[*jt, *jf], &k.to_ne_bytes()].concat()).collect()
}

fn attach(s: i32, code: &[I]) -> R {
    let bytes = encode(code);
    let program = [code.len() as u64, bytes.as_ptr() as u64];
    sys!(setsockopt, s, SOL_SOCKET, ATTACH, p(&program), 16)
}

fn refused_programs() {
    let s = udp();
    err!(sys!(setsockopt, s, SOL_SOCKET, ATTACH, p(&[1u64, 8]), 8), EINVAL);
    err!(sys!(setsockopt, s, SOL_SOCKET, ATTACH, p(&[1u64, 8]), 16), EFAULT);
    err!(sys!(setsockopt, s, SOL_SOCKET, ATTACH, p(&[1u64, 0]), 16), EINVAL);
    err!(sys!(setsockopt, s, SOL_SOCKET, ATTACH, 8, 16), EFAULT);
    err!(sys!(setsockopt, s, SOL_SOCKET, ATTACH, p(&[0u64, 8]), 16), EINVAL);
    let bad: &[&[I]] = &[
        &[(0x28, 0, 0, 0)],
        &[(0x15, 1, 0, 0), RET_ALL],
        &[(5, 0, 0, 1), RET_ALL],
        &[(0x34, 0, 0, 0), RET_ALL],
        &[(0x94, 0, 0, 0), RET_ALL],
        &[(0x64, 0, 0, 32), RET_ALL],
        &[(0x02, 0, 0, 16), RET_ALL],
        &[(0x60, 0, 0, 1), RET_ALL],
        &[(0x38, 0, 0, 0), RET_ALL],
        &[(0x30, 0, 0, 0xffff_f001), RET_ALL],
        &[(0x30, 0, 0, 0xffff_f040), RET_ALL],
        &[(0x20, 0, 0, 0xffff_ffff), RET_ALL],
    ];
    for code in bad {
        let got = attach(s, code);
        eq!((code.first(), got), (code.first(), Err(EINVAL)));
    }
    let good: &[&[I]] = &[
        &[RET_ALL],
        &[(0x94, 0, 0, 7), RET_ALL],
        &[(0x30, 0, 0, 0xffff_f000), RET_ALL],
        &[(0x20, 0, 0, 0xfff0_0000), RET_ALL],
        &[(0xb1, 0, 0, 0), (0x48, 0, 0, 2), (0x16, 0, 0, 0)],
        &[RET_ALL; 4096],
    ];
    for code in good {
        ok!(attach(s, code));
    }
    err!(attach(s, &[RET_ALL; 4097]), EINVAL);
    ok!(set(s, SOL_SOCKET, DETACH, 0));
}

/// Two UDP sockets: one that sends, one that receives at a port.
fn two() -> (i32, i32, A) {
    let r = udp();
    ok!(bind(r, A::V4(LO, 0)));
    let at = A::V4(LO, port(r));
    (udp(), r, at)
}

fn udp_by_port() {
    let (c, r, at) = two();
    let (other, _, _) = two();
    ok!(bind(c, A::V4(LO, 0)));
    // The header comes first: its first two bytes are the sender's port.
    ok!(attach(r, &[(0x28, 0, 0, 0), (0x15, 0, 1, u32::from(port(c))), RET_ALL, RET_NONE]));
    ok!(send_to(other, b"no", at));
    ok!(send_to(c, b"yes", at));
    eq!(ok!(recv(r, 100, MSG_DONTWAIT)), b"yes");
    err!(recv(r, 100, MSG_DONTWAIT), EAGAIN);
    // Bytes of the payload, the length, and what is behind the end, which lets nothing through.
    ok!(attach(r, &[(0x30, 0, 0, 8), (0x15, 0, 1, u32::from(b'a')), RET_ALL, RET_NONE]));
    for text in [&b"b"[..], b"a", b""] {
        ok!(send_to(c, text, at));
    }
    eq!(ok!(recv(r, 100, MSG_DONTWAIT)), b"a");
    err!(recv(r, 100, MSG_DONTWAIT), EAGAIN);
    ok!(attach(r, &[(0x80, 0, 0, 0), (0x25, 0, 1, 12), RET_ALL, RET_NONE]));
    ok!(send_to(c, b"1234", at));
    ok!(send_to(c, b"12345", at));
    eq!(ok!(recv(r, 100, MSG_DONTWAIT)), b"12345");
    ok!(set(r, SOL_SOCKET, DETACH, 0));
    err!(set(r, SOL_SOCKET, DETACH, 0), ENOENT);
    ok!(send_to(other, b"all", at));
    eq!(ok!(recv(r, 100, MSG_DONTWAIT)), b"all");
}

fn udp_cut() {
    let (c, r, at) = two();
    for keep in [1, 8, 10, 13, 1000] {
        ok!(attach(r, &[(6, 0, 0, keep)]));
        ok!(send_to(c, b"12345", at));
        say!("{keep}: {:?}", recv(r, 100, MSG_DONTWAIT));
    }
}

fn locked() {
    let s = udp();
    eq!(ok!(get(s, SOL_SOCKET, LOCK)), 0);
    ok!(set(s, SOL_SOCKET, LOCK, 0));
    ok!(attach(s, &[RET_ALL]));
    ok!(set(s, SOL_SOCKET, LOCK, 1));
    eq!(ok!(get(s, SOL_SOCKET, LOCK)), 1);
    err!(attach(s, &[RET_NONE]), EPERM);
    err!(set(s, SOL_SOCKET, DETACH, 0), EPERM);
    err!(set(s, SOL_SOCKET, LOCK, 0), EPERM);
    ok!(set(s, SOL_SOCKET, LOCK, 1));
}

fn read_back() {
    let s = udp();
    let (mut b, mut n) = ([0u8; 64], 8u32);
    ok!(sys!(getsockopt, s, SOL_SOCKET, ATTACH, m(&mut b), m(&mut n)));
    eq!(n, 0);
    let code = [(0x28, 0, 0, 0), (0x15, 0, 1, 53), RET_ALL, RET_NONE];
    ok!(attach(s, &code));
    n = 0;
    ok!(sys!(getsockopt, s, SOL_SOCKET, ATTACH, m(&mut b), m(&mut n)));
    eq!(n, 4);
    n = 3;
    err!(sys!(getsockopt, s, SOL_SOCKET, ATTACH, m(&mut b), m(&mut n)), EINVAL);
    n = 8;
    ok!(sys!(getsockopt, s, SOL_SOCKET, ATTACH, m(&mut b), m(&mut n)));
    eq!((n, &b[..32]), (4, &encode(&code)[..]));
}

fn inherited() {
    let (l, at) = listener(4);
    ok!(attach(l, &[RET_ALL]));
    ok!(set(l, SOL_SOCKET, LOCK, 1));
    let c = tcp();
    ok!(connect(c, A::V4(LO, at)));
    let s = accept(l);
    eq!(ok!(get(s, SOL_SOCKET, LOCK)), 1);
    ok!(send(c, b"through", 0));
    eq!(ok!(recv(s, 100, 0)), b"through");
}

fn unix_datagrams() {
    let mut s = [0i32; 2];
    for kind in [SOCK_DGRAM, SOCK_SEQPACKET] {
        ok!(sys!(socketpair, AF_UNIX, kind, 0, m(&mut s)));
        ok!(attach(s[1], &[(0x30, 0, 0, 0), (0x15, 0, 1, u32::from(b'a')), (6, 0, 0, 3), RET_NONE]));
        eq!(ok!(send(s[0], b"bbbb", 0)), 4);
        eq!(ok!(send(s[0], b"aaaa", 0)), 4);
        eq!(ok!(recv(s[1], 100, MSG_DONTWAIT)), b"aaa");
        err!(recv(s[1], 100, MSG_DONTWAIT), EAGAIN);
    }
    // A stream has no packets.
    ok!(sys!(socketpair, AF_UNIX, SOCK_STREAM, 0, m(&mut s)));
    ok!(attach(s[1], &[RET_NONE]));
    ok!(send(s[0], b"bytes", 0));
    eq!(ok!(recv(s[1], 100, MSG_DONTWAIT)), b"bytes");
}

fn ancillary() {
    let (c, r, at) = two();
    // Protocol, kind of packet, device, its kind of hardware: as a number of bytes that pass.
    for (what, value) in [(0, 0x800), (4, 0), (8, 1), (28, 772)] {
        ok!(attach(r, &[(0x20, 0, 0, 0xffff_f000 + what), (0x15, 0, 1, value), RET_ALL, RET_NONE]));
        ok!(send_to(c, b"x", at));
        eq!((what, recv(r, 9, MSG_DONTWAIT)), (what, Ok(b"x".to_vec())));
    }
}

fn arithmetic() {
    let (c, r, at) = two();
    // The program computes how many bytes pass, of 64 with the header: shown by what comes.
    let text = [7u8; 56];
    let shown = |name: &str, code: &[I]| {
        ok!(attach(r, code));
        ok!(send_to(c, &text, at));
        say!("{name} {:?}", recv(r, 100, MSG_DONTWAIT).map(|b| b.len()));
    };
    let two = |op: u16| vec![(0u16, 0u8, 0u8, 50u32), (1, 0, 0, 3), (op | 8, 0, 0, 0), (0x16, 0, 0, 0)];
    for op in [0x04, 0x14, 0x24, 0x34, 0x44, 0x54, 0x64, 0x74, 0x94, 0xa4] {
        shown(&format!("{op:x}"), &two(op));
    }
    shown("neg", &[(0, 0, 0, -20i32 as u32), (0x84, 0, 0, 0), (0x16, 0, 0, 0)]);
    shown("by zero", &[(0, 0, 0, 50), (1, 0, 0, 0), (0x3c, 0, 0, 0), RET_ALL]);
    shown("shift", &[(0, 0, 0, 1), (1, 0, 0, 36), (0x6c, 0, 0, 0), (0x16, 0, 0, 0)]);
    shown("memory", &[(0, 0, 0, 30), (2, 0, 0, 15), (0, 0, 0, 0), (0x60, 0, 0, 15), (0x16, 0, 0, 0)]);
    shown("x", &[(1, 0, 0, 33), (0x87, 0, 0, 0), (0x16, 0, 0, 0)]);
    shown("msh", &[(0xb1, 0, 0, 8), (0x87, 0, 0, 0), (0x16, 0, 0, 0)]);
}

fn packet_frames() {
    let s = ok!(sys!(socket, AF_PACKET, SOCK_RAW, i32::from(0x0300u16))) as i32;
    let (c, r, at) = two();
    // UDP to the port of `r`, behind Ethernet's header and IPv4's, as libpcap writes it; 60 bytes of it.
    ok!(attach(
        s,
        &[
            (0x28, 0, 0, 12),
            (0x15, 0, 6, 0x800),
            (0x30, 0, 0, 23),
            (0x15, 0, 4, 17),
            (0xb1, 0, 0, 14),
            (0x48, 0, 0, 16),
            (0x15, 0, 1, u32::from(port(r))),
            (6, 0, 0, 44),
            RET_NONE,
        ]
    ));
    ok!(send_to(c, b"elsewhere", A::V4(LO, 9)));
    ok!(send_to(c, b"hello", at));
    wait_for(s, POLLIN);
    let frame = ok!(recv(s, 100, MSG_DONTWAIT));
    eq!((frame.len(), &frame[42..]), (44, &b"he"[..]));
}

fn raw_and_ping() {
    up();
    let s = ok!(sys!(socket, AF_INET, SOCK_RAW, IPPROTO_UDP)) as i32;
    let (c, _, _) = two();
    // From the network header on, and relative to it.
    ok!(attach(s, &[(0x30, 0, 0, 9), (0x15, 0, 3, 17), (0x28, 0, 0, 22), (0x15, 0, 1, 9), RET_ALL, RET_NONE]));
    ok!(send_to(c, b"no", A::V4(LO, 10)));
    ok!(send_to(c, b"yes", A::V4(LO, 9)));
    wait_for(s, POLLIN);
    let packet = ok!(recv(s, 100, MSG_DONTWAIT));
    eq!(&packet[28..], b"yes");
}
