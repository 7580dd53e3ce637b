//! The gofer: the only process of a sandbox that opens the host's files, one for each container.
//!
//! [`main`] is the entry of `caisson gofer`. It reads a [`GoferSpec`], shuts itself up in a [`jail`] whose root holds
//! the container's attach points and nothing else, installs a [`filter`], and then answers requests
//! ([`gofer_protocol`]) until the sentry is gone.
//!
//! It trusts nothing that comes over a connection: [`connection`] reads requests that [`gofer_protocol::Request::parse`]
//! has checked, [`ops`] carries them out, and every name is resolved by [`resolve`] one component at a time, beneath
//! a directory held open, with no symlink followed. [`node`] is the tree of files the sentry holds handles of.

mod connection;
mod filter;
mod jail;
mod node;
mod ops;
mod resolve;
mod server;
mod spec;
mod start;

pub use jail::view;
pub use server::{Root, Server, Settings};
pub use spec::{Attach, GoferSpec, LogFormat, Propagation};
pub use start::main;

#[cfg(test)]
mod tests;
