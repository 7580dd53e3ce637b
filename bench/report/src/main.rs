//! The driver of the benchmarks: every side in turn, A B A B, and a Markdown table of medians and ratios.
//!
//! `cargo run --release -p caisson-bench -- [--sides native,runc,runsc,ptrace] [--rounds 3] [--only micro|macro] [ROW…]`

use anyhow::{Context, Result, bail};
use caisson_tests_support::bundle::Bundle;
use caisson_tests_support::{Output, Program, binary, process, root};
use clap::Parser;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

#[derive(Parser)]
struct Args {
    /// Who runs: native, runc, runsc (from CAISSON_BENCH_RUNSC, or fetched), and platforms of Caisson
    #[arg(long, value_delimiter = ',', default_value = "native,runc,runsc,ptrace")]
    sides: Vec<String>,
    /// How often each side runs
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// micro: single calls; macro: programs
    #[arg(long)]
    only: Option<String>,
    /// Factor for the number of calls measured
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Rows of the macro benchmarks [default: all]
    rows: Vec<String>,
}

/// Packages of the macro benchmarks beyond those of the tests.
const PACKAGES: &[&str] = &["fio", "redis-server"];

/// Figures of one row: unit, and the values of each side.
type Rows = BTreeMap<String, (String, BTreeMap<String, Vec<f64>>)>;

fn main() -> Result<()> {
    let args = Args::parse();
    if !rustix::process::geteuid().is_root() {
        bail!("run it as root: the native side needs chroot and namespaces");
    }
    let tree = root::debian_with(PACKAGES)?;
    let dir = binary::scratch("bench")?;
    let result = run(&args, &tree, &dir);
    let _ = std::fs::remove_dir_all(&dir);
    result
}

fn run(args: &Args, tree: &Path, dir: &Path) -> Result<()> {
    println!("{}, {} CPUs, {} rounds\n", kernel(), std::thread::available_parallelism()?, args.rounds);
    if args.only.as_deref() != Some("macro") {
        // The program lies in a volume: no root is written, and every side maps it from the same file.
        let program = build_micro()?;
        std::fs::copy(&program, dir.join("micro"))?;
        let mut micro = Program::new(tree, &["/vol/micro", &args.scale.to_string()]).timeout(600);
        micro.volumes.push(volume(dir));
        measure("Single calls", args, &micro)?;
    }
    if args.only.as_deref() != Some("micro") {
        let script = include_str!("../../macro/programs.sh");
        let mut programs = Program::new(tree, &["/bin/bash", "-c", script, "bash"]).timeout(1200);
        programs.args.extend(args.rows.iter().cloned());
        measure("Programs", args, &programs)?;
    }
    Ok(())
}

fn volume(dir: &Path) -> caisson_tests_support::Volume {
    caisson_tests_support::Volume { source: dir.to_path_buf(), target: "/vol".to_string() }
}

fn kernel() -> String {
    let uname = rustix::system::uname();
    format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy())
}

fn build_micro() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let profile = me.parent().context("no profile directory")?;
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--release", "--package", "caisson-bench-micro", "--manifest-path"]);
    if !cargo.arg(binary::workspace().join("Cargo.toml")).status()?.success() {
        bail!("cargo build --package caisson-bench-micro failed");
    }
    Ok(profile.with_file_name("release").join("caisson-bench-micro"))
}

/// All rounds of one benchmark on all sides, and its table.
fn measure(title: &str, args: &Args, program: &Program) -> Result<()> {
    let mut rows = Rows::new();
    let mut order = Vec::new();
    for round in 1..=args.rounds {
        for side in &args.sides {
            eprintln!("{title}: round {round}, {side}");
            match once(side, program) {
                Ok(output) => {
                    if output.status != 0 || !output.stderr.is_empty() {
                        eprintln!("{output}");
                    }
                    collect(&mut rows, &mut order, side, &output.text());
                }
                Err(e) => eprintln!("{side}: {e:#}"),
            }
        }
    }
    table(title, &args.sides, &order, &rows);
    Ok(())
}

fn once(side: &str, program: &Program) -> Result<Output> {
    match side {
        "native" => program.native(),
        "runc" => peer(Command::new("runc"), program),
        "runsc" => {
            let mut command = Command::new(runsc()?);
            command.args(["--network=none", "--platform=systrap", "--ignore-cgroups"]);
            peer(command, program)
        }
        platform => program.sandboxed(platform),
    }
}

/// A run by another OCI runtime, from the same bundle. Output goes through pipes: runsc reopens a standard output that is a file.
fn peer(mut command: Command, program: &Program) -> Result<Output> {
    let bundle = Bundle::new(program, false)?;
    // Caisson keeps writes to the root in memory; others would write to the tree that we keep.
    let config = bundle.path().join("config.json");
    let text = std::fs::read_to_string(&config)?.replace("\"readonly\": false", "\"readonly\": true");
    std::fs::write(&config, text)?;
    command.arg("--root").arg(bundle.state()).args(["run", "--bundle"]).arg(bundle.path()).arg(&bundle.id);
    process::run(&mut command, &[], program.timeout.max(Duration::from_secs(60)))
}

/// `CAISSON_BENCH_RUNSC`, or Debian's package, fetched once.
fn runsc() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CAISSON_BENCH_RUNSC") {
        return Ok(path.into());
    }
    let output = Command::new(binary::workspace().join("bench/get-runsc.sh")).output()?;
    if !output.status.success() {
        bail!("bench/get-runsc.sh: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

fn collect(rows: &mut Rows, order: &mut Vec<String>, side: &str, text: &str) {
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, figure, unit] = words.as_slice() else { continue };
        let Ok(value) = figure.parse::<f64>() else {
            eprintln!("{side}: {line}");
            continue;
        };
        if !rows.contains_key(*name) {
            order.push((*name).to_string());
        }
        let row = rows.entry((*name).to_string()).or_insert_with(|| ((*unit).to_string(), BTreeMap::new()));
        row.1.entry(side.to_string()).or_default().push(value);
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted.get(middle).copied().unwrap_or(f64::NAN),
        _ => (sorted.get(middle - 1).copied().unwrap_or(f64::NAN) + sorted.get(middle).copied().unwrap_or(f64::NAN)) / 2.0,
    }
}

/// Medians, and for each side but the first how many times worse it is than the first.
fn table(title: &str, sides: &[String], order: &[String], rows: &Rows) {
    let Some((first, others)) = sides.split_first() else { return };
    let ratio_names = others.iter().map(|s| format!(" {s}/{first} |")).collect::<String>();
    println!("## {title}\n\n| row | unit |{}{ratio_names}", sides.iter().map(|s| format!(" {s} |")).collect::<String>());
    println!("| --- | --- |{}", " ---: |".repeat(sides.len() + others.len()));
    let mut logs: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for name in order {
        let Some((unit, values)) = rows.get(name) else { continue };
        let of = |side: &String| values.get(side).map(|v| median(v));
        let cell = |v: Option<f64>| v.map_or(" – |".to_string(), |v| format!(" {v:.0} |"));
        let mut line = format!("| {name} | {unit} |{}", sides.iter().map(|s| cell(of(s))).collect::<String>());
        for side in others {
            let ratio = of(first).zip(of(side)).map(|(a, b)| if unit.ends_with("/s") { a / b } else { b / a });
            if let Some(r) = ratio {
                logs.entry(side).or_default().push(r.ln());
            }
            line += &ratio.map_or(" – |".to_string(), |r| format!(" {r:.1} |"));
        }
        println!("{line}");
    }
    for (side, l) in logs {
        let mean = (l.iter().sum::<f64>() / l.len() as f64).exp();
        println!("\nGeometric mean of {side}/{first}, {} rows: {mean:.1}", l.len());
    }
    println!();
}
