//! Sandboxes with a network: in network namespaces of the tests' own, over veth and a bridge, against peers that run natively and
//! against one another; over a wire that loses, doubles, reorders and forges; under malformed frames and floods.
//!
//! For long runs by hand: `CAISSON_TEST_BYTES` (of the transfers; 1,000,000,000), `CAISSON_TEST_STREAMS=1` (eight at once over bad wires), `CAISSON_TEST_WIRE=LOST,DOUBLED,LATE,FORGED,DELAY`
//! (thousandths and milliseconds: adds a test `this_wire`), `CAISSON_TEST_SECONDS` (of fuzzing and floods; 600) with `CAISSON_TEST_SEED`, `CAISSON_TEST_SHORT` and
//! `CAISSON_TEST_IDLE` (connections; 50,000 and 10,000).

use anyhow::{Context, Result, bail};
use caisson_tests_support::suite::platforms;
use caisson_tests_support::{Program, Suite, Volume, binary, bundle::Bundle, host, root};
use libtest_mimic::Failed;
use std::io::{BufRead, BufReader, Read, Write};
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
        p.nofile = (20_000, 20_000);
        Ok(p)
    }

    /// Runs it to its end, which must be a good one; what it printed.
    fn sandboxed(&self, platform: &str, n: u32, script: &str, args: &[&str]) -> Result<String> {
        let out = self.program(n, script, args)?.sandboxed(platform)?;
        if out.status != 0 || out.timed_out {
            bail!("{script} {args:?}: {out}");
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
const LINK: &str = concat!(include_str!("../network/checksum.py"), include_str!("../network/link.py"));
const FUZZ: &str = concat!(include_str!("../network/checksum.py"), include_str!("../network/fuzz.py"));
const TOLD: &str = concat!(include_str!("../network/checksum.py"), include_str!("../network/told.py"));
const FLOOD: &str = include_str!("../network/flood.py");

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
        assert_eq!(got?, want);
        given_back(&net, 1)?;
    }
    Ok(())
}

/// What a sandbox has taken is there again once it has ended: for the next one, or whoever else.
fn given_back(net: &Net, n: u32) -> Result<()> {
    let (own, at) = (net.name(n), n + 1);
    let listed = |args: &[&str]| -> Result<String> {
        let out = Command::new("ip").args(["-n", &own]).args(args).output()?;
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (addresses, routes) = (listed(&["addr", "show", "dev", "eth0"])?, listed(&["route"])?);
    for wanted in [format!("inet 10.77.9.{at}/24 brd 10.77.9.255"), format!("inet6 fd77::{at}/64")] {
        if !addresses.contains(&wanted) {
            bail!("{wanted} was not given back: {addresses}");
        }
    }
    if !routes.contains("default via 10.77.9.1") {
        bail!("the route was not given back: {routes}");
    }
    Ok(())
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

/// How bad a wire is: lost, doubled, late and forged frames in thousandths, and the delay of all in milliseconds.
type Wire = [u32; 5];

/// A namespace with a bad wire between the sandbox's interface and the bridge.
fn bad_wire(platform: &str, wire: Wire) -> Result<()> {
    let net = Net::new(1)?;
    let host = net.name(0);
    // v1 leaves the bridge; in its place comes a pair whose far end the link joins with v1.
    ip(&format!("-n {host} link set v1 nomaster"))?;
    ip(&format!("-n {host} link add w0 type veth peer name w1"))?;
    for line in ["link set w0 master br0 up", "link set w1 up"] {
        ip(&format!("-n {host} {line}"))?;
    }
    let numbers: Vec<String> = [7].iter().chain(&wire).map(u32::to_string).collect();
    let mut args = vec!["v1", "w1"];
    args.extend(numbers.iter().map(String::as_str));
    let bytes = std::env::var("CAISSON_TEST_BYTES").unwrap_or_else(|_| "8000000".to_string());
    let what = if std::env::var_os("CAISSON_TEST_STREAMS").is_some() { "streams" } else { "both" };
    let _link = net.native(0, LINK, &args)?;
    let _peer = net.native(0, PEER, &["10.77.9.1", "fd77::1"])?;
    net.sandboxed(platform, 1, "client.py", &[what, "10.77.9.1", &bytes])?;
    net.sandboxed(platform, 1, "client.py", &[what, "fd77::1", &bytes])?;
    Ok(())
}

fn many_connections(platform: &str) -> Result<()> {
    let net = Net::new(1)?;
    let _server = server(&net, platform, 1)?;
    let [short, idle] = [("CAISSON_TEST_SHORT", "1500"), ("CAISSON_TEST_IDLE", "500")]
        .map(|(name, few)| std::env::var(name).unwrap_or_else(|_| few.to_string()));
    assert_eq!(run_native(&net, 0, CLIENT, &["many", "10.77.9.2", &short])?, format!("short {short}\n"));
    assert_eq!(run_native(&net, 0, CLIENT, &["idle", "10.77.9.2", &idle])?, format!("idle {idle}\n"));
    Ok(())
}

/// The Ethernet address of the n-th namespace's interface.
fn mac(net: &Net, n: u32) -> Result<String> {
    let out = Command::new("ip").args(["netns", "exec", &net.name(n), "cat", "/sys/class/net/eth0/address"]).output()?;
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_string())
}

/// Memory of the sentry below a running `caisson run`, in KiB.
fn sentry_memory(runtime: &Running) -> Result<u64> {
    let (sentry, _) = host::sentry_and_gofer(runtime.child.id().cast_signed()).context("no sentry")?;
    host::memory(sentry, "RssAnon").context("no RssAnon")
}

/// Seconds that frames are fuzzed for, and that floods last.
fn seconds() -> String {
    std::env::var("CAISSON_TEST_SECONDS").unwrap_or_else(|_| "3".to_string())
}

/// What malformed frames and floods may leave in the sentry's memory: queues that are bounded, and the allocator's own.
const MEMORY_MAX: u64 = 96 << 10;

/// Malformed frames do not stop it, and cost no memory that stays.
fn fuzzed_frames(platform: &str) -> Result<()> {
    let net = Net::new(1)?;
    let mac = mac(&net, 1)?;
    let mut server = server(&net, platform, 1)?;
    let before = sentry_memory(&server.1)?;
    let seed = std::env::var("CAISSON_TEST_SEED").unwrap_or_else(|_| "1".to_string());
    eprint!("{}", run_native(&net, 0, FUZZ, &["v1", &mac, "10.77.9.2", &seconds(), &seed])?);
    run_native(&net, 0, CLIENT, &["both", "10.77.9.2", "3000000"])?;
    if let Some(status) = server.1.child.try_wait()? {
        let mut text = String::new();
        server.1.child.stdout.take().context("stdout")?.read_to_string(&mut text)?;
        bail!("the sandbox ended: {status}: {text}");
    }
    let after = sentry_memory(&server.1)?;
    eprintln!("{platform}: {before} KiB before, {after} KiB after");
    assert!(after < before + MEMORY_MAX, "{before} KiB before, {after} KiB after");
    Ok(())
}

/// A flood of SYNs and datagrams does not stop a connection that is there, nor new ones afterwards.
fn floods(platform: &str) -> Result<()> {
    let net = Net::new(1)?;
    let mac = mac(&net, 1)?;
    let server = server(&net, platform, 1)?;
    let before = sentry_memory(&server.1)?;
    let mut steady = net.native(0, CLIENT, &["steady", "10.77.9.2", "3000000"])?;
    let flood = net.native(0, FLOOD, &["v1", &mac, "10.77.9.2", &seconds()])?;
    steady.child.stdin.as_mut().context("stdin")?.write_all(b"go\n")?;
    let mut text = String::new();
    steady.child.stdout.take().context("stdout")?.read_to_string(&mut text)?;
    assert_eq!(text, "sent 3000000\n");
    drop(flood);
    run_native(&net, 0, CLIENT, &["both", "10.77.9.2", "3000000"])?;
    let after = sentry_memory(&server.1)?;
    eprintln!("{platform}: {before} KiB before, {after} KiB after");
    assert!(after < before + MEMORY_MAX, "{before} KiB before, {after} KiB after");
    Ok(())
}

fn lingers(platform: &str) -> Result<()> {
    let net = Net::new(2)?;
    let _peer = net.native(0, PEER, &["10.77.9.1", "fd77::1"])?;
    let want = run_native(&net, 2, CLIENT, &["linger", "10.77.9.1"])?;
    assert_eq!(want, "lingers 9005 True\nlingers 9000 True\n");
    assert_eq!(net.sandboxed(platform, 1, "client.py", &["linger", "10.77.9.1"])?, want);
    Ok(())
}

/// A connection that a client holds goes on, as it is asked to by a line.
struct Held(Running);

impl Held {
    fn goes_on(&mut self, after: &str) -> Result<()> {
        let child = &mut self.0.child;
        child.stdin.as_mut().context("stdin")?.write_all(format!("{after}\n").as_bytes())?;
        let mut line = String::new();
        // A buffer of its own: nothing comes that was not asked for.
        BufReader::new(child.stdout.as_mut().context("stdout")?).read_line(&mut line)?;
        if line.trim() != after {
            bail!("after {after}: said {line:?}");
        }
        Ok(())
    }
}

/// The network changes around established connections: the link, the neighbour's Ethernet address, the interface's MTU and addresses. They go
/// on, with Linux and with a sandbox alike.
fn network_changes(platform: &str) -> Result<()> {
    let net = Net::new(2)?;
    let host = net.name(0);
    let _peer = net.native(0, PEER, &["10.77.9.1", "fd77::1"])?;
    let addresses = ["10.77.9.1", "fd77::1"];
    let held = |running| -> Result<Held> {
        let mut held = Held(running);
        held.goes_on("nothing")?;
        Ok(held)
    };
    let mut linux = held(net.native(2, include_str!("../network/held.py"), &addresses)?)?;
    let bundle = Bundle::new(&net.program(1, "held.py", &addresses)?, false)?;
    let mut ours = held(Running::new(bundle.command(platform)?)?)?;
    let macs = [mac(&net, 1)?, mac(&net, 2)?];
    let mut all = |what: &str| -> Result<()> {
        linux.goes_on(what).context("natively")?;
        ours.goes_on(what)
    };
    for n in [1, 2] {
        ip(&format!("-n {host} link set v{n} down"))?;
        ip(&format!("-n {host} link set v{n} up"))?;
    }
    all("the other end was down")?;
    // The interface itself was down: the host's kernel forgets what belongs to it, which a sandbox does not need.
    ip(&format!("-n {} link set eth0 down", net.name(1)))?;
    ip(&format!("-n {} link set eth0 up", net.name(1)))?;
    all("the interface was down")?;
    ip(&format!("-n {host} link set br0 address 02:77:00:00:00:09"))?;
    for (n, to) in macs.iter().enumerate() {
        let to_v6 = format!("fd77::{}", n + 2);
        run_native(&net, 0, TOLD, &["br0", "02:77:00:00:00:09", "10.77.9.1", "fd77::1", to, &to_v6])?;
    }
    all("the neighbour has another address")?;
    for n in [1, 2] {
        ip(&format!("-n {} link set eth0 mtu 1300", net.name(n)))?;
    }
    all("the interface takes less")?;
    // What is added to the namespace later is the host kernel's.
    ip(&format!("-n {} addr add 10.77.9.200/24 dev eth0", net.name(1)))?;
    ip(&format!("-n {} addr add fd77::200/64 dev eth0 nodad", net.name(1))).or_else(|_| Ok::<(), anyhow::Error>(()))?;
    all("the namespace has further addresses")?;
    ip(&format!("-n {host} link set br0 mtu 1300"))?;
    all("the other side takes less")
}

/// Without a default route: what is not on the network cannot be reached.
fn no_default_route(platform: &str) -> Result<()> {
    let net = Net::new(2)?;
    let script = "import socket\nfor f, a in ((2, '192.0.2.1'), (10, '2001:db8::1')):\n for k in (1, 2):\n  try:\n   socket.socket(f, k).connect((a, 80))\n  except OSError as e:\n   print(e.errno)\n";
    for n in [1, 2] {
        ip(&format!("-n {} route del default", net.name(n)))?;
    }
    let want = run_native(&net, 2, script, &[])?;
    assert_eq!(want, "101\n".repeat(4));
    let mut program = net.program(1, "", &[])?;
    program.args = ["python3", "-c", script].map(str::to_string).to_vec();
    let out = program.sandboxed(platform)?;
    assert_eq!(out.text(), want, "{out}");
    Ok(())
}

/// Groups and broadcasts, between Linux and a sandbox and between two sandboxes.
fn groups(platform: &str) -> Result<()> {
    let net = Net::new(4)?;
    let script = include_str!("../network/groups.py");
    let hear = |n: u32| -> Result<(Bundle, Running)> {
        let bundle = Bundle::new(&net.program(n, "groups.py", &["hear", &format!("10.77.9.{}", n + 1)])?, false)?;
        let running = Running::new(bundle.command(platform)?)?;
        Ok((bundle, running))
    };
    // Whoever hears leaves the group at the end: each time another one.
    let linux = || net.native(1, script, &["hear", "10.77.9.2"]);
    let say = || run_native(&net, 3, script, &["say", "10.77.9.4"]);
    let ours_says = || net.sandboxed(platform, 2, "groups.py", &["say", "10.77.9.3"]);
    let want = {
        let _linux = linux()?;
        say()?
    };
    assert_eq!(want, "group 10.77.9.2\neverybody 10.77.9.2 10.77.9.2\ngroup of IPv6 fd77::2 True\nleft 10.77.9.2\n");
    {
        let _linux = linux()?;
        assert_eq!(ours_says()?, want, "a sandbox says, Linux hears");
    }
    {
        let _ours = hear(1)?;
        assert_eq!(say()?, want, "Linux says, a sandbox hears");
    }
    // In a namespace of its own: who is killed gives nothing back.
    let _ours = hear(4)?;
    let want = want.replace("10.77.9.2", "10.77.9.5").replace("fd77::2", "fd77::5");
    assert_eq!(ours_says()?, want, "between two sandboxes");
    Ok(())
}

/// Answers every question for an address with 10.1.2.3.
const NAME_SERVER: &str = r#"
import socket, sys, threading
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.11", 53))
def serve():
    while True:
        q, who = s.recvfrom(512)
        end = q.index(b"\0", 12) + 5
        known = q[end - 4:end - 2] == b"\0\1"
        s.sendto(q[:2] + b"\x81\x80\0\1\0" + bytes([known]) + bytes(4) + q[12:end] + (b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x0a\1\2\3" if known else b""), who)
threading.Thread(target=serve, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"#;

/// An engine's name server on loopback in the container's namespace is reached although the sandbox's loopback is another.
fn engine_resolver(platform: &str) -> Result<()> {
    let net = Net::new(1)?;
    let _server = net.native(1, NAME_SERVER, &[])?;
    let file = std::env::temp_dir().join(format!("caisson-resolv-{}-{platform}", std::process::id()));
    std::fs::write(&file, "nameserver 127.0.0.11\noptions timeout:5 attempts:2\n")?;
    let mut program = net.program(1, "client.py", &["name", "anybody.example"])?;
    program.volumes.push(Volume { source: file.clone(), target: "/etc/resolv.conf".to_string() });
    let out = program.sandboxed(platform);
    std::fs::remove_file(file)?;
    let out = out?;
    assert_eq!(out.text(), "10.1.2.3\n", "{out}");
    Ok(())
}

/// The host's sockets, in a namespace of the container's: everything as natively.
fn passed_through(platform: &str) -> Result<()> {
    let net = Net::new(2)?;
    let _peer = net.native(0, PEER, &["10.77.9.1", "fd77::1"])?;
    for (what, address) in [("streams", "10.77.9.1"), ("both", "fd77::1"), ("linger", "10.77.9.1")] {
        let args = [what, address, "4000000"];
        let mut program = net.program(1, "client.py", &args)?;
        program.passthrough = true;
        let out = program.sandboxed(platform)?;
        let sorted = |text: String| -> Vec<String> {
            let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(out.text()), sorted(run_native(&net, 2, CLIENT, &args)?), "{out}");
    }
    let mut program = net.program(1, "peer.py", &["10.77.9.2"])?;
    program.passthrough = true;
    let bundle = Bundle::new(&program, false)?;
    let _server = Running::new(bundle.command(platform)?)?;
    run_native(&net, 0, CLIENT, &["both", "10.77.9.2", "4000000"])?;
    assert_eq!(run_native(&net, 0, CLIENT, &["many", "10.77.9.2", "100"])?, "short 100\n");
    Ok(())
}

/// Servers and clients of Debian across the bridge: a sandbox serves Linux and another sandbox, and Linux serves a sandbox.
fn servers_across(platform: &str) -> Result<()> {
    let net = Net::new(3)?;
    let tree = root::debian_with(caisson_tests_programs::SERVERS)?;
    let program = |n: u32, script: &str, at: &str| -> Result<Program> {
        let mut p = net.program(n, "", &[])?;
        p.root = tree.clone();
        p.args = ["sh", &format!("/mnt/{script}"), at].map(str::to_string).to_vec();
        Ok(p)
    };
    let client = program(0, "across_client.sh", "10.77.9.2")?;
    let want = {
        let bundle = Bundle::new(&program(1, "across_server.sh", "10.77.9.2")?, false)?;
        let _server = Running::new(bundle.command(platform)?)?;
        let linux = client.native()?;
        assert!(linux.status == 0 && linux.text().contains("echoes 2000"), "{linux}");
        let ours = program(2, "across_client.sh", "10.77.9.2")?.sandboxed(platform)?;
        assert!(ours == linux, "natively {linux}\nin a sandbox {ours}");
        linux
    };
    let _server = Running::new(program(3, "across_server.sh", "10.77.9.4")?.native_command())?;
    let ours = program(2, "across_client.sh", "10.77.9.4")?.sandboxed(platform)?;
    assert!(ours == want, "a sandbox with Linux {ours}\nLinux with a sandbox {want}");
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::default();
    type Test = fn(&str) -> Result<()>;
    let tests: [(&str, Test); 16] = [
        ("host_and_sandbox", host_and_sandbox),
        ("sandbox_serves", sandbox_serves),
        ("lossy_wire", |p| bad_wire(p, [10, 0, 0, 0, 0])),
        ("reordering_wire", |p| bad_wire(p, [0, 20, 60, 0, 0])),
        ("bad_wire", |p| bad_wire(p, [10, 10, 30, 0, 0])),
        ("forging_wire", |p| bad_wire(p, [0, 0, 10, 300, 0])),
        ("many_connections", many_connections),
        ("fuzzed_frames", fuzzed_frames),
        ("floods", floods),
        ("lingers", lingers),
        ("engine_resolver", engine_resolver),
        ("passed_through", passed_through),
        ("servers_across", servers_across),
        ("network_changes", network_changes),
        ("no_default_route", no_default_route),
        ("groups", groups),
    ];
    let wire: Option<Vec<u32>> = std::env::var("CAISSON_TEST_WIRE").ok().map(|w| w.split(',').filter_map(|n| n.parse().ok()).collect());
    for platform in platforms() {
        if let Some(wire) = wire.as_deref().and_then(|w| Wire::try_from(w).ok()) {
            let platform = platform.clone();
            suite.add(format!("{platform}::this_wire"), move || bad_wire(&platform, wire).map_err(|e| Failed::from(format!("{e:#}"))));
        }
        for (name, test) in tests {
            let platform = platform.clone();
            suite.add(format!("{platform}::{name}"), move || test(&platform).map_err(|e| Failed::from(format!("{e:#}"))));
        }
    }
    suite.run()
}
