// unsafe is what this crate is for: one operation per block, each with its SAFETY comment.
#![allow(unsafe_code)]
//! sentry-host.
