//! Stub processes as tracees: what both process platforms ask of ptrace(2).

pub mod run;
pub mod sys;
