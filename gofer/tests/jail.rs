//! The whole gofer in a process of its own: jail, capabilities, filter, and its end when the sentry is gone.
//!
//! A test program without the usual harness, because a gofer must begin with one thread: it runs itself again as the
//! gofer.

use gofer::{Attach, GoferSpec};
use gofer_protocol::{Channel, Client, Name, OpenMode, SetAttr};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

fn name(s: &str) -> Name<'_> {
    Name::new(s.as_bytes()).expect("a name")
}

/// Lets a descriptor through exec.
fn inheritable(fd: impl AsFd) -> String {
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).expect("fcntl");
    fd.as_fd().as_raw_fd().to_string()
}

/// Starts a gofer. What it says when ready comes along.
fn start(spec: &GoferSpec) -> (Child, Channel, String) {
    let file = rustix::fs::memfd_create("spec", rustix::fs::MemfdFlags::empty()).expect("memfd");
    File::from(file.try_clone().expect("dup")).write_all(&serde_json::to_vec(spec).expect("json")).expect("write");
    let (ours, theirs) = Channel::pair().expect("socketpair");
    let (mut reader, writer) = std::io::pipe().expect("pipe");
    let writer = OwnedFd::from(writer);
    let child = Command::new(std::env::current_exe().expect("path"))
        .args(["gofer", "--spec-fd", &inheritable(&file), "--conn-fd", &inheritable(&theirs), "--ready-fd", &inheritable(&writer)])
        .spawn()
        .expect("spawn");
    drop((theirs, writer));
    let mut said = String::new();
    reader.read_to_string(&mut said).expect("read");
    (child, ours, said)
}

fn exits(child: &mut Child) -> i32 {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        if let Some(status) = child.try_wait().expect("wait") {
            return status.code().expect("not killed");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("still running");
}

fn status_of(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    status.lines().find_map(|l| l.strip_prefix(field)).expect("field").trim_start_matches(':').trim().to_owned()
}

fn serves(dir: &Path) {
    fs::write(dir.join("file"), "text").expect("write");
    fs::create_dir(dir.join("tree")).expect("mkdir");
    symlink("/", dir.join("tree/escape")).expect("symlink");
    let spec = GoferSpec {
        attach: vec![
            Attach { allow_unix_connect: true, ..Attach::new(dir.join("tree")) },
            Attach { readonly: true, ..Attach::new(dir.join("file")) },
            Attach { readonly: true, ..Attach::new("/") },
        ],
        ..GoferSpec::default()
    };
    let (mut child, channel, said) = start(&spec);
    assert_eq!(said, "ok\n");
    let pid = child.id();
    assert_eq!(status_of(pid, "Seccomp"), "2");
    assert_eq!(status_of(pid, "NoNewPrivs"), "1");
    let mut root: Vec<_> = fs::read_dir(format!("/proc/{pid}/root")).expect("root").map(|e| e.expect("entry").file_name()).collect();
    root.sort();
    assert_eq!(root, ["attach", "fd"], "nothing of the host but the attach points");
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mounts");
    assert!(mounts.lines().all(|l| l.contains("nosuid") && l.contains("nodev")), "{mounts}");
    if rustix::process::geteuid().is_root() {
        // Those of files, and as sockets are allowed, CAP_SETUID and CAP_SETGID.
        assert_eq!(u64::from_str_radix(&status_of(pid, "CapEff"), 16).expect("hex") & !0x8000_00df, 0);
    }

    let client = Client::new(channel, 8);
    let (tree, readonly) = client.attach(0).expect("attach");
    assert!(!readonly);
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (made, fd) = client.create(tree.node, name("new"), OpenMode::READ | OpenMode::WRITE, 0o666, me.0, me.1).expect("create");
    File::from(fd).write_all(b"through the jail").expect("write");
    assert_eq!(fs::read(dir.join("tree/new")).expect("read"), b"through the jail");
    assert_eq!(made.attr.mode & 0o7777, 0o666, "no umask");
    client.set_attr(made.node, SetAttr { mode: Some(0o600), size: Some(7), ..SetAttr::default() }).expect("setattr");
    client.mkdir(tree.node, name("d"), 0o755, me.0, me.1).expect("mkdir");
    client.symlink(tree.node, name("l"), b"x", me.0, me.1).expect("symlink");
    client.link(made.node, tree.node, name("hard")).expect("link");
    client.rename(tree.node, name("hard"), tree.node, name("harder"), 0).expect("rename");
    client.unlink(tree.node, name("harder"), false).expect("unlink");
    let _ = client.set_xattr(made.node, b"user.a", b"b", 0);
    let _ = client.list_xattr(made.node);
    let _ = client.tmpfile(tree.node, OpenMode::READ | OpenMode::WRITE, 0o600, me.0, me.1);
    client.fsync(made.node, false).expect("fsync");
    client.statfs(made.node).expect("statfs");
    assert_eq!(client.readdir(tree.node, &[], 0, 10, vec![]).expect("readdir").entries.len(), 4);
    let listener = std::os::unix::net::UnixListener::bind(dir.join("tree/sock")).expect("listen");
    let sock = client.walk(tree.node, &[name("sock")]).expect("walk").entries[0].node;
    fs::set_permissions(dir.join("tree/sock"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
    // By another user, under the filter, where this process may be one.
    let who = if rustix::process::geteuid().is_root() { (4321, 4321) } else { me };
    client.connect(sock, 1, who.0, who.1, vec![]).expect("connect");
    listener.accept().expect("accept");

    let (file, readonly) = client.attach(1).expect("attach a file");
    assert!(readonly && file.attr.mode & 0o170_000 == 0o100_000);
    let mut text = String::new();
    let (_, opened) = client.open(file.node, &[], OpenMode::READ).expect("open");
    File::from(opened.expect("a descriptor")).read_to_string(&mut text).expect("read");
    assert_eq!(text, "text");
    assert_eq!(client.open(file.node, &[], OpenMode::READ | OpenMode::WRITE).map(|_| ()), Err(abi::Errno::EROFS));

    let (host, _) = client.attach(2).expect("attach the host's root");
    let walk = client.walk(host.node, &[name("etc"), name("passwd")]).expect("walk");
    assert_eq!(walk.entries.len(), 2);
    // Many threads at once: more connections, and the allocator's arenas, under the filter.
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| {
                for _ in 0..100 {
                    let walk = client.walk(host.node, &[name("usr"), name("bin")]).expect("walk");
                    let reply = client.readdir(walk.entries[0].node, &[name("bin")], 0, 0, vec![]).expect("readdir");
                    assert!(reply.entries.len() > 10);
                    reply.walk.entries.iter().for_each(|e| client.forget(e.node));
                    walk.entries.iter().for_each(|e| client.forget(e.node));
                }
            });
        }
    });
    drop(client);
    assert_eq!(exits(&mut child), 0, "ends with the sentry");
}

fn refuses(dir: &Path) {
    let (mut child, _channel, said) = start(&GoferSpec { attach: vec![Attach::new(dir.join("missing"))], ..GoferSpec::default() });
    assert!(said.contains("missing") && said.contains("No such file") && said.lines().count() == 1, "{said}");
    assert_eq!(exits(&mut child), 1);
    assert_eq!(gofer::main(["--spec-fd", "77"].into_iter().map(Into::into)), 2);
    assert_eq!(gofer::main(["--what", "3"].into_iter().map(Into::into)), 2);
}

fn main() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|a| a == "gofer") {
        std::process::exit(gofer::main(args));
    }
    let dir = std::env::temp_dir().join(format!("caisson-gofer-jail-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("temporary directory");
    // Without the privilege for mounts there is nothing to test: probe it as the gofer would.
    let (mut child, channel, said) = start(&GoferSpec { attach: vec![Attach::new(&dir)], ..GoferSpec::default() });
    drop(channel);
    exits(&mut child);
    if said.contains("make a mount namespace") {
        println!("skipped: {}", said.trim());
    } else {
        serves(&dir);
        refuses(&dir);
        println!("ok");
    }
    fs::remove_dir_all(&dir).expect("clean up");
}
