//! The command line of Caisson.
fn main() {}
