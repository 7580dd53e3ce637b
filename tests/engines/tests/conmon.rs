//! conmon, called as CRI-O calls it: a pod's first container, containers that join it, commands by a file with the process, terminals, the
//! socket for attach, and logs that are begun anew.

use anyhow::{Context, Result, bail, ensure};
use caisson_tests_engines::{Podman, eventually};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};

/// CRI-O's container: `kind` is `sandbox` or `container`.
fn bundle(p: &Podman, id: &str, kind: &str, terminal: bool, args: &[&str]) -> Result<()> {
    let dir = p.machine.path(id);
    fs::create_dir_all(&dir)?;
    let path = dir.display().to_string();
    p.machine.ok(&["caisson", "spec", "--bundle", &path])?;
    let file = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file)?)?;
    config["root"] = json!({"path": p.machine.path("busybox-root")});
    config["process"]["args"] = json!(args);
    config["process"]["terminal"] = json!(terminal);
    let names = "io.kubernetes.cri-o.";
    config["annotations"] = json!({format!("{names}ContainerType"): kind, format!("{names}SandboxID"): "pod"});
    config["linux"]["cgroupsPath"] = json!(format!("/crio-{id}"));
    fs::write(file, config.to_string())?;
    Ok(())
}

/// conmon with the descriptors that CRI-O gives it: what it says on the one where it tells of the runtime.
fn conmon(p: &Podman, id: &str, name: &str, more: &str) -> Result<Value> {
    let (dir, runtime) = (p.machine.path(""), if p.caisson { p.machine.path("bin/caisson") } else { "/usr/sbin/runc".into() });
    let (dir, runtime) = (dir.display(), runtime.display());
    let script = format!(
        "cd {dir}/{id}; mkdir -p {dir}/exits {dir}/attach {dir}/persist; printf x > go; _OCI_SYNCPIPE=3 _OCI_STARTPIPE=4 conmon -c {id} -u {id} \
         -n {name} -r {runtime} --runtime-arg --root=/run/crio-runtime --socket-dir-path {dir}/attach \
         -l {dir}/{id}/{name}.log -p {dir}/{id}/{name}.pid -P {dir}/{id}/{name}-conmon.pid --log-level debug --persist-dir {dir}/persist {more} \
         3> {name}.sync 4< go"
    );
    let output = p.machine.run(&["bash", "-c", &script])?;
    ensure!(output.status == 0, "{output}");
    // It goes into the background first, and says what was asked for in one line.
    let file = p.machine.path(&format!("{id}/{name}.sync"));
    let said = || fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n'));
    let said = eventually(30, said).with_context(|| format!("conmon says {:?}: {output}", fs::read_to_string(&file)))?;
    serde_json::from_str(said.lines().last().context("nothing")?).context(said)
}

/// A container, created by conmon and started.
fn start(p: &Podman, id: &str, more: &str) -> Result<()> {
    let said =
        conmon(p, id, "main", &format!("-b {} --exit-dir {} {more}", p.machine.path(id).display(), p.machine.path("exits").display()))?;
    let pid = said["pid"].as_i64().filter(|pid| *pid > 0).with_context(|| said.to_string())?;
    let state: Value = serde_json::from_str(&runtime(p, &["state", id])?)?;
    ensure!(state["status"] == "created" && state["pid"] == pid, "{state}");
    runtime(p, &["start", id]).map(drop)
}

fn runtime(p: &Podman, args: &[&str]) -> Result<String> {
    let program = if p.caisson { "caisson" } else { "runc" };
    p.machine.ok(&[&[program, "--root", "/run/crio-runtime"], args].concat())
}

/// What conmon has written about the container's end.
fn exit(p: &Podman, id: &str) -> Result<String> {
    let file = p.machine.path(&format!("exits/{id}"));
    eventually(30, || fs::read_to_string(&file).ok().filter(|text| !text.is_empty())).with_context(|| format!("no exit file of {id}"))
}

/// Waits until a log has this line.
fn logged(p: &Podman, log: &str, line: &str) -> Result<()> {
    let file = p.machine.path(log);
    let found = || fs::read_to_string(&file).ok()?.contains(line).then_some(());
    eventually(30, found).with_context(|| format!("{log} lacks {line:?}: {:?}", fs::read_to_string(&file)))
}

/// Runs a command by a file with the process, as ExecSync: conmon waits for its end, and tells its status.
fn exec(p: &Podman, id: &str, name: &str, terminal: bool, script: &str) -> Result<i64> {
    let process = json!({
        "args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}, "terminal": terminal,
    });
    let file = p.machine.path(&format!("{id}/{name}.json"));
    fs::write(&file, process.to_string())?;
    // In a directory of its own: it makes FIFOs and a socket there.
    let dir = p.machine.path(&format!("{id}/{name}.d"));
    fs::create_dir(&dir)?;
    let more = format!("-b {} -e --exec-process-spec {} {}", dir.display(), file.display(), if terminal { "-t" } else { "" });
    let said = conmon(p, id, name, &more)?;
    said["exit_code"].as_i64().or_else(|| said["data"].as_i64()).with_context(|| said.to_string())
}

/// A line for conmon's FIFO: 1, height and width of the terminal, or 2: the log is to be opened anew.
fn control(p: &Podman, id: &str, line: &str) -> Result<()> {
    // For reading, too: so that it does not wait for a conmon that is gone.
    let mut fifo = File::options().read(true).write(true).open(p.machine.path(&format!("{id}/ctl")))?;
    Ok(fifo.write_all(line.as_bytes())?)
}

/// The socket that attach goes through. Its path may be longer than a socket's can be.
fn attach(p: &Podman, id: &str) -> Result<OwnedFd> {
    let dir = File::open(p.machine.path(id))?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/attach", dir.as_raw_fd()))?;
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(std::time::Duration::from_secs(30)))?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

/// Reads from an attached container until it has said this. Each packet begins with a byte that tells the stream.
fn attached(socket: &OwnedFd, wanted: &str) -> Result<()> {
    let mut all = String::new();
    let mut packet = [0; 8193];
    while !all.contains(wanted) {
        match rustix::net::recv(socket, &mut packet, RecvFlags::empty())?.0 {
            0 => bail!("attached: the end came before {wanted:?}: {all:?}"),
            n => all.push_str(&String::from_utf8_lossy(&packet[1..n])),
        }
    }
    Ok(())
}

/// Everything, with either runtime.
pub fn as_crio(p: &Podman) -> Result<()> {
    bundle(p, "pod", "sandbox", false, &["sleep", "1111"])?;
    let script = "trap 'exit 9' TERM; trap 'echo again' USR1; echo out; echo err >&2; while :; do sleep 0.05; done";
    bundle(p, "one", "container", false, &["sh", "-c", script])?;
    start(p, "pod", "")?;
    start(p, "one", "")?;
    logged(p, "one/main.log", " stdout F out\n")?;
    logged(p, "one/main.log", " stderr F err\n")?;
    let status = exec(p, "one", "exec", false, "echo in; exit 5")?;
    ensure!(status == 5, "{status}");
    logged(p, "one/exec.log", " stdout F in\n")?;
    let status = exec(p, "one", "exec-tty", true, "tty > /dev/null && echo terminal; exit 6")?;
    ensure!(status == 6, "{status}");
    logged(p, "one/exec-tty.log", "terminal")?;
    // A log that was moved away is begun anew.
    fs::rename(p.machine.path("one/main.log"), p.machine.path("one/old.log"))?;
    control(p, "one", "2 0 0\n")?;
    eventually(30, || p.machine.path("one/main.log").exists().then_some(())).context("no new log")?;
    runtime(p, &["kill", "one", "USR1"])?;
    logged(p, "one/main.log", " stdout F again\n")?;
    limits(p)?;
    terminal(p)?;
    runtime(p, &["kill", "one", "TERM"])?;
    ensure!(exit(p, "one")? == "9", "{}", exit(p, "one")?);
    runtime(p, &["delete", "one"])?;
    runtime(p, &["kill", "pod", "KILL"])?;
    ensure!(exit(p, "pod")? == "137", "{}", exit(p, "pod")?);
    runtime(p, &["delete", "pod"])?;
    let left = p.machine.run(&["ls", "/run/crio-runtime"])?.text();
    ensure!(left.is_empty(), "left behind: {left}");
    ensure!(eventually(30, || p.machine.all_processes("conmon -c").is_empty().then_some(())).is_some(), "a conmon is left");
    Ok(())
}

/// `update` with the limits on standard input.
fn limits(p: &Podman) -> Result<()> {
    let limits = json!({"memory": {"limit": 100 << 20}, "cpu": {"shares": 512}});
    let program = if p.caisson { "caisson" } else { "runc" };
    let words = [program, "--root", "/run/crio-runtime", "update", "--resources", "-", "one"];
    let output = p.machine.run_with(&words, limits.to_string().as_bytes())?;
    ensure!(output.status == 0, "{output}");
    Ok(())
}

/// A container with a terminal in the pod: its size, what is typed into it, and its end.
fn terminal(p: &Podman) -> Result<()> {
    let script = "read x; echo got $x; while [ \"$(stty size)\" != '33 44' ]; do sleep 0.05; done; stty size; read y; exit 3";
    bundle(p, "tty", "container", true, &["sh", "-c", script])?;
    start(p, "tty", "-t -i")?;
    let socket = attach(p, "tty")?;
    rustix::net::send(&socket, b"word\n", SendFlags::NOSIGNAL)?;
    attached(&socket, "got word")?;
    control(p, "tty", "1 33 44\n")?;
    attached(&socket, "33 44")?;
    rustix::net::send(&socket, b"\n", SendFlags::NOSIGNAL)?;
    ensure!(exit(p, "tty")? == "3", "{}", exit(p, "tty")?);
    logged(p, "tty/main.log", "got word")?;
    runtime(p, &["delete", "tty"]).map(drop)
}
