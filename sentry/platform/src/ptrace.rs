//! The `ptrace` platform: PTRACE_SYSEMU. Works everywhere, simplest, the reference for debugging.
