//! Stubs seen from outside: which calls the host carries out for them while an application does its worst (`hostile.rs`).
//!
//! The host's trace of calls has only those that are carried out: one that a filter answers with a signal, or that a tracer skips, is not in it.
//! Where the host has no such trace, or does not show it, the tests are ignored, and say why.

use caisson_tests_support::bundle::Bundle;
use caisson_tests_support::suite::platforms;
use caisson_tests_support::{Program, binary, root};
use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Where the trace may be mounted.
const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// All that is ours in the name of an instance; the process's id follows.
const PREFIX: &str = "caisson-test-";
/// The name of the zygote, of stubs, and of their threads.
const STUB_NAME: &str = "caisson-stub";
/// The kernel's memory for a trace, for each processor; with futexes each call of the application is one of the host's, or two.
const BUFFER_KIB: u32 = 16 << 10;
const BUFFER_OF_FUTEXES_KIB: u32 = 96 << 10;
/// How long the hostile program may take.
const LIMIT: Duration = Duration::from_secs(240);

/// Above this address there is the stub.
const STUB: u64 = 0x7fff_e000_0000;
/// Where the words are that stubs sleep on.
const BEDS: std::ops::Range<u64> = STUB + 0x18_0000..STUB + 0x19_0000;
/// In the arguments of whatever the hostile program tries.
const MARK: u64 = 0x5ca1_5ca1;

const MMAP: u64 = 9;
const MPROTECT: u64 = 10;
const MUNMAP: u64 = 11;
const PAUSE: u64 = 34;
const CLONE: u64 = 56;
const EXIT: u64 = 60;
const SIGALTSTACK: u64 = 131;
const PRCTL: u64 = 157;
const FUTEX: u64 = 202;
const SECCOMP: u64 = 317;

/// `PR_SET_SECCOMP`, with which the zygote gives up everything.
const PR_SET_SECCOMP: u64 = 22;
/// How processes and threads of stubs are made.
const CLONES: [u64; 4] = [0x8511, 0x411, 0x5_2f00, 0x5_0f00];
/// `MAP_FIXED | MAP_NORESERVE`, and either `MAP_SHARED`, with or without `MAP_POPULATE`, or `MAP_PRIVATE`.
const MAPS: [u64; 3] = [0x4011, 0xc011, 0x4012];
/// Where the filter of operators is in the stub: those threads that carry out what the sentry orders, and never run application code.
const OPERATORS_FILTER: u64 = STUB + 0xe00;
/// `MAP_FIXED | MAP_SHARED`, as the stub's own memory is mapped.
const MAP_OF_STUB: u64 = 0x11;

/// A trace of its own within the host's, taken away when dropped.
struct Trace(PathBuf);

impl Trace {
    fn new(name: &str) -> Result<Trace, String> {
        let place = PLACES
            .iter()
            .map(Path::new)
            .find(|p| p.join("events/raw_syscalls/sys_enter").is_dir())
            .ok_or("the host has no tracefs with raw_syscalls:sys_enter mounted in /sys/kernel")?;
        let instances = place.join("instances");
        remove_stale(&instances);
        let dir = instances.join(format!("{PREFIX}{}-{name}", std::process::id()));
        fs::create_dir(&dir).map_err(|e| format!("no instance of the trace can be made: {e}"))?;
        let trace = Trace(dir);
        trace.set("options/event-fork", "1")?;
        let size = if name.contains("futex") { BUFFER_OF_FUTEXES_KIB } else { BUFFER_KIB };
        trace.set("buffer_size_kb", &size.to_string())?;
        Ok(trace)
    }

    fn set(&self, file: &str, value: &str) -> Result<(), String> {
        fs::write(self.0.join(file), value).map_err(|e| format!("{file} of the trace: {e}"))
    }

    /// Traces a process, and all that it starts.
    fn follow(&self, pid: u32) -> Result<(), String> {
        self.set("set_event_pid", &pid.to_string())?;
        self.set("events/raw_syscalls/sys_enter/enable", "1")
    }

    /// What was traced: for each call the thread, the number and the arguments, in order. Fails where the kernel had no room for all.
    fn calls(&self) -> Result<Vec<Call>, String> {
        self.set("events/raw_syscalls/sys_enter/enable", "0")?;
        for cpu in fs::read_dir(self.0.join("per_cpu")).map_err(|e| e.to_string())?.flatten() {
            let stats = fs::read_to_string(cpu.path().join("stats")).map_err(|e| e.to_string())?;
            let lost = stats.lines().any(|l| (l.starts_with("overrun:") || l.starts_with("dropped")) && !l.ends_with(": 0"));
            if lost {
                return Err(format!("the trace is not complete:\n{stats}"));
            }
        }
        let text = fs::read_to_string(self.0.join("trace")).map_err(|e| e.to_string())?;
        text.lines().filter(|l| !l.starts_with('#')).map(|l| Call::parse(l).ok_or_else(|| format!("what is this: {l}"))).collect()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(dir: &Path) {
    let _ = fs::write(dir.join("events/enable"), "0");
    let _ = fs::remove_dir(dir);
}

/// Of test programs that were killed.
fn remove_stale(instances: &Path) {
    for entry in fs::read_dir(instances).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|n| n.strip_prefix(PREFIX)).and_then(|n| n.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&entry.path());
        }
    }
}

/// A call that the host has begun to carry out.
#[derive(Debug)]
struct Call {
    thread: u32,
    nr: u64,
    args: [u64; 6],
}

impl Call {
    /// `NAME-TID [CPU] FLAGS TIME: sys_enter: NR 9 (7fffe0000000, 1000, 5, 11, c, 0)`
    fn parse(line: &str) -> Option<Call> {
        let (head, call) = line.split_once(": sys_enter: NR ")?;
        let thread = head.split(" [").next()?.trim().rsplit('-').next()?.parse().ok()?;
        let (nr, args) = call.strip_suffix(')')?.split_once(" (")?;
        let args: Vec<u64> = args.split(", ").map(|a| u64::from_str_radix(a, 16).ok()).collect::<Option<_>>()?;
        Some(Call { thread, nr: nr.parse().ok()?, args: args.try_into().ok()? })
    }

    /// Whether the application chose an argument of it: of futex(2) among the first three, of exit(2) the first; the stub leaves the other registers as they are.
    fn is_marked(&self) -> bool {
        let count = match self.nr {
            FUTEX => 3,
            EXIT => 1,
            _ => 6,
        };
        self.args.iter().take(count).any(|a| a >> 16 == MARK || a & 0xffff_0000 == MARK << 16 & 0xffff_0000)
    }

    /// Whether its first two arguments are a range of the application's.
    fn is_below_stub(&self) -> bool {
        self.args[0].checked_add(self.args[1]).is_some_and(|end| end <= STUB)
    }

    /// Whether it changes the application's memory map in a way that the sentry may have ordered.
    fn is_operation(&self) -> bool {
        match self.nr {
            MMAP => self.is_below_stub() && MAPS.contains(&self.args[3]),
            MUNMAP | MPROTECT => self.is_below_stub(),
            _ => false,
        }
    }

    /// Whether the sentry may have ordered this of a thread that runs application code.
    fn is_ordered(&self, futexes: bool) -> bool {
        let waits = self.args[1] == 0 && self.args[3] == 0;
        match self.nr {
            EXIT => self.args[0] == 0,
            // To wake, or to wait without a limit, at addresses of the stub's alone.
            FUTEX if futexes => self.args[0] > STUB && (self.args[1] == 1 || waits),
            // To wait so in a bed, or to wake all who do. What is woken is a number of 32 bits.
            FUTEX => BEDS.contains(&self.args[0]) && (self.args[1] == 1 && self.args[2] as u32 == i32::MAX as u32 || waits),
            _ => false,
        }
    }

    /// Whether it makes a stub's process or thread, or prepares it for application code.
    fn makes_stub(&self) -> bool {
        match self.nr {
            CLONE => CLONES.contains(&self.args[0]),
            MMAP => self.args[0] > STUB && self.args[3] == MAP_OF_STUB,
            MUNMAP => self.args[0] == 0 || self.args[0] > STUB,
            SIGALTSTACK | SECCOMP => true,
            _ => false,
        }
    }
}

/// Looks for calls that nobody has ordered. Returns how many threads there were for application code, and how many calls they were ordered to make.
fn judge(calls: &[Call], platform: &str) -> Result<(usize, usize), String> {
    let begin = calls.iter().position(|c| c.nr == PRCTL && c.args[0] == PR_SET_SECCOMP).ok_or("the zygote is not in the trace")?;
    let ptrace = platform == "ptrace";
    let (mut confined, mut operators, mut ordered) = (HashSet::new(), HashSet::new(), 0);
    for call in &calls[begin + 1..] {
        if call.is_marked() {
            return Err(format!("a call of the application was carried out: {call:x?}"));
        }
        let is_confined = ptrace || confined.contains(&call.thread);
        let may = if operators.contains(&call.thread) {
            ordered += 1;
            call.is_operation()
        } else if is_confined && (call.is_ordered(platform == "trap:futex") || ptrace && call.is_operation()) {
            ordered += 1;
            true
        } else if ptrace {
            // The threads of stubs wait in pause(2) when nobody traces them.
            confined.insert(call.thread);
            call.nr == PAUSE || call.makes_stub()
        } else {
            !is_confined && (call.makes_stub() || call.is_operation())
        };
        if !may {
            return Err(format!(
                "nobody has ordered this: {call:x?}, of a thread {}",
                if is_confined { "for applications" } else { "of a stub" }
            ));
        }
        if call.nr == SECCOMP && call.args[2] == OPERATORS_FILTER {
            operators.insert(call.thread);
            confined.remove(&call.thread);
        } else if call.nr == SECCOMP {
            confined.insert(call.thread);
            operators.remove(&call.thread);
        }
    }
    Ok((confined.len(), ordered))
}

/// Starts a command that waits for a line first.
fn held(command: &Command) -> std::io::Result<Child> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "read go; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

fn release(child: &mut Child) -> std::io::Result<()> {
    child.stdin.as_mut().map_or(Ok(()), |i| i.write_all(b"\n"))
}

/// Why the host's calls cannot be traced, if that is so: tried with a program that does nothing.
fn impossible() -> Option<String> {
    let tried = Trace::new("probe").and_then(|trace| {
        let mut child = held(&Command::new("/bin/true")).map_err(|e| e.to_string())?;
        let followed = trace.follow(child.id());
        release(&mut child).and_then(|()| child.wait()).map_err(|e| e.to_string())?;
        followed?;
        match trace.calls()?.len() {
            0 => Err("the trace does not show a process by the number that it has here (another pid namespace?)".to_string()),
            _ => Ok(()),
        }
    });
    tried.err()
}

fn hostile(platform: &str) -> Result<(), Failed> {
    let dir = tempdir(platform)?;
    root::bare(&dir, Path::new(env!("CARGO_BIN_EXE_caisson-hostile")), "hostile").map_err(|e| format!("{e:#}"))?;
    let bundle = Bundle::new(&Program::new(&dir, &["/bin/hostile"]), false).map_err(|e| format!("{e:#}"))?;
    let trace = Trace::new(&platform.replace(':', "-"))?;
    trace.set("events/raw_syscalls/sys_enter/filter", &format!("comm == \"{STUB_NAME}\""))?;
    let mut child = held(&bundle.command(platform).map_err(|e| format!("{e:#}"))?)?;
    trace.follow(child.id())?;
    release(&mut child)?;
    let begin = Instant::now();
    while child.try_wait()?.is_none() {
        if begin.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Err("the hostile program did not end".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output()?;
    let calls = trace.calls()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() || !said.ends_with("done\n") {
        return Err(format!("{}: {said}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    let (threads, ordered) = judge(&calls, platform)?;
    println!("{platform}: {threads} threads for applications, {ordered} ordered calls, {} in all, {:?}", calls.len(), begin.elapsed());
    // What was seen was the whole of it: each process that the program has started had its memory mapped.
    if threads < 3 || ordered < 3000 {
        return Err(format!("only {threads} threads and {ordered} calls were seen").into());
    }
    let _ = fs::remove_dir_all(dir);
    Ok(())
}

fn tempdir(platform: &str) -> Result<PathBuf, Failed> {
    Ok(binary::scratch(&format!("traced-{}", platform.replace(':', "-"))).map_err(|e| format!("{e:#}"))?)
}

fn main() -> ExitCode {
    let why = impossible();
    if let Some(why) = &why {
        eprintln!("not traced: {why}");
    }
    let mut names = platforms();
    if names.iter().any(|n| n == "trap") {
        names.push("trap:futex".to_string());
    }
    let trials = names
        .into_iter()
        .map(|platform| {
            let test = Trial::test(format!("{platform}::only_ordered_calls_are_carried_out"), move || hostile(&platform));
            match &why {
                Some(why) => test.with_kind(why.clone()).with_ignored_flag(true),
                None => test,
            }
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
