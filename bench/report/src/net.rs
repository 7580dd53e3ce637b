//! The network: throughput, latency and rates of servers inside each side, and between it and a peer that runs natively; what an idle
//! connection costs. Every side has a network namespace of its own, on one bridge with the peer's.

use crate::{build, sides, table::Table};
use anyhow::{Context, Result, bail};
use caisson_tests_support::{Program, Volume, host, process, root};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Packages of the servers and clients.
pub const PACKAGES: &[&str] = &["iperf3", "redis-server", "nginx-light", "wrk"];
const ROWS: &[&str] = &["loopback", "up", "down", "up8", "latency", "latency_loopback", "redis", "nginx", "short"];
/// Connections that idle.
const IDLE: u32 = 5000;
/// The peer's addresses; sides follow.
pub const PEER: &str = "10.78.9.1";
pub const PEER_V6: &str = "fd78::1";

pub fn ip(args: &str) -> Result<()> {
    let done = Command::new("ip").args(args.split_whitespace()).output()?;
    if !done.status.success() {
        bail!("ip {args}: {}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}

/// The peer's namespace with its bridge, and one of a side with an `eth0`, made anew for each run: who takes an interface over keeps it.
pub struct Net;

impl Net {
    pub fn peer() -> String {
        format!("cbn{}-peer", std::process::id())
    }

    /// The namespace of the n-th side, from 1 on, whose addresses end in n + 1.
    pub fn side(n: u32) -> String {
        format!("cbn{}-side{n}", std::process::id())
    }

    pub fn path(n: u32) -> PathBuf {
        Path::new("/run/netns").join(Net::side(n))
    }

    pub fn new() -> Result<Net> {
        let peer = Net::peer();
        ip(&format!("netns add {peer}"))?;
        for line in [
            "link set lo up",
            "link add br0 type bridge",
            &format!("addr add {PEER}/24 dev br0"),
            &format!("addr add {PEER_V6}/64 dev br0 nodad"),
            "link set br0 up",
        ] {
            ip(&format!("-n {peer} {line}"))?;
        }
        Ok(Net)
    }

    /// A fresh namespace for the n-th side, which ends with the value; its end on the bridge is called `v` and n.
    pub fn join(&self, n: u32) -> Result<Joined> {
        let (peer, side, at) = (Net::peer(), Net::side(n), n + 1);
        ip(&format!("netns add {side}"))?;
        let joined = Joined(n);
        ip(&format!("-n {peer} link add v{n} type veth peer name eth0 netns {side}"))?;
        ip(&format!("-n {peer} link set v{n} master br0 up"))?;
        for line in [
            "link set lo up",
            &format!("addr add 10.78.9.{at}/24 dev eth0"),
            &format!("addr add fd78::{at}/64 dev eth0 nodad"),
            "link set eth0 up",
            &format!("route add default via {PEER}"),
        ] {
            ip(&format!("-n {side} {line}"))?;
        }
        Ok(joined)
    }

    /// A program natively in the peer's namespace.
    pub fn native(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &Net::peer()]).arg(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", Net::peer()));
    }
}

pub struct Joined(u32);

impl Drop for Joined {
    fn drop(&mut self) {
        // With the namespace goes its end of the pair, and with that the other.
        let _ = ip(&format!("netns del {}", Net::side(self.0)));
        let _ = ip(&format!("-n {} link del v{}", Net::peer(), self.0));
    }
}

/// A process that ends with this value.
pub struct Running(Child);

impl Running {
    /// Starts it and waits for its first line.
    pub fn start(mut command: Command) -> Result<Running> {
        let mut running = Running(command.spawn().with_context(|| format!("{command:?}"))?);
        let mut line = String::new();
        BufReader::new(running.0.stdout.as_mut().context("no output")?).read_line(&mut line)?;
        if line.trim().is_empty() {
            bail!("{command:?} said nothing");
        }
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All rounds on all sides, and their table.
pub fn measure(rounds: u32, all: &[String], seconds: u32, rows: &[String], dir: &Path) -> Result<()> {
    let tree = root::debian_with(PACKAGES)?;
    let tool = dir.join("caisson-bench-net");
    std::fs::copy(build("caisson-bench-net")?, &tool)?;
    let net = Net::new()?;
    let _echo = Running::start(net.native(&tool, &["serve"]))?;
    // Its first line is one of hyphens.
    let _iperf = Running::start(net.native(Path::new("iperf3"), &["-s", "--forceflush"]))?;
    let wanted = |name: &str| rows.is_empty() || rows.iter().any(|r| r == name);
    let inside: Vec<&str> = ROWS.iter().copied().filter(|r| wanted(r)).collect();
    let mut program =
        Program::new(&tree, &["/bin/bash", "-c", include_str!("../../net/rows.sh"), "rows.sh", &seconds.to_string()]).timeout(600);
    program.args.extend(inside.iter().map(|r| (*r).to_string()));
    program.volumes.push(Volume { source: dir.to_path_buf(), target: "/vol".to_string() });
    program.network = Some(Net::path(1));
    let mut server = Program::new(&tree, &["/vol/caisson-bench-net", "serve"]).timeout(600);
    (server.volumes, server.network, server.nofile) = (program.volumes.clone(), program.network.clone(), (20_000, 20_000));
    let mut table = Table::new("Network");
    for round in 1..=rounds {
        for side in all {
            eprintln!("Network: round {round}, {side}");
            if !inside.is_empty() {
                let _joined = net.join(1)?;
                match run(side, &program) {
                    Ok(out) => {
                        if out.status != 0 || !out.stderr.is_empty() {
                            eprintln!("{out}");
                        }
                        table.add_text(side, &out.text());
                    }
                    Err(e) => eprintln!("{side}: {e:#}"),
                }
            }
            if wanted("idle") && side != "native" {
                let _joined = net.join(1)?;
                match idle(&net, side, &server, &tool) {
                    Ok(bytes) => table.add(side, "idle_connection", bytes, "bytes"),
                    Err(e) => eprintln!("{side}: {e:#}"),
                }
            }
        }
    }
    table.print(all);
    Ok(())
}

/// Runs a program in the first side's namespace.
pub fn run(side: &str, program: &Program) -> Result<process::Output> {
    if side == "native" {
        return program.native();
    }
    let bundle = sides::bundle(side, program)?;
    process::run(&mut command(side, &bundle, 1)?, &[], program.timeout)
}

/// As [`sides::command`] in the n-th side's namespace, with the namespace's interface. runsc is started in the namespace, and must not see /proc/sys/net/core, by
/// which it takes a namespace for the machine's own.
pub fn command(side: &str, bundle: &caisson_tests_support::bundle::Bundle, n: u32) -> Result<Command> {
    let plain = sides::command(side, bundle)?;
    if side != "runsc" {
        return Ok(plain);
    }
    let mut command = Command::new("ip");
    command.args([
        "netns",
        "exec",
        &Net::side(n),
        "unshare",
        "-m",
        "sh",
        "-c",
        "mount -t tmpfs none /proc/sys/net/core; exec \"$@\"",
        "sh",
    ]);
    command.arg(plain.get_program());
    command.args(plain.get_args().map(|a| if a == "--network=none" { "--network=sandbox".as_ref() } else { a }));
    Ok(command)
}

/// Bytes that the sandbox's processes grow by for each connection that a peer opens and keeps.
fn idle(net: &Net, side: &str, server: &Program, tool: &Path) -> Result<f64> {
    let bundle = sides::bundle(side, server)?;
    let mut command = command(side, &bundle, 1)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let running = Running::start(command)?;
    let pid = running.0.id().cast_signed();
    // What the first connections need once is not counted.
    drop(Running::start(net.native(tool, &["idle", "10.78.9.2", "100"]))?);
    let before = memory(pid);
    let _clients = Running::start(net.native(tool, &["idle", "10.78.9.2", &IDLE.to_string()]))?;
    Ok((memory(pid) - before) * 1024.0 / f64::from(IDLE))
}

/// Memory of a process and all below it, in KiB; what a guest's pages hold is the application's.
fn memory(pid: i32) -> f64 {
    let all = host::descendants(pid);
    all.iter().chain([&pid]).filter_map(|&p| host::memory(p, "RssAnon")).sum::<u64>() as f64
}
