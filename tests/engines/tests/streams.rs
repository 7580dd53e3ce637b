//! Streams of a pod: exec and attach with and without a terminal, ports, logs.

use super::pods;
use anyhow::{Context, Result, ensure};
use caisson_tests_engines::streams::{STDERR, STDIN, STDOUT};
use caisson_tests_engines::{Cri, eventually};
use k8s_cri::v1::ReopenContainerLogRequest;
use std::path::Path;
use std::time::Instant;

/// With every runtime.
pub const TESTS: &[(&str, super::Test)] = &[
    ("exec_streams", exec_streams),
    ("exec_terminal", exec_terminal),
    ("attach", attach),
    ("attach_terminal", attach_terminal),
    ("port_forward", port_forward),
    ("log_rotation", log_rotation),
    ("exec_timeout", exec_timeout),
];

fn exec_streams(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let one = c.run_container(&pod, "one", 0, &["sleep", "1111"], &[])?;
    let mut stream = c.stream_exec(&one, &["sh", "-c", "read x; echo out $x; echo err >&2; exit 7"], false)?;
    stream.send(STDIN, b"word\n")?;
    ensure!(stream.end()? == 7, "{stream:?}");
    ensure!(stream.received(STDOUT) == b"out word\n" && stream.received(STDERR) == b"err\n", "{stream:?}");
    // Much, in both directions at once.
    let mut stream = c.stream_exec(&one, &["sh", "-c", "head -c 1000000 | md5sum; head -c 3000000 /dev/zero | tr '\\0' x"], false)?;
    for _ in 0..100 {
        stream.send(STDIN, &[b'y'; 10_000])?;
    }
    ensure!(stream.end()? == 0, "{stream:?}");
    let shown = stream.received(STDOUT);
    ensure!(shown.starts_with(b"4c4ece6a40af230a4b507ceec577ba44"), "{:?}", shown.get(..40));
    ensure!(shown.iter().filter(|byte| **byte == b'x').count() == 3_000_000, "{} bytes", shown.len());
    let mut missing = c.stream_exec(&one, &["/no/such/program"], false)?;
    ensure!(missing.end().is_err() || missing.end()? != 0, "{missing:?}");
    Ok(())
}

fn exec_terminal(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let one = c.run_container(&pod, "one", 0, &["sleep", "1111"], &[])?;
    let mut stream = c.stream_exec(&one, &["sh", "-c", "tty; while read x; do stty size; done; echo the end; exit 3"], true)?;
    stream.shows("/dev/pts/")?;
    // The size goes its own way beside the input: ask until it has arrived.
    for (width, height) in [(97, 31), (120, 50)] {
        stream.resize(width, height)?;
        let wanted = format!("{height} {width}\n");
        eventually(30, || {
            let before = stream.text(STDOUT).len();
            stream.send(STDIN, b"x\n").ok()?;
            let answered =
                |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\r', "").get(before..).is_some_and(|t| t.matches('\n').count() >= 2);
            stream.until(STDOUT, answered).ok()?;
            stream.text(STDOUT).contains(&wanted).then_some(())
        })
        .with_context(|| format!("not {wanted:?}: {}", stream.text(STDOUT)))?;
    }
    // End of file is a key of the terminal.
    stream.send(STDIN, b"\x04")?;
    stream.shows("the end\n")?;
    ensure!(stream.end()? == 3, "{stream:?}");
    // An interrupt, too; and two terminals beside each other are two.
    let mut first = c.stream_exec(&one, &["sh", "-c", "tty; sleep 1000"], true)?;
    first.shows("/dev/pts/")?;
    let mut second = c.stream_exec(&one, &["sh", "-c", "tty; exec cat"], true)?;
    second.shows("/dev/pts/")?;
    ensure!(first.text(STDOUT) != second.text(STDOUT), "{first:?}, {second:?}");
    first.send(STDIN, b"\x03")?;
    ensure!(first.end()? == 130, "{first:?}");
    second.send(STDIN, b"line\n")?;
    second.shows("line\nline\n")?;
    // A client that goes away takes nothing with it but its own end.
    drop(second);
    ensure!(c.exec_ok(&one, &["echo", "fine"])? == "fine\n", "exec");
    Ok(())
}

fn attach(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let script = "echo ready; while read x; do echo got $x; echo bad $x >&2; [ $x != end ] || exit 4; done; exit 9";
    let one = c.run_with(&pod, "one", &["sh", "-c", script], |config| config.stdin = true)?;
    c.logged(&pod, "one", "ready")?;
    let mut first = c.stream_attach(&one, false)?;
    let mut second = c.stream_attach(&one, false)?;
    first.send(STDIN, b"one\n")?;
    // Both see what there is to see, whoever asked for it. (The second may come late.)
    first.shows("got one\n")?;
    first.until(STDERR, |bytes| bytes == b"bad one\n")?;
    eventually(30, || {
        second.send(STDIN, b"two\n").ok()?;
        second.shows("got two\n").ok()
    })
    .context("the second")?;
    first.shows("got two\n")?;
    // A client that goes away does not end the container's input.
    drop(first);
    second.send(STDIN, b"three\n")?;
    second.shows("got three\n")?;
    second.send(STDIN, b"end\n")?;
    second.closes()?;
    ensure!(c.exited(&one)? == 4, "{:?}", c.status(&one)?);
    ensure!(c.log(&pod, "one").iter().any(|line| line == "got end"), "{:?}", c.log(&pod, "one"));
    // With `stdin_once` the input ends with the first client.
    let two = c.run_with(&pod, "two", &["sh", "-c", "echo ready; cat; exit 6"], |config| {
        config.stdin = true;
        config.stdin_once = true;
    })?;
    c.logged(&pod, "two", "ready")?;
    let mut stream = c.stream_attach(&two, false)?;
    stream.send(STDIN, b"through\n")?;
    stream.shows("through\n")?;
    drop(stream);
    ensure!(c.exited(&two)? == 6, "{:?}", c.status(&two)?);
    Ok(())
}

fn attach_terminal(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let one = c.run_with(&pod, "one", &["sh", "-c", "tty; while read x; do echo got $x; stty size; done; exit 5"], |config| {
        config.stdin = true;
        config.tty = true;
    })?;
    c.logged(&pod, "one", "/dev/pts/0")?;
    let mut stream = c.stream_attach(&one, true)?;
    stream.resize(101, 33)?;
    eventually(30, || {
        stream.send(STDIN, b"x\n").ok()?;
        let answers = stream.text(STDOUT).matches("got x").count();
        stream.until(STDOUT, |bytes| String::from_utf8_lossy(bytes).matches("got x").count() > answers).ok()?;
        stream.text(STDOUT).contains("33 101\n").then_some(())
    })
    .with_context(|| stream.text(STDOUT))?;
    let mut second = c.stream_attach(&one, true)?;
    eventually(30, || {
        second.send(STDIN, b"again\n").ok()?;
        second.shows("got again\n").ok()
    })
    .context("the second")?;
    drop(second);
    stream.shows("got again\n")?;
    stream.send(STDIN, b"\x04")?;
    stream.closes()?;
    ensure!(c.exited(&one)? == 5, "{:?}", c.status(&one)?);
    Ok(())
}

fn port_forward(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let [peer, _] = pods::directories(c)?;
    for (name, address, port) in [("any", "0.0.0.0:5000", 5000), ("loopback", "127.0.0.1:5001", 5001), ("six", "[::]:5002", 5002)] {
        c.run_container(&pod, name, 0, &[pods::PEER, "listen", address], &[(&peer, "/peer")])?;
        c.logged(&pod, name, "ready")?;
        let answers = |word: &str| -> Result<String> {
            let mut stream = c.stream_port(&pod, port)?;
            stream.send(0, format!("{word}\n").as_bytes())?;
            stream.until(0, |bytes| bytes.ends_with(b"\n"))?;
            Ok(stream.text(0))
        };
        // Again and again, also two at once.
        let mut held = c.stream_port(&pod, port)?;
        for _ in 0..5 {
            ensure!(answers("more")? == "hello more\n", "{name}");
        }
        held.send(0, b"late\n")?;
        held.until(0, |bytes| bytes == b"hello late\n")?;
    }
    // Nobody listens there: an error, or the end.
    let mut nobody = c.stream_port(&pod, 5999)?;
    let _ = nobody.closes();
    ensure!(nobody.received(0).is_empty(), "{nobody:?}");
    Ok(())
}

fn log_rotation(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    // Each line is as long as the next: what is lost or doubled is seen.
    let script = "i=10000; while [ -e /shared/go ]; do echo $i; i=$((i + 1)); [ $((i % 100)) != 0 ] || sleep 0.01; done; echo last";
    let shared = c.machine.path("shared");
    std::fs::create_dir_all(&shared)?;
    std::fs::write(shared.join("go"), "")?;
    let one = c.run_container(&pod, "one", 0, &["sh", "-c", script], &[(&shared, "/shared")])?;
    let dir = Path::new(&pod.config.log_directory);
    let current = dir.join("one.log");
    let mut parts = Vec::new();
    for n in 0..3 {
        let grown = || (std::fs::metadata(&current).ok()?.len() > 20_000).then_some(());
        eventually(30, grown).with_context(|| format!("the log does not grow after {n} rotations"))?;
        // As the kubelet does it.
        let rotated = dir.join(format!("one.log.{n}"));
        std::fs::rename(&current, &rotated)?;
        let request = ReopenContainerLogRequest { container_id: one.clone() };
        c.ask("ReopenContainerLog", |mut client| async move { client.reopen_container_log(request).await })?;
        parts.push(rotated);
    }
    std::fs::remove_file(shared.join("go"))?;
    ensure!(c.exited(&one)? == 0, "{:?}", c.status(&one)?);
    c.logged(&pod, "one", "last")?;
    parts.push(current);
    let mut lines = Vec::new();
    for part in &parts {
        let text = std::fs::read_to_string(part)?;
        lines.extend(text.lines().filter_map(|line| line.split(' ').nth(3)).map(str::to_owned));
    }
    ensure!(lines.pop().as_deref() == Some("last"), "{:?}", lines.last());
    for (line, number) in lines.iter().zip(10000..) {
        ensure!(*line == number.to_string(), "{line} instead of {number}");
    }
    Ok(())
}

fn exec_timeout(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let one = c.run_container(&pod, "one", 0, &["sleep", "1111"], &[])?;
    let begin = Instant::now();
    let late = c.exec_for(&one, &["sleep", "2222"], 1);
    let late = late.err().context("it ends in time")?.to_string();
    ensure!(late.contains("timeout") || late.contains("deadline"), "{late}");
    ensure!(begin.elapsed().as_secs() < 30, "{:?}", begin.elapsed());
    // What was executed is killed, and the container runs on.
    let gone = || (!c.exec_ok(&one, &["ps"]).ok()?.contains("sleep 2222")).then_some(());
    eventually(30, gone).with_context(|| c.exec_ok(&one, &["ps"]).unwrap_or_default())?;
    ensure!(c.exec_ok(&one, &["cat", "/proc/1/comm"])? == "sleep\n", "its first process");
    Ok(())
}
