//! sentry-fs.
