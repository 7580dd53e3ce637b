//! What each request does to files.

use super::*;
use abi::Errno;
use abi::libc;
use abi::time::Timespec;
use gofer_protocol::{Bytes, DirReply, SetAttr, SetTime};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

const RW: OpenMode = OpenMode::READ.union(OpenMode::WRITE);

#[test]
fn walk_says_how_far_it_came() {
    let f = Fixture::new();
    fs::create_dir_all(f.dir.path("a/b")).expect("mkdir");
    f.write("a/b/file", "x");
    symlink("../target", f.dir.path("a/link")).expect("symlink");
    let walk = |path: &str| f.client.walk(f.root, &path.split('/').map(name).collect::<Vec<_>>()).expect("walk");

    let all = walk("a/b/file");
    assert_eq!((all.entries.len(), all.stop), (3, Stop::Complete));
    assert_eq!(all.entries[2].attr.ino, fs::metadata(f.dir.path("a/b/file")).expect("stat").ino());
    assert_eq!((walk("a/x/y").entries.len(), walk("a/x/y").stop), (1, Stop::Missing));
    let through = walk("a/b/file/x");
    assert_eq!((through.entries.len(), through.stop), (3, Stop::NotDirectory));
    for (path, stop) in [("a/link", Stop::Complete), ("a/link/x", Stop::Symlink)] {
        let link = walk(path);
        assert_eq!((link.entries.len(), link.stop), (2, stop));
        assert_eq!(link.entries[1].target, Some(Bytes(b"../target".to_vec())));
    }
    assert_eq!(f.client.readlink(f.find("a/link").node), Ok(b"../target".to_vec()));
    assert_eq!(f.client.readlink(f.find("a").node), Err(Errno::EINVAL));
    assert_eq!(walk(&"a/../a".replace("..", "...")).stop, Stop::Missing);
}

#[test]
fn regular_files_are_made_opened_and_changed() {
    let f = Fixture::new();
    let (uid, gid) = if is_root() { (1000, 1001) } else { (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()) };
    let (entry, fd) = f.client.create(f.root, name("new"), RW, 0o4755, uid, gid).expect("create");
    let mut file = File::from(fd);
    file.write_all(b"hello").expect("write");
    assert_eq!((entry.attr.mode, entry.attr.uid, entry.attr.gid), (0o104_755, uid, gid));
    assert_eq!(f.client.create(f.root, name("new"), RW, 0o644, uid, gid).map(|_| ()), Err(Errno::EEXIST));

    let mut text = String::new();
    File::from(f.open(entry.node, OpenMode::READ).expect("open")).read_to_string(&mut text).expect("read");
    assert_eq!(text, "hello");
    let read_only = File::from(f.open(entry.node, OpenMode::READ).expect("open"));
    assert!((&read_only).write_all(b"x").is_err(), "opened for reading only");
    drop(f.open(entry.node, RW | OpenMode::TRUNCATE).expect("truncate"));
    assert_eq!(f.client.stat(entry.node).expect("stat").size, 0);
    assert_eq!(f.open(entry.node, OpenMode::READ | OpenMode::TRUNCATE).map(|_| ()), Err(Errno::EINVAL));
    assert_eq!(f.open(f.root, OpenMode::READ).map(|_| ()), Err(Errno::EISDIR));

    let at = Timespec { sec: 1_000_000_007, nsec: 123_456_789 };
    let set = SetAttr { size: Some(77), mode: Some(0o640), mtime: SetTime::At(at), atime: SetTime::Now, ..SetAttr::default() };
    let attr = f.client.set_attr(entry.node, set).expect("setattr");
    assert_eq!((attr.size, attr.mode, attr.mtime), (77, 0o100_640, at));
    assert!(attr.atime.sec > 1_600_000_000);
    let odd = SetAttr { uid: Some(u32::MAX), ..SetAttr::default() };
    assert_eq!(f.client.set_attr(entry.node, odd), Err(Errno::EINVAL));
    assert_eq!(f.client.set_attr(f.root, SetAttr { size: Some(0), ..SetAttr::default() }), Err(Errno::EISDIR));
    f.client.fsync(entry.node, false).expect("fsync");
    f.client.fsync(f.root, true).expect("fdatasync of a directory");
    assert!(f.client.statfs(f.root).expect("statfs").blocks > 0);
}

#[test]
fn other_kinds_are_made() {
    let f = Fixture::new();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let dir = f.client.mkdir(f.root, name("dir"), 0o750, uid, gid).expect("mkdir");
    assert_eq!(dir.attr.mode, 0o40_750);
    let link = f.client.symlink(dir.node, name("link"), b"/to/there", uid, gid).expect("symlink");
    assert_eq!(link.target, Some(Bytes(b"/to/there".to_vec())));
    let set = SetAttr { mtime: SetTime::At(Timespec { sec: 5, nsec: 0 }), ..SetAttr::default() };
    assert_eq!(f.client.set_attr(link.node, set).expect("times of a symlink").mtime.sec, 5);
    let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    assert_eq!(f.client.set_attr(link.node, mode), Err(Errno::EOPNOTSUPP));

    let fifo = f.client.mknod(dir.node, name("fifo"), libc::S_IFIFO | 0o600, 0, uid, gid).expect("mkfifo");
    assert_eq!(fifo.attr.mode, libc::S_IFIFO | 0o600);
    assert_eq!(f.open(fifo.node, OpenMode::READ).map(|_| ()), Err(Errno::EPERM), "a FIFO is not opened");
    f.client.mknod(dir.node, name("sock"), libc::S_IFSOCK | 0o600, 0, uid, gid).expect("socket node");
    f.client.mknod(dir.node, name("plain"), 0o600, 0, uid, gid).expect("regular file");
    for mode in [libc::S_IFCHR, libc::S_IFBLK] {
        let made = f.client.mknod(dir.node, name("null"), mode | 0o666, abi::fs::makedev(1, 3), uid, gid);
        assert_eq!(made.map(|_| ()), Err(Errno::EPERM), "no device of the host");
    }
    assert_eq!(f.client.mkdir(fifo.node, name("x"), 0o700, uid, gid).map(|_| ()), Err(Errno::ENOTDIR));
}

#[test]
fn a_set_group_id_directory_gives_its_group() {
    if !is_root() {
        return;
    }
    let f = Fixture::new();
    let dir = f.client.mkdir(f.root, name("dir"), 0o755, 0, 2000).expect("mkdir");
    f.client.set_attr(dir.node, SetAttr { mode: Some(0o2755), ..SetAttr::default() }).expect("chmod");
    let (file, _fd) = f.client.create(dir.node, name("file"), RW, 0o644, 1000, 1000).expect("create");
    assert_eq!((file.attr.uid, file.attr.gid), (1000, 2000));
    let sub = f.client.mkdir(dir.node, name("sub"), 0o755, 1000, 1000).expect("mkdir");
    assert_eq!((sub.attr.uid, sub.attr.gid, sub.attr.mode), (1000, 2000, 0o42_755));
}

#[test]
fn directories_are_read_with_attributes() {
    let f = Fixture::new();
    for i in 0..1500 {
        f.write(&format!("a-rather-long-file-name-{i:05}"), "");
    }
    let (mut seen, mut cookie, mut requests) = (Vec::new(), 0, 0);
    loop {
        let DirReply { entries, end, ahead, .. } = f.client.readdir(f.root, &[], cookie, 1000, vec![]).expect("readdir");
        requests += 1;
        assert!(ahead.is_empty(), "nothing is below");
        for e in &entries {
            assert_eq!(e.attr.mode & libc::S_IFMT, libc::S_IFREG);
            seen.push(e.name.0.clone());
        }
        if end {
            break;
        }
        cookie = entries.last().expect("progress").cookie;
    }
    assert!(requests > 1, "more than one reply is needed");
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 1500);
    let first = f.list(f.root).expect("again").remove(0);
    assert_eq!(f.find(&String::from_utf8_lossy(&first.name.0)).attr.ino, first.attr.ino);
}

#[test]
fn extended_attributes() {
    let f = Fixture::new();
    f.write("file", "");
    let node = f.find("file").node;
    if f.client.set_xattr(node, b"user.test", b"\0value", 0) == Err(Errno::EOPNOTSUPP) {
        return;
    }
    assert_eq!(f.client.set_xattr(node, b"user.test", b"x", 1), Err(Errno::EEXIST));
    assert_eq!(f.client.set_xattr(node, b"user.test", b"x", 8), Err(Errno::EINVAL));
    assert_eq!(f.client.get_xattr(node, b"user.test"), Ok(b"\0value".to_vec()));
    assert_eq!(f.client.list_xattr(node), Ok(b"user.test\0".to_vec()));
    let big = vec![7; 3000];
    f.client.set_xattr(node, b"user.test", &big, 2).expect("replace");
    assert_eq!(f.client.get_xattr(node, b"user.test"), Ok(big));
    f.client.remove_xattr(node, b"user.test").expect("remove");
    assert_eq!(f.client.get_xattr(node, b"user.test"), Err(Errno::ENODATA));
    assert_eq!(f.client.get_xattr(node, b""), Err(Errno::ERANGE));
}

#[test]
fn a_read_only_attach_point_refuses_every_change() {
    let dir = TempDir::new();
    fs::write(dir.path("file"), "x").expect("write");
    let attach = Attach { readonly: true, allow_unix_bind: true, ..Attach::new(&dir.0) };
    let server = Server::start(vec![Root { fd: open_root(&dir.0), attach }], &Settings::default()).expect("server");
    let (ours, theirs) = Channel::pair().expect("socketpair");
    server.serve(theirs).expect("serve");
    let c = Client::new(ours, 1);
    let (root, readonly) = c.attach(0).expect("attach");
    assert!(readonly);
    let file = c.walk(root.node, &[name("file")]).expect("walk").entries[0].node;
    let (root, n) = (root.node, name("n"));
    let e = Err(Errno::EROFS);
    assert_eq!(c.open(file, &[], RW).map(|_| ()), e);
    assert_eq!(c.create(root, n, RW, 0o644, 0, 0).map(|_| ()), e);
    assert_eq!(c.tmpfile(root, RW, 0o644, 0, 0).map(|_| ()), e);
    assert_eq!(c.mkdir(root, n, 0o755, 0, 0).map(|_| ()), e);
    assert_eq!(c.symlink(root, n, b"x", 0, 0).map(|_| ()), e);
    assert_eq!(c.mknod(root, n, 0o644, 0, 0, 0).map(|_| ()), e);
    assert_eq!(c.link(file, root, n).map(|_| ()), e);
    assert_eq!(c.unlink(root, name("file"), false), e);
    assert_eq!(c.rename(root, name("file"), root, n, 0), e);
    assert_eq!(c.set_attr(file, SetAttr { mode: Some(0), ..SetAttr::default() }).map(|_| ()), e);
    assert_eq!(c.set_xattr(file, b"user.a", b"", 0), e);
    assert_eq!(c.remove_xattr(file, b"user.a"), e);
    assert_eq!(c.bind(root, n, 1, 0o755, 0, 0).map(|_| ()), e);
    assert!(c.open(root, &[name("file")], OpenMode::READ).is_ok_and(|(_, fd)| fd.is_some()));
}

#[test]
fn files_without_names() {
    let f = Fixture::new();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (entry, fd) = match f.client.tmpfile(f.root, RW, 0o600, uid, gid) {
        Err(Errno::EOPNOTSUPP) => return,
        other => other.expect("tmpfile"),
    };
    File::from(fd).write_all(b"text").expect("write");
    assert_eq!(f.client.stat(entry.node).map(|a| (a.nlink, a.size)), Ok((0, 4)));
    f.client.link(entry.node, f.root, name("named")).expect("link");
    assert_eq!(fs::read(f.dir.path("named")).expect("read"), b"text");
}

#[test]
fn sockets_only_where_allowed() {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let closed = Fixture::new();
    let _listener = std::os::unix::net::UnixListener::bind(closed.dir.path("s")).expect("listen");
    assert_eq!(closed.client.connect(closed.find("s").node, 1, uid, gid, vec![]).map(|_| ()), Err(Errno::ECONNREFUSED));
    assert_eq!(closed.client.bind(closed.root, name("t"), 1, 0o755, uid, gid).map(|_| ()), Err(Errno::EPERM));

    let allow = |a: &mut Attach| (a.allow_unix_bind, a.allow_unix_connect) = (true, true);
    let f = Fixture::with(allow, &Settings::default());
    let listener = std::os::unix::net::UnixListener::bind(f.dir.path("s")).expect("listen");
    let stream = libc::SOCK_STREAM as u32;
    let fd = f.client.connect(f.find("s").node, stream, uid, gid, vec![]).expect("connect");
    let (mut peer, _) = listener.accept().expect("accept");
    if uid == 0 {
        // Whoever asked is who the other side sees; the host's permissions are for that user, and the gofer's thread is itself again.
        fs::set_permissions(f.dir.path("s"), fs::Permissions::from_mode(0o660)).expect("chmod");
        std::os::unix::fs::chown(f.dir.path("s"), Some(0), Some(777)).expect("chown");
        let as_user = |groups| f.client.connect(f.find("s").node, stream, 1234, 1235, groups);
        assert_eq!(as_user(vec![]).map(|_| ()), Err(Errno::EACCES));
        let _connected = as_user(vec![5, 777]).expect("connect as a member of the group");
        let (other, _) = listener.accept().expect("accept");
        let cred = rustix::net::sockopt::socket_peercred(&other).expect("SO_PEERCRED");
        assert_eq!((cred.uid.as_raw(), cred.gid.as_raw()), (1234, 1235));
        assert_eq!(f.client.connect(f.find("s").node, stream, u32::MAX, 0, vec![]).map(|_| ()), Err(Errno::EINVAL));
        let _own = f.client.connect(f.find("s").node, stream, uid, gid, vec![]).expect("connect again");
        let (other, _) = listener.accept().expect("accept");
        assert_eq!(rustix::net::sockopt::socket_peercred(&other).expect("SO_PEERCRED").uid.as_raw(), 0);
    }
    std::os::unix::net::UnixStream::from(fd).write_all(b"hi").expect("write");
    let mut text = String::new();
    peer.read_to_string(&mut text).expect("read");
    assert_eq!(text, "hi");

    let (entry, fd) = f.client.bind(f.root, name("t"), libc::SOCK_STREAM as u32, 0o700, uid, gid).expect("bind");
    assert_eq!(entry.attr.mode, libc::S_IFSOCK | 0o700);
    rustix::net::listen(&fd, 1).expect("listen");
    std::os::unix::net::UnixStream::connect(f.dir.path("t")).expect("connect from outside");
    assert_eq!(f.client.bind(f.root, name("t"), 1, 0o700, uid, gid).map(|_| ()), Err(Errno::EADDRINUSE));
    assert_eq!(fs::symlink_metadata(f.dir.path("t")).expect("stat").permissions().mode() & 0o777, 0o700);
}
