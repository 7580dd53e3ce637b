//! Sentry and gofer while an application runs: filtered, without capabilities they do not need, in roots that hold nothing of
//! the host, and gone when any of the three processes is killed.

use caisson_tests_support::bundle::Bundle;
use caisson_tests_support::suite::platforms;
use caisson_tests_support::{Program, host, root};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A sandbox that would run for long, ended when dropped.
struct Running {
    child: Child,
    _bundle: Bundle,
    runtime: i32,
    sentry: i32,
    gofer: i32,
}

impl Running {
    fn start(platform: &str) -> Self {
        let program = Program::new(root::debian().expect("a root"), &["/bin/sh", "-c", "sleep 1000; :"]);
        let bundle = Bundle::new(&program, false).expect("a bundle");
        let mut command = bundle.command(platform).expect("a command");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().expect("spawn");
        let runtime = i32::try_from(child.id()).expect("a pid");
        let (sentry, gofer) = host::sentry_and_gofer(runtime).expect("sentry and gofer");
        // The application runs once there are processes below the sentry: the shell and its sleep.
        wait("the application", || host::descendants(sentry).len() > 1);
        std::thread::sleep(Duration::from_millis(300));
        Self { child, _bundle: bundle, runtime, sentry, gofer }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn field(pid: i32, name: &str) -> String {
    host::status(pid, name).unwrap_or_else(|| panic!("/proc/{pid}/status has no {name}"))
}

fn capabilities(pid: i32, set: &str) -> u64 {
    u64::from_str_radix(&field(pid, set), 16).expect("a set")
}

#[test]
fn the_sentry_is_filtered_and_powerless() {
    for platform in platforms() {
        let run = Running::start(&platform);
        assert_eq!(field(run.sentry, "Seccomp"), "2");
        assert_eq!(field(run.sentry, "NoNewPrivs"), "1");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(capabilities(run.sentry, set), 0, "{set}");
        }
        assert_ne!(field(run.sentry, "Uid").split_whitespace().next(), Some("0"), "the host's root");
        // every thread, not the first alone
        for task in fs::read_dir(format!("/proc/{}/task", run.sentry)).expect("tasks").flatten() {
            let text = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            assert!(text.contains("Seccomp:\t2"), "a thread without a filter:\n{text}");
            assert!(text.contains("CapEff:\t0000000000000000"), "a thread with capabilities:\n{text}");
        }
        // and the stubs below it
        for stub in host::descendants(run.sentry) {
            assert_eq!(field(stub, "CapEff"), "0000000000000000", "stub {stub}");
        }
    }
}

#[test]
fn the_gofer_is_filtered_and_has_what_serving_files_needs() {
    /// CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SETGID, SETUID, SYS_CHROOT, MKNOD, SETFCAP: of those at most.
    const MAY: u64 = 0b1_1111 | 1 << 6 | 1 << 7 | 1 << 18 | 1 << 27 | 1 << 31;
    for platform in platforms() {
        let run = Running::start(&platform);
        assert_eq!(field(run.gofer, "Seccomp"), "2");
        assert_eq!(field(run.gofer, "NoNewPrivs"), "1");
        let effective = capabilities(run.gofer, "CapEff");
        assert_eq!(effective & !MAY, 0, "capabilities {effective:x}");
    }
}

/// The names in a process's root.
fn names(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/root/")).expect("the root").flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn roots_hold_nothing_of_the_host() {
    for platform in platforms() {
        let run = Running::start(&platform);
        assert_eq!(names(run.sentry), Vec::<String>::new());
        // The gofer's root has the container's tree somewhere below, but none of the host's names.
        let (mine, gofers) = (names(std::process::id().cast_signed()), names(run.gofer));
        let host_only = ["home", "root", "boot", "mnt", "work", "proc"];
        for name in host_only.iter().filter(|n| mine.contains(&(**n).to_string())) {
            let inside = format!("/proc/{}/root/{name}", run.gofer);
            let same = fs::metadata(&inside).ok().zip(fs::metadata(format!("/{name}")).ok());
            use std::os::unix::fs::MetadataExt;
            assert!(!same.is_some_and(|(a, b)| (a.dev(), a.ino()) == (b.dev(), b.ino())), "{name} of the host among {gofers:?}");
        }
        for pid in [run.sentry, run.gofer] {
            for kind in ["mnt", "net", "pid", "user", "ipc", "uts"] {
                let of = |p: &str| fs::read_link(format!("/proc/{p}/ns/{kind}")).expect("a namespace");
                let gofer_shares = pid == run.gofer && kind != "mnt";
                assert!(gofer_shares || of(&pid.to_string()) != of("self"), "{kind} of {pid} is the host's");
            }
        }
    }
}

#[test]
fn no_descriptor_leads_to_the_host() {
    for platform in platforms() {
        let run = Running::start(&platform);
        for entry in fs::read_dir(format!("/proc/{}/fd", run.sentry)).expect("descriptors").flatten() {
            let to = fs::read_link(entry.path()).unwrap_or_default();
            let text = to.to_string_lossy();
            // Regular files of the container that the gofer has donated are its own matter; directories never are.
            let directory = fs::metadata(entry.path()).is_ok_and(|m| m.is_dir());
            assert!(!directory, "the sentry holds a directory: {text}");
        }
    }
}

fn lives(pid: i32) -> bool {
    host::status(pid, "State").is_some_and(|s| !s.starts_with('Z'))
}

#[test]
fn killing_any_of_the_three_leaves_nothing() {
    for platform in platforms() {
        for who in ["runtime", "sentry", "gofer"] {
            let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
            let mut run = Running::start(&platform);
            let all = host::descendants(run.runtime);
            let victim = match who {
                "runtime" => run.runtime,
                "sentry" => run.sentry,
                _ => run.gofer,
            };
            kill_process(Pid::from_raw(victim).expect("a pid"), Signal::KILL).expect("kill");
            let _ = run.child.wait();
            wait(&format!("everybody gone after the {who}"), || all.iter().all(|pid| !lives(*pid)));
            assert_eq!(fs::read_to_string("/proc/self/mounts").expect("mounts"), mounts, "after the {who}");
            let state = run._bundle.state();
            wait("no state left", || fs::read_dir(&state).map_or(true, |mut d| d.next().is_none()));
        }
    }
}

#[test]
fn the_image_is_never_written() {
    let root = root::debian().expect("a root");
    let before = fs::metadata(root.join("etc/passwd")).expect("metadata").modified().expect("a time");
    for platform in platforms() {
        let script = "echo x >> /etc/passwd; rm -rf /usr/share/doc /etc/shadow; touch /new; chmod 777 /etc; tail -1 /etc/passwd; ls /new";
        let output = Program::script(root, script).sandboxed(&platform).expect("a run");
        assert_eq!((output.status, output.text().as_str()), (0, "x\n/new\n"), "{output}");
        assert_eq!(fs::metadata(root.join("etc/passwd")).expect("metadata").modified().expect("a time"), before);
        assert!(root.join("etc/shadow").exists() && !root.join("new").exists());
    }
}

#[test]
fn fork_bombs_stay_inside() {
    // The host goes on making processes while one runs in a sandbox and is then killed.
    for platform in platforms() {
        let script = "ulimit -u 200; bomb() { bomb | bomb & }; bomb; sleep 1000";
        let program = Program::new(root::debian().expect("a root"), &["setpriv", "--reuid=4242", "--clear-groups", "bash", "-c", script]);
        let bundle = Bundle::new(&program, false).expect("a bundle");
        let mut child = bundle
            .command(&platform)
            .expect("a command")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("spawn");
        std::thread::sleep(Duration::from_secs(3));
        for _ in 0..20 {
            assert!(Command::new("true").status().expect("the host can make processes").success());
        }
        let all = host::descendants(i32::try_from(child.id()).expect("a pid"));
        child.kill().expect("kill");
        child.wait().expect("wait");
        wait("everybody gone", || all.iter().all(|pid| !lives(*pid)));
    }
}
