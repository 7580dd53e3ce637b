//! Throughput of TCP between a side and a native peer, and between two sandboxes of a side: both directions, IPv4 and IPv6, one and eight
//! streams, over wires that lose and delay.
//!
//! A wire other than `direct` is the small link of the tests, which takes frames off one end of a pair and puts them on another. Behind it
//! nothing is left to be cut by the device: what it loses is one frame of the wire, whoever sends.

use crate::net::{self, Joined, Net, PACKAGES, PEER, PEER_V6, Running, ip};
use crate::{sides, table::Table};
use anyhow::{Context, Result};
use caisson_tests_support::{Program, root};
use std::path::Path;
use std::process::Stdio;

/// A wire's name, the frames that it loses, in thousandths, and how long it takes there and back, in milliseconds.
struct Wire {
    name: &'static str,
    lost: Option<(u32, u32)>,
}

const WIRES: &[Wire] = &[
    Wire { name: "direct", lost: None },
    Wire { name: "0%", lost: Some((0, 20)) },
    Wire { name: "0.1%", lost: Some((1, 20)) },
    Wire { name: "1%", lost: Some((10, 20)) },
];

/// Who is on the other side.
const PEERS: &[&str] = &["host", "sandbox"];

const LINK: &str =
    concat!(include_str!("../../../tests/programs/network/checksum.py"), include_str!("../../../tests/programs/network/link.py"));

/// All rounds on all sides, and a table for each peer. `rows`: peers and wires by their names.
pub fn measure(rounds: u32, all: &[String], seconds: u32, rows: &[String]) -> Result<()> {
    let wanted = |name: &str, among: &[&str]| rows.iter().any(|r| r == name) || !rows.iter().any(|r| among.contains(&r.as_str()));
    let wires: Vec<&str> = WIRES.iter().map(|w| w.name).collect();
    let net = Net::new()?;
    for peer in PEERS.iter().filter(|p| wanted(p, PEERS)) {
        let mut table = Table::new(&format!("TCP, peer: {peer}"));
        for round in 1..=rounds {
            for wire in WIRES.iter().filter(|w| wanted(w.name, &wires)) {
                for side in all {
                    eprintln!("{peer}, {}: round {round}, {side}", wire.name);
                    match cell(&net, side, *peer == "sandbox", wire, seconds) {
                        Ok(text) => table.add_text(side, &text),
                        Err(e) => eprintln!("{side}: {e:#}"),
                    }
                }
            }
        }
        table.print(all);
    }
    Ok(())
}

/// All rows of one wire with one side; their lines.
fn cell(net: &Net, side: &str, with_sandbox: bool, wire: &Wire, seconds: u32) -> Result<String> {
    let tree = root::debian_with(PACKAGES)?;
    let _joined = net.join(1)?;
    let _link = wire.lost.map(|(lost, delay)| bad_wire(net, lost, delay)).transpose()?;
    let (_server, v4, v6) = if with_sandbox {
        (server(net, side, &tree)?, "10.78.9.3", "fd78::3")
    } else {
        // Its first line is one of hyphens.
        let native = Running::start(net.native(Path::new("iperf3"), &["-s", "--forceflush"]))?;
        (Server { _running: native, _joined: None }, PEER, PEER_V6)
    };
    let script = include_str!("../../net/matrix.sh");
    let mut client = Program::new(&tree, &["/bin/bash", "-c", script, "matrix.sh", &seconds.to_string(), wire.name, v4, v6]).timeout(600);
    client.network = Some(Net::path(1));
    let out = net::run(side, &client)?;
    if out.status != 0 || !out.stderr.is_empty() {
        eprintln!("{out}");
    }
    Ok(out.text())
}

/// A server that ends with this value.
struct Server {
    _running: Running,
    _joined: Option<Joined>,
}

/// iperf3's server as this side runs it, in a namespace of its own.
fn server(net: &Net, side: &str, tree: &Path) -> Result<Server> {
    let joined = net.join(2)?;
    let mut program = Program::new(tree, &["iperf3", "-s", "--forceflush"]).timeout(600);
    program.network = Some(Net::path(2));
    // The bundle is read at the start, which is over when there is a first line.
    let bundle = (side != "native").then(|| sides::bundle(side, &program)).transpose()?;
    let mut command = match &bundle {
        None => program.native_command(),
        Some(bundle) => net::command(side, bundle, 2)?,
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let running = Running::start(command).context("iperf3's server")?;
    Ok(Server { _running: running, _joined: Some(joined) })
}

/// The link between the side's interface and the bridge, until the value ends.
fn bad_wire(net: &Net, lost: u32, delay: u32) -> Result<Running> {
    let (peer, side) = (Net::peer(), Net::side(1));
    // v1 leaves the bridge; in its place comes a pair whose far end the link joins with v1. It ends with the namespace of the peer, or here.
    let _ = ip(&format!("-n {peer} link del w0"));
    for line in ["link set v1 nomaster", "link add w0 type veth peer name w1", "link set w0 master br0 up", "link set w1 up"] {
        ip(&format!("-n {peer} {line}"))?;
    }
    for device in ["w0", "br0"] {
        ip(&format!("-n {peer} link set {device} gso_max_segs 1 gso_max_size 1600"))?;
    }
    ip(&format!("-n {side} link set eth0 gso_max_segs 1 gso_max_size 1600"))?;
    let numbers = ["v1", "w1", "7", &lost.to_string(), "0", "0", "0", &(delay / 2).to_string()].map(str::to_string);
    let mut command = net.native(Path::new("python3"), &["-c", LINK]);
    command.args(numbers);
    Running::start(command)
}
