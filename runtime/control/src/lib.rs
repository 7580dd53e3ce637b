//! What runtime and sentry say to each other.
//!
//! [`BootSpec`] is everything a sentry needs to boot; it travels once, as JSON in a sealed memory file. [`Request`] and
//! [`Event`] travel afterwards as one JSON document per packet over a `SOCK_SEQPACKET` socket: see [`encode`] and [`decode`].
//! Both sides treat what they receive as untrusted bytes: anything malformed is an [`Error`], never a panic.
//!
//! [`logging`] is the format that both sides write log lines in, so that one file can hold the lines of all processes.

mod boot;
pub mod logging;
mod message;

pub use boot::{
    Address, BootSpec, Capabilities, Credentials, Device, ExecSpec, FdLayout, IdRange, Interface, JoinSpec, Limits, Mount, MountFlags,
    MountKind, NOTIFY_SOCKET, Network, Overlay, Platform, Process, ResourceLimit, Root, Route, Seccomp, SeccompArg, SeccompOp, SeccompRule,
    SharedNamespaces, WindowSize,
};
pub use message::{Error, Event, FailureKind, MAX_DESCRIPTORS, MAX_MESSAGE, Phase, ProcessInfo, Request, decode, encode};
