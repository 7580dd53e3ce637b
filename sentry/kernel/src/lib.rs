//! sentry-kernel.
