//! Programs as tests: natively first, then on each platform, with the same outcome demanded.

use crate::{Output, Program};
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

/// One program under a name, and what is demanded of it natively.
pub struct Case {
    /// Unique; `area::name` for subtests.
    pub name: String,
    /// What to run. A function, because making a root takes time that listing tests should not.
    pub program: Box<dyn Fn() -> anyhow::Result<Program> + Send + Sync>,
    /// The exit status that it has natively.
    pub status: i32,
    /// What the native output must contain; empty: anything.
    pub contains: &'static str,
    /// Why a sandbox is known to differ; the comparison then runs with `--ignored` only.
    pub gap: Option<&'static str>,
    /// The only platform that this is so on.
    pub gap_on: Option<&'static str>,
    /// Time limit in a sandbox, where that takes longer: factor of the native one.
    pub patience: u32,
}

impl Case {
    /// A program that ends with status 0.
    pub fn new(name: impl Into<String>, program: impl Fn() -> anyhow::Result<Program> + Send + Sync + 'static) -> Self {
        Self { name: name.into(), program: Box::new(program), status: 0, contains: "", gap: None, gap_on: None, patience: 1 }
    }
}

/// All tests of a test program.
#[derive(Default)]
pub struct Suite {
    trials: Vec<Trial>,
}

impl Suite {
    /// Adds `native::NAME`, and one test for each platform.
    pub fn compare(&mut self, case: Case) {
        let name = case.name.clone();
        let shared = Arc::new(Shared { case, native: OnceLock::new() });
        let first = shared.clone();
        self.add(format!("native::{name}"), move || first.native().map(|_| ()));
        for platform in platforms() {
            let shared = shared.clone();
            let gap = shared.case.gap.is_some() && shared.case.gap_on.is_none_or(|on| on == platform);
            let test = Trial::test(format!("{platform}::{name}"), move || shared.same(&platform));
            self.trials.push(test.with_ignored_flag(gap));
        }
    }

    /// Adds a test of another kind.
    pub fn add(&mut self, name: impl Into<String>, test: impl FnOnce() -> Result<(), Failed> + Send + 'static) {
        self.trials.push(Trial::test(name, test));
    }

    /// Runs what the command line asks for.
    pub fn run(self) -> ExitCode {
        if !rustix::process::geteuid().is_root() {
            eprintln!("these tests must run as root: natively they use chroot and namespaces");
            return ExitCode::FAILURE;
        }
        libtest_mimic::run(&Arguments::from_args(), self.trials).exit_code()
    }
}

/// The platforms to test, from `CAISSON_TEST_PLATFORMS`.
pub fn platforms() -> Vec<String> {
    let list = std::env::var("CAISSON_TEST_PLATFORMS").unwrap_or_else(|_| "trap,ptrace".to_string());
    list.split(',').map(str::trim).filter(|p| !p.is_empty()).map(str::to_string).collect()
}

struct Shared {
    case: Case,
    native: OnceLock<Result<Output, String>>,
}

impl Shared {
    /// What Linux does, found out once.
    fn native(&self) -> Result<&Output, Failed> {
        let run = || {
            let output = (self.case.program)().and_then(|p| p.native()).map_err(|e| format!("{e:#}"))?;
            if output.status != self.case.status || output.timed_out {
                return Err(format!("natively, expected status {}:\n{output}", self.case.status));
            }
            if !output.text().contains(self.case.contains) {
                return Err(format!("natively, {:?} is not in the output:\n{output}", self.case.contains));
            }
            Ok(output)
        };
        self.native.get_or_init(run).as_ref().map_err(|e| e.clone().into())
    }

    fn same(&self, platform: &str) -> Result<(), Failed> {
        let native = self.native()?;
        let mut program = (self.case.program)().map_err(|e| format!("{e:#}"))?;
        program.timeout *= self.case.patience;
        let ours = program.sandboxed(platform).map_err(|e| format!("{e:#}"))?;
        if *native == ours {
            return Ok(());
        }
        let mut text = String::from("Linux and the sandbox disagree\n");
        if native.status != ours.status || ours.timed_out {
            let late = if ours.timed_out { ", killed at the time limit" } else { "" };
            text += &format!("status: {} natively, {} in the sandbox{late}\n", native.status, ours.status);
        }
        difference(&mut text, "stdout", &native.stdout, &ours.stdout);
        difference(&mut text, "stderr", &native.stderr, &ours.stderr);
        Err(text.into())
    }
}

/// The first lines that differ, with a few before them.
fn difference(text: &mut String, name: &str, native: &[u8], ours: &[u8]) {
    if native == ours {
        return;
    }
    let (a, b) = (String::from_utf8_lossy(native), String::from_utf8_lossy(ours));
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    *text += &format!("{name} differs after {same} lines ({} natively, {} in the sandbox):\n", a.len(), b.len());
    for (mark, lines) in [("native ", &a), ("sandbox", &b)] {
        for line in lines.iter().skip(same.saturating_sub(1)).take(8) {
            *text += &format!("  {mark} | {line}\n");
        }
    }
}
