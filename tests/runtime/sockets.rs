//! Unix sockets between a container and its host: a service manager's (`NOTIFY_SOCKET`), and those in volumes where the configuration lets
//! them be reached. What an application does is done by this very program, natively and inside.

mod common;

use common::{Scratch, eventually, finish, program};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
    accept, bind, connect, listen, recv, send, sendmsg, sendto, shutdown, socket_with,
};
use serde_json::{Value, json};
use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Names this program's part as an application.
const PART: &str = "CAISSON_TEST_PART";
/// What the application says, among what the test harness says.
const SAID: &str = "said: ";
/// Where the volume is inside.
const VOLUME: &str = "/mnt";

/// The application.
#[test]
fn application() {
    let Ok(part) = std::env::var(PART) else { return };
    let (what, dir) = part.split_once(' ').expect("a part and a directory");
    match what {
        "notify" => notify(Path::new(dir)),
        "stream" => converse(SocketType::STREAM, dir),
        "seqpacket" => converse(SocketType::SEQPACKET, dir),
        "dgram" => datagrams(dir),
        "crowd" => crowd(dir),
        "rights" => rights(dir),
        other => panic!("{other}"),
    }
}

fn say(what: impl std::fmt::Debug) {
    println!("{SAID}{what:?}");
}

fn unix(kind: SocketType) -> OwnedFd {
    socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).expect("socket")
}

fn address(dir: &str, name: &str) -> SocketAddrUnix {
    SocketAddrUnix::new(format!("{dir}/{name}")).expect("an address")
}

fn send_file(socket: impl AsFd, message: &[u8], file: impl AsFd) -> rustix::io::Result<usize> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [file.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL)
}

/// As sd_notify(3) and systemd-notify(1).
fn notify(dir: &Path) {
    let socket = UnixDatagram::unbound().expect("socket");
    let manager = std::env::var("NOTIFY_SOCKET").expect("NOTIFY_SOCKET");
    // Far more than fit into the queue: somebody reads.
    for n in 0..40 {
        socket.send_to(format!("STATUS=step {n}").as_bytes(), &manager).expect("STATUS");
    }
    std::fs::write(dir.join("prepared"), "").expect("a file");
    assert!(eventually(60, || dir.join("go").exists()));
    socket.send_to(b"STATUS=all is well\nREADY=1\nERRNO=0", &manager).expect("READY");
    let (mut reader, writer) = std::io::pipe().expect("pipe");
    socket.connect(&manager).expect("connect");
    send_file(&socket, b"BARRIER=1", &writer).expect("BARRIER");
    drop(writer);
    assert_eq!(reader.read(&mut [0]).expect("the manager has read it"), 0);
    std::fs::write(dir.join("acknowledged"), "").expect("a file");
    assert!(eventually(60, || dir.join("end").exists()));
}

/// A question, its answer, and the end.
fn converse(kind: SocketType, dir: &str) {
    let socket = unix(kind);
    say(connect(&socket, &address(dir, "missing")));
    say(connect(&socket, &address(dir, "file")));
    if let Err(error) = connect(&socket, &address(dir, "socket")) {
        return say(error);
    }
    say(connect(&socket, &address(dir, "socket")));
    say(rustix::net::getpeername(&socket).expect("a name").map(|name| name.address_family() == AddressFamily::UNIX));
    say(send(&socket, b"question", SendFlags::NOSIGNAL));
    let mut buffer = [0; 4];
    for _ in 0..3 {
        // The pieces of a stream come in any size.
        let mut filled = 0;
        while filled < 4 {
            filled += recv(&socket, &mut buffer[filled..], RecvFlags::empty()).expect("recv").0;
        }
        say(String::from_utf8_lossy(&buffer));
    }
    say(recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT).map(|(count, _)| count));
    // More than any buffer holds, to one who reads slowly.
    let (many, mut sent) = (vec![7; 100_000], 0);
    while sent < 2_000_000 {
        sent += send(&socket, &many, SendFlags::NOSIGNAL).expect("send");
    }
    say(sent);
    shutdown(&socket, Shutdown::Write).expect("shutdown");
    say(send(&socket, b"more", SendFlags::NOSIGNAL));
    let (count, _) = recv(&socket, &mut buffer[..], RecvFlags::empty()).expect("recv");
    say(String::from_utf8_lossy(&buffer[..count]));
    say(recv(&socket, &mut buffer[..], RecvFlags::empty()).map(|(count, _)| count));
}

fn datagrams(dir: &str) {
    let socket = unix(SocketType::DGRAM);
    say(sendto(&socket, b"x", SendFlags::empty(), &address(dir, "missing")));
    say(sendto(&socket, b"x", SendFlags::empty(), &address(dir, "file")));
    say(sendto(&socket, b"", SendFlags::empty(), &address(dir, "socket")));
    // More than wait in a queue.
    for n in 0..30 {
        if let Err(error) = sendto(&socket, format!("to {n}").as_bytes(), SendFlags::empty(), &address(dir, "socket")) {
            return say(error);
        }
    }
    connect(&socket, &address(dir, "socket")).expect("connect");
    for n in 0..30 {
        send(&socket, format!("connected {n}").as_bytes(), SendFlags::empty()).expect("send");
    }
    say(send(&socket, &vec![0; 400_000], SendFlags::empty()));
    send(&socket, b"end", SendFlags::empty()).expect("send");
}

/// More connections than wait to be taken.
fn crowd(dir: &str) {
    let sockets: Vec<OwnedFd> = (0..6).map(|_| unix(SocketType::STREAM)).collect();
    for socket in &sockets {
        connect(socket, &address(dir, "socket")).expect("connect");
    }
    say(sockets.iter().map(|socket| recv(socket, &mut [0; 1][..], RecvFlags::empty()).map(|(count, _)| count)).collect::<Vec<_>>());
}

fn rights(dir: &str) {
    let socket = unix(SocketType::STREAM);
    connect(&socket, &address(dir, "socket")).expect("connect");
    say(send_file(&socket, b"x", std::io::stdout()));
    let mut buffer = [0; 9];
    let (count, _) = recv(&socket, &mut buffer[..], RecvFlags::empty()).expect("recv");
    say(String::from_utf8_lossy(&buffer[..count]));
}

/// What the application has said.
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| Some(format!("{}\n", line.split_once(SAID)?.1))).collect()
}

fn part(what: &str, dir: &Path) -> String {
    format!("{PART}={what} {}", dir.display())
}

/// This program as an application, on the host.
fn natively(what: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "application", "--nocapture"]).env(PART, format!("{what} {}", dir.display())).stdin(Stdio::null());
    command
}

/// A bundle with this program as its application, and a volume.
fn bundle(scratch: &Scratch, what: &str, volume: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
    let own = std::env::current_exe().expect("this program");
    let inside = if volume.is_dir() { PathBuf::from(VOLUME) } else { PathBuf::from("/run") };
    scratch.bundle(&[own.to_str().expect("UTF-8"), "--exact", "application", "--nocapture"], |config| {
        config["process"]["env"].as_array_mut().expect("a list").push(part(what, &inside).into());
        let destination = if volume.is_dir() { VOLUME } else { "/run/socket" };
        let mount = json!({"destination": destination, "type": "bind", "source": volume, "options": ["rbind", "rw"]});
        config["mounts"].as_array_mut().expect("mounts").push(mount);
        change(config);
    })
}

fn run(command: &mut Command) -> Output {
    finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn"))
}

fn directory(scratch: &Scratch, name: &str) -> PathBuf {
    let dir = scratch.path(name);
    std::fs::create_dir(&dir).expect("mkdir");
    // For every user.
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).expect("chmod");
    std::fs::write(dir.join("file"), "").expect("a file");
    std::fs::set_permissions(dir.join("file"), std::fs::Permissions::from_mode(0o666)).expect("chmod");
    dir
}

/// The messages at a manager's socket until one says `BARRIER=1`; whoever waits for that has then been answered.
fn told(manager: &UnixDatagram) -> Vec<String> {
    let mut all = Vec::new();
    manager.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
    while all.last().is_none_or(|last| last != "BARRIER=1") {
        let mut buffer = [0; 4096];
        let count = manager.recv(&mut buffer).expect("a message");
        all.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
    }
    all
}

#[test]
fn a_service_manager_is_told_when_the_application_is_ready() {
    let scratch = Scratch::new();
    let socket = scratch.path("manager");
    let manager = UnixDatagram::bind(&socket).expect("a manager");
    let touch = |dir: &Path, name: &str| std::fs::write(dir.join(name), "").expect("a file");
    // Natively the application talks to the manager.
    let dir = directory(&scratch, "native");
    touch(&dir, "go");
    touch(&dir, "end");
    let native = natively("notify", &dir).env("NOTIFY_SOCKET", &socket).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let messages = told(&manager);
    assert_eq!(messages.len(), 42, "{messages:?}");
    said(&finish(native.expect("spawn")));

    for (id, verbs) in [("created", &["create", "start"][..]), ("detached", &["run"][..])] {
        let dir = directory(&scratch, id);
        let bundle = bundle(&scratch, "notify", &dir, |_| {});
        let verb = |name: &str| {
            let mut verb = scratch.verb(&[name]);
            verb.env("NOTIFY_SOCKET", &socket).stdout(Stdio::null()).stderr(Stdio::null());
            match name {
                "create" => verb.arg("--bundle").arg(&bundle),
                "run" => verb.args(["--detach", "--bundle"]).arg(&bundle),
                _ => &mut verb,
            };
            verb.arg(id).spawn().expect("spawn")
        };
        let (last, first) = verbs.split_last().expect("verbs");
        first.iter().for_each(|name| assert!(finish(verb(name)).status.success(), "{name}"));
        let mut last = verb(last);
        assert!(eventually(60, || dir.join("prepared").exists()), "the application runs");
        assert!(last.try_wait().expect("wait").is_none(), "the verb waits until the application is ready");
        touch(&dir, "go");
        // The sentry has acknowledged what the application said, before anybody outside was told.
        assert!(eventually(60, || dir.join("acknowledged").exists()));
        let messages = told(&manager);
        assert!(finish(last).status.success());
        let state = run(&mut scratch.verb(&["state", id]));
        let state: Value = serde_json::from_slice(&state.stdout).expect("JSON");
        assert_eq!(messages, ["READY=1\n", &format!("MAINPID={}\n", state["pid"]), "BARRIER=1"]);
        touch(&dir, "end");
        assert!(eventually(60, || scratch.status(id) == "stopped"));
        assert!(run(&mut scratch.verb(&["delete", id])).status.success());
    }
}

#[test]
fn a_service_manager_hears_nothing_of_an_application_that_ends_early() {
    let scratch = Scratch::new();
    let socket = scratch.path("manager");
    let manager = UnixDatagram::bind(&socket).expect("a manager");
    let bundle =
        scratch.bundle(&["/bin/sh", "-c", "stat -c %A $NOTIFY_SOCKET; touch ${NOTIFY_SOCKET}x 2> /dev/null || echo fixed"], |_| {});
    let output = run(scratch.run(&bundle, "early").env("NOTIFY_SOCKET", &socket));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "srwxrwxrwx\nfixed\n", "{output:?}");
    manager.set_nonblocking(true).expect("not blocking");
    assert!(manager.recv(&mut [0; 9]).is_err());
    // A manager that does not listen is a mistake that is told.
    let gone = run(scratch.run(&bundle, "early").env("NOTIFY_SOCKET", scratch.path("nobody")));
    assert!(!gone.status.success() && String::from_utf8_lossy(&gone.stderr).contains("NOTIFY_SOCKET="), "{gone:?}");
    assert!(scratch.state_is_empty());
}

/// A process of the host that answers at `dir/socket`; what it has heard.
fn serve(dir: &Path, kind: SocketType) -> std::thread::JoinHandle<Vec<String>> {
    let socket = unix(kind);
    let path = dir.join("socket");
    let _ = std::fs::remove_file(&path);
    bind(&socket, &SocketAddrUnix::new(&path).expect("an address")).expect("bind");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("chmod");
    if kind != SocketType::DGRAM {
        listen(&socket, 1).expect("listen");
    }
    std::thread::spawn(move || if kind == SocketType::DGRAM { hear(&socket) } else { answer(&socket, kind) })
}

fn hear(socket: &OwnedFd) -> Vec<String> {
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| last != "end") {
        let mut buffer = [0; 99];
        let (count, _) = recv(socket, &mut buffer[..], RecvFlags::empty()).expect("recv");
        heard.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
    }
    heard
}

fn answer(socket: &OwnedFd, kind: SocketType) -> Vec<String> {
    // The one that connects twice is not there twice.
    let peer = accept(socket).expect("accept");
    let cred = rustix::net::sockopt::socket_peercred(&peer).expect("SO_PEERCRED");
    let mut buffer = vec![0; 100_000];
    let (count, _) = recv(&peer, &mut buffer[..], RecvFlags::empty()).expect("recv");
    let heard = vec![format!("{}:{}", cred.uid.as_raw(), cred.gid.as_raw()), String::from_utf8_lossy(&buffer[..count]).into_owned()];
    // A stream has no bounds: what is read in fours is the same.
    for piece in if kind == SocketType::STREAM { &["12", "345678", "9abc"][..] } else { &["1234", "5678", "9abc"] } {
        send(&peer, piece.as_bytes(), SendFlags::empty()).expect("send");
    }
    let mut total = 0;
    loop {
        let (count, _) = recv(&peer, &mut buffer[..], RecvFlags::empty()).expect("recv");
        if count == 0 {
            break;
        }
        total += count;
    }
    assert_eq!(total, 2_000_000);
    send(&peer, b"bye", SendFlags::empty()).expect("send");
    heard
}

#[test]
fn sockets_of_the_host_are_reached_where_that_is_allowed() {
    let scratch = Scratch::new();
    for (what, kind) in [("stream", SocketType::STREAM), ("seqpacket", SocketType::SEQPACKET), ("dgram", SocketType::DGRAM)] {
        let dir = directory(&scratch, what);
        let server = serve(&dir, kind);
        let expected = said(&run(&mut natively(what, &dir)));
        let heard = server.join().expect("the server");
        // By the flag, and by the annotation; by root, and by somebody else.
        for (id, by_flag, user) in [("flag", true, 0), ("annotation", false, 1234)] {
            let server = serve(&dir, kind);
            let bundle = bundle(&scratch, what, &dir, |config| {
                config["process"]["user"] = json!({"uid": user, "gid": user});
                if !by_flag {
                    config["annotations"] = json!({"io.caisson.host-uds": "open"});
                }
            });
            let mut command = scratch.verb(if by_flag { &["--host-uds=open"] } else { &[] });
            let output = run(command.args(["run", "--bundle"]).arg(&bundle).arg(id));
            assert_eq!(said(&output), expected, "{what}, {id}");
            let mut inside = server.join().expect("the server");
            if kind != SocketType::DGRAM {
                assert_eq!(std::mem::replace(&mut inside[0], heard[0].clone()), format!("{user}:{user}"));
            }
            assert_eq!(inside, heard, "{what}, {id}");
        }
    }
}

#[test]
fn sockets_of_the_host_are_out_of_reach_otherwise() {
    let scratch = Scratch::new();
    for (what, kind) in [("stream", SocketType::STREAM), ("dgram", SocketType::DGRAM)] {
        let dir = directory(&scratch, what);
        let socket = unix(kind);
        bind(&socket, &SocketAddrUnix::new(dir.join("socket")).expect("an address")).expect("bind");
        if kind == SocketType::STREAM {
            listen(&socket, 1).expect("listen");
        }
        // The annotation has the last word.
        for (flags, annotation) in [(&[][..], None), (&["--host-uds=open"], Some("none"))] {
            let bundle = bundle(&scratch, what, &dir, |config| {
                if let Some(value) = annotation {
                    config["annotations"] = json!({"io.caisson.host-uds": value});
                }
            });
            let output = run(scratch.verb(flags).args(["run", "--bundle"]).arg(&bundle).arg("closed"));
            assert!(said(&output).ends_with("Os { code: 111, kind: ConnectionRefused, message: \"Connection refused\" }\n"), "{output:?}");
        }
    }
    for arguments in [&["--host-uds=all"][..], &["--host-uds", "create"]] {
        let refused = run(Command::new(program()).args(arguments).args(["state", "x"]).stdin(Stdio::null()));
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    }
}

#[test]
fn a_socket_can_be_a_volume() {
    let scratch = Scratch::new();
    let dir = directory(&scratch, "dir");
    let socket = unix(SocketType::STREAM);
    bind(&socket, &SocketAddrUnix::new(dir.join("socket")).expect("an address")).expect("bind");
    listen(&socket, 1).expect("listen");
    // One after the other is taken, and told so.
    let server = std::thread::spawn(move || {
        for _ in 0..12 {
            std::thread::sleep(Duration::from_millis(20));
            send(accept(&socket).expect("accept"), b"!", SendFlags::empty()).expect("send");
        }
    });
    let expected = said(&run(&mut natively("crowd", &dir)));
    let bundle = bundle(&scratch, "crowd", &dir.join("socket"), |_| {});
    assert_eq!(said(&run(scratch.verb(&["--host-uds=open", "run", "--bundle"]).arg(&bundle).arg("crowd"))), expected);
    server.join().expect("the server");
}

#[test]
fn descriptors_cross_neither_way() {
    let scratch = Scratch::new();
    let dir = directory(&scratch, "dir");
    let socket = unix(SocketType::STREAM);
    bind(&socket, &SocketAddrUnix::new(dir.join("socket")).expect("an address")).expect("bind");
    listen(&socket, 1).expect("listen");
    let server = std::thread::spawn(move || {
        let peer = accept(&socket).expect("accept");
        send_file(&peer, b"take it", std::fs::File::open("/etc/passwd").expect("a file")).expect("send");
        // Until the other side is closed.
        recv(&peer, &mut [0; 9][..], RecvFlags::empty()).map(|(count, _)| count)
    });
    let bundle = bundle(&scratch, "rights", &dir, |_| {});
    let output = run(scratch.verb(&["--host-uds=open", "run", "--bundle"]).arg(&bundle).arg("rights"));
    assert_eq!(said(&output), "Err(Os { code: 1, kind: PermissionDenied, message: \"Operation not permitted\" })\n\"take it\"\n");
    assert_eq!(server.join().expect("the server").expect("the end"), 0);
}
