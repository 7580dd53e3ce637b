//! The guest: one static program with many named subtests, each asking the kernel under it a few precise questions.
//!
//! `caisson-guest NAME…` runs subtests, `caisson-guest --list` names them. A subtest prints lines that must be the same on
//! every kernel that behaves like Linux, and stops with status 1 and one clear message where an answer is wrong. The runner
//! (`tests/syscalls.rs`) runs each natively first: Linux itself is the judge of every expectation written here.

// Raw system calls, forks and deliberate faults are what this program is for; it runs no code that others depend on.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

mod areas;
mod sys;

use std::process::exit;

/// One named subtest.
pub struct Test {
    /// `area::name`.
    pub name: &'static str,
    /// Returns when everything was as it should be.
    pub run: fn(),
}

/// Builds an area's list: `list!["area"; first, second]`.
#[macro_export]
macro_rules! list {
    ($area:literal; $($name:ident),* $(,)?) => {
        &[$($crate::Test { name: concat!($area, "::", stringify!($name)), run: $name }),*]
    };
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(role) = args.first().filter(|a| a.starts_with('@')) {
        return areas::helper(role, &args[1..]);
    }
    if args.first().map(String::as_str) == Some("--list") {
        for test in areas::all() {
            println!("{}", test.name);
        }
        return;
    }
    let mut status = 0;
    for name in &args {
        let Some(test) = areas::all().find(|t| t.name == name) else {
            eprintln!("{name}: no such subtest");
            exit(2);
        };
        // A child, because the first process of a pid namespace is special (signals without a handler do not reach it).
        let code = sys::run_as_init(test);
        if code != 0 {
            eprintln!("{name}: status {code}");
            status = 1;
        }
    }
    exit(status);
}
