//! Processes that come and go leave nothing: after thousands of fork+exec the sentry has the memory, threads, descriptors and areas that it
//! had after the first tenth of them, and memory that an application frees goes back to the host.
//!
//! `CAISSON_TEST_FORKS` says how many there are (default 3,000; by hand 200,000).

use caisson_tests_support::bundle::Bundle;
use caisson_tests_support::{Program, host, root};
use libtest_mimic::Failed;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

/// Forks and executes in ten batches; after each it says so and waits for a line.
const SCRIPT: &str = r#"$| = 1;
for my $batch (1 .. 10) {
  for (1 .. $ARGV[0] / 10) {
    my $pid = fork;
    if (!$pid) { exec "/bin/true" if $_ % 2; exit 0; }
    waitpid $pid, 0;
    die "status $?" if $?;
  }
  print "$batch\n"; <STDIN>;
}"#;

/// Takes 300 MB, gives them back.
const TAKE: &str = "x = b'a' * 300_000_000\nprint(len(x), flush=True)\ninput()\ndel x\nprint('freed', flush=True)\ninput()";

/// What all but the first tenth may cost the sentry's own memory, in KiB.
const MAY_GROW: u64 = 1024;
/// Pages of ended processes are kept for the next ones, up to a limit: the shared memory goes up and down below this, in KiB.
const KEPT: u64 = 128 << 10;
/// Threads, descriptors and areas that come and go by themselves.
const SLACK: u64 = 24;

/// What the host sees of a sentry.
#[derive(Debug)]
struct Sizes {
    own: u64,
    shared: u64,
    threads: u64,
    descriptors: u64,
    areas: u64,
    processes: u64,
}

impl Sizes {
    fn of(sentry: i32) -> Result<Sizes, Failed> {
        let count = |dir: &str| Ok::<u64, Failed>(std::fs::read_dir(format!("/proc/{sentry}/{dir}"))?.count() as u64);
        Ok(Sizes {
            own: memory(sentry, "RssAnon")?,
            shared: memory(sentry, "RssShmem")?,
            threads: count("task")?,
            descriptors: count("fd")?,
            areas: std::fs::read_to_string(format!("/proc/{sentry}/maps"))?.lines().count() as u64,
            processes: host::descendants(sentry).len() as u64,
        })
    }
}

pub fn flat(platform: &str) -> Result<(), Failed> {
    let forks = std::env::var("CAISSON_TEST_FORKS").unwrap_or_else(|_| "3000".to_string());
    let mut sizes = Vec::new();
    watch(platform, &["/usr/bin/perl", "-e", SCRIPT, &forks], |sentry, answers, stdin| {
        for batch in 1..=10 {
            expect(answers, &batch.to_string())?;
            sizes.push(Sizes::of(sentry)?);
            stdin.write_all(b"\n")?;
        }
        Ok(())
    })?;
    let (Some(first), Some(last)) = (sizes.first(), sizes.last()) else { return Err("no figures".into()) };
    let level = |of: fn(&Sizes) -> u64, slack: u64| of(last) <= of(first) + slack;
    let flat = level(|s| s.own, MAY_GROW)
        && level(|s| s.threads, SLACK)
        && level(|s| s.descriptors, SLACK)
        && level(|s| s.areas, 2 * SLACK)
        && level(|s| s.processes, SLACK)
        && sizes.iter().all(|s| s.shared <= KEPT);
    if !flat {
        return Err(format!("the sentry grew over {forks} forks: {sizes:#?}").into());
    }
    Ok(())
}

pub fn gives_memory_back(platform: &str) -> Result<(), Failed> {
    watch(platform, &["/usr/bin/python3", "-c", TAKE], |sentry, answers, stdin| {
        expect(answers, "300000000")?;
        let taken = memory_file_blocks(sentry)?;
        if taken < 250 << 20 {
            return Err(format!("300 MB are in use, and the memory file has {taken} bytes").into());
        }
        stdin.write_all(b"\n")?;
        expect(answers, "freed")?;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let left = memory_file_blocks(sentry)?;
            if left < 50 << 20 {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("freed memory stays: {left} bytes").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        stdin.write_all(b"\n")?;
        Ok(())
    })
}

/// Bytes of host memory that the largest memory file of a sentry occupies: that of the application's memory.
fn memory_file_blocks(sentry: i32) -> Result<u64, Failed> {
    use std::os::unix::fs::MetadataExt;
    let mut most = None;
    for entry in std::fs::read_dir(format!("/proc/{sentry}/fd"))? {
        let path = entry?.path();
        // A descriptor may be closed meanwhile.
        let Ok(name) = std::fs::read_link(&path) else { continue };
        if name.to_string_lossy().contains("memfd:caisson-memory") {
            most = most.max(Some(std::fs::metadata(&path)?.blocks() * 512));
        }
    }
    most.ok_or_else(|| "the sentry has no memory file".into())
}

/// Runs a program in a sandbox and `f` with its sentry, output and input, and sees it end well.
fn watch(
    platform: &str,
    args: &[&str],
    f: impl FnOnce(i32, &mut Lines<BufReader<ChildStdout>>, &mut ChildStdin) -> Result<(), Failed>,
) -> Result<(), Failed> {
    let program = Program::new(root::debian().map_err(text)?, args);
    let bundle = Bundle::new(&program, false).map_err(text)?;
    let mut command = bundle.command(platform).map_err(text)?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
    let outcome = (|| {
        let (sentry, _) = host::sentry_and_gofer(i32::try_from(child.id())?).ok_or("no sentry")?;
        let mut answers = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        let mut stdin = child.stdin.take().ok_or("no stdin")?;
        f(sentry, &mut answers, &mut stdin)
    })();
    if outcome.is_err() {
        let _ = child.kill();
    }
    let status = child.wait()?;
    outcome?;
    if !status.success() {
        return Err(format!("the program ended with {status}").into());
    }
    Ok(())
}

fn expect(answers: &mut Lines<BufReader<ChildStdout>>, line: &str) -> Result<(), Failed> {
    let said = answers.next().ok_or("it ended early")??;
    if said == line { Ok(()) } else { Err(format!("expected {line}, got {said}").into()) }
}

fn memory(sentry: i32, field: &str) -> Result<u64, Failed> {
    host::memory(sentry, field).ok_or_else(|| "the sentry is gone".into())
}

fn text(e: impl std::fmt::Display) -> Failed {
    e.to_string().into()
}
