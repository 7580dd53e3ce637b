//! How long it takes to run a container that does nothing, through each engine and with each runtime: a table in Markdown.
//!
//! `start-latency [ROUNDS]`, as root. `CAISSON_BIN` should name a release build; `RUNSC` names a runsc to compare with.

use anyhow::{Context, Result};
use caisson_tests_engines::containerd::RUNTIMES;
use caisson_tests_engines::image::BUSYBOX;
use caisson_tests_engines::{Containerd, Cri, Docker};
use std::time::Instant;

fn main() -> Result<()> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(10), |text| text.parse()).context("ROUNDS")?;
    let runsc = std::env::var("RUNSC").ok();
    println!("| what | runtime | median ms | least ms |\n| --- | --- | ---: | ---: |");
    containerd(rounds, runsc.as_deref())?;
    docker(rounds, runsc.as_deref())?;
    for handler in ["runc", "caisson"] {
        cri(rounds, handler)?;
    }
    Ok(())
}

/// Measures, and prints a row. The first time, which finds cold caches, is left out.
fn row(what: &str, runtime: &str, rounds: usize, mut once: impl FnMut(usize) -> Result<()>) -> Result<()> {
    let mut times = Vec::new();
    for round in 0..=rounds {
        let begin = Instant::now();
        once(round)?;
        times.push(begin.elapsed().as_millis());
    }
    times.remove(0);
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    println!("| {what} | {runtime} | {median} | {} |", times.first().copied().unwrap_or_default());
    Ok(())
}

fn containerd(rounds: usize, runsc: Option<&str>) -> Result<()> {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.own_shim == runtime.caisson) {
        let containerd = Containerd::start(runtime)?;
        let name = if runtime.caisson { "caisson" } else { "runc" };
        row("`ctr run --rm … true`", name, rounds, |n| containerd.run_ok(&["--rm"], &format!("c{n}"), &["true"]).map(drop))?;
        if let (Some(runsc), false) = (runsc, runtime.caisson) {
            row("`ctr run --rm … true`", "runsc", rounds, |n| {
                let flags = ["--runtime", "io.containerd.runc.v2", "--runc-binary", runsc];
                let id = format!("r{n}");
                containerd.ctr(&[&["run", "--rm"], &flags[..], &[BUSYBOX, &id, "true"]].concat()).map(drop)
            })?;
        }
    }
    Ok(())
}

fn docker(rounds: usize, runsc: Option<&str>) -> Result<()> {
    let docker = Docker::start_with("runc", runsc)?;
    let names = ["runc", "caisson"].into_iter().chain(runsc.map(|_| "runsc"));
    for name in names {
        row("`docker run --rm --network none … true`", name, rounds, |_| {
            docker.ok(&["run", "--rm", "--network", "none", "--runtime", name, BUSYBOX, "true"]).map(drop)
        })?;
    }
    Ok(())
}

fn cri(rounds: usize, handler: &'static str) -> Result<()> {
    let cri = Cri::start(handler)?;
    let mut pods = Vec::new();
    row("CRI: pod sandbox with CNI bridge, and a container in it", handler, rounds.min(5), |n| {
        let pod = cri.run_pod(&format!("pod{n}"), false)?;
        cri.run_container(&pod, "one", 0, &["sleep", "1000"], &[])?;
        pods.push(pod);
        Ok(())
    })?;
    pods.iter().try_for_each(|pod| cri.stop_pod(pod).and_then(|()| cri.remove_pod(pod)))
}
