//! Pods: what their containers share, what they do not, and what is left of them.

use anyhow::{Context, Result, bail, ensure};
use caisson_tests_engines::cri::{self, Pod};
use caisson_tests_engines::{Cri, eventually, output};
use caisson_tests_support::host;
use k8s_cri::v1::ContainerState;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// With every runtime.
pub const TESTS: &[(&str, super::Test)] = &[
    ("everything_shared", everything_shared),
    ("apart", apart),
    ("twenty_pods", twenty_pods),
    ("containerd_restarts", containerd_restarts),
    ("containerd_dies_under_way", containerd_dies_under_way),
    ("shim_is_killed", shim_is_killed),
    ("pod_goes_first", pod_goes_first),
    ("much_is_logged", much_is_logged),
    ("no_room_for_the_log", no_room_for_the_log),
    ("fifty_pods_at_once", fifty_pods_at_once),
    ("fifty_in_five_pods", fifty_in_five_pods),
];

/// What only a sandbox has.
pub const OWN: &[(&str, super::Test)] =
    &[("sentry_is_killed", sentry_is_killed), ("gofer_is_killed", gofer_is_killed), ("restarts_leave_nothing", restarts_leave_nothing)];

/// Where the program that talks to its like is seen.
pub const PEER: &str = "/peer/pod-peer";

/// Directories with that program, and for both containers.
pub fn directories(c: &Cri) -> Result<[PathBuf; 2]> {
    let (peer, shared) = (c.machine.path("peer"), c.machine.path("shared"));
    for dir in [&peer, &shared] {
        std::fs::create_dir_all(dir)?;
    }
    if !peer.join("pod-peer").exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_pod-peer"), peer.join("pod-peer"))?;
    }
    Ok([peer, shared])
}

/// A container that waits, and one that serves.
fn two(c: &Cri, pod: &Pod) -> Result<(String, String)> {
    let [peer, shared] = directories(c)?;
    let mounts: [(&Path, &str); 2] = [(&peer, "/peer"), (&shared, "/shared")];
    let asks = c.run_container(pod, "asks", 0, &["sleep", "1111"], &mounts)?;
    let serves = c.run_container(pod, "serves", 0, &[PEER, "serve"], &mounts)?;
    wait_for_server(c, pod, 1)?;
    Ok((asks, serves))
}

fn wait_for_server(c: &Cri, pod: &Pod, times: usize) -> Result<()> {
    let ready = || (c.log(pod, "serves").iter().filter(|line| *line == "ready").count() == times).then_some(());
    eventually(30, ready).with_context(|| format!("it does not serve: {:?}", c.log(pod, "serves")))
}

fn ask(c: &Cri, id: &str, what: &[&str]) -> Result<()> {
    for what in what {
        let said = c.exec_ok(id, &[PEER, "ask", what])?;
        ensure!(said == format!("{what}: yes\n"), "{said}");
    }
    Ok(())
}

fn end(c: &Cri, pod: &Pod) -> Result<()> {
    c.stop_pod(pod)?;
    c.remove_pod(pod)?;
    empty(c)
}

/// Nothing is there but containerd.
fn empty(c: &Cri) -> Result<()> {
    let left = || {
        let mut left: Vec<String> = Vec::new();
        for what in ["containerd-shim", "caisson sentry ", "caisson gofer ", "sleep 1", "pod-peer"] {
            left.extend(c.machine.all_processes(what).into_iter().map(|pid| format!("{pid} {}", host::command_line(pid).join(" "))));
        }
        left.extend(c.machine.mounts("/run/containerd"));
        left.extend(c.machine.groups().iter().map(|group| group.display().to_string()).filter(|name| !name.ends_with("/k8s.io")));
        let list = c.machine.run(&["ls", "/run/containerd/caisson/k8s.io"]).map(|output| output.text()).unwrap_or_default();
        left.extend(list.lines().map(str::to_owned));
        left
    };
    match eventually(30, || left().is_empty().then_some(())) {
        Some(()) => Ok(()),
        None => bail!("left behind: {:#?}", left()),
    }
}

fn everything_shared(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let (asks, serves) = two(c, &pod)?;
    ask(c, &asks, &["shm", "sem", "mq", "tcp", "abstract", "socket", "fifo", "lock", "futex", "peer"])?;
    for id in [&asks, &serves] {
        ensure!(c.exec_ok(id, &["hostname"])? == "pod-host\n", "hostname");
    }
    // The other container begins anew, and finds what it left: the kernel is the same.
    c.stop(&serves, 0)?;
    c.remove(&serves)?;
    ask(c, &asks, &["shm", "sem", "mq"])?;
    let [peer, shared] = directories(c)?;
    let again = c.run_container(&pod, "serves", 1, &[PEER, "serve"], &[(&peer, "/peer"), (&shared, "/shared")])?;
    wait_for_server(c, &pod, 2)?;
    ask(c, &asks, &["shm", "tcp", "abstract", "socket", "fifo", "lock", "futex", "peer"])?;
    ensure!(c.status(&again)?.state == ContainerState::ContainerRunning as i32, "it has ended");
    end(c, &pod)
}

fn apart(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let one = c.run_container(&pod, "one", 0, &["sh", "-c", "echo mine > /secret; exec sleep 1111"], &[])?;
    let two = c.run_container(&pod, "two", 0, &["sh", "-c", "echo mine > /secret2; exec sleep 2222"], &[])?;
    let ready = || (c.exec_ok(&one, &["cat", "/secret"]).ok()? == "mine\n").then_some(());
    eventually(30, ready).context("it does not start")?;
    ensure!(c.exec(&two, &["cat", "/secret"])?.exit_code != 0, "a file of the other one");
    for (id, own, other) in [(&one, "sleep 1111", "sleep 2222"), (&two, "sleep 2222", "sleep 1111")] {
        let list = c.exec_ok(id, &["ps"])?;
        ensure!(list.contains(own) && !list.contains(other) && !list.contains("1000000"), "{list}");
        ensure!(c.exec_ok(id, &["cat", "/proc/1/comm"])? == "sleep\n", "its first process");
        let mounts = c.exec_ok(id, &["ls", "/proc"])?;
        let numbers = mounts.lines().filter(|name| name.parse::<u32>().is_ok()).count();
        ensure!(numbers == 2, "{mounts}");
    }
    // Everyone it sees, and not one of the other container.
    c.exec(&one, &["sh", "-c", "kill -KILL -1"])?;
    ensure!(c.status(&two)?.state == ContainerState::ContainerRunning as i32, "killed by another container");
    let names = |id: &str| c.exec_ok(id, &["sh", "-c", "cd /proc/self/ns; for n in ipc uts net pid mnt; do readlink $n; done"]);
    let (of_one, of_two) = (names(&one)?, names(&two)?);
    let same: Vec<bool> = of_one.lines().zip(of_two.lines()).map(|(a, b)| a == b).collect();
    ensure!(same == [true, true, true, false, false], "{of_one}{of_two}");
    end(c, &pod)
}

fn twenty_pods(c: &Cri) -> Result<()> {
    for n in 0..20 {
        let pod = c.run_pod(&format!("pod{n}"), n % 2 == 0)?;
        let id = c.run_container(&pod, "one", 0, &["true"], &[])?;
        let ended = || (c.status(&id).ok()?.state == ContainerState::ContainerExited as i32).then_some(());
        eventually(30, ended).context("it does not end")?;
        ensure!(c.status(&id)?.exit_code == 0, "{:?}", c.status(&id)?);
        c.stop_pod(&pod)?;
        c.remove_pod(&pod)?;
    }
    empty(c)
}

fn containerd_restarts(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", true)?;
    let one = c.run_container(&pod, "one", 0, &["sleep", "1111"], &[])?;
    let before = c.sentries();
    c.restart()?;
    ensure!(c.status(&one)?.state == ContainerState::ContainerRunning as i32, "it has ended");
    ensure!(c.sentries() == before, "another sentry");
    ensure!(c.exec_ok(&one, &["hostname"])? == "pod-host\n", "hostname");
    let two = c.run_container(&pod, "two", 0, &["sleep", "2222"], &[])?;
    ensure!(c.exec_ok(&two, &["ps"])?.contains("sleep 1111"), "not in the same sandbox");
    c.stop(&one, 0)?;
    ensure!(c.status(&one)?.exit_code == 137, "{:?}", c.status(&one)?);
    end(c, &pod)
}

/// While containers have been asked to end, and a command runs in one.
fn containerd_dies_under_way(c: &Cri) -> Result<()> {
    let [_, shared] = directories(c)?;
    let pod = c.run_pod("pod", false)?;
    let waits = "while [ ! -e /shared/go ]; do sleep 0.1; done";
    let polite = format!("trap 'echo asked; {waits}; exit 9' TERM; echo ready; while :; do sleep 0.1; done");
    let stubborn = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.1; done";
    let mut ids = Vec::new();
    for (name, script) in [("polite", polite.as_str()), ("stubborn", stubborn)] {
        ids.push(c.run_container(&pod, name, 0, &["sh", "-c", script], &[(&shared, "/shared")])?);
        c.logged(&pod, name, "ready")?;
    }
    let [polite, stubborn] = &ids[..] else { bail!("{ids:?}") };
    let mut stream = c.stream_exec(stubborn, &["sh", "-c", &format!("echo begun; {waits}; touch /shared/done")], false)?;
    stream.shows("begun")?;
    let stops = ids.iter().map(|id| c.begin_stop(id, 60)).collect::<Vec<_>>();
    for (id, name) in [(polite, "polite"), (stubborn, "stubborn")] {
        // Asking for the status carries the other requests on.
        let asked = || (c.status(id).is_ok() && c.log(&pod, name).iter().any(|line| line == "asked")).then_some(());
        eventually(30, asked).with_context(|| format!("{name} is not asked to end"))?;
    }
    c.restart()?;
    for stop in stops {
        ensure!(c.done(stop)?.is_err(), "it is said to have ended");
    }
    for id in &ids {
        ensure!(c.status(id)?.state == ContainerState::ContainerRunning as i32, "{:?}", c.status(id)?);
        ensure!(c.exec_ok(id, &["hostname"])? == "pod-host\n", "hostname");
    }
    std::fs::write(shared.join("go"), "")?;
    ensure!(c.exited(polite)? == 9, "{:?}", c.status(polite)?);
    // What was executed has gone on, though nobody listens to it any more.
    eventually(30, || shared.join("done").exists().then_some(())).context("the command has ended with containerd")?;
    c.stop(stubborn, 1)?;
    ensure!(c.exited(stubborn)? == 137, "{:?}", c.status(stubborn)?);
    end(c, &pod)
}

fn shim_is_killed(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let one = c.run_container(&pod, "one", 0, &["sleep", "1111"], &[])?;
    for pid in c.machine.processes("containerd-shim") {
        host::kill(pid, "KILL")?;
    }
    let ended = || (c.status(&one).ok()?.state == ContainerState::ContainerExited as i32).then_some(());
    eventually(30, ended).context("it is not told that the container has ended")?;
    c.remove(&one)?;
    end(c, &pod)?;
    // And the next one is none the worse for it.
    let pod = c.run_pod("next", false)?;
    let one = c.run_container(&pod, "one", 0, &["sleep", "1111"], &[])?;
    ensure!(c.exec_ok(&one, &["hostname"])? == "next-host\n", "hostname");
    end(c, &pod)
}

fn pod_goes_first(c: &Cri) -> Result<()> {
    // Without a word to the containers in it.
    let pod = c.run_pod("pod", true)?;
    let one = c.run_container(&pod, "one", 0, &["sleep", "1111"], &[])?;
    let two = c.run_container(&pod, "two", 0, &["sleep", "2222"], &[])?;
    end(c, &pod)?;
    for id in [&one, &two] {
        ensure!(c.status(id).is_err(), "it is still there");
    }
    Ok(())
}

/// 100 MB through the log's pipe: all of it arrives, though its reader stops for a while, and nobody on the way keeps it.
fn much_is_logged(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let one = c.run_container(&pod, "one", 0, &["sh", "-c", output::SCRIPT], &[])?;
    let log = Path::new(&pod.config.log_directory).join("one.log");
    let size = || std::fs::metadata(&log).map_or(0, |attr| attr.len());
    eventually(30, || (size() > 1_000_000).then_some(())).context("the log does not grow")?;
    let readers = c.machine.processes("containerd --config");
    for pid in &readers {
        host::kill(*pid, "STOP")?;
    }
    // A write may be under way.
    std::thread::sleep(Duration::from_millis(200));
    let before = size();
    std::thread::sleep(Duration::from_millis(500));
    let stopped = size();
    for pid in &readers {
        host::kill(*pid, "CONT")?;
    }
    ensure!(before == stopped && stopped < output::BYTES as u64, "it was not stopped: {before}, {stopped}");
    let ended = || (c.status(&one).ok()?.state == ContainerState::ContainerExited as i32).then_some(());
    ensure!((0..4).any(|_| eventually(30, ended).is_some()), "{:?}", c.status(&one)?);
    let whole = || output::complete(c.log(&pod, "one").join("\n").as_bytes());
    eventually(30, || whole().ok()).with_context(|| format!("{:?}", whole()))?;
    for what in ["containerd-shim-caisson", "caisson sentry "] {
        for pid in c.machine.all_processes(what) {
            let [_, _, kilobytes] = has(pid)?;
            ensure!(kilobytes < 60_000, "{what}: {kilobytes} KiB");
        }
    }
    end(c, &pod)
}

/// The disk is full on which the log is: the container runs on, to its end and with its status.
fn no_room_for_the_log(c: &Cri) -> Result<()> {
    let [_, shared] = directories(c)?;
    let config = c.pod_config("pod")?;
    c.machine.ok(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", &config.log_directory])?;
    let pod = c.run_pod("pod", false)?;
    let script =
        "yes xxxxxxxxxxxxxxxxxxx | head -n 200000; echo full > /shared/full; while [ ! -e /shared/go ]; do sleep 0.1; done; exit 5";
    let one = c.run_container(&pod, "one", 0, &["sh", "-c", script], &[(&shared, "/shared")])?;
    eventually(30, || shared.join("full").exists().then_some(())).context("it does not go on")?;
    let used = c.machine.ok(&["df", "--output=pcent", &config.log_directory])?;
    ensure!(used.contains("100%"), "{used}");
    ensure!(c.exec_ok(&one, &["echo", "fine"])? == "fine\n", "exec");
    std::fs::write(shared.join("go"), "")?;
    ensure!(c.exited(&one)? == 5, "{:?}", c.status(&one)?);
    // The next one, too, though it cannot be logged at all.
    let two = c.run_container(&pod, "two", 0, &["sh", "-c", "echo x; exit 6"], &[])?;
    ensure!(c.exited(&two)? == 6, "{:?}", c.status(&two)?);
    end(c, &pod)
}

/// Pods that are made, run and removed beside each other.
fn fifty_pods_at_once(c: &Cri) -> Result<()> {
    let pods: Vec<Pod> = c.together(50, |n| c.pod_config(&format!("pod{n}")))?;
    let mut ids = Vec::new();
    for pod in &pods {
        ids.push(c.run_container(pod, "one", 0, &["sleep", "1111"], &[])?);
    }
    for (pod, id) in pods.iter().zip(&ids) {
        let name = format!("{}-host\n", pod.config.metadata.as_ref().context("metadata")?.name);
        ensure!(c.exec_ok(id, &["hostname"])? == name, "{name}");
    }
    c.remove_together(&pods)?;
    empty(c)
}

/// Containers that begin at once in pods whose processes and IPC they share.
fn fifty_in_five_pods(c: &Cri) -> Result<()> {
    let [peer, shared] = directories(c)?;
    let pods: Vec<Pod> = c.together(5, |n| {
        let mut config = c.pod_config(&format!("pod{n}"))?;
        cri::namespaces(&mut config).pid = 0;
        Ok(config)
    })?;
    let mut ids = Vec::new();
    for pod in &pods {
        for n in 0..10 {
            // Of the pod's number, so that nothing is found in a wrong one.
            let name = format!("{}-{n}", pod.config.metadata.as_ref().context("metadata")?.name);
            let volume = shared.join(&name);
            std::fs::create_dir_all(&volume)?;
            let script = format!("while [ ! -e /dev/shm/{name} ]; do sleep 0.1; touch /dev/shm/{name}; done; exec sleep 1111");
            let mounts = [(&peer, "/peer"), (&volume, "/shared")];
            ids.push(c.create_with(pod, &name, &["sh", "-c", &script], |config| {
                config.mounts.extend(mounts.map(|(host, container)| k8s_cri::v1::Mount {
                    host_path: host.display().to_string(),
                    container_path: container.into(),
                    ..Default::default()
                }));
            })?);
        }
    }
    c.start_together(&ids)?;
    for (pod, ids) in pods.iter().zip(ids.chunks(10)) {
        let name = &pod.config.metadata.as_ref().context("metadata")?.name;
        let list = || c.exec_ok(&ids[9], &["sh", "-c", "ps; ls /dev/shm"]);
        let all = || {
            let list = list().ok()?;
            let (sleeps, files) = (list.matches("sleep 1111").count(), list.lines().filter(|line| line.starts_with(name)).count());
            (sleeps == 10 && files == 10 && list.contains("sleep 1000000")).then_some(())
        };
        eventually(60, all).with_context(|| format!("{name}: {:?}", list()))?;
        let ipc = |id: &String| c.exec_ok(id, &["readlink", "/proc/self/ns/ipc"]);
        ensure!(ipc(&ids[0])? == ipc(&ids[9])?, "IPC is not shared");
    }
    c.remove_together(&pods)?;
    empty(c)
}

fn exited(c: &Cri, id: &str) -> Result<()> {
    let ended = || (c.status(id).ok()?.state == ContainerState::ContainerExited as i32).then_some(());
    eventually(30, ended).context("it is not told that the container has ended")?;
    ensure!(c.status(id)?.exit_code == 137, "{:?}", c.status(id)?);
    Ok(())
}

fn sentry_is_killed(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let one = c.run_container(&pod, "one", 0, &["sleep", "1111"], &[])?;
    let two = c.run_container(&pod, "two", 0, &["sleep", "2222"], &[])?;
    let sentries = c.sentries();
    ensure!(sentries.len() == 1, "{} sentries for one pod", sentries.len());
    host::kill(sentries[0], "KILL")?;
    for id in [&one, &two] {
        exited(c, id)?;
        let refused = c.exec(id, &["true"]);
        ensure!(refused.is_err(), "a command in a container that has ended: {refused:?}");
    }
    let list = c.machine.ok(&["caisson", "--root", "/run/containerd/caisson/k8s.io", "list"])?;
    ensure!(list.lines().skip(1).all(|line| line.contains("stopped")), "{list}");
    end(c, &pod)
}

fn gofer_is_killed(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let one = c.run_container(&pod, "one", 0, &["sleep", "1111"], &[])?;
    let before = c.machine.all_processes("caisson gofer ");
    let two = c.run_container(&pod, "two", 0, &["sleep", "2222"], &[])?;
    let own: Vec<i32> = c.machine.all_processes("caisson gofer ").into_iter().filter(|pid| !before.contains(pid)).collect();
    ensure!(own.len() == 1, "{own:?} are the gofers of one container");
    host::kill(own[0], "KILL")?;
    exited(c, &two)?;
    ensure!(c.exec_ok(&one, &["cat", "/proc/1/comm"])? == "sleep\n", "the other container");
    let again = c.run_container(&pod, "two", 1, &["sleep", "2222"], &[])?;
    ensure!(c.exec_ok(&again, &["cat", "/proc/1/comm"])? == "sleep\n", "the next attempt");
    end(c, &pod)
}

/// What a process has: threads, descriptors, kilobytes in memory.
fn has(pid: i32) -> Result<[u64; 3]> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| name.to_owned())?;
        line.split_whitespace().find_map(|word| word.parse().ok()).context("no number")
    };
    Ok([field("Threads:")?, std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64, field("VmRSS:")?])
}

fn restarts_leave_nothing(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let stays = c.run_container(&pod, "stays", 0, &["sleep", "1111"], &[])?;
    let [sentry] = c.sentries()[..] else { bail!("{:?}", c.sentries()) };
    let script =
        "head -c 20000000 /dev/zero > /tmp/x; cat /tmp/x > /dev/null; ls -R /bin /etc > /dev/null; sleep 1000 & sleep 1000 & exit 3";
    let once = |attempt: u32| -> Result<()> {
        let id = c.run_container(&pod, "comes", attempt, &["sh", "-c", script], &[])?;
        let ended = || (c.status(&id).ok()?.state == ContainerState::ContainerExited as i32).then_some(());
        eventually(30, ended).context("it does not end")?;
        ensure!(c.status(&id)?.exit_code == 3, "{:?}", c.status(&id)?);
        c.remove(&id)
    };
    for attempt in 0..5 {
        once(attempt)?;
    }
    // Threads and memory are kept for a while.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let before = has(sentry)?;
    for attempt in 5..25 {
        once(attempt)?;
    }
    let settled = || {
        let after = has(sentry).ok()?;
        let flat = after[0] <= before[0] + 1 && after[1] <= before[1] + 2 && after[2] <= before[2] + 4096;
        flat.then_some(())
    };
    eventually(30, settled).with_context(|| format!("threads, descriptors, memory: {before:?} before, {:?} after", has(sentry)))?;
    ensure!(c.exec_ok(&stays, &["ps"])?.lines().count() == 3, "processes are left");
    end(c, &pod)
}
