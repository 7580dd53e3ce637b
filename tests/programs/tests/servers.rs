//! Servers and network tools of Debian as they are, over loopback, natively and in sandboxes: what they print must be the same. Across
//! interfaces the same servers are in `network.rs`.

use caisson_tests_support::{Case, Program, Suite, root};
use std::process::ExitCode;

/// A script, what its output contains, and how many times longer it may take in a sandbox.
macro_rules! scripts {
    ($($name:ident $contains:literal $patience:literal),* $(,)?) => {
        &[$((stringify!($name), include_str!(concat!("../servers/", stringify!($name), ".sh")), $contains, $patience)),*]
    };
}

const SCRIPTS: &[(&str, &str, &str, u32)] = scripts![
    tools "0% packet loss" 3,
    capture "hello from udp" 3,
    tls "fetched by apt" 4,
    postgres "number of failed transactions: 0" 4,
    node "echoed 2000" 4,
    asyncio "sum 3998000" 4,
    messages "answers 40000" 6,
    web_and_cache "same answers" 4,
];

fn main() -> ExitCode {
    let mut suite = Suite::default();
    for &(name, text, contains, patience) in SCRIPTS {
        let mut case = Case::new(name, move || Ok(Program::script(&root::debian_with(caisson_tests_programs::SERVERS)?, text).timeout(90)));
        case.contains = contains;
        case.patience = patience;
        suite.compare(case);
    }
    suite.run()
}
