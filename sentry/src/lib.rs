//! The sentry's process: `caisson sentry`.

/// Entry point; the result is the process's exit status.
pub fn main(_args: &[String]) -> i32 {
    125
}

/// The system call table as text.
#[must_use]
pub fn syscall_table(_markdown: bool) -> String {
    String::new()
}
