//! Sandboxes with a network: in network namespaces of the tests' own, over veth and a bridge, against peers that run natively and
//! against one another; over a wire that loses, doubles and reorders; under malformed frames.
//!
//! `CAISSON_TEST_BYTES` says how much the transfers carry (default 20,000,000; by hand 1,000,000,000).

use anyhow::{Context, Result, bail};
use caisson_tests_support::suite::platforms;
use caisson_tests_support::{Program, Suite, Volume, binary, bundle::Bundle, root};
use libtest_mimic::Failed;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

fn bytes() -> String {
    std::env::var("CAISSON_TEST_BYTES").unwrap_or_else(|_| "20000000".to_string())
}

fn ip(args: &str) -> Result<()> {
    let done = Command::new("ip").args(args.split_whitespace()).output()?;
    if !done.status.success() {
        bail!("ip {args}: {}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}

/// Network namespaces: `host` with a bridge, and one for each sandbox with an `eth0` on it.
struct Net {
    prefix: String,
    sandboxes: u32,
}

impl Net {
    /// With so many sandboxes: 10.77.9.2, fd77::2 and on; the host is 10.77.9.1 and fd77::1.
    fn new(sandboxes: u32) -> Result<Net> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("csn{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let net = Net { prefix, sandboxes };
        let host = net.name(0);
        ip(&format!("netns add {host}"))?;
        for line in [
            "link set lo up",
            "link add br0 type bridge",
            "addr add 10.77.9.1/24 dev br0",
            "addr add fd77::1/64 dev br0 nodad",
            "link set br0 up",
        ] {
            ip(&format!("-n {host} {line}"))?;
        }
        for n in 1..=sandboxes {
            let own = net.name(n);
            ip(&format!("netns add {own}"))?;
            ip(&format!("-n {host} link add v{n} type veth peer name eth0 netns {own}"))?;
            ip(&format!("-n {host} link set v{n} master br0 up"))?;
            let at = n + 1;
            for line in [
                "link set lo up".to_string(),
                format!("addr add 10.77.9.{at}/24 broadcast 10.77.9.255 dev eth0"),
                format!("addr add fd77::{at}/64 dev eth0 nodad"),
                "link set eth0 up".to_string(),
                "route add default via 10.77.9.1".to_string(),
            ] {
                ip(&format!("-n {own} {line}"))?;
            }
        }
        Ok(net)
    }

    fn name(&self, n: u32) -> String {
        format!("{}-{n}", self.prefix)
    }

    /// A script in the Debian root, natively in a namespace; ready when it has said so.
    fn native(&self, n: u32, script: &str, args: &[&str]) -> Result<Running> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(n), "chroot"]).arg(root::debian()?);
        command.args(["python3", "-c", script]).args(args);
        Running::new(command)
    }

    /// A script in the n-th sandbox.
    fn program(&self, n: u32, script: &str, args: &[&str]) -> Result<Program> {
        let dir = binary::workspace().join("tests/programs/network");
        let path = format!("/mnt/{script}");
        let mut all = vec!["python3", &path];
        all.extend(args);
        let mut p = Program::new(root::debian()?, &all).timeout(240);
        p.volumes.push(Volume { source: dir, target: "/mnt".to_string() });
        p.network = Some(Path::new("/run/netns").join(self.name(n)));
        Ok(p)
    }

    /// Runs it to its end, which must be a good one; what it printed.
    fn sandboxed(&self, platform: &str, n: u32, script: &str, args: &[&str]) -> Result<String> {
        let out = self.program(n, script, args)?.sandboxed(platform)?;
        if out.status != 0 || out.timed_out {
            bail!("{script} {args:?}: {}", out.text());
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for n in 0..=self.sandboxes {
            let _ = ip(&format!("netns del {}", self.name(n)));
        }
    }
}

/// A process of which the first line was read; ends with its standard input.
struct Running {
    child: Child,
}

impl Running {
    fn new(mut command: Command) -> Result<Running> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().context("stdout")?).read_line(&mut line)?;
        if line.trim() != "ready" {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{command:?}: said {line:?}");
        }
        Ok(Running { child })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PEER: &str = include_str!("../network/peer.py");
const CLIENT: &str = include_str!("../network/client.py");
const LINK: &str = include_str!("../network/link.py");
const FUZZ: &str = include_str!("../network/fuzz.py");

/// A script natively, to its end.
fn run_native(net: &Net, n: u32, script: &str, args: &[&str]) -> Result<String> {
    let out = Command::new("ip")
        .args(["netns", "exec", &net.name(n), "chroot"])
        .arg(root::debian()?)
        .args(["python3", "-c", script])
        .args(args)
        .output()?;
    if !out.status.success() {
        bail!("{args:?}: {}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A server in a sandbox. The bundle lives as long as it runs.
fn server(net: &Net, platform: &str, n: u32) -> Result<(Bundle, Running)> {
    let at = n + 1;
    let program = net.program(n, "peer.py", &[&format!("10.77.9.{at}"), &format!("fd77::{at}")])?;
    let bundle = Bundle::new(&program, false)?;
    let running = Running::new(bundle.command(platform)?)?;
    Ok((bundle, running))
}

/// Everything between a sandbox and a peer, as it is between Linux and that peer.
fn host_and_sandbox(platform: &str) -> Result<()> {
    let net = Net::new(2)?;
    let _peer = net.native(0, PEER, &["10.77.9.1", "fd77::1"])?;
    for address in ["10.77.9.1", "fd77::1"] {
        // Linux in the second namespace, a sandbox in the first.
        let want = run_native(&net, 2, CLIENT, &["all", address, &bytes()])?;
        let got = net.sandboxed(platform, 1, "client.py", &["all", address, &bytes()]);
        // The host has the addresses no more: the next sandbox needs them again.
        restore(&net, 1)?;
        assert_eq!(got?, want);
    }
    Ok(())
}

/// The addresses that a sandbox has taken come back.
fn restore(net: &Net, n: u32) -> Result<()> {
    let (own, at) = (net.name(n), n + 1);
    let listed = Command::new("ip").args(["-n", &own, "addr", "show", "dev", "eth0"]).output()?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    if text.contains("inet") {
        bail!("the host still has addresses: {text}");
    }
    std::process::Command::new("ip")
        .args(["netns", "exec", &own, "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6"])
        .status()?;
    ip(&format!("-n {own} addr add 10.77.9.{at}/24 broadcast 10.77.9.255 dev eth0"))?;
    ip(&format!("-n {own} addr add fd77::{at}/64 dev eth0 nodad"))
}

/// The sandbox is the server; the clients are Linux and another sandbox.
fn sandbox_serves(platform: &str) -> Result<()> {
    let net = Net::new(2)?;
    let _server = server(&net, platform, 1)?;
    for address in ["10.77.9.2", "fd77::2"] {
        run_native(&net, 0, CLIENT, &["both", address, &bytes()])?;
    }
    net.sandboxed(platform, 2, "client.py", &["both", "10.77.9.2", &bytes()])?;
    Ok(())
}

/// A namespace with a bad wire between the sandbox's interface and the bridge.
fn bad_wire(platform: &str, loss: u32, double: u32, reorder: u32) -> Result<()> {
    let net = Net::new(1)?;
    let host = net.name(0);
    // v1 leaves the bridge; in its place comes a pair whose far end the link joins with v1.
    ip(&format!("-n {host} link set v1 nomaster"))?;
    ip(&format!("-n {host} link add w0 type veth peer name w1"))?;
    for line in ["link set w0 master br0 up", "link set w1 up"] {
        ip(&format!("-n {host} {line}"))?;
    }
    let numbers = [7, loss, double, reorder].map(|n| n.to_string());
    let mut args = vec!["v1", "w1"];
    args.extend(numbers.iter().map(String::as_str));
    let _link = net.native(0, LINK, &args)?;
    let _peer = net.native(0, PEER, &["10.77.9.1", "fd77::1"])?;
    net.sandboxed(platform, 1, "client.py", &["both", "10.77.9.1", "8000000"])?;
    restore(&net, 1)?;
    net.sandboxed(platform, 1, "client.py", &["both", "fd77::1", "8000000"])?;
    Ok(())
}

fn many_connections(platform: &str) -> Result<()> {
    let net = Net::new(1)?;
    let _server = server(&net, platform, 1)?;
    assert_eq!(run_native(&net, 0, CLIENT, &["many", "10.77.9.2", "1500"])?, "short 1500\n");
    assert_eq!(run_native(&net, 0, CLIENT, &["idle", "10.77.9.2", "500"])?, "idle 500\n");
    Ok(())
}

/// Malformed frames do not stop it, and cost no memory that stays.
fn fuzzed_frames(platform: &str) -> Result<()> {
    let net = Net::new(1)?;
    let own = net.name(1);
    let mac = Command::new("ip").args(["netns", "exec", &own, "cat", "/sys/class/net/eth0/address"]).output()?;
    let mac = String::from_utf8_lossy(&mac.stdout).trim().to_string();
    let mut server = server(&net, platform, 1)?;
    let count = std::env::var("CAISSON_TEST_FRAMES").unwrap_or_else(|_| "30000".to_string());
    run_native(&net, 0, FUZZ, &["v1", &mac, "10.77.9.2", &count, "1"])?;
    run_native(&net, 0, CLIENT, &["both", "10.77.9.2", "3000000"])?;
    if let Some(status) = server.1.child.try_wait()? {
        let mut text = String::new();
        server.1.child.stdout.take().context("stdout")?.read_to_string(&mut text)?;
        bail!("the sandbox ended: {status}: {text}");
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::default();
    type Test = fn(&str) -> Result<()>;
    let tests: [(&str, Test); 7] = [
        ("host_and_sandbox", host_and_sandbox),
        ("sandbox_serves", sandbox_serves),
        ("lossy_wire", |p| bad_wire(p, 10, 0, 0)),
        ("reordering_wire", |p| bad_wire(p, 0, 20, 60)),
        ("bad_wire", |p| bad_wire(p, 10, 10, 30)),
        ("many_connections", many_connections),
        ("fuzzed_frames", fuzzed_frames),
    ];
    for platform in platforms() {
        for (name, test) in tests {
            let platform = platform.clone();
            suite.add(format!("{platform}::{name}"), move || test(&platform).map_err(|e| Failed::from(format!("{e:#}"))));
        }
    }
    suite.run()
}
