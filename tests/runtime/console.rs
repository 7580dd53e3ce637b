//! Terminals: the user's own through `caisson do`, and one sent over `--console-socket`.

mod common;

use common::{Scratch, eventually, kill, sandbox_of};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A terminal with a program on it.
struct Session {
    master: File,
    slave: OwnedFd,
    child: Child,
    /// Everything written so far.
    seen: Arc<Mutex<String>>,
}

impl Session {
    /// Starts `caisson ARGS` as the leader of a session on a new terminal of 40 lines and 100 columns.
    fn start(args: &[&str]) -> Session {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("openpt");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let slave = ioctl_tiocgptpeer(&master, flags).expect("slave");
        tcsetwinsize(&master, Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).expect("size");
        let copy = || Stdio::from(slave.try_clone().expect("dup"));
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(common::program()).args(args);
        let child = command.stdin(copy()).stdout(copy()).stderr(copy()).spawn().expect("setsid");
        let master = File::from(master);
        let seen = Arc::new(Mutex::new(String::new()));
        read_all(master.try_clone().expect("dup"), &seen);
        Session { master, slave, child, seen }
    }

    fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("write");
    }

    /// Waits until `text` has appeared, and forgets everything up to there.
    fn expect(&self, text: &str) {
        let found = eventually(30, || {
            let mut seen = self.seen.lock().expect("lock");
            let Some(at) = seen.find(text) else { return false };
            seen.drain(..at + text.len());
            true
        });
        assert!(found, "{text:?} does not appear in {:?}", self.seen.lock().expect("lock"));
    }

    /// Waits for the end; its status.
    fn end(&mut self) -> Option<i32> {
        let ended = eventually(30, || self.child.try_wait().expect("wait").is_some());
        assert!(ended, "it does not end: {:?}", self.seen.lock().expect("lock"));
        self.child.wait().expect("wait").code()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Collects what a terminal shows.
fn read_all(mut from: File, into: &Arc<Mutex<String>>) {
    let into = into.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            into.lock().expect("lock").push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    });
}

#[test]
fn a_shell_on_a_terminal() {
    let mut session = Session::start(&["do", "--env", "PS1=ready> ", "--", "/bin/sh"]);
    session.expect("ready> ");
    session.type_in("tty; stty size\r");
    session.expect("/dev/pts/0");
    session.expect("40 100");
    // Line editing: the terminal inside erases a character.
    session.type_in("echo abX\x7fc\r");
    session.expect("abc\r\n");
    // Ctrl-C reaches the foreground only; the shell goes on.
    session.type_in("sleep 1000\r");
    std::thread::sleep(Duration::from_millis(500));
    session.type_in("\x03");
    session.expect("ready> ");
    session.type_in("echo status $?\r");
    session.expect("status 130");
    tcsetwinsize(&session.master, Winsize { ws_row: 50, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 }).expect("size");
    std::thread::sleep(Duration::from_millis(300));
    session.type_in("stty size\r");
    session.expect("50 120");
    session.type_in("exit 9\r");
    assert_eq!(session.end(), Some(9));
}

#[test]
fn job_control() {
    let mut session = Session::start(&["do", "--env", "PS1=ready> ", "--", "/bin/bash", "--norc"]);
    session.expect("ready> ");
    session.type_in("sleep 1000\r");
    std::thread::sleep(Duration::from_millis(500));
    session.type_in("\x1a");
    session.expect("Stopped");
    session.type_in("jobs\r");
    session.expect("sleep 1000");
    session.type_in("fg\r");
    session.expect("sleep 1000");
    std::thread::sleep(Duration::from_millis(300));
    session.type_in("\x03");
    session.expect("ready> ");
    session.type_in("exit\r");
    session.end();
}

#[test]
fn the_users_terminal_is_restored() {
    for kill_sentry in [false, true] {
        let mut session = Session::start(&["do", "--", "/bin/sh", "-c", "echo started; read line; echo got $line"]);
        let flags = |session: &Session| tcgetattr(&session.slave).expect("tcgetattr").local_modes;
        session.expect("started");
        let raw = flags(&session);
        assert!(!raw.contains(rustix::termios::LocalModes::ICANON));
        if kill_sentry {
            let descendant = i32::try_from(session.child.id()).expect("a process ID");
            let (sentry, _) = sandbox_of(descendant).expect("a sandbox");
            kill(sentry);
            assert_eq!(session.end(), Some(125));
        } else {
            session.type_in("a line\r");
            session.expect("got a line");
            assert_eq!(session.end(), Some(0));
        }
        assert!(flags(&session).contains(rustix::termios::LocalModes::ICANON | rustix::termios::LocalModes::ECHO));
    }
}

#[test]
fn a_terminal_is_sent_over_the_console_socket() {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let scratch = Scratch::new();
    let bundle = scratch.bundle(&["/bin/sh", "-c", "tty; read line; echo got $line"], |config| {
        config["process"]["terminal"] = true.into();
        config["process"]["consoleSize"] = serde_json::json!({"height": 30, "width": 90});
    });
    let socket = scratch.path("console");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
    let mut command = scratch.run(&bundle, "console");
    command.arg("--detach").arg("--console-socket").arg(&socket).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("spawn");
    let (connection, _) = listener.accept().expect("accept");
    let mut name = [0; 64];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [std::io::IoSliceMut::new(&mut name)];
    recvmsg(&connection, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).expect("recvmsg");
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let mut master = File::from(descriptor.expect("a descriptor"));
    assert_eq!(common::finish(child).status.code(), Some(0));
    let size = rustix::termios::tcgetwinsize(&master).expect("size");
    assert_eq!((size.ws_row, size.ws_col), (30, 90));
    let seen = Arc::new(Mutex::new(String::new()));
    read_all(master.try_clone().expect("dup"), &seen);
    let shows = |text: &str| eventually(30, || seen.lock().expect("lock").contains(text));
    assert!(shows("/dev/pts/0"), "{seen:?}");
    master.write_all(b"hello\r").expect("write");
    assert!(shows("got hello"), "{seen:?}");
    assert!(eventually(30, || scratch.status("console") == "stopped"));
    assert_eq!(common::outcome(&mut scratch.verb(&["delete", "console"])).0, 0);
}
