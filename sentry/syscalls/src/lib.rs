//! sentry-syscalls.
