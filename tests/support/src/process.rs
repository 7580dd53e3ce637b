//! Running a host process with a time limit, and what came of it.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What a program printed, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit status; 128 + n for signal n.
    pub status: i32,
    /// The time limit ended it.
    pub timed_out: bool,
}

impl Output {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// What a program at script(1)'s terminal has shown: without carriage returns, and without the echo of what script types when its own
    /// input ends, an end-of-file character that is a NUL to programs if the terminal becomes raw before it is read.
    pub fn terminal_text(&self) -> String {
        self.text().replace('\r', "").replace("^@", "")
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let late = if self.timed_out { " (killed at the time limit)" } else { "" };
        writeln!(f, "status {}{late}", self.status)?;
        for (name, bytes) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            let text = String::from_utf8_lossy(bytes);
            for line in last_lines(&text, 60) {
                writeln!(f, "{name}: {line}")?;
            }
        }
        Ok(())
    }
}

fn last_lines(text: &str, n: usize) -> impl Iterator<Item = &str> {
    let total = text.lines().count();
    text.lines().skip(total.saturating_sub(n))
}

/// Runs `command` in a process group of its own with these bytes on its standard input. At the time limit the whole group is
/// killed; where the command makes processes outside of it, their end must follow from the command's own.
pub fn run(command: &mut Command, stdin: &[u8], limit: Duration) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().with_context(|| format!("{:?}", command.get_program()))?;
    let pid = Pid::from_child(&child);
    if let Some(mut pipe) = child.stdin.take() {
        let bytes = stdin.to_vec();
        // A program that does not read all of its input is no error.
        std::thread::spawn(move || pipe.write_all(&bytes));
    }
    let (done, ends) = mpsc::channel();
    let readers =
        [child.stdout.take().map(|p| collect(Box::new(p), 0, &done)), child.stderr.take().map(|p| collect(Box::new(p), 1, &done))];
    let deadline = Instant::now() + limit;
    let mut timed_out = false;
    let mut parts = [Vec::new(), Vec::new()];
    let mut missing = readers.iter().flatten().count();
    let mut status = None;
    while missing > 0 || status.is_none() {
        if let Ok((which, bytes)) = ends.recv_timeout(Duration::from_millis(5)) {
            if let Some(part) = parts.get_mut::<usize>(which) {
                *part = bytes;
            }
            missing -= 1;
        }
        if status.is_none() {
            status = child.try_wait()?;
        }
        if !timed_out && Instant::now() > deadline {
            timed_out = true;
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = kill_process(pid, Signal::KILL);
        } else if timed_out && Instant::now() > deadline + Duration::from_secs(10) {
            // Something outside the group holds the pipes open: the answer is that it timed out.
            break;
        }
    }
    let status = match status {
        Some(s) => s.code().unwrap_or_else(|| 128 + s.signal().unwrap_or(0)),
        None => 255,
    };
    let [stdout, stderr] = parts;
    Ok(Output { stdout, stderr, status, timed_out })
}

fn collect(mut pipe: Box<dyn Read + Send>, which: usize, done: &mpsc::Sender<(usize, Vec<u8>)>) {
    let done = done.clone();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = done.send((which, bytes));
    });
}
