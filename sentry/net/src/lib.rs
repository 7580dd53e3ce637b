//! sentry-net.
