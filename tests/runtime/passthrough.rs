//! `caisson do` and `caisson run` pass through what a process gets from its parent: streams, environment, directory, signals,
//! exit status.

mod common;

use common::{Scratch, caisson, eventually, finish, outcome};
use serde_json::json;
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// `caisson do` of a shell script.
fn script(text: &str) -> Command {
    let mut command = caisson();
    command.args(["do", "--", "/bin/sh", "-c", text]).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(command: &mut Command) -> Output {
    finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn"))
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn exit_statuses() {
    for status in [0, 1, 7, 125, 255] {
        assert_eq!(outcome(&mut script(&format!("exit {status}"))).0, status);
    }
    // As a shell reports a death by signal.
    assert_eq!(outcome(&mut script("kill -TERM $$")).0, 143);
    assert_eq!(outcome(&mut script("kill -KILL $$")).0, 137);
}

#[test]
fn programs_that_cannot_run() {
    let scratch = Scratch::new();
    for (program, status) in [("/no/such/program", 127), ("no-such-program-in-path", 127), ("/etc/passwd", 126), ("/etc", 126)] {
        let (code, text) = outcome(caisson().args(["do", "--", program]));
        assert_eq!(code, status, "{text}");
        assert!(text.contains(program) && text.matches('\n').count() == 1, "{text}");
        let bundle = scratch.bundle(&[program], |_| {});
        let (code, text) = outcome(&mut scratch.run(&bundle, "missing"));
        assert_eq!(code, status, "{text}");
        assert!(scratch.state_is_empty());
    }
}

#[test]
fn standard_streams() {
    let mut child = script("cat; echo error >&2").stdin(Stdio::piped()).spawn().expect("spawn");
    let text = "a line\n".repeat(20_000);
    let mut stdin = child.stdin.take().expect("stdin");
    let sent = text.clone();
    let writer = std::thread::spawn(move || stdin.write_all(sent.as_bytes()).expect("write"));
    let output = child.wait_with_output().expect("output");
    writer.join().expect("writer");
    assert!(stdout(&output) == text, "{} of {} bytes", output.stdout.len(), text.len());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "error\n");
}

#[test]
fn environment_and_directory() {
    let mut command = caisson();
    command.env("CAISSON_TEST", "outside").current_dir("/usr").args(["do", "--env", "ADDED=1", "--", "/bin/sh", "-c"]);
    command.arg("echo $CAISSON_TEST $ADDED; pwd");
    assert_eq!(stdout(&run(&mut command)), "outside 1\n/usr\n");
    let mut command = caisson();
    command.args(["do", "--cwd", "/etc", "--", "pwd"]);
    assert_eq!(stdout(&run(&mut command)), "/etc\n");
    let (code, text) = outcome(caisson().args(["do", "--cwd", "/etc/passwd", "--", "pwd"]));
    assert_eq!(code, 118, "{text}");
}

#[test]
fn writes_stay_inside_and_volumes_are_shared() {
    let scratch = Scratch::new();
    let shared = scratch.path("shared");
    std::fs::create_dir(&shared).expect("mkdir");
    std::fs::write(shared.join("in"), "from outside\n").expect("write");
    let private = scratch.path("private");
    let mut command = caisson();
    command.arg("do").arg("--volume").arg(format!("{}:/mnt/shared", shared.display()));
    command.args(["--", "/bin/sh", "-c"]);
    command.arg(format!("echo x > {0} && cat {0} /mnt/shared/in && echo y > /mnt/shared/out", private.display()));
    let output = run(&mut command);
    assert_eq!(stdout(&output), "x\nfrom outside\n", "{output:?}");
    assert!(!private.exists());
    assert_eq!(std::fs::read_to_string(shared.join("out")).expect("out"), "y\n");
    let mut command = caisson();
    command.arg("do").arg("--volume").arg(format!("{}:/mnt/shared:ro", shared.display()));
    command.args(["--", "/bin/sh", "-c", "echo z > /mnt/shared/out"]);
    assert_ne!(run(&mut command).status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(shared.join("out")).expect("out"), "y\n");
}

#[test]
fn signals_reach_the_application() {
    let mut command = script("trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done");
    let mut child = command.spawn().expect("spawn");
    let mut out = std::io::BufReader::new(child.stdout.take().expect("stdout"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).expect("a line");
    assert_eq!(line, "ready\n");
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    line.clear();
    std::io::BufRead::read_line(&mut out, &mut line).expect("a line");
    assert_eq!(line, "caught\n");
    assert_eq!(finish(child).status.code(), Some(3));
}

#[test]
fn what_a_configuration_says_is_so() {
    let scratch = Scratch::new();
    let check = "id -u; id -g; umask; ulimit -n; hostname; cat /proc/self/comm; touch /x 2>&1 | grep -c Read-only; \
                 ls /proc/acpi 2>/dev/null | wc -l; grep NoNewPrivs /proc/self/status";
    let bundle = scratch.bundle(&["/bin/sh", "-c", check], |config| {
        config["process"]["user"] = json!({"uid": 1000, "gid": 1001, "umask": 0o27});
        config["hostname"] = "a-name".into();
    });
    let output = run(&mut scratch.run(&bundle, "says"));
    let expected = "1000\n1001\n0027\n1024\na-name\ncat\n1\n0\nNoNewPrivs:\t1\n";
    assert_eq!(stdout(&output), expected, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_detached_container_writes_its_pid_and_runs_on() {
    let scratch = Scratch::new();
    let shared = scratch.path("shared");
    std::fs::create_dir(&shared).expect("mkdir");
    let bundle = scratch.bundle(&["/bin/sh", "-c", "sleep 1; echo done > /mnt/out"], |config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.push(json!({"destination": "/mnt", "type": "bind", "source": shared, "options": ["rbind", "rw"]}));
    });
    let mut command = scratch.run(&bundle, "on");
    command.arg("--detach").stdout(Stdio::null()).stderr(Stdio::null());
    let output = finish(command.spawn().expect("spawn"));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(scratch.status("on"), "running");
    assert!(eventually(20, || scratch.status("on") == "stopped"));
    assert_eq!(outcome(&mut scratch.verb(&["delete", "on"])).0, 0);
    assert_eq!(std::fs::read_to_string(shared.join("out")).expect("out"), "done\n");
}
