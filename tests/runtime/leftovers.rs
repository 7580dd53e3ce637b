//! A sandbox that ends, however it ends, leaves nothing behind: no process, no mount, no state.

mod common;

use common::{Scratch, caisson, descendants, eventually, finish, kill, lives, sandbox_of};
use std::process::{Command, Stdio};

fn mounts() -> String {
    std::fs::read_to_string("/proc/self/mounts").expect("mounts")
}

/// What is killed.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Victim {
    Runtime,
    Sentry,
    Gofer,
}

/// What says that it runs, and then waits for ever.
const WAITING: &str = "echo ready; read line";

/// Starts a sandbox that would run for ever, kills one of its processes, and looks for the others.
fn kill_and_look(mut command: Command, victim: Victim) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("spawn");
    // The application needs no file any more once it has said so, and then waits for a line that never comes.
    let mut ready = [0; 6];
    let said = std::io::Read::read_exact(child.stdout.as_mut().expect("stdout"), &mut ready);
    let _stdin = child.stdin.take();
    if said.is_err() {
        panic!("the application does not run: {:?}", finish(child));
    }
    let runtime = i32::try_from(child.id()).expect("a process ID");
    let (sentry, gofer) = sandbox_of(runtime).expect("a sandbox");
    let all = descendants(runtime);
    kill(match victim {
        Victim::Runtime => runtime,
        Victim::Sentry => sentry,
        Victim::Gofer => gofer,
    });
    let output = finish(child);
    if victim != Victim::Runtime {
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let who = if victim == Victim::Sentry { "sentry" } else { "gofer" };
        assert!(text.contains(who) && text.contains("signal 9"), "{text}");
    }
    for pid in all {
        assert!(eventually(10, || !lives(pid)), "{} is left after killing the {victim:?}", common::command_line(pid));
    }
}

#[test]
fn killed_processes_take_a_command_with_them() {
    let before = mounts();
    for victim in [Victim::Runtime, Victim::Sentry, Victim::Gofer] {
        let mut command = caisson();
        command.args(["do", "--", "sh", "-c", WAITING]);
        kill_and_look(command, victim);
    }
    assert_eq!(mounts(), before);
}

#[test]
fn killed_processes_take_a_container_with_them() {
    let before = mounts();
    let scratch = Scratch::new();
    let bundle = scratch.bundle(&["sh", "-c", WAITING], |_| {});
    for victim in [Victim::Runtime, Victim::Sentry, Victim::Gofer] {
        kill_and_look(scratch.run(&bundle, "killed"), victim);
        assert!(eventually(10, || scratch.state_is_empty()), "state is left after killing the {victim:?}");
    }
    assert_eq!(mounts(), before);
}

#[test]
fn a_detached_container_ends_without_a_trace() {
    let scratch = Scratch::new();
    let bundle = scratch.bundle(&["sleep", "1000"], |_| {});
    let pid_file = scratch.path("pid");
    let mut command = scratch.run(&bundle, "detached");
    command.arg("--detach").arg("--pid-file").arg(&pid_file).stdout(Stdio::null()).stderr(Stdio::null());
    let output = finish(command.spawn().expect("spawn"));
    assert_eq!(output.status.code(), Some(0));
    let pid: i32 = std::fs::read_to_string(&pid_file).expect("the PID file").parse().expect("a number");
    assert!(lives(pid));
    assert_eq!(scratch.status("detached"), "running");
    // The name is taken until it is deleted.
    let again = finish(scratch.run(&bundle, "detached").stderr(Stdio::piped()).spawn().expect("spawn"));
    assert_eq!(again.status.code(), Some(112), "{again:?}");
    let all = descendants(pid);
    kill(pid);
    assert!(eventually(10, || !lives(pid) && scratch.status("detached") == "stopped"));
    for pid in all {
        assert!(eventually(10, || !lives(pid)), "{} is left", common::command_line(pid));
    }
    assert_eq!(common::outcome(&mut scratch.verb(&["delete", "detached"])).0, 0);
    assert!(scratch.state_is_empty());
}

#[test]
fn a_container_that_ends_by_itself_leaves_no_state() {
    let scratch = Scratch::new();
    let bundle = scratch.bundle(&["sh", "-c", "exit 7"], |_| {});
    let output = finish(scratch.run(&bundle, "short").stderr(Stdio::piped()).spawn().expect("spawn"));
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(scratch.state_is_empty());
}

/// A network namespace with an interface, and a host at its other end.
struct Net(String);

impl Net {
    fn new() -> Net {
        let net = Net(format!("clo{}", std::process::id()));
        let (own, far) = (&net.0, format!("{}-far", net.0));
        for line in [
            format!("netns add {own}"),
            format!("netns add {far}"),
            format!("-n {far} link add v0 type veth peer name eth0 netns {own}"),
            format!("-n {far} link set v0 up"),
            format!("-n {own} addr add 10.78.1.2/24 dev eth0"),
            format!("-n {own} link set eth0 up"),
            format!("-n {own} route add default via 10.78.1.1"),
        ] {
            net.ip(&line);
        }
        net
    }

    fn ip(&self, line: &str) -> String {
        let output = Command::new("ip").args(line.split(' ')).output().expect("ip");
        assert!(output.status.success(), "ip {line}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Whether the interface has its address and its route.
    fn is_whole(&self) -> bool {
        let (addresses, routes) = (self.ip(&format!("-n {} -4 addr show eth0", self.0)), self.ip(&format!("-n {} route", self.0)));
        addresses.contains("10.78.1.2/24") && routes.contains("default via 10.78.1.1")
    }

    fn is_taken(&self) -> bool {
        !self.ip(&format!("-n {} -4 addr show eth0", self.0)).contains("10.78.1.2")
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [self.0.clone(), format!("{}-far", self.0)] {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

#[test]
fn interfaces_are_given_back_for_those_who_were_killed() {
    let scratch = Scratch::new();
    let net = Net::new();
    let bundle = scratch.bundle(&["sleep", "1000"], |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        for namespace in namespaces.iter_mut().filter(|namespace| namespace["type"] == "network") {
            namespace["path"] = format!("/run/netns/{}", net.0).into();
        }
    });
    let create = |id: &str| {
        let mut command = scratch.verb(&["create", "--bundle"]);
        command.arg(&bundle).arg(id).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(finish(command.spawn().expect("spawn")).status.success());
        assert!(net.is_taken());
        let state = scratch.verb(&["state", id]).output().expect("state").stdout;
        let state: serde_json::Value = serde_json::from_slice(&state).expect("JSON");
        i32::try_from(state["pid"].as_i64().expect("a pid")).expect("a pid")
    };
    let delete = |id: &str| assert_eq!(common::outcome(&mut scratch.verb(&["delete", "--force", id])).0, 0);
    // The stand-in is killed: who deletes the container gives back.
    let pid = create("first");
    kill(pid);
    assert!(eventually(10, || !lives(pid)) && net.is_taken());
    delete("first");
    assert!(net.is_whole());
    // Or who makes the next one there, which takes the same; the dead one's end takes nothing from it.
    let pid = create("dead");
    kill(pid);
    assert!(eventually(10, || !lives(pid)));
    create("next");
    assert!(scratch.state().join("next/network.json").exists() && !scratch.state().join("dead/network.json").exists());
    delete("dead");
    assert!(net.is_taken());
    delete("next");
    assert!(net.is_whole());
    // `run` that is killed: nobody deletes it.
    let mut run = scratch.run(&bundle, "run").stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("spawn");
    assert!(eventually(20, || scratch.status("run") == "running" && net.is_taken()));
    run.kill().expect("kill");
    run.wait().expect("wait");
    assert!(eventually(20, || net.is_whole() && scratch.state_is_empty()));
}
