//! Every message survives being written and read; no bytes make the parsers panic.

use super::*;
use abi::Errno;
use abi::time::Timespec;
use std::os::fd::AsFd;

fn name(s: &str) -> Name<'_> {
    Name::new(s.as_bytes()).expect("a name")
}

fn attr() -> Attr {
    let t = |sec| Timespec { sec, nsec: 999_999_999 };
    Attr {
        dev: 1,
        ino: u64::MAX,
        size: 3,
        blocks: 4,
        rdev: 5,
        mode: 0o100644,
        nlink: 7,
        uid: 8,
        gid: 9,
        blksize: 4096,
        has_btime: 1,
        atime: t(1),
        mtime: t(-2),
        ctime: t(3),
        btime: t(4),
    }
}

fn requests() -> Vec<Request<'static>> {
    let n = NodeId(7);
    let set = SetAttr {
        size: Some(1),
        uid: None,
        gid: Some(2),
        mode: Some(0o7777),
        atime: SetTime::Now,
        mtime: SetTime::At(Timespec { sec: -1, nsec: 5 }),
    };
    let open = OpenMode::READ | OpenMode::WRITE;
    vec![
        Request::Attach { index: 3 },
        Request::Walk { node: n, names: vec![name("usr"), name("..."), name("x")] },
        Request::Open { node: n, names: vec![name("f")], mode: OpenMode::all() },
        Request::Create { dir: n, name: name("a"), open, mode: 0o644, uid: 1, gid: 2 },
        Request::Mkdir { dir: n, name: name("a"), mode: 0o755, uid: 1, gid: 2 },
        Request::Symlink { dir: n, name: name("a"), target: b"/etc/passwd", uid: 1, gid: 2 },
        Request::Link { node: n, dir: n, name: name("a") },
        Request::Mknod { dir: n, name: name("a"), mode: 0o10644, rdev: 0, uid: 1, gid: 2 },
        Request::Unlink { dir: n, name: name("a"), rmdir: true },
        Request::Rename { old_dir: n, old: name("a"), new_dir: n, new: name("b"), flags: 2 },
        Request::Readlink { node: n },
        Request::Readdir { node: n, names: vec![name("d")], cookie: u64::MAX, ahead: 9, beside: vec![name("e"), name("f")] },
        Request::Stat { node: n },
        Request::SetAttr { node: n, set },
        Request::StatFs { node: n },
        Request::GetXattr { node: n, name: b"user.a" },
        Request::SetXattr { node: n, name: b"user.a", value: b"\0\xff", flags: 1 },
        Request::ListXattr { node: n },
        Request::RemoveXattr { node: n, name: b"user.a" },
        Request::Fsync { node: n, data_only: false },
        Request::Bind { dir: n, name: name("s"), kind: 1, mode: 0o755, uid: 0, gid: 0 },
        Request::Connect { node: n, kind: 5, uid: 1, gid: 2, groups: vec![3, u32::MAX] },
        Request::TmpFile { dir: n, open, mode: 0o600, uid: 0, gid: 0 },
        Request::Close { nodes: vec![n, NodeId(0)] },
        Request::NewChannel {},
    ]
}

fn replies() -> Vec<Reply> {
    let entry = Entry { node: NodeId(9), attr: attr(), target: Some(Bytes(b"to".to_vec())) };
    let plain = Entry { target: None, ..entry.clone() };
    let there = DirEntry { cookie: 5, attr: attr(), name: Bytes(b"x".to_vec()) };
    let ahead = vec![Ahead { within: Ahead::BESIDE, place: 1, entries: vec![there.clone(), there.clone()] }];
    vec![
        Reply::Done {},
        Reply::Node { entry: entry.clone(), readonly: true },
        Reply::Walked { entries: vec![plain.clone(), entry], stop: Stop::Failed(Errno::EACCES) },
        Reply::Walked { entries: Vec::new(), stop: Stop::Missing },
        Reply::Opened {},
        Reply::Attr { attr: attr() },
        Reply::Bytes { bytes: Bytes(vec![1; MAX_XATTR]) },
        Reply::Dir { walked: vec![plain], stop: Stop::Complete, entries: vec![there.clone()], end: true, ahead },
        Reply::StatFs { statfs: StatFs { kind: 1, flags: 2, ..StatFs::default() } },
        Reply::Failed { errno: Errno::ENOENT },
    ]
}

#[test]
fn messages_round_trip() {
    let mut out = Vec::new();
    for r in requests() {
        r.encode(42, &mut out).expect("encode");
        assert_eq!(Request::parse(&out), Ok((r, 42)));
    }
    for r in replies() {
        r.encode(u32::MAX, &mut out).expect("encode");
        assert_eq!(Reply::parse(&out), Ok((r, u32::MAX)));
    }
}

#[test]
fn every_prefix_and_every_extension_is_refused() {
    let mut out = Vec::new();
    for r in requests() {
        r.encode(1, &mut out).expect("encode");
        for len in 0..out.len() {
            let mut cut = out[..len].to_vec();
            assert!(Request::parse(&cut).is_err());
            // With the right length in the header it is still too short.
            if len >= 4 {
                cut[..4].copy_from_slice(&(len as u32).to_le_bytes());
                assert!(Request::parse(&cut).is_err(), "{r:?} cut to {len}");
            }
        }
        out.push(0);
        assert!(Request::parse(&out).is_err());
        wire::finish(&mut out).expect("length");
        assert_eq!(Request::parse(&out), Err(Malformed::Trailing));
    }
}

/// A small generator (xorshift): the same bytes on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn mutated_messages_never_panic() {
    let mut seeds = Vec::new();
    let mut out = Vec::new();
    for r in requests() {
        r.encode(1, &mut out).expect("encode");
        seeds.push(out.clone());
    }
    for r in replies() {
        r.encode(1, &mut out).expect("encode");
        seeds.push(out.clone());
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..20_000usize {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..1 + random.next() % 4 {
            let at = random.next() as usize % bytes.len();
            match random.next() % 4 {
                0 => bytes[at] = random.next() as u8,
                1 => bytes[at] ^= 1 << (random.next() % 8),
                2 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, random.next() as u8),
            }
        }
        if !random.next().is_multiple_of(8) {
            let _ = wire::finish(&mut bytes[..]);
            if bytes.len() >= 4 {
                let len = bytes.len() as u32;
                bytes[..4].copy_from_slice(&len.to_le_bytes());
            }
        }
        fuzz_target(&bytes);
    }
}

#[test]
fn names_are_checked() {
    for (bytes, want) in [
        (&b""[..], Errno::ENOENT),
        (b".", Errno::EINVAL),
        (b"..", Errno::EINVAL),
        (b"a/b", Errno::EINVAL),
        (b"a\0", Errno::EINVAL),
        (&[b'x'; 256], Errno::ENAMETOOLONG),
    ] {
        assert_eq!(Name::new(bytes), Err(want));
    }
    assert!(Name::new(&[b'x'; 255]).is_ok() && Name::new(b"...").is_ok());
}

#[test]
fn limits_hold() {
    let mut out = Vec::new();
    let many = vec![NodeId(1); MAX_BATCH + 1];
    Request::Close { nodes: many }.encode(1, &mut out).expect("encode");
    assert_eq!(Request::parse(&out), Err(Malformed::TooLong("close")));
    let big = vec![0; MAX_MESSAGE];
    let r = Request::SetXattr { node: NodeId(1), name: b"user.a", value: &big, flags: 0 };
    assert_eq!(r.encode(1, &mut out), Err(Malformed::TooLong("message")));
}

#[test]
fn channels_carry_packets_and_descriptors() {
    let (a, b) = Channel::pair().expect("socketpair");
    let (x, _y) = Channel::pair().expect("socketpair");
    let mut buffer = [0; 64];
    a.send(b"one", Some(x.as_fd())).expect("send");
    a.send(b"two", None).expect("send");
    let got = b.recv(&mut buffer).expect("recv");
    assert!(got.len == 3 && got.fd.is_some() && &buffer[..3] == b"one");
    let got = b.recv(&mut buffer).expect("recv");
    assert!(got.len == 3 && got.fd.is_none());
    a.send(&[0; 65], None).expect("send");
    assert_eq!(b.recv(&mut buffer).map(|r| r.len), Err(Errno::EMSGSIZE));
    drop(a);
    assert_eq!(b.recv(&mut buffer).map(|r| r.len), Ok(0));
    assert_eq!(b.send(b"x", None), Err(Errno::EPIPE));
}
