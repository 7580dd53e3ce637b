//! What the runtime tells a gofer: read once, as JSON, from an inherited descriptor.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything a gofer serves. Attach points are numbered by their place in `attach`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoferSpec {
    /// The trees (or single files) to serve.
    pub attach: Vec<Attach>,
    /// An inherited descriptor to write the log to, instead of standard error.
    #[serde(default)]
    pub log_fd: Option<i32>,
    /// How a log line looks.
    #[serde(default)]
    pub log_format: LogFormat,
    /// Whether every request is logged.
    #[serde(default)]
    pub debug: bool,
    /// Connections served at most; 0 stands for the default of 16.
    #[serde(default)]
    pub channels: u32,
}

/// One attach point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// A directory or a file of the host, absolute.
    pub source: PathBuf,
    /// Refuse every change.
    #[serde(default)]
    pub readonly: bool,
    /// What is mounted below the source is served, too (`rbind`).
    #[serde(default)]
    pub recursive: bool,
    /// Whether later mounts on the host show.
    #[serde(default)]
    pub propagation: Propagation,
    /// Directories of the tree that show nothing, by their paths below the source: file systems of the host's kernel that are none of the
    /// sandbox's business. One that is not there needs no hiding.
    #[serde(default)]
    pub masked: Vec<PathBuf>,
    /// The sentry may connect to unix sockets in the tree.
    #[serde(default)]
    pub allow_unix_connect: bool,
    /// The sentry may make unix sockets in the tree that the host can connect to.
    #[serde(default)]
    pub allow_unix_bind: bool,
}

impl Attach {
    /// An attach point that serves `source` with what is mounted below it, read and write, and no sockets.
    #[must_use]
    pub fn new(source: impl Into<PathBuf>) -> Attach {
        Attach {
            source: source.into(),
            readonly: false,
            recursive: true,
            propagation: Propagation::Private,
            masked: Vec::new(),
            allow_unix_connect: false,
            allow_unix_bind: false,
        }
    }
}

/// How mounts made later on the host reach an attach point. Nothing ever goes the other way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// They do not.
    #[default]
    Private,
    /// They do (`rslave`).
    Slave,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}
