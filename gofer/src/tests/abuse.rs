//! Any bytes at all: the server lives, and answers or closes the connection.

use super::*;
use gofer_protocol::{MAX_MESSAGE, OpenMode, Request, SetAttr, wire::Wire};
use std::os::fd::AsFd;

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

fn seeds(root: NodeId) -> Vec<Vec<u8>> {
    let n = name("x");
    let open = OpenMode::READ | OpenMode::WRITE;
    let requests = [
        Request::Attach { index: 0 },
        Request::Walk { node: root, names: vec![n, n, n] },
        Request::Open { node: root, names: vec![n], mode: open },
        Request::Create { dir: root, name: n, open, mode: 0o644, uid: 0, gid: 0 },
        Request::Mkdir { dir: root, name: n, mode: 0o755, uid: 0, gid: 0 },
        Request::Symlink { dir: root, name: n, target: b"/", uid: 0, gid: 0 },
        Request::Link { node: root, dir: root, name: n },
        Request::Mknod { dir: root, name: n, mode: 0o10644, rdev: 0, uid: 0, gid: 0 },
        Request::Unlink { dir: root, name: n, rmdir: false },
        Request::Rename { old_dir: root, old: n, new_dir: root, new: name("y"), flags: 0 },
        Request::Readlink { node: root },
        Request::Readdir { node: root, names: vec![], cookie: 0, ahead: 100, beside: vec![n] },
        Request::Readdir { node: root, names: vec![n], cookie: 1, ahead: 100, beside: vec![n, name("y")] },
        Request::Stat { node: root },
        Request::SetAttr { node: root, set: SetAttr { mode: Some(0o755), size: Some(1), ..SetAttr::default() } },
        Request::StatFs { node: root },
        Request::GetXattr { node: root, name: b"user.a" },
        Request::SetXattr { node: root, name: b"user.a", value: b"1", flags: 0 },
        Request::ListXattr { node: root },
        Request::RemoveXattr { node: root, name: b"user.a" },
        Request::Fsync { node: root, data_only: true },
        Request::Bind { dir: root, name: n, kind: 1, mode: 0o755, uid: 0, gid: 0 },
        Request::Connect { node: root, kind: 1, uid: 0, gid: 0, groups: vec![] },
        Request::TmpFile { dir: root, open, mode: 0o644, uid: 0, gid: 0 },
        Request::Close { nodes: vec![NodeId(1000)] },
    ];
    requests
        .iter()
        .map(|r| {
            let mut out = Vec::new();
            r.encode(1, &mut out).expect("encode");
            out
        })
        .collect()
}

#[test]
fn mutated_requests_are_survived() {
    let f = Fixture::with(|a| (a.allow_unix_bind, a.allow_unix_connect) = (true, true), &Settings::default());
    let mut random = Random(0x1234_5678_9abc_def1);
    let seeds = seeds(f.root);
    let connect = || {
        for _ in 0..1000 {
            let (ours, theirs) = Channel::pair().expect("socketpair");
            if f.server.serve(theirs).is_ok() {
                return ours;
            }
            // The thread of a connection that was just closed is not free yet.
            std::thread::yield_now();
        }
        panic!("no connection");
    };
    let mut channel = connect();
    let mut buffer = vec![0; MAX_MESSAGE];
    for round in 0..4000usize {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..random.next() % 4 {
            let at = random.next() as usize % bytes.len();
            match random.next() % 4 {
                0 => bytes[at] = random.next() as u8,
                1 => bytes[at] ^= 1 << (random.next() % 8),
                2 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, random.next() as u8),
            }
        }
        if !random.next().is_multiple_of(16) && bytes.len() >= 4 {
            let len = bytes.len() as u32;
            bytes[..4].copy_from_slice(&len.to_le_bytes());
        }
        // An answer, or a closed connection; a descriptor that no request carries is no matter.
        let fd = random.next().is_multiple_of(8).then(|| f.client_socket());
        let sent = channel.send(&bytes, fd.as_ref().map(AsFd::as_fd));
        if sent.is_err() || channel.recv(&mut buffer).map_or(0, |r| r.len) == 0 {
            channel = connect();
        }
    }
    assert!(f.client.stat(f.root).is_ok(), "the server lives");
}

impl Fixture {
    /// Some descriptor.
    fn client_socket(&self) -> std::os::fd::OwnedFd {
        Channel::pair().expect("socketpair").0.into()
    }
}

#[test]
fn random_bytes_are_survived() {
    let f = Fixture::new();
    let mut random = Random(77);
    for _ in 0..200 {
        let (ours, theirs) = Channel::pair().expect("socketpair");
        while f.server.serve(Channel::from(theirs.as_fd().try_clone_to_owned().expect("dup"))).is_err() {
            std::thread::yield_now();
        }
        drop(theirs);
        let len = random.next() as usize % 300 + 1;
        let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        ours.send(&bytes, None).expect("send");
        let mut buffer = [0; 256];
        assert_eq!(ours.recv(&mut buffer).map(|r| r.len), Ok(0), "closed cleanly");
    }
    assert!(f.client.stat(f.root).is_ok());
}

#[test]
fn a_header_without_a_request_is_answered() {
    let f = Fixture::new();
    let (ours, theirs) = Channel::pair().expect("socketpair");
    f.server.serve(theirs).expect("serve");
    let mut bytes = Vec::new();
    gofer_protocol::Header { len: 16, op: 999, errno: 0, tag: 5, cpu: u32::MAX }.put(&mut bytes);
    ours.send(&bytes, None).expect("send");
    let mut buffer = [0; 256];
    let got = ours.recv(&mut buffer).expect("recv");
    let reply = gofer_protocol::Reply::parse(&buffer[..got.len]);
    assert_eq!(reply, Ok((gofer_protocol::Reply::Failed { errno: abi::Errno::ENOSYS }, 5)));
}

#[test]
fn connections_are_limited() {
    let f = Fixture::with(|_| {}, &Settings { channels: 2, ..Settings::default() });
    let (ours, theirs) = Channel::pair().expect("socketpair");
    while f.server.serve(Channel::from(theirs.as_fd().try_clone_to_owned().expect("dup"))).is_ok() {}
    drop(ours);
    drop(theirs);
    std::thread::scope(|s| {
        for _ in 0..6 {
            s.spawn(|| assert!(f.client.stat(f.root).is_ok()));
        }
    });
}
