//! Real programs in a Debian root, natively and in sandboxes; a shell at a terminal; many forks.

mod forks;
mod terminal;

use caisson_tests_support::suite::platforms;
use caisson_tests_support::{Case, Program, Suite, root};
use std::process::ExitCode;

/// A script, its exit status, its time limit in seconds natively, and how many times longer it may take in a sandbox.
macro_rules! scripts {
    ($($name:ident $status:literal $seconds:literal $patience:literal $contains:literal),* $(,)?) => {
        &[$((stringify!($name), include_str!(concat!("../scripts/", stringify!($name), ".sh")), $status, $seconds, $patience, $contains)),*]
    };
}

type Script = (&'static str, &'static str, i32, u64, u32, &'static str);

const SCRIPTS: &[Script] = scripts![
    system 0 30 4 "uid=0(root)",
    bash_pipelines 0 30 4 "through",
    bash_traps_jobs 42 30 4 "exit trap 42",
    python_threading 0 60 4 "alarms",
    python_subprocess 0 60 4 "from child",
    python_multiprocessing 0 60 4 "forkserver",
    python_sqlite_asyncio 0 60 4 "mmap!",
    perl 0 60 4 "sum 210",
    gcc_make 0 60 4 "make 0",
    git 0 60 4 "merge",
    tar_xz 0 120 4 "same",
    find_grep 0 60 6 "",
    sort_100mb 0 120 4 "sorted",
    copies 0 60 4 "same",
    big_file 0 120 4 "equal",
    threads_1000 0 60 6 "running 1000",
    strace_gdb 0 120 8 "Breakpoint 1",
    python_suite 0 300 4 "suite: 0",
    processes_500 0 60 6 "all done 0",
    fork_bomb 0 60 4 "survived",
];

fn main() -> ExitCode {
    let mut suite = Suite::default();
    for &(name, text, status, seconds, patience, contains) in SCRIPTS {
        let mut case = Case::new(name, move || Ok(Program::script(root::debian()?, text).timeout(seconds)));
        case.status = status;
        case.patience = patience;
        case.contains = contains;
        suite.compare(case);
    }
    for platform in platforms() {
        let p = platform.clone();
        suite.add(format!("{platform}::forks_leave_nothing"), move || forks::flat(&p));
        let p = platform.clone();
        suite.add(format!("{platform}::freed_memory_goes_back"), move || forks::gives_memory_back(&p));
        suite.add(format!("{platform}::terminal_shell"), move || terminal::shell(&platform));
    }
    suite.run()
}
