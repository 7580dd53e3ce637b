//! The driver of the benchmarks: every side in turn, A B A B, and Markdown tables of medians and ratios.
//!
//! `cargo run --release -p caisson-bench -- [--sides native,runc,runsc,ptrace,trap] [--rounds 3] [--only calls|start|programs|net|matrix] [ROW…]`
//!
//! `sides` knows how each side runs a program, `start` measures starting and idling, `net` the network, `matrix` TCP over bad wires, `table` collects figures and prints them.

mod matrix;
mod net;
mod sides;
mod start;
mod table;

use anyhow::{Result, bail};
use caisson_tests_support::{Program, Volume, binary, root};
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::Command;
use table::Table;

#[derive(Parser)]
struct Args {
    /// Who runs: native, runc, runsc (from CAISSON_BENCH_RUNSC, or fetched), and platforms of Caisson
    #[arg(long, value_delimiter = ',', default_value = "native,runc,runsc,ptrace,trap")]
    sides: Vec<String>,
    /// How often each side runs
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// calls: single calls; start: starting and idling; programs: real programs; net: the network, and matrix: TCP over bad wires (host, sandbox; direct, 0%, 0.1%, 1%), which are run only if asked for
    #[arg(long)]
    only: Option<String>,
    /// Factor for the number of calls measured
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Seconds for each row of the network, or of the matrix
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Rows of the calls, programs or network [default: all]
    rows: Vec<String>,
}

/// Packages of the programs beyond those of the tests.
const PACKAGES: &[&str] = &["fio", "redis-server"];

fn main() -> Result<()> {
    let args = Args::parse();
    if !rustix::process::geteuid().is_root() {
        bail!("run it as root: the native side needs chroot and namespaces");
    }
    let dir = binary::scratch("bench")?;
    let result = run(&args, &dir);
    let removed = std::fs::remove_dir_all(&dir);
    result?;
    Ok(removed?)
}

fn run(args: &Args, dir: &Path) -> Result<()> {
    println!("{}, {} CPUs, {} rounds\n", kernel(), std::thread::available_parallelism()?, args.rounds);
    if args.only.as_deref() == Some("net") {
        return net::measure(args.rounds, &args.sides, args.seconds, &args.rows, dir);
    }
    if args.only.as_deref() == Some("matrix") {
        return matrix::measure(args.rounds, &args.sides, args.seconds, &args.rows);
    }
    let tree = &root::debian_with(PACKAGES)?;
    let wanted = |name| args.only.as_deref().is_none_or(|only| only == name);
    if wanted("calls") {
        // The program lies in a volume: no root is written, and every side maps it from the same file.
        std::fs::copy(build("caisson-bench-micro")?, dir.join("micro"))?;
        let mut calls = Program::new(tree, &["/vol/micro", &args.scale.to_string()]).timeout(600);
        calls.args.extend(args.rows.iter().cloned());
        calls.volumes.push(Volume { source: dir.to_path_buf(), target: "/vol".to_string() });
        measure("Single calls", args, &calls);
    }
    if wanted("start") {
        start::measure(args.rounds, &args.sides, tree);
    }
    if wanted("programs") {
        let script = include_str!("../../macro/programs.sh");
        let mut programs = Program::new(tree, &["/bin/bash", "-c", script, "bash"]).timeout(1200);
        programs.args.extend(args.rows.iter().cloned());
        measure("Programs", args, &programs);
    }
    Ok(())
}

fn kernel() -> String {
    let uname = rustix::system::uname();
    format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy())
}

/// Builds a program of the workspace in this program's own profile.
fn build(package: &str) -> Result<PathBuf> {
    let profile = binary::profile()?;
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--package", package, "--manifest-path"]).arg(binary::workspace().join("Cargo.toml"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    if !cargo.status()?.success() {
        bail!("cargo build --package {package} failed");
    }
    Ok(profile.join(package))
}

/// All rounds of one benchmark on all sides, and its table.
fn measure(title: &str, args: &Args, program: &Program) {
    let mut table = Table::new(title);
    for round in 1..=args.rounds {
        for side in &args.sides {
            eprintln!("{title}: round {round}, {side}");
            match sides::run(side, program) {
                Ok(output) => {
                    if output.status != 0 || !output.stderr.is_empty() {
                        eprintln!("{output}");
                    }
                    table.add_text(side, &output.text());
                }
                Err(e) => eprintln!("{side}: {e:#}"),
            }
        }
    }
    table.print(&args.sides);
}
