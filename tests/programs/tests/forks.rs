//! Ten thousand forks in a row: the sentry's memory stays where it was after the first thousand.

use caisson_tests_support::bundle::Bundle;
use caisson_tests_support::{Program, host, root};
use libtest_mimic::Failed;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

/// Forks in batches; after each it says so and waits for a line.
const SCRIPT: &str = r#"$| = 1;
for my $batch (1 .. 10) {
  for (1 .. 1000) { my $pid = fork; exit 0 if !$pid; waitpid $pid, 0; }
  print "$batch\n"; <STDIN>;
}"#;

/// What nine thousand forks more may cost the sentry's own memory, in KiB.
const MAY_GROW: u64 = 1024;

/// Pages of ended processes are kept for the next ones, up to a limit: the shared memory goes up and down below this, in KiB.
const KEPT: u64 = 128 << 10;

pub fn flat(platform: &str) -> Result<(), Failed> {
    let program = Program::new(
        root::debian().map_err(text)?,
        &["/usr/bin/perl", "-e", SCRIPT],
    );
    let bundle = Bundle::new(&program, false).map_err(text)?;
    let mut command = bundle.command(platform).map_err(text)?;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let outcome = measure(&mut child);
    let _ = child.kill();
    let _ = child.wait();
    let sizes = outcome?;
    let (Some((first, _)), Some((last, _))) = (sizes.first(), sizes.last()) else {
        return Err("no figures".into());
    };
    if *last > first + MAY_GROW || sizes.iter().any(|(_, shared)| *shared > KEPT) {
        return Err(format!("the sentry grew: after each thousand forks (own, shared) {sizes:?} KiB").into());
    }
    Ok(())
}

fn measure(child: &mut std::process::Child) -> Result<Vec<(u64, u64)>, Failed> {
    let (sentry, _) = host::sentry_and_gofer(i32::try_from(child.id())?).ok_or("no sentry")?;
    let mut answers = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    let mut sizes = Vec::new();
    for batch in 1..=10 {
        let line = answers.next().ok_or("it ended early")??;
        if line != batch.to_string() {
            return Err(format!("unexpected: {line}").into());
        }
        let size = |field| host::memory(sentry, field).ok_or("the sentry is gone");
        sizes.push((size("RssAnon")?, size("RssShmem")?));
        stdin.write_all(b"\n")?;
    }
    Ok(sizes)
}

fn text(e: impl std::fmt::Display) -> Failed {
    e.to_string().into()
}
