//! sentry-sync.
