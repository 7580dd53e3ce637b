//! What the processes of a running sandbox have given up, as the host sees it.

mod common;

use common::{caisson, command_line, descendants, eventually, finish, sandbox_of, status_field};
use std::process::Stdio;

/// A runtime that is killed when the test ends, however it ends.
struct Runtime(std::process::Child);

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks at a sandbox whose application runs.
fn with_sandbox(look: impl FnOnce(i32, i32, &[i32])) {
    let mut command = caisson();
    command.args(["do", "--", "sh", "-c", "echo ready; exec sleep 1000"]);
    let mut child = Runtime(command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("spawn"));
    let mut ready = [0; 6];
    let started = std::io::Read::read_exact(&mut child.0.stdout.as_mut().expect("stdout"), &mut ready);
    started.expect("the application runs");
    let runtime = i32::try_from(child.0.id()).expect("a process ID");
    let (sentry, gofer) = sandbox_of(runtime).expect("a sandbox");
    look(sentry, gofer, &descendants(sentry));
    drop(child);
    assert!(eventually(10, || !common::lives(sentry)));
}

fn field(pid: i32, name: &str) -> String {
    status_field(pid, name).unwrap_or_else(|| panic!("{name} of {pid}, {}", command_line(pid)))
}

fn is_zero(mask: &str) -> bool {
    u64::from_str_radix(mask, 16) == Ok(0)
}

/// Names in a process's root directory.
fn root_of(pid: i32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/root/")).expect("its root");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

fn namespace(pid: i32, kind: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace").to_string_lossy().into_owned()
}

#[test]
fn the_sentry_has_nothing() {
    with_sandbox(|sentry, _, _| {
        assert_eq!(field(sentry, "Seccomp"), "2");
        assert_eq!(field(sentry, "NoNewPrivs"), "1");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(is_zero(&field(sentry, set)), "{set}");
        }
        // Every thread, not the first alone.
        for task in std::fs::read_dir(format!("/proc/{sentry}/task")).expect("its threads") {
            let tid = task.expect("a thread").file_name().to_string_lossy().parse().expect("a number");
            assert_eq!(field(tid, "Seccomp"), "2", "thread {tid}");
            assert!(is_zero(&field(tid, "CapEff")), "thread {tid}");
        }
        assert!(root_of(sentry).is_empty(), "{:?}", root_of(sentry));
        for kind in ["user", "pid", "net", "mnt", "ipc", "uts"] {
            assert_ne!(namespace(sentry, kind), namespace(std::process::id().cast_signed(), kind), "{kind}");
        }
        let mounts = std::fs::read_to_string(format!("/proc/{sentry}/mounts")).expect("its mounts");
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        if rustix::process::geteuid().is_root() {
            let uids = field(sentry, "Uid");
            assert!(uids.split_whitespace().all(|uid| uid != "0"), "the sentry is root on the host: {uids}");
        }
    });
}

#[test]
fn the_gofer_sees_its_trees_only() {
    with_sandbox(|_, gofer, _| {
        assert_eq!(field(gofer, "Seccomp"), "2");
        assert_eq!(field(gofer, "NoNewPrivs"), "1");
        let effective = u64::from_str_radix(&field(gofer, "CapEff"), 16).expect("a mask");
        // Neither CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_SYS_MODULE, CAP_NET_ADMIN nor CAP_SYS_RAWIO.
        assert_eq!(effective & (1 << 21 | 1 << 19 | 1 << 16 | 1 << 12 | 1 << 17), 0);
        assert!(!root_of(gofer).iter().any(|name| name == "proc" || name == "etc"), "{:?}", root_of(gofer));
        assert_ne!(namespace(gofer, "mnt"), namespace(std::process::id().cast_signed(), "mnt"));
        let served = std::path::PathBuf::from(format!("/proc/{gofer}/root/attach/0"));
        assert!(served.join("etc/passwd").is_file());
        for hidden in ["proc", "sys", "dev"] {
            assert_eq!(std::fs::read_dir(served.join(hidden)).expect(hidden).count(), 0, "the host's /{hidden}");
        }
    });
}

#[test]
fn stubs_have_less_than_the_sentry() {
    with_sandbox(|_, _, stubs| {
        assert!(!stubs.is_empty());
        for &stub in stubs {
            // One that was kept ready may be gone by now.
            let Some((seccomp, effective)) = status_field(stub, "Seccomp").zip(status_field(stub, "CapEff")) else { continue };
            assert_eq!(seccomp, "2", "{stub}");
            assert!(is_zero(&effective), "{stub}");
        }
    });
}

#[test]
fn no_descriptor_of_the_host_leaks_in() {
    // A descriptor that the caller has left open, as shells and supervisors do.
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "exec 9</etc/passwd; exec \"$0\" do -- sh -c 'ls /proc/self/fd'"]).arg(common::program());
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
    let output = finish(child);
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    // 3 is the directory that ls itself has open.
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"], "{output:?}");
}
